"""Odd plans: each runs, or ends in one sentence."""

import numpy as np
import pytest
import yaml
from typer.testing import CliRunner

from commands import photographs
from torchsaliency import TorchSaliencyError
from torchsaliency.cli.main import app
from torchsaliency.evaluation import Plan, read_plan

SMALL = {
    "data": "photos",
    "model": "builtin/shapes_cnn",
    "methods": ["gradcam"],
    "metrics": ["ad"],
    "workers": 0,
    "batch_size": 2,
}
HEAD = "data: photos\nmodel: builtin/shapes_cnn\nmetrics: [ad]\nworkers: 0\n"
PLAIN = HEAD + "methods: [gradcam]\n"

TEXTS = {
    "empty": "",
    "only a comment": "# nothing\n",
    "a list": "- gradcam\n",
    "a scalar": "gradcam\n",
    "a number": "12\n",
    "two documents": PLAIN + "---\n" + PLAIN,
    "a tab": "data:\tphotos\n\tmodel: x\n",
    "not closed": "methods: [gradcam\n",
    "an unknown tag": "data: !!python/object/apply:os.system ['echo ouch']\n",
    "an unknown anchor": "data: *nowhere\n",
    "an anchor of itself": PLAIN + "layers: &a [*a]\n",
    "laughing": "a: &a [x, x, x, x, x, x, x, x, x]\n"
    + "".join(
        f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]\n"
        for a, b in zip("abcdefgh", "bcdefghi", strict=True)
    ),
    "a key that is a number": PLAIN + "1: x\n",
    "a key that is null": PLAIN + "~: x\n",
    "a key that is a list": PLAIN + "? [a, b]\n: x\n",
    "a key that is a date": PLAIN + "2024-01-01: x\n",
    "a key that is true": PLAIN + "true: x\n",
    "a merge of nothing": PLAIN + "<<: 3\n",
    "a key twice": PLAIN + "data: samples\n",
    "an option twice": HEAD + "methods:\n  - opticam: {iterations: 2, iterations: 3}\n",
    "a method twice in a mapping": HEAD + "methods: {gradcam: {}, gradcam: {}}\n",
    "a method twice": HEAD + "methods: [gradcam, gradcam]\n",
    "nested lists": PLAIN + "layers: " + "[" * 5000 + "]" * 5000 + "\n",
    "nested mappings": PLAIN + "layers: " + "{a: " * 3000 + "}" * 3000 + "\n",
    "an integer of 6,000 digits": PLAIN + f"seed: {'9' * 6000}\n",
    "a hexadecimal of 6,000 digits": PLAIN + f"seed: 0x{'f' * 6000}\n",
    "a sexagesimal": PLAIN + "seed: 1:20:30\n",
    "a bad date": PLAIN + "split: 2024-13-45\n",
    "a date": PLAIN + "split: 2024-01-01\n",
    "a bad float": PLAIN + "seed: 1e999\n",
    "not a number": PLAIN + "seed: .nan\n",
    "binary": PLAIN + "split: !!binary aGVsbG8=\n",
    "bad binary": PLAIN + "split: !!binary ä\n",
    "a set": PLAIN + "layers: !!set {a, b}\n",
    "an ordered mapping": PLAIN + "layers: !!omap [a: 1]\n",
    "pairs": PLAIN + "layers: !!pairs [a: 1]\n",
    "a lone surrogate as a label": HEAD
    + 'methods: [{name: gradcam, label: "\\ud800"}]\n',
    "a lone surrogate as data": PLAIN.replace("photos", '"\\ud800"'),
    "a lone surrogate as a field": PLAIN + '"\\ud800": 1\n',
    "a lone surrogate as a layer": PLAIN + 'layers: ["\\udfff"]\n',
    "a NUL as data": PLAIN.replace("photos", '"a\\0b"'),
    "a NUL as weights": PLAIN + 'weights: "a\\0b"\n',
    "a NUL as a label": HEAD + 'methods: [{name: gradcam, label: "a\\0b"}]\n',
    "an escape as a label": HEAD + 'methods: [{name: gradcam, label: "\\e[31mred"}]\n',
    "a label of 100,000 letters": HEAD + f"methods: [{{name: gradcam, label: {'x' * 100_000}}}]\n",
    "a name of 100,000 letters": HEAD + f"methods: [{'x' * 100_000}]\n",
    "data of 100,000 letters": PLAIN.replace("photos", "x" * 100_000),
    "a model of 100,000 letters": PLAIN.replace("builtin/shapes_cnn", "x" * 100_000),
    "an empty label": HEAD + 'methods: [{name: gradcam, label: ""}]\n',
    "a label of blanks": HEAD + 'methods: [{name: gradcam, label: "  "}]\n',
    "a label with a line break": HEAD + 'methods: [{name: gradcam, label: "a\\nb"}]\n',
    "a method without a name": HEAD + "methods: [{label: x}]\n",
    "a method with two names": HEAD + "methods: [{gradcam: {}, opticam: {}}]\n",
    "a method as a list": HEAD + "methods: [[gradcam]]\n",
    "a method as null": HEAD + "methods: [~]\n",
    "a method as a number": HEAD + "methods: [7]\n",
    "a nameless method": HEAD + 'methods: [""]\n',
    "no methods": HEAD,
    "null methods": HEAD + "methods:\n",
    "options that are a list": HEAD + "methods: [{opticam: [1, 2]}]\n",
    "options that are a number": HEAD + "methods: [{opticam: 3}]\n",
    "an option with a number for a name": HEAD + "methods: [{opticam: {1: 2}}]\n",
    "an option with null for a name": HEAD + "methods: [{opticam: {~: 2}}]\n",
    "an unknown option": HEAD + "methods: [{opticam: {iteration: 2}}]\n",
    "samples beyond memory": HEAD + "methods: [{rise: {samples: 99999999999999999999}}]\n",
    "samples beyond int64": HEAD + f"methods: [{{rise: {{samples: {2**63}}}}}]\n",
    "samples below zero": HEAD + "methods: [{rise: {samples: -1}}]\n",
    "samples that are not whole": HEAD + "methods: [{rise: {samples: 1.5}}]\n",
    "a grid beyond memory": HEAD + "methods: [{rise: {samples: 2, grid: 9999999}}]\n",
    "a seed beyond int64": HEAD + f"methods: [{{rise: {{samples: 2, seed: {2**70}}}}}]\n",
    "a rate of infinity": HEAD + "methods: [{opticam: {iterations: 1, learning_rate: .inf}}]\n",
    "a rate that is not a number": HEAD
    + "methods: [{opticam: {iterations: 1, learning_rate: .nan}}]\n",
    "no metrics": PLAIN.replace("metrics: [ad]", "metrics: []"),
    "a metric that needs boxes": PLAIN.replace("[ad]", "[loc]"),
    "an unknown metric": PLAIN.replace("[ad]", "[addd]"),
    "steps beyond memory": PLAIN.replace("[ad]", "[{deletion: {steps: 999999999999}}]"),
    "shapes with a huge side": PLAIN.replace("photos", "shapes:2?side=100000"),
    "more shapes than there are numbers": PLAIN.replace("photos", "shapes:99999999999999999"),
    "shapes below zero": PLAIN.replace("photos", "shapes:-2"),
    "shapes without a number": PLAIN.replace("photos", "shapes:"),
    "shapes by an unknown option": PLAIN.replace("photos", "shapes:2?sides=3"),
    "a scheme that nobody has": PLAIN.replace("photos", "ftp:thing"),
    "workers without end": PLAIN.replace("workers: 0", "workers: 100000"),
    "a class beyond the network": PLAIN + "target: 999999999999999999999\n",
    "a class by a name that is not there": PLAIN + "target: unicorn\n",
    "a Latin-1 file": (PLAIN + "split: é\n").encode("latin-1"),
    "UTF-16": PLAIN.encode("utf-16"),
    "a byte-order mark": b"\xef\xbb\xbf" + PLAIN.encode(),
    "NUL bytes": PLAIN.encode() + b"\0\0",
    "control characters": PLAIN.encode() + b"\x07\x1b[31m",
    "noise": np.random.default_rng(0).bytes(4000),
    "a photograph": b"\x89PNG\r\n\x1a\n" + bytes(range(256)),
    "Windows line ends": PLAIN.replace("\n", "\r\n"),
    "old Macintosh line ends": PLAIN.replace("\n", "\r"),
    "JSON": '{"data": "photos", "model": "builtin/shapes_cnn", "methods": ["gradcam"], '
    '"metrics": ["ad"], "workers": 0}',
}  # fmt: skip

