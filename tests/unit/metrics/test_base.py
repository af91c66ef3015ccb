"""What all metrics share: rows an image, summaries, collections, and the registry."""

import copy
import json
import math
import pickle

import pytest
import torch
from torchmetrics import MetricCollection

from synthetic import NAMES, batches_of, inputs
from torchsaliency import InputError, OptionError
from torchsaliency.metrics import (
    AverageDrop,
    SaliencyMetric,
    collection,
    create_metric,
    metric,
    metric_entry,
    metrics,
)

NAN = float("nan")

CLEAN = torch.tensor([0.8, 0.5, 0.2, 0.4], dtype=torch.float64)
MASKED = torch.tensor([0.6, 0.5, 0.5, 0.1], dtype=torch.float64)
"""AD of the four images: 25, 0, 0 and 75."""


@pytest.fixture
def toy(registries):  # noqa: ARG001 (restores them)
    """A metric that keeps what it is told."""

    @metric("toy", group="complexity", cite="none", direction="lower", unit="px", best=0.0)
    class Toy(SaliencyMetric):
        """Toy: the number that it is told.

        Formula: 1/N · Σ_i
        x_i.

        Undefined: where told NaN.
        """

        def __init__(
            self,
            step: int = 3,
            scale: float = 0.5,
            fast: bool = False,
            pair: tuple[int, int] = (1, 2),
            **options: object,
        ):
            self.step, self.scale, self.fast, self.pair = step, scale, fast, pair
            super().__init__(**options)

        @property
        def settings(self):
            return {"step": self.step, "scale": self.scale}

        def update(self, values: torch.Tensor) -> None:
            self._record(values)

    return Toy


