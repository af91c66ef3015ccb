"""Insertion, deletion, AOPC and ROAD: areas by hand, best and worst by construction."""

import jaxtyping
import numpy as np
import pytest
import scipy.integrate
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from torchsaliency.errors import InputError, OptionError
from torchsaliency.metrics.base import create_metric, metric_entry, metrics
from torchsaliency.metrics.perturbation import (
    AOPC,
    ROAD,
    Deletion,
    Insertion,
    aopc,
    area_under_curve,
    road,
)

NAMES = ["insertion", "deletion", "aopc", "road"]
PERCENT = np.linspace(0, 1, 101)

shares = st.floats(0, 1, allow_subnormal=False)


def curves(rows=3, points=6):
    return arrays.arrays(np.float64, (rows, points), elements=shares).map(torch.from_numpy)


def row(*values):
    return torch.tensor([values], dtype=torch.float64)


def even(points):
    return torch.linspace(0, 1, points, dtype=torch.float64)


@pytest.fixture
def as_users_run_it():
    """Without the tests' type checker, which would answer a wrong shape before the library does."""
    before = jaxtyping.config.jaxtyping_disable
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", before)


class TestArea:
    @pytest.mark.parametrize("value", [0.0, 0.37, 1.0])
    @pytest.mark.parametrize("fractions", [(0, 1), (0, 0.3, 0.6, 0.9, 1), (0, 0.01, 1)])
    def test_a_constant_curve_is_its_constant(self, value, fractions):
        places = torch.tensor(fractions, dtype=torch.float64)
        probabilities = torch.full((2, len(fractions)), value, dtype=torch.float64)
        assert area_under_curve(probabilities, places).tolist() == pytest.approx([100 * value] * 2)

    def test_a_step(self):
        found = area_under_curve(row(0, 0, 1, 1), even(4))
        assert found.item() == pytest.approx(50)
        found = area_under_curve(row(1, 1, 0, 0, 0), even(5))
        assert found.item() == pytest.approx(100 * (0.25 + 0.125))

    def test_a_line_is_a_triangle(self):
        assert area_under_curve(even(225)[None], even(225)).item() == pytest.approx(50)

    def test_a_shorter_last_step_weighs_less(self):
        places = torch.tensor([0, 0.4, 0.8, 1.0], dtype=torch.float64)
        found = area_under_curve(row(1, 0.5, 0.25, 0), places)
        assert found.item() == pytest.approx(100 * (0.4 * 0.75 + 0.4 * 0.375 + 0.2 * 0.125))

    @given(curves())
    def test_even_steps_are_rises_formula(self, values):
        """RISE: (Σ - first/2 - last/2) / (n - 1)."""
        expected = (values.sum(1) - values[:, 0] / 2 - values[:, -1] / 2) / 5
        found = area_under_curve(values, even(6))
        assert torch.allclose(found, 100 * expected, rtol=0, atol=1e-9)
        assert ((found >= 0) & (found <= 100 + 1e-9)).all()

    @given(curves())
    def test_the_complement_has_the_rest_of_the_area(self, values):
        both = area_under_curve(values, even(6)) + area_under_curve(1 - values, even(6))
        assert torch.allclose(both, torch.full_like(both, 100))

    def test_single_precision_is_summed_in_double(self):
        values = torch.rand(4, 225, generator=torch.Generator().manual_seed(0))
        found = area_under_curve(values, even(225).float())
        assert found.dtype == torch.float64
        places = even(225).float().double()
        expected = 100 * scipy.integrate.trapezoid(values.double().numpy(), places.numpy(), axis=1)
        assert found.numpy() == pytest.approx(expected, abs=1e-12)

    def test_rounding_above_one_is_cut(self):
        assert area_under_curve(row(1 + 5e-5, 1 + 5e-5), even(2)).item() == 100

    @pytest.mark.parametrize("value", [-0.01, 1.01, float("nan"), float("inf")])
    def test_values_that_are_no_probabilities(self, value):
        with pytest.raises(InputError, match=r"holds NaN|reaches from"):
            area_under_curve(row(0.5, value, 0.5), even(3))

    @pytest.mark.parametrize(
        "fractions",
        [(0, 0.5, 0.9), (0.1, 0.5, 1), (0, 0.5, 0.5), (1, 0.5, 0), (0, 2, 1), (0, float("nan"), 1)],
    )
    def test_fractions_that_do_not_rise_from_zero_to_one(self, fractions):
        with pytest.raises(InputError, match="rise from 0 to 1"):
            area_under_curve(row(0.1, 0.2, 0.3), torch.tensor(fractions, dtype=torch.float64))

    def test_one_point_is_no_curve(self):
        with pytest.raises(InputError, match="at least two"):
            area_under_curve(row(0.5), torch.zeros(1, dtype=torch.float64))


