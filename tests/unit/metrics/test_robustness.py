"""Sensitivity and infidelity: norms and squares by hand, the zero map, exact proportionality."""

import jaxtyping
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from torchsaliency.errors import InputError
from torchsaliency.metrics.base import create_metric, metric_entry, metrics
from torchsaliency.metrics.robustness import (
    AvgSensitivity,
    Infidelity,
    MaxSensitivity,
    infidelity,
    sensitivities,
)

NAMES = ["max-sensitivity", "avg-sensitivity", "infidelity"]
BOTH = pytest.mark.parametrize("factory", [MaxSensitivity, AvgSensitivity])

MAP = torch.tensor([[[0.6, 0.8]]])  # of norm 1
NOISY = torch.tensor([[[[0.6, 0.5]], [[0.0, 0.0]], [[0.6, 0.8]], [[1.0, 0.8]]]])

grids = arrays.arrays(np.float64, (4, 5, 6), elements=st.floats(0, 1, allow_subnormal=False))


def rand(*shape, seed=0):
    draw = torch.Generator().manual_seed(seed)
    return torch.rand(*shape, generator=draw, dtype=torch.float64)


def squares(*corners):
    return torch.tensor(corners)


def some_squares(count=20, height=7, width=9, seed=0):
    draw = np.random.default_rng(seed)
    left, top = draw.integers(0, width - 1, count), draw.integers(0, height - 1, count)
    right, bottom = draw.integers(left + 1, width + 1), draw.integers(top + 1, height + 1)
    return torch.from_numpy(np.stack([left, top, right, bottom], 1))


def sums(maps, corners):
    """Sums over squares by a loop."""
    return torch.stack(
        [maps[:, y0:y1, x0:x1].sum((1, 2)) for x0, y0, x1, y1 in corners.tolist()], 1
    )


@pytest.fixture
def as_users_run_it():
    """Without the tests' type checker, which would answer a wrong shape before the library does."""
    before = jaxtyping.config.jaxtyping_disable
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", before)


class TestSensitivities:
    def test_by_hand(self):
        found = sensitivities(MAP, NOISY)
        assert found.shape == (1, 4)
        assert found[0].tolist() == pytest.approx([0.3, 1, 0, 0.4], abs=1e-7)
        halved = sensitivities(MAP / 2, NOISY / 2)
        assert torch.allclose(found, halved)

    def test_given_norms_divide_instead(self):
        found = sensitivities(MAP, NOISY, torch.tensor([4.0]))
        assert found[0].tolist() == pytest.approx([0.075, 0.25, 0, 0.1], abs=1e-7)

    def test_every_image_has_its_own_norm(self):
        maps, noisy = rand(3, 4, 5), rand(3, 2, 4, 5, seed=1)
        found = sensitivities(maps, noisy)
        for image in range(3):
            for copy in range(2):
                change = np.linalg.norm((noisy[image, copy] - maps[image]).numpy())
                expected = change / np.linalg.norm(maps[image].numpy())
                assert found[image, copy].item() == pytest.approx(expected)

    def test_an_empty_noisy_map_gives_one(self):
        found = sensitivities(rand(2, 3, 3), torch.zeros(2, 1, 3, 3).double())
        assert found[:, 0].tolist() == pytest.approx([1, 1])

    def test_a_zero_map(self):
        noisy = torch.zeros(1, 2, 2, 2)
        noisy[0, 1, 0, 0] = 0.5
        found = sensitivities(torch.zeros(1, 2, 2), noisy)
        assert found[0, 0] == 0
        assert found[0, 1].isnan()
        assert sensitivities(torch.zeros(1, 2, 2), noisy, torch.tensor([2.0])).tolist() == [
            [0, 0.25]
        ]
        assert sensitivities(MAP, NOISY, torch.zeros(1)).isnan().tolist() == [
            [True, True, False, True]
        ]

    @pytest.mark.usefixtures("as_users_run_it")
    def test_errors(self):
        for shape in ((2, 1, 1, 2), (1, 0, 1, 2), (1, 1, 2, 2)):
            with pytest.raises(InputError, match="at least one copy"):
                MaxSensitivity().update(MAP, torch.zeros(*shape))
        with pytest.raises(InputError, match=r"[Mm]aps"):
            sensitivities(MAP * 2, NOISY)
        with pytest.raises(InputError, match=r"[Mm]aps"):
            sensitivities(MAP, NOISY - 1)
        with pytest.raises(InputError, match=r"[Mm]aps"):
            sensitivities(MAP, NOISY * float("nan"))


