"""Results against the metrics themselves, updated with the same images."""

import json
import math
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

from torchsaliency.errors import InputError, OptionError
from torchsaliency.evaluation.results import Results
from torchsaliency.metrics.base import create_metric
from torchsaliency.metrics.statistics import compare
from torchsaliency.report.results import comparison, holm, table

COUNT, H, W = 9, 20, 24
NAN = math.nan


def names(count=COUNT):
    """Not in the order of the alphabet: img2 comes before img10 here."""
    return [f"img{index}" for index in range(2, 2 + count)]


def lines(method, metric, rows, samples=None, seconds=0.5):
    samples = names(len(rows)) if samples is None else samples
    return [
        {
            "sample": sample,
            "method": method,
            "metric": metric,
            "value": -1.0,  # never read: aggregates come from rows
            "row": row,
            "seconds": seconds[place] if isinstance(seconds, list) else seconds,
            "passes": 1,
        }
        for place, (sample, row) in enumerate(zip(samples, rows, strict=True))
    ]


def results(scores, metrics=("ad",), references=()):
    """Results of {method: {metric: one number an image}}."""
    made = {label: create_metric(label) for label in metrics}
    found = [
        line
        for method, by_metric in scores.items()
        for metric, values in by_metric.items()
        for line in lines(method, metric, [[value] for value in values])
    ]
    return Results(pd.DataFrame(found), made, tuple(scores), frozenset(references))


def maps(seed=0):
    draw = torch.Generator().manual_seed(seed)
    smooth = torch.nn.functional.interpolate(
        torch.rand(COUNT, 1, 4, 4, generator=draw), size=(H, W), mode="bilinear"
    )[:, 0]
    return (smooth - smooth.amin((1, 2), True)) / (
        smooth.amax((1, 2), True) - smooth.amin((1, 2), True)
    )


def updated(name):
    """A metric after three updates, the order of the batches being that of the images."""
    metric = create_metric(name)
    boxes = [torch.tensor([[2.0 + i, 3, 14, 12 + i % 5]]) for i in range(COUNT)]
    masks = torch.zeros(COUNT, H, W, dtype=torch.uint8)
    for mask, (box,) in zip(masks, boxes, strict=True):
        left, top, right, bottom = box.int().tolist()
        mask[top:bottom, left:right] = 1
    draw = torch.Generator().manual_seed(1)
    probabilities = torch.rand(3, COUNT, generator=draw)
    curves = torch.rand(COUNT, 6, generator=draw)
    for start in range(0, COUNT, 4):
        part = slice(start, start + 4)
        given = {
            "maps": maps()[part],
            "masked_maps": maps(5)[part],
            "boxes": boxes[part],
            "masks": masks[part],
            "clean": probabilities[0, part],
            "masked": probabilities[1, part],
            "insertion": curves[part],
            "fractions": torch.linspace(0, 1, 6),
        }
        metric.update(**{key: given[key] for key in metric.entry.inputs if key in given})
    return metric


@pytest.mark.parametrize("name", ["ad", "ba", "miou-sweep", "adcc", "insertion", "miou"])
class TestOfAMetric:
    def test_the_summary_is_the_metrics_own(self, name):
        metric = updated(name)
        frame = pd.DataFrame(lines("m", "label", metric.rows.tolist()))
        found = Results(frame, {"label": create_metric(name)}, ("m",)).summary("m", "label")
        own = metric.summary()
        assert found.value == float(metric.compute())
        assert found == own

    def test_values_of_images_are_the_metrics_own(self, name):
        metric = updated(name)
        frame = pd.DataFrame(lines("m", "label", metric.rows.tolist()))
        found = Results(frame, {"label": create_metric(name)}, ("m",)).per_image("m", "label")
        assert torch.equal(found, metric.per_image)

    def test_parquet_gives_the_same(self, name, tmp_path):
        """Parquet gives arrays where there were lists."""
        metric = updated(name)
        frame = pd.DataFrame(lines("m", "label", metric.rows.tolist()))
        frame.to_parquet(tmp_path / "rows.parquet")
        again = pd.read_parquet(tmp_path / "rows.parquet")
        found = Results(again, {"label": create_metric(name)}, ("m",)).summary("m", "label")
        assert found == metric.summary()