@pytest.mark.parametrize("made", [Insertion(), Deletion()], ids=lambda one: one.name)
class TestCurveMetrics:
    def fresh(self, made, **options):
        return create_metric(made.name, options)

    def test_best_and_worst_by_construction(self, made):
        ones, zeros = torch.ones(3, 9), torch.zeros(3, 9)
        entry = made.entry
        for values, expected in ((ones, 100), (zeros, 0)):
            one = self.fresh(made)
            one.update(values, even(9))
            good = (expected == 100) == (made.name == "insertion")
            assert one.compute() == expected == (entry.best if good else entry.worst)
        assert entry.direction == ("higher" if made.name == "insertion" else "lower")

    def test_the_mean_of_the_areas(self, made):
        one = self.fresh(made)
        one.update(row(0, 0, 1, 1), even(4))
        one.update(row(1, 1), even(2))
        assert one.per_image.tolist() == pytest.approx([50, 100])
        assert one.compute().item() == pytest.approx(75)

    def test_curves_are_kept_at_every_percent(self, made):
        places = torch.tensor([0, 0.4, 0.8, 1.0], dtype=torch.float64)
        values = torch.tensor([[1, 0.5, 0.25, 0], [0, 0.1, 0.9, 1]], dtype=torch.float64)
        one = self.fresh(made)
        one.update(values, places)
        assert one.fractions.numpy() == pytest.approx(PERCENT)
        expected = [np.interp(PERCENT, places, curve) for curve in values.numpy()]
        assert one.curves.shape == (2, 101)
        assert one.curves.numpy() == pytest.approx(np.array(expected), abs=1e-12)
        assert one.curve.numpy() == pytest.approx(np.mean(expected, 0), abs=1e-12)
        assert one.curves[:, [0, -1]].tolist() == values[:, [0, -1]].tolist()
        assert one.curve[20].item() == pytest.approx((0.75 + 0.05) / 2)

    def test_curves_of_every_percent_are_kept_as_they_are(self, made):
        draw = torch.Generator().manual_seed(1)
        values = torch.rand(2, 101, generator=draw, dtype=torch.float64)
        one = self.fresh(made)
        one.update(values, even(101))
        assert torch.allclose(one.curves, values, rtol=0, atol=1e-12)

    def test_curves_of_different_steps_add_up(self, made):
        one = self.fresh(made)
        one.update(even(225)[None], even(225))
        one.update(even(4)[None], even(4))
        assert one.curves.numpy() == pytest.approx(np.stack([PERCENT, PERCENT]))
        assert one.per_image.tolist() == pytest.approx([50, 50])

    def test_the_measure_is_told_order_step_and_budget(self, made):
        assert made.settings == {"order": made.name, "step": None, "budget": None}
        one = self.fresh(made, step="448", budget=20)
        assert one.settings == {"order": made.name, "step": 448, "budget": 20}
        assert made.entry.requires == ("perturbation_curve",)
        assert made.entry.inputs == (made.name, "fractions", "refinement")

    @pytest.mark.usefixtures("as_users_run_it")
    def test_wrong_curves_are_told(self, made):
        one = self.fresh(made)
        for shape in ((4,), (1, 4, 1)):
            with pytest.raises(InputError, match=r"\(N, S\)"):
                one.update(torch.ones(shape), even(4))
        with pytest.raises(InputError, match=r"holds NaN|reaches from"):
            one.update(row(0.5, 1.5), even(2))
        with pytest.raises(InputError, match="one fraction a point"):
            one.update(row(0.5, 0.5), even(3))
        assert len(one.per_image) == 0  # nothing of them was kept


@pytest.mark.parametrize("name", NAMES)
def test_curves_without_points_are_told(name):
    nothing = torch.ones(2, 0)
    given_none = {
        "aopc": {"regions": nothing},
        "road": {"most": nothing, "least": nothing},
    }.get(name, {name: nothing, "fractions": torch.ones(0)})
    with pytest.raises(InputError):
        create_metric(name).update(**given_none)


class TestAOPC:
    def test_by_hand(self):
        values = torch.tensor([[0.9, 0.6, 0.3], [0.1, 0.3, 0.3], [0.5, 0.5, 0.5]])
        assert aopc(values).tolist() == pytest.approx([30, -40 / 3, 0])
        assert aopc(values, "L").tolist() == pytest.approx([45, -20, 0])

    @given(curves())
    def test_the_averages_differ_by_a_factor_and_bounds_hold(self, values):
        first, second = aopc(values), aopc(values, "L")
        assert torch.allclose(first * 6, second * 5)
        assert ((second >= -100) & (second <= 100)).all()
        drops = values[:, :1] - values
        assert torch.allclose(first, 100 * drops.mean(1))

    def test_best_and_worst_by_construction(self):
        entry = metric_entry("aopc")
        falls, rises = torch.eye(1, 11), 1 - torch.eye(1, 11)
        for values, bound in ((falls, entry.best), (rises, entry.worst)):
            made = AOPC(average="L")
            made.update(values)
            assert made.compute() == bound
            made = AOPC()
            made.update(values)
            assert made.compute().item() == pytest.approx(bound * 10 / 11)

    def test_errors(self):
        with pytest.raises(InputError, match="at least one region"):
            aopc(torch.ones(2, 1))
        with pytest.raises(InputError, match=r"holds NaN|reaches from"):
            aopc(row(0.5, -0.1))

    def test_settings(self):
        made = create_metric("aopc", {"patch": "7", "placement": "grid", "average": "L"})
        assert made.settings == {
            "patch": 7,
            "regions": 10,
            "placement": "grid",
            "average": "L",
        }