class TestSensitivityMetrics:
    def test_by_hand(self):
        found = {}
        for factory in (MaxSensitivity, AvgSensitivity):
            made = factory()
            made.update(MAP, NOISY)
            found[factory] = made.compute().item()
        assert found[MaxSensitivity] == pytest.approx(1)
        assert found[AvgSensitivity] == pytest.approx((0.3 + 1 + 0.4) / 4)

    @BOTH
    def test_best_by_construction_a_map_that_ignores_the_image(self, factory):
        maps = torch.cat([rand(3, 5, 5), torch.zeros(1, 5, 5, dtype=torch.float64)])
        made = factory()
        made.update(maps, maps[:, None].expand(-1, 10, -1, -1))
        assert made.compute() == 0 == made.entry.best
        assert made.per_image.tolist() == [0] * 4  # also of the zero map
        assert made.entry.worst is None
        assert made.entry.direction == "lower"

    @given(grids, arrays.arrays(np.float64, (4, 3, 5, 6), elements=st.floats(0, 1)))
    def test_max_is_at_least_avg(self, maps, noisy):
        most, mean = MaxSensitivity(), AvgSensitivity()
        for made in (most, mean):
            made.update(torch.from_numpy(maps), torch.from_numpy(noisy))
        first, second = most.per_image, mean.per_image
        assert torch.equal(first.isnan(), second.isnan())
        defined = ~first.isnan()
        assert (first[defined] >= second[defined] * (1 - 1e-12)).all()
        assert (second[defined] >= 0).all()

    @given(grids)
    def test_more_copies_can_only_raise_the_maximum(self, maps):
        own = torch.from_numpy(maps) * 0.5 + 0.5
        noisy = rand(4, 6, 5, 6)
        found = []
        for count in (1, 3, 6):
            made = MaxSensitivity()
            made.update(own, noisy[:, :count])
            found.append(made.per_image)
        assert (found[0] <= found[1]).all()
        assert (found[1] <= found[2]).all()

    @BOTH
    @pytest.mark.usefixtures("as_users_run_it")
    def test_the_input_norm(self, factory):
        with_map, with_input = factory(), factory(norm="input")
        with_map.update(MAP, NOISY, torch.tensor([10.0]))  # the norm is not used
        with_input.update(MAP, NOISY, torch.tensor([10.0]))
        assert with_map.compute().item() == pytest.approx(10 * with_input.compute().item())
        with pytest.raises(InputError, match="needs the images' norms"):
            factory(norm="input").update(MAP, NOISY)
        with pytest.raises(InputError, match="norms"):
            factory(norm="input").update(MAP, NOISY, torch.ones(2))

    @BOTH
    def test_an_undefined_image_is_counted_not_averaged(self, factory):
        maps = torch.cat([MAP, torch.zeros_like(MAP), torch.zeros_like(MAP)])
        noisy = torch.cat([NOISY, NOISY, torch.zeros_like(NOISY)])
        made, alone = factory(), factory()
        made.update(maps, noisy)
        alone.update(MAP, NOISY)
        assert made.per_image.isnan().tolist() == [False, True, False]
        assert made.compute().item() == pytest.approx(alone.compute().item() / 2)
        summary = made.summary()
        assert (summary.count, summary.undefined) == (2, 1)

    @BOTH
    def test_nothing_defined_warns(self, factory):
        made = factory()
        made.update(torch.zeros_like(MAP), NOISY)
        with pytest.warns(UserWarning, match="none defines it"):
            assert made.compute().isnan()
        assert made.summary().value is None

    @BOTH
    def test_settings(self, factory):
        made = create_metric(factory.entry.name, {"radius": "0.5", "samples": 3, "norm": "input"})
        assert made.settings == {"radius": 0.5, "samples": 3, "norm": "input"}


