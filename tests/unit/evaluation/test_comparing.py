"""Two runs compared image by image: what pairs, what differs, and what is refused."""

import math
import warnings

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from torchsaliency.cli.main import app
from torchsaliency.errors import DataError, InputError, OptionError
from torchsaliency.evaluation import Store, compare_runs, make_plan
from torchsaliency.metrics.statistics import compare
from torchsaliency.report import render, tabulate_runs
from torchsaliency.report.results import holm

IDENTITY = {
    "fingerprint of the data": "a" * 64,
    "masking": "mean",
    "resolved target": "label",
    "normalise": True,
    "study": None,
    "weights of the network": "b" * 64,
    "model": "one",
    "preprocessing": {"size": [32, 32], "mean": [0.5]},
}


def write_run(folder, values, *, identity=None, methods="gradcam", metrics="ad,ag", version="1"):
    """Write a run with {method: {metric: {image: number}}}, as `evaluate` does."""
    plan = make_plan({"methods": methods, "metrics": metrics})
    store = Store(folder)
    samples = list(dict.fromkeys(n for by in values.values() for one in by.values() for n in one))
    facts = {
        "identity": {**IDENTITY, **(identity or {})},
        "methods": plan.method_identity(),
        "plan": plan.model_dump(mode="json"),
        "session": {"begun": "now", "versions": {"torchsaliency": version, "python": version}},
    }
    with store.lock():
        known = store.begin(facts, "")
        store.write({**known, "samples": samples})
        store.add(
            {"sample": name, "method": method, "metric": metric, "value": value, "row": [value],
             "seconds": 1.0, "passes": 1.0, "judge_passes": 1.0}
            for method, by in values.items() for metric, one in by.items()
            for name, value in one.items()
        )  # fmt: skip
    return str(folder)


def draw(names, seed):
    numbers = np.random.default_rng(seed).uniform(10, 90, len(names))
    return dict(zip(names, numbers.tolist(), strict=True))


NAMES = [f"img{number}" for number in range(12)]


@pytest.fixture
def first(tmp_path):
    values = {"gradcam": {"ad": draw(NAMES, 0), "ag": draw(NAMES, 1)}}
    return write_run(tmp_path / "first", values)


def second(tmp_path, names=NAMES, shift=0.0, **about):
    ad = {name: value + shift for name, value in draw(names, 2).items()}
    values = {"gradcam": {"ad": ad, "ag": draw(names, 3)}}
    return write_run(tmp_path / "second", values, **about)


def test_the_difference_is_that_of_the_paired_images(tmp_path, first):
    """The order of the images in the runs is another, and some are in one run only."""
    names = [*reversed(NAMES[3:]), "new"]
    found = compare_runs(first, second(tmp_path, names))
    a, b = draw(NAMES, 0), draw(names, 2)
    expected = compare(*(torch.tensor([part[name] for name in NAMES[3:]]) for part in (a, b)))
    assert found.tests["gradcam"]["ad"].difference == pytest.approx(expected.difference, rel=1e-6)
    assert found.tests["gradcam"]["ad"].p_value == pytest.approx(expected.p_value)
    assert found.samples == tuple(NAMES[3:])
    assert found.unpaired == (("img0", "img1", "img2"), ("new",))
    assert found.summaries["gradcam"]["ad"][0].count == 9
    (told,) = [line for line in found.describe() if line.startswith("Paired")]
    assert told == (
        "Paired by id: 9 images; 3 only in first (img0, img1, img2); 1 only in second (new)."
    )


def test_exchanged_runs_differ_in_sign_only(tmp_path, first):
    other = second(tmp_path, shift=20)
    one, two = (
        compare_runs(*pair).tests["gradcam"]["ad"] for pair in ((first, other), (other, first))
    )
    assert one.difference == pytest.approx(-two.difference)
    assert (one.p_value, one.effect) == (two.p_value, -two.effect)


def test_the_table_has_a_line_for_each_method_and_metric(tmp_path, first):
    found = compare_runs(first, second(tmp_path, shift=200))
    table = tabulate_runs(found)
    assert table.rows == ["gradcam: ad ↓ (%)", "gradcam: ag ↑ (%)"]
    assert table.pivot("rank").iloc[0].tolist()[:2] == ["best", None]
    raw = [test.p_value for test in found.tests["gradcam"].values()]
    assert table.pivot()["", "p"].tolist() == holm(raw)
    assert found.to_dict()["methods"]["gradcam"]["ad"]["difference"]["count"] == 12
    for form in ("text", "csv", "json"):
        text = render(table, form)
        assert "first − second" in text or '"label": "first \\u2212 second"' in text


def run_command(*words):
    return CliRunner().invoke(app, ["compare", *words])


