"""The scoreboard: what is counted and compared, and that its pages say what its JSON says."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import typer

from nets import convnet, images
from torchsaliency import BlackPixel

sys.path.insert(0, str(Path(__file__).parents[2]))

from benchmarks.board import Contest, Goal, Row
from benchmarks.comparisons import Side
from benchmarks.contests import ROWS
from benchmarks.networks import Bench
from benchmarks.scoreboard import main, measure_row, merge
from scripts import scoreboard_page


@pytest.fixture
def tiny():
    net, x = convnet(seed=3), images(2, seed=1)
    return Bench("tiny", net, x, torch.tensor([1, 3]), "relu3", None, BlackPixel(), True)


def contest(bench, **others):
    def run(times, number):
        def work():
            for _ in range(times):
                bench.net(bench.x)
            return number

        return work

    return Contest(
        Side("exact", run(4, 10.0), 2),
        (Side("fewer", run(2, 9.5), 2), Side("engine", run(0, 10.0), 2, counted=False)),
        Side("peer", run(8, None), 2),
        lambda exact, other: abs(exact - other),
        **others,
    )


def test_a_row_has_passes_rounds_and_errors(tiny):
    row = Row("title", contest, "units", Goal("speed", 1.0, "nothing"))
    found = measure_row(row, tiny, repeats=3)
    sides = found["sides"]
    assert {name: side["passes_per_image"] for name, side in sides.items()} == {
        "exact": 4,
        "fewer": 2,
        "engine": 4,
        "peer": 8,
    }
    assert [side["kind"] for side in sides.values()] == ["exact", "fast", "fast", "peer"]
    assert {name: side.get("error") for name, side in sides.items()} == {
        "exact": None,
        "fewer": 0.5,
        "engine": 0.0,
        "peer": None,
    }
    assert all(len(side["seconds_per_image"]) == 3 for side in sides.values())
    assert (found["goal"]["by"], found["goal"]["met"]) == ("engine", True)
    once = measure_row(row, tiny, repeats=3, long=0.0)["sides"]
    assert all(len(side["seconds_per_image"]) == 1 for side in once.values())


def test_goals_of_passes_and_errors_from_a_reference(tiny):
    row = Row("title", lambda bench: contest(bench, reference=lambda: 9.0), "", Goal("passes", 1.9))
    found = measure_row(row, tiny, repeats=1)
    assert [side.get("error") for side in found["sides"].values()] == [1.0, 0.5, 1.0, None]
    assert (found["goal"]["result"], found["goal"]["met"]) == (2, False)
    never = replace(row, contest=lambda bench: contest(bench, passes=lambda _: None))
    assert measure_row(never, tiny, repeats=1)["goal"]["met"] is False


def test_real_rows_are_measured(tiny):
    found = measure_row(ROWS["gradcam-forward"], tiny, repeats=1)
    assert [side["passes_per_image"] for side in found["sides"].values()] == [1, 1]
    assert found["goal"]["kind"] == "cost"


def test_rows_replace_those_of_their_name_and_network(tmp_path):
    path = tmp_path / "found.json"
    for name, network, number in (
        ("rise", "builtin/efficientnet_lite0", 1),
        ("gradcam", "resnet50", 2),
        ("gradcam", "builtin/efficientnet_lite0", 3),
        ("rise", "builtin/efficientnet_lite0", 4),
    ):
        merge(path, {"name": name, "network": network, "number": number}, {"torch": "2"})
    found = json.loads(path.read_text(encoding="utf-8"))
    assert [row["number"] for row in found["rows"]] == [3, 2, 4]
    assert ["scorecam", "builtin/efficientnet_lite0"] in found["not_measured"]
    assert ["rise", "builtin/efficientnet_lite0"] not in found["not_measured"]


def test_the_command_refuses_what_it_does_not_know(tmp_path):
    with pytest.raises(typer.BadParameter, match="nonsense is not known"):
        main(["nonsense"], output=tmp_path / "found.json")


def test_the_pages_are_those_of_the_json():
    for path, text in scoreboard_page.pages().items():
        told = f"run scripts/scoreboard_page.py: {path.name} is not what the JSON says"
        assert path.read_text(encoding="utf-8") == text, told
        assert scoreboard_page.insert(text, "new").count(scoreboard_page.END) == 1


def test_the_json_names_every_row():
    found = json.loads(scoreboard_page.RESULTS.read_text(encoding="utf-8"))
    measured = [(row["name"], row["network"]) for row in found["rows"]]
    missing = [tuple(one) for one in found["not_measured"]]
    rows = [(name, network) for name, row in ROWS.items() for network in row.networks]
    assert sorted(measured + missing) == sorted(rows)
    assert measured == [one for one in rows if one in measured]