class TestInfidelity:
    def test_sums_of_squares_against_a_loop(self):
        """Without scale and with no drop, infidelity is the mean square of the sums."""
        maps, corners = rand(3, 7, 9), some_squares()
        found = infidelity(maps, corners, torch.zeros(3, 20), normalise=False)
        assert found.tolist() == pytest.approx(sums(maps, corners).square().mean(1).tolist())
        for place in range(20):
            one = infidelity(maps, corners[[place]], torch.zeros(3, 1), normalise=False)
            told = sums(maps, corners[[place]])[:, 0]
            assert one.sqrt().tolist() == pytest.approx(told.tolist())

    def test_by_hand(self):
        maps = torch.tensor([[[0.5, 0.25], [0.0, 1.0]]])
        corners = squares((0, 0, 2, 1), (1, 1, 2, 2), (0, 0, 2, 2))  # sums 0.75, 1, 1.75
        drops = torch.tensor([[1.75, 0.0, 1.75]])
        found = infidelity(maps, corners, drops, normalise=False)
        assert found.item() == pytest.approx((1 + 1 + 0) / 3)
        beta = (0.75 * 1.75 + 1.75 * 1.75) / (0.75**2 + 1 + 1.75**2)
        scaled = infidelity(maps, corners, drops)
        left = [(beta * told - drop) for told, drop in ((0.75, 1.75), (1, 0), (1.75, 1.75))]
        assert scaled.item() == pytest.approx(np.mean(np.square(left)))

    @pytest.mark.parametrize("beta", [0.2, 1.0, 30.0, -4.0])
    def test_drops_in_proportion_are_perfect(self, beta):
        maps, corners = rand(3, 7, 9), some_squares()
        told = sums(maps, corners)
        made = Infidelity()
        made.update(maps, corners, beta * told)
        assert made.per_image.tolist() == pytest.approx([0] * 3, abs=1e-20)
        found = infidelity(maps, corners, beta * told, normalise=False)
        expected = (1 - beta) ** 2 * told.square().mean(1)
        assert found.tolist() == pytest.approx(expected.tolist(), rel=1e-12, abs=1e-12)

    def test_best_by_construction(self):
        maps, corners = torch.full((2, 4, 4), 0.5), squares((0, 0, 2, 2), (1, 2, 3, 4))
        for normalise, factor in ((True, 3), (False, 1)):
            made = Infidelity(normalise=normalise)
            made.update(maps, corners, torch.full((2, 2), 2.0 * factor))
            assert made.compute() == 0 == made.entry.best
        assert metric_entry("infidelity").worst is None

    def test_the_scale_is_the_least_squares_one(self):
        maps, corners = rand(4, 7, 9), some_squares()
        drops = 5 * rand(4, 20, seed=3) - 2
        told = sums(maps, corners)
        expected = [
            np.linalg.lstsq(told[[i]].T.numpy(), drops[i].numpy(), rcond=None)[1][0] / 20
            for i in range(4)
        ]
        assert infidelity(maps, corners, drops).tolist() == pytest.approx(expected)

    @pytest.mark.parametrize("normalise", [True, False])
    def test_a_zero_map_gives_the_mean_squared_drop(self, normalise):
        drops = torch.tensor([[1.0, -2.0, 4.0]])
        corners = squares((0, 0, 1, 1), (0, 0, 2, 2), (1, 1, 3, 3))
        found = infidelity(torch.zeros(1, 3, 3), corners, drops, normalise=normalise)
        assert found.item() == pytest.approx(21 / 3)

    @given(grids, arrays.arrays(np.float64, (4, 10), elements=st.floats(-9, 9)))
    def test_scaling_can_only_help_and_knows_no_unit(self, maps, drops):
        own, wanted = torch.from_numpy(maps), torch.from_numpy(drops)
        corners = some_squares(10, 5, 6)
        scaled = infidelity(own, corners, wanted)
        plain = infidelity(own, corners, wanted, normalise=False)
        power = wanted.square().mean(1)
        assert (scaled <= plain + 1e-9).all()
        assert (scaled <= power + 1e-9).all()
        assert (scaled >= 0).all()
        assert torch.allclose(infidelity(own / 2, corners, wanted), scaled, atol=1e-9)

    @pytest.mark.usefixtures("as_users_run_it")
    def test_errors(self):
        maps = torch.ones(1, 3, 4)
        made = Infidelity()
        with pytest.raises(InputError, match="one finite drop"):
            made.update(maps, squares((0, 0, 1, 1)), torch.zeros(1, 2))
        with pytest.raises(InputError, match="one finite drop"):
            made.update(maps, squares((0, 0, 1, 1)), torch.full((1, 1), float("nan")))
        for corners in ((0, 0, 5, 1), (0, 0, 1, 4), (-1, 0, 1, 1)):
            with pytest.raises(InputError, match="3x4"):
                made.update(maps, squares(corners), torch.zeros(1, 1))
        made.update(maps, squares((0, 0, 4, 3)), torch.zeros(1, 1))  # the whole map fits
        with pytest.raises(InputError, match=r"[Mm]aps"):
            made.update(maps[0], squares((0, 0, 1, 1)), torch.zeros(1, 1))
        with pytest.raises(InputError, match=r"[Mm]aps"):
            made.update(maps * 2, squares((0, 0, 1, 1)), torch.zeros(1, 1))

    def test_settings(self):
        made = create_metric("infidelity", {"samples": 7, "side": "0.3", "normalise": "false"})
        settings = {"samples": 7, "side": 0.3, "normalise": False, "by": "logit"}
        assert made.settings == settings