class TestROAD:
    def test_by_hand(self):
        found = road(torch.tensor([[0.2, 0.1], [0.7, 0.7]]), torch.tensor([[0.8, 0.5], [0.5, 0.3]]))
        assert found.tolist() == pytest.approx([25, -15])

    @given(curves(), curves())
    def test_bounds_and_antisymmetry(self, most, least):
        found = road(most, least)
        assert ((found >= -50) & (found <= 50)).all()
        assert torch.allclose(found, -road(least, most))
        assert torch.equal(road(most, most), torch.zeros(3, dtype=torch.float64))

    def test_best_and_worst_by_construction(self):
        entry = metric_entry("road")
        zeros, ones = torch.zeros(2, 9), torch.ones(2, 9)
        for most, least, bound in ((zeros, ones, entry.best), (ones, zeros, entry.worst)):
            made = ROAD()
            made.update(most, least)
            assert made.compute() == bound
            assert made.per_image.tolist() == [bound] * 2

    @given(curves(4, 3), curves(4, 3))
    def test_the_aggregate_is_the_mean_of_the_images(self, most, least):
        made = ROAD(percentages=(10, 50, 90))
        for part in (slice(0, 1), slice(1, 4)):
            made.update(most[part], least[part])
        assert torch.allclose(made.per_image, road(most, least))
        assert made.compute().item() == pytest.approx(float(road(most, least).mean()), abs=1e-9)
        assert torch.allclose(made.curves["most"], most.mean(0))
        assert torch.allclose(made.curves["least"], least.mean(0))

    def test_the_interval_holds_the_value(self):
        draw = torch.Generator().manual_seed(0)
        most, least = torch.rand(2, 20, 9, generator=draw).unbind(0)
        made = ROAD()
        made.update(most / 2, least)
        found = made.summary()
        assert found.low < found.value < found.high
        assert found.value == pytest.approx(made.compute().item())
        assert found.count == 20

    def test_errors(self):
        with pytest.raises(OptionError, match="at least one percentage"):
            ROAD(percentages=())
        with pytest.raises(InputError, match="keeps 4 numbers"):
            ROAD(percentages=(10, 20)).update(torch.ones(1, 3), torch.ones(1, 3))
        with pytest.raises(InputError, match=r"holds NaN|reaches from"):
            road(row(0.5), row(1.2))

    @pytest.mark.usefixtures("as_users_run_it")
    def test_both_orders_need_the_same_percentages(self):
        with pytest.raises(InputError, match="both orders"):
            ROAD().update(torch.ones(2, 9), torch.ones(2, 8))

    def test_settings(self):
        made = create_metric("road", {"percentages": (20, 40), "noise": 0})
        assert made.settings == {"percentages": (20, 40), "noise": 0}
        assert made.width == 4


def given_to(name, rows):
    draw = torch.Generator().manual_seed(rows)
    one, other = torch.rand(2, rows, 9, generator=draw).unbind(0)
    if name == "road":
        return {"most": one, "least": other}
    return {"regions": one} if name == "aopc" else {name: one, "fractions": even(9)}


class TestEveryMetric:
    def test_the_list_is_whole(self):
        assert {*NAMES} <= {n for n, one in metrics().items() if one.group == "perturbation"}

    @pytest.mark.parametrize("name", NAMES)
    def test_neither_batches_nor_order_matter(self, name):
        given_all = given_to(name, 5)

        def part(places):
            return {
                key: value if key == "fractions" else value[places]
                for key, value in given_all.items()
            }

        whole, parts, turned = (create_metric(name) for _ in range(3))
        whole.update(**part([0, 1, 2, 3, 4]))
        for places in ([0], [1, 2, 3], [4]):
            parts.update(**part(places))
        turned.update(**part([4, 3, 2, 1, 0]))
        assert torch.equal(whole.per_image, parts.per_image)
        assert torch.equal(whole.per_image, turned.per_image.flip(0))
        assert whole.compute().item() == pytest.approx(turned.compute().item())
        assert whole.per_image.mean().item() == pytest.approx(whole.compute().item())

    @pytest.mark.parametrize("name", NAMES)
    def test_no_images_are_no_error(self, name):
        made = create_metric(name)
        assert made.per_image.shape == (0,)
        made.update(**given_to(name, 0))
        assert made.per_image.shape == (0,)
        assert made.summary().value is None

    @pytest.mark.parametrize("name", NAMES)
    def test_the_registry_knows(self, name):
        entry = metric_entry(name)
        assert entry.annotations == ""
        sections = ("Formula", "Rewards", "Misleads", "Undefined", "Source")
        assert all(entry.section(key) for key in sections)
        made = create_metric(name, entry.options)
        told = {key: value for key, value in made.settings.items() if key != "order"}
        # exact curves are measured as if there were no error
        assert {"error": None, **told} == {"error": None, **entry.options}