def test_boxes_aggregate_is_no_mean_of_images_of_single_updates():
    """Else the test above would not show that rows are used."""
    metric = updated("ba")
    single = []
    for row in metric.rows:
        alone = create_metric("ba")
        alone.restore(row[None])
        single.append(float(alone.per_image))
    assert abs(float(metric.compute()) - np.mean(single)) > 1


class TestMissingAndUndefined:
    @pytest.mark.parametrize("nothing", [[NAN], [], None, NAN])
    def test_undefined_images_are_counted_and_left_out(self, nothing):
        frame = pd.DataFrame(lines("m", "ad", [[10.0], nothing, [30.0]]))
        found = Results(frame, {"ad": create_metric("ad")}, ("m",))
        summary = found.summary("m", "ad")
        assert (summary.value, summary.count, summary.undefined) == (20.0, 2, 1)
        assert found.per_image("m", "ad").isnan().tolist() == [False, True, False]

    def test_an_image_without_line_is_neither(self):
        frame = pd.DataFrame(
            lines("a", "ad", [[1.0], [2.0], [3.0]])
            + lines("b", "ad", [[9.0], [7.0]], samples=["img4", "img2"])
        )
        found = Results(frame, {"ad": create_metric("ad")}, ("a", "b"))
        assert found.per_image("a", "ad").tolist() == [1, 2, 3]
        values = found.per_image("b", "ad")
        assert values[[0, 2]].tolist() == [7, 9]
        assert values[1].isnan()
        summary = found.summary("b", "ad")
        assert (summary.count, summary.undefined) == (2, 0)
        assert (found.images("a"), found.images("b")) == (3, 2)

    def test_a_method_without_lines(self):
        found = results({"a": {"ad": [1.0, 2.0]}, "b": {}})
        summary = found.summary("b", "ad")
        assert (summary.value, summary.low, summary.count) == (None, None, 0)
        assert found.per_image("b", "ad").isnan().all()
        assert len(found.seconds("b")) == 0

    def test_one_image_has_no_interval(self):
        summary = results({"a": {"ad": [4.0]}}).summary("a", "ad")
        assert (summary.value, summary.low, summary.high) == (4.0, None, None)

    def test_no_line_at_all(self):
        empty = pd.DataFrame({name: [] for name in lines("a", "ad", [[1.0]])[0]})
        found = Results(empty, {"ad": create_metric("ad")}, ("a",))
        assert found.summary("a", "ad").value is None
        assert table(found).cells[0]["value"] is None


def test_metrics_are_not_changed():
    metric = create_metric("ad")
    frame = pd.DataFrame(lines("m", "ad", [[1.0], [2.0]]))
    found = Results(frame, {"ad": metric}, ("m",))
    found.summary("m", "ad")
    found.per_image("m", "ad")
    assert len(metric.rows) == 0


def test_seconds_count_a_map_once_however_many_metrics():
    frame = pd.DataFrame(
        lines("m", "ad", [[1.0]] * 3, seconds=[1.0, 2.0, 9.0])
        + lines("m", "ag", [[1.0]] * 3, seconds=[1.0, 2.0, 9.0])
        + lines("n", "ad", [[1.0]] * 3, seconds=[NAN, 4.0, 5.0])
    )
    metrics = {"ad": create_metric("ad"), "ag": create_metric("ag")}
    found = Results(frame, metrics, ("m", "n"))
    assert found.seconds("m").tolist() == [1, 2, 9]
    assert found.seconds("n").tolist() == [4, 5]
    made = table(found)
    assert made.pivot()["", "T"].tolist() == [8 * 2.0, 8 * 4.5]
    assert made.columns[-1].unit == "s"
    assert len(table(found, timing=False).columns) == 2