def given_to(name, maps):
    count = len(maps)
    if name == "infidelity":
        return {"maps": maps, "squares": some_squares(), "drops": rand(9, 20, seed=5)[:count]}
    return {"maps": maps, "noisy_maps": rand(9, 3, 7, 9, seed=4)[:count], "norms": None}


class TestEveryMetric:
    def test_the_list_is_whole(self):
        assert {*NAMES} <= {n for n, one in metrics().items() if one.group == "robustness"}

    @pytest.mark.parametrize("name", NAMES)
    def test_batches_add_up(self, name):
        whole, parts = create_metric(name), create_metric(name)
        told = given_to(name, rand(5, 7, 9))
        whole.update(**told)
        for part in (slice(0, 2), slice(2, 5)):
            parts.update(
                **{
                    key: value if key == "squares" or value is None else value[part]
                    for key, value in told.items()
                }
            )
        assert torch.equal(whole.per_image, parts.per_image)
        assert whole.compute().item() == pytest.approx(whole.per_image.mean().item())

    @pytest.mark.parametrize("name", NAMES)
    def test_no_images_are_no_error(self, name):
        made = create_metric(name)
        made.update(**given_to(name, rand(0, 7, 9)))
        assert made.per_image.shape == (0,)
        assert made.summary().value is None

    @pytest.mark.parametrize("name", NAMES)
    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
    def test_all_float_types_are_accepted(self, name, dtype):
        maps = torch.full((2, 7, 9), 0.5, dtype=dtype)
        made, exact = create_metric(name), create_metric(name)
        made.update(**given_to(name, maps))
        exact.update(**given_to(name, maps.double()))
        assert torch.equal(made.per_image, exact.per_image)

    @pytest.mark.parametrize("name", NAMES)
    def test_the_registry_knows(self, name):
        entry = metric_entry(name)
        sections = ("Formula", "Rewards", "Misleads", "Undefined", "Source")
        assert all(entry.section(key) for key in sections)
        assert create_metric(name, entry.options).settings == dict(entry.options)