VALUES = (
    None, True, -1, 0, 2**31, 2**63, 10**30, 1.5, float("nan"), float("inf"), "", " ", "~", "..",
    "meta", "cuda:99", "mps", "xyz:0", "no such thing", "\x1b[2J", [], [None], [[1]], {}, {"a": 1},
    {1: 2},
)  # fmt: skip
"""Given to every field; with FULL=1 all of them, else some."""


pytestmark = pytest.mark.filterwarnings("default::UserWarning")


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    photographs(tmp_path / "photos", 2)
    return tmp_path


def ends_well(path):
    """Run a plan; whatever comes is told in a sentence."""
    ran = CliRunner().invoke(app, ["evaluate", str(path), "--output", str(path) + "-run"])
    if ran.exception is not None and not isinstance(ran.exception, SystemExit):
        raise AssertionError(path.read_bytes()[:200]) from ran.exception
    assert ran.exit_code in (0, 1, 2), ran.stderr
    assert "Traceback" not in ran.stderr
    assert len(ran.stderr) < 2000, ran.stderr
    if ran.exit_code == 2:
        said = ran.stderr.strip().splitlines()
        assert said[-1].endswith((".", "?")) or "known layout" in said[-1], ran.stderr
        assert "\x1b" not in ran.stderr
    return ran


@pytest.mark.parametrize("what", TEXTS)
def test_an_odd_file(what, place, tally):
    path = place / "plan.yaml"
    text = TEXTS[what]
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    ends_well(path)
    tally("plans", "odd YAML", 1, 1, "runs, or one sentence")


@pytest.mark.parametrize("field", Plan.model_fields)
def test_an_odd_value_in_every_field(field, place, trials, tally):
    start = [*Plan.model_fields].index(field)
    values = [VALUES[(start + 5 * step) % len(VALUES)] for step in range(trials(5, len(VALUES)))]
    for number, value in enumerate(values):
        path = place / f"plan-{number}.yaml"
        path.write_text(yaml.safe_dump({**SMALL, field: value}, allow_unicode=True))
        ends_well(path)
    tally("plans", "odd values of every field", len(values), len(values), "runs, or one sentence")


@pytest.mark.parametrize("what", ["a key twice", "an option twice", "a method twice in a mapping"])
def test_a_key_that_is_there_twice_is_named(what, place):
    """YAML forbids it and PyYAML takes the last one in silence."""
    path = place / "plan.yaml"
    path.write_text(TEXTS[what])
    twice = {"a key twice": "data", "an option twice": "iterations"}.get(what, "gradcam")
    with pytest.raises(TorchSaliencyError, match=rf"'{twice}'.*twice"):
        read_plan(path)