class TestCompare:
    def test_is_the_statistics_of_the_shared_images(self):
        first, second = [1.0, 2.0, NAN, 4.0, 9.0], [2.0, 2.0, 3.0, 1.0, NAN]
        found = results({"a": {"ad": first}, "b": {"ad": second}}).compare("a", "b")
        expected = compare(
            torch.tensor(first, dtype=torch.float64), torch.tensor(second, dtype=torch.float64)
        )
        assert found == {"ad": expected}
        assert found["ad"].count == 3

    def test_metrics_that_two_images_do_not_share_are_left_out(self):
        scores = {"a": {"ad": [1.0, NAN], "ag": [1.0, 2.0]}, "b": {"ad": [2.0, 1.0], "ag": [3, 4]}}
        assert list(results(scores, ("ad", "ag")).compare("a", "b")) == ["ag"]

    def test_table_marks_the_better_by_direction(self):
        """a drops more (worse) and gains more (better); nobody wins where images disagree."""
        draw = np.random.default_rng(0)
        low, noise = draw.uniform(10, 20, 12), draw.normal(size=12)
        scores = {
            "a": {"ad": low + 5, "ag": low + 5, "ai": low},
            "b": {"ad": low, "ag": low, "ai": low + noise},
        }
        found = results(scores, ("ad", "ag", "ai"))
        made = comparison(found, "a", "b")
        assert made.rows == ["ad ↓ (%)", "ag ↑ (%)", "ai ↑ (%)"]
        ranks = made.pivot("rank").iloc[:, :2].to_numpy().tolist()
        assert ranks == [[None, "best"], ["best", None], [None, None]]
        raw = [one.p_value for one in found.compare("a", "b").values()]
        assert made.pivot()["", "p"].tolist() == holm(raw)
        assert made.pivot()["", "a − b"].iloc[0] == pytest.approx(5)

    def test_a_method_is_not_compared_with_itself(self):
        with pytest.raises(InputError, match="a was given to be compared with itself"):
            comparison(results({"a": {"ad": [1.0, 2.0]}}), "a", "a")

    def test_without_shared_images_it_says_so(self):
        with pytest.raises(InputError, match="a and b"):
            comparison(results({"a": {"ad": [1.0, NAN]}, "b": {"ad": [NAN, 1.0]}}), "a", "b")


class TestErrors:
    def test_unknown_names_list_close_ones(self):
        found = results({"gradcam": {"ad": [1.0]}})
        with pytest.raises(OptionError, match=r"method 'gradcan'.*gradcam"):
            found.summary("gradcan", "ad")
        with pytest.raises(OptionError, match=r"metric 'ag'.*ad"):
            found.per_image("gradcam", "ag")
        with pytest.raises(OptionError, match="method 'x'"):
            results({"gradcam": {"ad": [1.0]}}, references={"x"})

    def test_a_line_twice(self):
        frame = pd.DataFrame(lines("m", "ad", [[1.0]]) * 2)
        with pytest.raises(InputError, match="ad of m on img2 is there twice"):
            Results(frame, {"ad": create_metric("ad")}, ("m",))

    def test_a_missing_column(self):
        frame = pd.DataFrame(lines("m", "ad", [[1.0]])).drop(columns="row")
        with pytest.raises(InputError, match="no column 'row'"):
            Results(frame, {"ad": create_metric("ad")}, ("m",))

    def test_rows_of_other_options(self):
        frame = pd.DataFrame(lines("m", "ad", [[1.0, 2.0]]))
        found = Results(frame, {"ad": create_metric("ad")}, ("m",))
        with pytest.raises(InputError, match="row of 2 numbers, and the metric keeps 1"):
            found.summary("m", "ad")


class TestHolm:
    @pytest.mark.parametrize(
        ("given", "expected"),
        [
            ([], []),
            ([0.03], [0.03]),
            ([0.01, 0.04, 0.03], [0.03, 0.06, 0.06]),
            ([0.5, 0.6, 0.001], [1.0, 1.0, 0.003]),
            ([0.01, 0.011, 0.012, 0.013], [0.04] * 4),
            ([0.02, 0.02], [0.04, 0.04]),
        ],
    )
    def test_by_hand(self, given, expected):
        assert holm(given) == pytest.approx(expected)


def constant_shift(shifts, count=12, **options):
    """One metric of methods that differ by a constant on every image."""
    base = np.random.default_rng(3).uniform(20, 40, count)
    return results({name: {"ad": base + shift} for name, shift in shifts.items()}, **options)