def test_the_command_takes_two_runs_or_two_methods_of_one(tmp_path, first):
    values = {"gradcam": {"ad": draw(NAMES, 2)}, "tsm": {"ad": draw(NAMES, 3)}}
    other = write_run(tmp_path / "other", values, methods="gradcam,tsm", metrics="ad")
    ran = run_command(first, other, "--method", "gradcam", "--format", "csv")
    assert ran.exit_code == 0
    assert ran.stdout.splitlines()[0].startswith("method: metric,reference")
    assert ran.stdout.count("\n") == 1 + 6  # a line a cell
    assert "Paired by id: 12 images." in ran.stderr  # a CSV has no place for notes
    ran = run_command(other, "gradcam", "tsm")
    assert (ran.exit_code, ran.stdout.splitlines()[0]) == (0, "gradcam against tsm")
    for words, reason in (
        ([other], "give two runs, or a run and two of its methods"),
        ([other, "gradcam", "tsm", "--allow", "data"], "--allow was given with one run"),
        ([other, "tsm"], "tsm holds no evaluation"),
    ):
        ran = run_command(*words)
        assert (ran.exit_code, ran.stdout) == (2, "")
        assert reason in " ".join(ran.stderr.split())


def test_what_may_differ_is_told(tmp_path, first):
    other = {
        "weights of the network": "c" * 64,
        "model": "two",
        "preprocessing": {"size": [64, 64], "mean": [0.5]},
    }
    found = compare_runs(first, second(tmp_path, identity=other, version="2"))
    assert set(found.differences) == {
        "weights of the network", "model", "preprocessing, size", "torchsaliency"
    }  # fmt: skip
    said = found.describe()
    assert "model: one in first, two in second." in said
    assert f"weights of the network: {'b' * 12}… in first, {'c' * 12}… in second." in said


def test_predicted_classes_may_be_two(tmp_path):
    other = {"weights of the network": "c" * 64, "resolved target": "predicted"}
    mine = {"gradcam": {"ad": draw(NAMES, 0)}}
    runs = [
        write_run(tmp_path / name, mine, identity={**other, "weights of the network": name})
        for name in ("a", "b")
    ]
    assert any("these are two classes" in line for line in compare_runs(*runs).describe())


@pytest.mark.parametrize(
    ("name", "key", "value"),
    [
        ("data", "fingerprint of the data", "d" * 64),
        ("masking", "masking", "black"),
        ("target", "resolved target", "predicted"),
        ("normalise", "normalise", False),
    ],
)
def test_what_decides_the_numbers_must_be_the_same_or_allowed(tmp_path, first, name, key, value):
    other = second(tmp_path, identity={key: value})
    with pytest.raises(OptionError, match=rf"^first and second differ in {name} .*--allow {name}"):
        compare_runs(first, other)
    with pytest.warns(UserWarning, match=f"differ in {name} .*as was allowed"):
        found = compare_runs(first, other, allow=[name])
    assert name in found.differences


def test_a_metric_of_other_options_is_left_out(tmp_path):
    values = {"gradcam": {"ad": draw(NAMES, 0), "insertion": {}}}
    runs = [
        write_run(tmp_path / name, values, metrics=["ad", {"insertion": {"budget": budget}}])
        for name, budget in (("a", 8), ("b", 16))
    ]
    with pytest.warns(UserWarning, match="insertion is not compared: its options differ"):
        found = compare_runs(*runs)
    assert list(found.tests["gradcam"]) == ["ad"]
    assert "budget = 8 in a and 16 in b" in found.left_out["insertion"]


def test_what_one_run_lacks_is_left_out_and_said(tmp_path, first):
    mine = {"gradcam": {"ad": draw(NAMES, 2)}, "tsm": {"ad": draw(NAMES, 3)}}
    other = write_run(tmp_path / "other", mine, methods="gradcam,tsm", metrics="ad")
    found = compare_runs(first, other)
    assert found.left_out == {"method tsm": "only other has it", "metric ag": "only first has it"}
    assert "Left out method tsm: only other has it." in found.describe()


def test_errors_are_one_sentence(tmp_path, first):
    with pytest.raises(OptionError, match="first was given to be compared with itself"):
        compare_runs(first, f"{first}/")
    with pytest.raises(DataError, match="holds no evaluation"):
        compare_runs(first, tmp_path / "nothing")
    other = second(tmp_path, ["x", "y"])
    with pytest.raises(InputError, match="0 images have the same id in first and second"):
        compare_runs(first, other)
    with pytest.raises(OptionError, match="no difference 'maskings' to allow; close names are"):
        compare_runs(first, other, allow=["maskings"])


def test_undefined_everywhere_is_an_error(tmp_path, first):
    nothing = {"gradcam": {"ad": dict.fromkeys(NAMES, math.nan)}}
    other = write_run(tmp_path / "nan", nothing, metrics="ad")
    with pytest.raises(InputError, match=r"Nothing of first and nan can be compared: .*ad of grad"):
        compare_runs(first, other)


def test_the_same_rows_differ_by_nothing(tmp_path, first):
    values = {"gradcam": {"ad": draw(NAMES, 0), "ag": draw(NAMES, 1)}}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = compare_runs(first, write_run(tmp_path / "again", values))
    test = found.tests["gradcam"]["ad"]
    assert (test.difference, test.p_value, test.ties) == (0, 1, 12)
    assert "The runs do not differ in anything that they record." in found.describe()