def numbers(count: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(count, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


class TestCollection:
    def test_metrics_that_agree_at_first_are_not_merged_even_automatically(self):
        """Torchmetrics merges metrics of equal states after the first batch, for good."""
        automatic = MetricCollection({name: create_metric(name) for name in ("ad", "ai", "ag")})
        explicit = collection(["ad", "ai", "ag"])
        for made in (automatic, explicit):
            made.update(clean=CLEAN, masked=CLEAN)  # drop, increase and gain are all 0
            made.update(clean=CLEAN, masked=MASKED)
            found = {name: float(value) for name, value in made.compute().items()}
            assert found == pytest.approx({"ad": 12.5, "ai": 12.5, "ag": 4.6875})
            assert len(made.compute_groups) == 3

    def test_metrics_that_differ_by_an_option_are_not_merged(self, toy):
        """Their rows may agree at first, and not later."""
        automatic = MetricCollection({"a": toy(step=1), "b": toy(step=2), "c": toy(scale=0.1)})
        automatic.update(torch.zeros(2))
        assert len(automatic.compute_groups) == 3

    def test_no_two_registered_metrics_have_a_state_in_common(self):
        states = [key for name in NAMES for key in create_metric(name).metric_state]
        assert len(set(states)) == len(states) == len(NAMES)

    def test_names_and_metrics_mixed(self):
        made = collection(["ad", create_metric("adcc", {"mean": "parts"})])
        assert set(made) == {"ad", "adcc"}
        assert made["adcc"].mean == "parts"

    def test_each_metric_takes_what_it_needs(self):
        maps = torch.eye(3).expand(4, 3, 3)
        made = collection(["ad", "coherency", "complexity", "adcc"])
        made.update(maps=maps, masked_maps=maps, clean=CLEAN, masked=MASKED)
        found = {name: float(value) for name, value in made.compute().items()}
        assert found["ad"] == pytest.approx(25)
        assert found["coherency"] == pytest.approx(100)
        assert found["complexity"] == pytest.approx(100 / 3)

    @pytest.mark.parametrize("names", [[], ["ad", "ad"], ["ad", "ai", AverageDrop()]])
    def test_a_wrong_number_of_names(self, names):
        with pytest.raises(OptionError, match="at least one, each once"):
            collection(names)

    def test_an_unknown_name(self):
        with pytest.raises(OptionError, match=r"no metric 'adc'; close names are .*adcc"):
            collection(["ad", "adc"])


class TestSummary:
    def test_values_and_counts(self, toy):
        made = toy()
        values = numbers(20)
        made.update(values)
        made.update(torch.tensor([NAN, NAN]))
        found = made.summary()
        assert (found.metric, found.unit, found.direction) == ("toy", "px", "lower")
        assert (found.count, found.undefined, found.confidence) == (20, 2, 0.95)
        assert found.value == pytest.approx(float(values.mean()))
        assert found.value == float(made.compute())
        assert found.low < found.value < found.high
        error = float(values.std() / math.sqrt(20))
        assert found.high - found.low == pytest.approx(2 * 1.96 * error, rel=0.15)

    def test_settings(self, toy):
        made = toy()
        made.update(numbers(20))
        default = made.summary()
        assert made.summary() == default
        assert made.summary(seed=1) != default
        assert made.summary(resamples=500) != default
        narrow = made.summary(confidence=0.5)
        assert narrow.confidence == 0.5
        assert default.low < narrow.low < narrow.high < default.high

    def test_no_image(self, toy):
        found = toy().summary()
        assert (found.value, found.low, found.high) == (None, None, None)
        assert (found.count, found.undefined) == (0, 0)

    def test_no_image_that_defines_it(self, toy):
        made = toy()
        made.update(torch.full((3,), NAN))
        found = made.summary()
        assert (found.value, found.low, found.high) == (None, None, None)
        assert (found.count, found.undefined) == (0, 3)

    def test_one_image_has_no_interval(self, toy):
        made = toy()
        made.update(torch.tensor([0.25, NAN]))
        found = made.summary()
        assert (found.value, found.low, found.high) == (0.25, None, None)
        assert (found.count, found.undefined) == (1, 1)

    def test_equal_images_leave_no_doubt(self, toy):
        made = toy()
        made.update(torch.full((5,), 0.25))
        assert (made.summary().low, made.summary().high) == (0.25, 0.25)

    def test_the_interval_is_of_the_aggregate_not_of_the_images_mean(self):
        """The harmonic mean of averages is no average of images."""
        both = [create_metric("adcc", {"mean": mean}) for mean in ("images", "parts")]
        maps = torch.eye(3).expand(20, 3, 3)
        for made in both:
            made.update(maps, maps, torch.ones(20), numbers(20))
        images, parts = (made.summary() for made in both)
        assert parts.low < parts.value < parts.high
        assert images.value < parts.value
        assert images.low != pytest.approx(parts.low, abs=0.1)
        torch.testing.assert_close(both[0].per_image, both[1].per_image)

    def test_to_dict_is_json(self, toy):
        made = toy()
        for values in ([], [0.5], [0.5, 0.7], [NAN]):
            made.update(torch.tensor(values))
            told = made.summary().to_dict()
            assert json.loads(json.dumps(told, allow_nan=False)) == told


class TestRows:
    def test_per_image_keeps_the_order_and_says_where_undefined(self, toy):
        made = toy()
        for values in ([3.0, 1.0], [], [NAN], [2.0]):
            made.update(torch.tensor(values))
        assert made.per_image.tolist() == pytest.approx([3, 1, NAN, 2], nan_ok=True)
        assert float(made.compute()) == 2
        assert made.per_image.tolist() == pytest.approx([3, 1, NAN, 2], nan_ok=True)

    def test_an_image_with_one_number_missing_is_left_out_as_a_whole(self, toy):
        class Wide(toy):
            width = 2

        made = Wide()
        made.update(torch.tensor([[1.0, 9.0], [5.0, NAN], [2.0, 9.0]]))
        assert made.per_image.tolist() == pytest.approx([1, NAN, 2], nan_ok=True)
        assert float(made.compute()) == 1.5
        assert made.summary().undefined == 1
        with pytest.raises(InputError, match="keeps 2 numbers an image"):
            made.update(torch.zeros(3))

    def test_nothing_defined_warns_and_is_nan(self, toy):
        made = toy()
        made.update(torch.tensor([NAN, NAN]))
        with pytest.warns(UserWarning, match="toy is undefined: of 2 images none defines it"):
            assert made.compute().isnan()
        made.update(torch.tensor([4.0]))
        assert float(made.compute()) == 4

    def test_reset_forgets(self):
        made = create_metric("ad")
        made.update(CLEAN, MASKED)
        assert float(made.compute()) == pytest.approx(25)
        made.reset()
        assert len(made.per_image) == 0
        assert made.summary().count == 0
        made.update(CLEAN[:1], MASKED[:1])
        assert float(made.compute()) == pytest.approx(25)
        made.update(CLEAN[1:2], MASKED[1:2])
        assert float(made.compute()) == pytest.approx(12.5)

    def test_forward_tells_the_batch_and_keeps_all(self):
        made = create_metric("ad")
        assert float(made(CLEAN[:1], MASKED[:1])) == pytest.approx(25)
        assert float(made(CLEAN[1:3], MASKED[1:3])) == 0
        assert float(made(CLEAN[3:], MASKED[3:])) == pytest.approx(75)
        assert made.per_image.tolist() == pytest.approx([25, 0, 0, 75])
        assert float(made.compute()) == pytest.approx(25)

    def test_forward_of_a_collection(self):
        made = collection(["ad", "ai"])
        found = made(clean=CLEAN[2:], masked=MASKED[2:])
        assert {key: float(value) for key, value in found.items()} == pytest.approx(
            {"ad": 37.5, "ai": 50}
        )
        assert made["ad"].per_image.tolist() == pytest.approx([0, 75])

    def test_compute_on_cpu_keeps_the_rows_and_their_order(self):
        made = create_metric("ad")
        slow = AverageDrop(compute_on_cpu=True)
        for one in (made, slow):
            one.update(CLEAN[:3], MASKED[:3])
            one.update(CLEAN[3:], MASKED[3:])
        assert torch.equal(slow.per_image, made.per_image)

    @pytest.mark.parametrize("copied", [copy.deepcopy, lambda one: pickle.loads(pickle.dumps(one))])
    def test_a_copy_has_the_rows_and_its_own_life(self, copied):
        made = create_metric("adcc", {"mean": "parts"})
        maps = torch.eye(3).expand(4, 3, 3)
        made.update(maps, maps, CLEAN, MASKED)
        other = copied(made)
        assert (other.mean, other.name) == ("parts", "adcc")
        assert torch.equal(other.per_image, made.per_image)
        assert other.summary() == made.summary()
        other.update(maps, maps, CLEAN, MASKED)
        assert (len(other.per_image), len(made.per_image)) == (8, 4)

    def test_rows_are_float64_and_moving_keeps_them_so(self):
        made = create_metric("ad").half().float()
        made.update(CLEAN, MASKED)
        assert made.per_image.dtype == torch.float64
        assert made.per_image[0] == pytest.approx(25, abs=1e-12)


class TestOptions:
    def test_strings_become_what_they_mean(self, toy):
        made = create_metric(
            "toy", {"step": "448", "scale": "0.25", "fast": "true", "pair": ["3", 4]}
        )
        assert (made.step, made.scale, made.fast, made.pair) == (448, 0.25, True, (3, 4))
        assert isinstance(made, toy)

    @pytest.mark.parametrize("options", [None, {}, {"step": 3}])
    @pytest.mark.usefixtures("toy")
    def test_defaults(self, options):
        made = create_metric("toy", options)
        assert (made.step, made.scale, made.fast, made.pair) == (3, 0.5, False, (1, 2))

    @pytest.mark.parametrize(
        ("name", "options", "message"),
        [
            ("toy", {"steps": 3}, r"toy has no option 'steps'; it has fast, pair, scale, step\."),
            ("ad", {"step": 3}, r"ad has no option 'step'; it has none\."),
            ("ad", {"compute_on_cpu": True}, "it has none"),
            ("toy", {"step": "many"}, r"toy\.step='many' does not fit"),
            ("toy", {"step": 1.5}, r"toy\.step=1\.5 does not fit"),
            ("toy", {"pair": "1"}, r"toy\.pair='1' does not fit"),
            ("adcc", {"mean": "median"}, "'images' or 'parts'"),
            ("toys", None, r"There is no metric 'toys'; close names are .*toy"),
            ("entirely else", None, "known are abpc, ad, "),
        ],
    )
    @pytest.mark.usefixtures("toy")
    def test_options_that_do_not_fit(self, name, options, message):
        with pytest.raises(OptionError, match=message):
            create_metric(name, options)


def of_images(name: str, count: int = 6, options: dict[str, object] | None = None):
    """A metric with images, some of which may not define it."""
    made = create_metric(name, options)
    made.update(**inputs(count, names=[name]))
    return made


@pytest.mark.parametrize(
    ("name", "options"), [*((name, {}) for name in NAMES), ("adcc", {"mean": "parts"})]
)
class TestRestoring:
    """What `evaluation` relies on: rows are all that a metric knows of its images."""

    def test_rows_are_float64_and_as_wide_as_the_metric_says(self, name, options):
        made = of_images(name, options=options)
        assert made.rows.dtype == torch.float64
        assert made.rows.shape == (6, made.width)
        assert torch.equal(made.rows.isnan().any(1), made.per_image.isnan())
        assert create_metric(name, options).rows.shape == (0, made.width)

    def test_restored_rows_give_the_same_numbers(self, name, options):
        made = of_images(name, options=options)
        other = create_metric(name, options)
        for rows in made.rows.split([1, 0, 3, 2]):
            other.restore(rows)
        assert other.compute().item() == made.compute().item()
        assert other.summary() == made.summary()
        torch.testing.assert_close(other.rows, made.rows, rtol=0, atol=0, equal_nan=True)
        torch.testing.assert_close(other.per_image, made.per_image, rtol=0, atol=0, equal_nan=True)

    def test_restored_rows_count_after_a_computation(self, name, options):
        first, then = batches_of(inputs(6, names=[name]), [4, 2])
        at_once, made, more = (create_metric(name, options) for _ in range(3))
        for batch in (first, then):
            at_once.update(**batch)
        made.update(**first)
        made.compute()
        more.update(**then)
        made.restore(more.rows)
        assert made.compute().item() == at_once.compute().item()

    def test_images_may_follow_restored_ones(self, name, options):
        first, then = batches_of(inputs(6, names=[name]), [4, 2])
        at_once, before, after = (create_metric(name, options) for _ in range(3))
        for batch in (first, then):
            at_once.update(**batch)
        before.update(**first)
        after.restore(before.rows)
        after.update(**then)
        assert after.compute().item() == at_once.compute().item()
        assert after.summary() == at_once.summary()

    def test_rows_kept_elsewhere_are_summarised_without_a_trace(self, name, options):
        made = of_images(name, options=options)
        other = create_metric(name, options)
        assert other.summarise(made.rows) == made.summary()
        how = {"confidence": 0.8, "resamples": 50, "seed": 3}
        assert other.summarise(made.rows, **how) == made.summary(**how)
        assert len(other.rows) == 0
        nothing = other.summarise(made.rows[:0])
        assert (nothing.value, nothing.count, nothing.undefined) == (None, 0, 0)

    def test_rows_of_another_width_are_told(self, name, options):
        made = create_metric(name, options)
        with pytest.raises(InputError, match=f"{name} keeps {made.width} numbers an image"):
            made.restore(torch.zeros(2, made.width + 1))


@pytest.mark.parametrize("name", NAMES)
class TestEveryMetric:
    def test_its_documentation_says_how_to_read_it(self, name):
        entry = metric_entry(name)
        assert entry.summary.endswith((".", "?"))
        for section in ("Formula", "Rewards", "Misleads", "Undefined", "Source"):
            assert len(entry.section(section)) > 5, section
            assert "\n" not in entry.section(section)
        assert entry.section("Nonsense") == ""

    def test_direction_best_and_worst_agree(self, name):
        entry = metric_entry(name)
        assert entry.direction in ("higher", "lower", "neither")
        assert (
            create_metric(name).higher_is_better
            is {
                "higher": True,
                "lower": False,
                "neither": None,
            }[entry.direction]
        )
        if entry.best is not None and entry.worst is not None:
            assert (entry.best > entry.worst) == (entry.direction == "higher")
            assert entry.best != entry.worst
        if entry.direction == "neither":
            assert entry.best is None
            assert entry.worst is None

    def test_its_facts_are_complete(self, name):
        entry = metric_entry(name)
        assert entry is metrics()[name]
        assert entry.name == name == name.lower()
        assert entry.factory.entry is entry
        assert entry.cite
        assert entry.requires
        assert entry.annotations in ("", "boxes", "masks")
        assert entry.group in {
            "classification", "perturbation", "robustness", "localisation", "segmentation",
            "self-supervised", "sanity", "complexity", "faithfulness", "axiomatic",
        }  # fmt: skip
        assert entry.inputs
        assert "self" not in entry.inputs

    def test_it_is_made_without_options_and_with_its_defaults(self, name):
        options = metric_entry(name).options
        made = create_metric(name)
        assert made.name == name
        assert isinstance(made, metric_entry(name).factory)
        assert create_metric(name, options).settings == made.settings
        as_text = {
            key: str(value)
            for key, value in options.items()
            if isinstance(value, bool | int | float | str)
        }
        assert create_metric(name, as_text).settings == made.settings

    def test_everything_about_it_is_json(self, name):
        told = metric_entry(name).to_dict()
        assert json.loads(json.dumps(told, allow_nan=False)) == told
        assert told["name"] == name
        assert told["formula"] == metric_entry(name).section("Formula")
        assert set(told["options"]) == set(metric_entry(name).options)

    def test_without_an_image_it_is_undefined_not_zero(self, name):
        made = create_metric(name)
        with pytest.warns(UserWarning) as caught:  # noqa: PT030 (torchmetrics warns too)
            assert made.compute().isnan()
        assert any(f"{name} is undefined: of 0 images" in str(one.message) for one in caught)
        found = made.summary()
        assert (found.metric, found.value, found.count, found.undefined) == (name, None, 0, 0)
        assert made.per_image.shape == (0,)

    def test_it_survives_a_copy(self, name):
        made = create_metric(name)
        for other in (copy.deepcopy(made), pickle.loads(pickle.dumps(made))):
            assert other.settings == made.settings
            assert other.metric_state == made.metric_state


class TestRegistering:
    def test_the_table_is_read_only(self):
        with pytest.raises(TypeError):
            metrics()["mine"] = metrics()["ad"]

    def test_a_section_of_several_lines_is_told_in_one(self, toy):
        assert toy.entry.section("Formula") == "1/N · Σ_i x_i."
        assert toy.entry.section("Misleads") == ""
        assert toy.entry.summary == "Toy: the number that it is told."

    def test_facts_of_a_new_metric(self, toy):
        told = toy.entry.to_dict()
        assert told["inputs"] == ["values"]
        assert told["options"] == {"step": 3, "scale": 0.5, "fast": False, "pair": [1, 2]}
        assert (told["best"], told["worst"], told["unit"]) == (0.0, None, "px")
        assert toy.higher_is_better is False
        assert metric_entry("toy").factory is toy

    def test_a_name_is_taken_once(self, toy):
        with pytest.raises(OptionError, match="'toy' is registered already"):
            metric("toy", group="complexity", cite="none", direction="lower")(toy)

    @pytest.mark.usefixtures("toy")
    def test_every_option_has_a_default(self):
        class Bare(SaliencyMetric):
            """Bare."""

            def __init__(self, depth: int, **options: object):
                self.depth = depth
                super().__init__(**options)

            def update(self, values: torch.Tensor) -> None:
                self._record(values)

        with pytest.raises(OptionError, match=r"bare\.depth has no default"):
            metric("bare", group="complexity", cite="none", direction="lower")(Bare)
        assert "bare" not in metrics()


@pytest.mark.parametrize(
    ("name", "published"),
    [
        ("aopc", {"patch": 14, "regions": 10, "placement": "sliding", "average": "L+1"}),
        ("ba", {"step": 0.01, "overlaps": (0.3, 0.5, 0.7), "contours": "all"}),
        ("infidelity", {"samples": 100, "side": 0.15, "normalise": True, "by": "logit"}),
        ("max-sensitivity", {"radius": 0.2, "samples": 10, "norm": "map"}),
        ("miou-sweep", {"thresholds": (0.4, 0.5, 0.6, 0.7, 0.8, 0.9), "void": "ignore"}),
        ("road", {"percentages": tuple(range(10, 100, 10)), "noise": 0.01}),
        ("ssim", {"mode": "cascading", "stages": 5, "seed": 0, "window": None}),
    ],
)
def test_the_defaults_are_the_published_settings(name, published):
    assert dict(create_metric(name).settings) == published


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:.*torch.jit.*:FutureWarning")
@pytest.mark.filterwarnings("ignore:This property will be removed:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:This property will be removed:FutureWarning")
def test_torchscript_takes_every_metric():
    """As torchmetrics' own tester asks of a metric: it is scripted as it is made."""
    for name in NAMES:
        scripted = torch.jit.script(create_metric(name))
        assert isinstance(scripted, torch.jit.ScriptModule), name