def first_cells(made):
    """The cell of each row below the first column."""
    label = made.columns[0].label
    cells = [cell for cell in made.cells if cell["column"] == label]
    return {cell["row"]: SimpleNamespace(**cell) for cell in cells}


class TestTable:
    def test_wilcoxon_against_the_best_corrected_over_its_rivals(self):
        """All 12 signs agree: p = 2 / 2^12 each, and four of them count four times."""
        found = constant_shift({"best": 0, "b": 1, "c": 2, "d": 3, "e": 4})
        cells = first_cells(table(found))
        assert cells["best"].rank == "best"
        assert cells["b"].rank == "second"
        assert (cells["best"].p_value, cells["best"].worse) == (None, None)
        for name in "bcde":
            assert cells[name].p_value == pytest.approx(4 * 2 / 2**12)
            assert cells[name].worse is True

    def test_a_reference_is_neither_best_nor_tested(self):
        found = constant_shift({"fakecam": -9, "a": 0, "b": 1}, references={"fakecam"})
        made = table(found)
        cells = first_cells(made)
        assert made.references == ["fakecam"]
        assert (cells["fakecam"].rank, cells["fakecam"].worse) == (None, None)
        assert (cells["a"].rank, cells["b"].rank) == ("best", "second")
        assert cells["b"].p_value == pytest.approx(2 / 2**12)  # one rival: no correction

    def test_noise_is_not_shown_to_be_worse(self):
        draw = np.random.default_rng(0)
        base = draw.uniform(20, 40, 12)
        found = results({"a": {"ad": base}, "b": {"ad": base + draw.normal(0.1, 3, 12)}})
        cells = first_cells(table(found))
        other = next(cell for cell in cells.values() if cell.rank == "second")
        assert other.worse is False
        assert other.p_value > 0.05

    def test_significant_the_other_way_is_not_worse(self):
        """b is lower on all images but one, whose outlier makes its mean the higher one."""
        a = np.arange(20.0) + 10
        b = a - 0.5
        b[0] = a[0] + 60
        made = table(results({"a": {"ad": a}, "b": {"ad": b}}))
        cell = first_cells(made)["b"]
        assert first_cells(made)["a"].rank == "best"
        assert cell.p_value < 0.05
        assert cell.worse is False

    def test_one_image_shows_nothing(self):
        made = table(results({"a": {"ad": [1.0]}, "b": {"ad": [2.0]}}))
        cells = list(first_cells(made).values())
        assert [cell.rank for cell in cells] == ["best", "second"]
        assert (cells[1].p_value, cells[1].worse) == (None, False)

    def test_higher_is_better_where_the_metric_says_so(self):
        found = results({"a": {"ag": [1.0, 2.0]}, "b": {"ag": [3.0, 4.0]}}, ("ag",))
        assert table(found).pivot("rank")["", "ag"].tolist() == ["second", "best"]

    def test_images_that_were_not_evaluated_are_named(self):
        frame = pd.DataFrame(lines("a", "ad", [[1.0]] * 4) + lines("b", "ad", [[2.0]] * 3))
        made = table(Results(frame, {"ad": create_metric("ad")}, ("a", "b")))
        assert "Of 4 images not all were evaluated: b on 3." in made.notes

    def test_published_numbers_stand_beside(self):
        found = results({"a": {"ad": [1.0, 2.0]}, "b": {"ad": [3.0, 4.0]}})
        made = table(found, published={"a": {"ad": 12.2, "ag": 3.0, "T": 0.03}, "c": {"ad": 1.0}})
        assert [cell["published"] for cell in made.cells] == [12.2, 0.03, None, None]

    def test_the_confidence_is_that_of_the_intervals(self):
        found = constant_shift({"a": 0, "b": 1})
        wide, narrow = (first_cells(table(found, confidence=level))["a"] for level in (0.99, 0.5))
        assert wide.high - wide.low > narrow.high - narrow.low
        assert (wide.confidence, narrow.confidence) == (0.99, 0.5)

    def test_in_json(self):
        made = table(constant_shift({"a": 0, "b": 1}, references={"a"})).to_dict()
        again = json.loads(json.dumps(made))
        assert again == made
        assert again["columns"][0]["arrow"] == "↓"
        assert again["rows"][0]["reference"] is True
