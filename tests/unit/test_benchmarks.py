"""The benchmarks' own arithmetic, and that the peers written for them do what they stand for."""

import json
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
import typer

from nets import convnet, images
from torchsaliency import BlackPixel, OptiCAM, explain, tracing
from torchsaliency.core.maps import minmax

sys.path.insert(0, str(Path(__file__).parents[2]))

from benchmarks import __main__ as command
from benchmarks import profiles, report
from benchmarks.comparisons import COMPARISONS
from benchmarks.counting import counted, peak_megabytes
from benchmarks.networks import Bench
from benchmarks.peers import multivec_maps, official_opticam, tucker_maps
from benchmarks.programs import PROGRAMS
from benchmarks.row import measure
from benchmarks.timing import Spread, interleaved, paired_ratio, seconds_of

CPU = torch.device("cpu")
BLACK = BlackPixel()


def test_spread_by_hand():
    found = Spread.of([5.0, 1.0, 2.0, 3.0, 4.0])
    assert (found.median, found.low, found.high, found.least) == (3.0, 2.0, 4.0, 1.0)
    assert found.width == 2.0
    assert Spread.of([7.0]) == Spread(7.0, 7.0, 7.0, 7.0, 1)
    with pytest.raises(ValueError, match="no measurements"):
        Spread.of([])


def test_ratios_are_taken_within_a_round():
    # The second round was twice as slow for both: the ratio is not touched.
    assert paired_ratio([2.0, 4.0, 2.0], [1.0, 2.0, 1.0]) == 2.0
    assert paired_ratio([6.0], [1.0, 2.0, 3.0]) == 3.0


def test_rounds_begin_with_each_side_in_turn():
    ran: list[str] = []
    found = interleaved({n: lambda n=n: ran.append(n) for n in "abc"}, 3, CPU)
    assert "".join(ran) == "abcbcacab"
    assert all(len(seconds) == 3 for seconds in found.values())


def test_seconds_are_the_works():
    assert 0.02 <= seconds_of(lambda: time.sleep(0.02), CPU) < 5


@pytest.mark.parametrize(
    ("method", "passes"),
    [("gradcam", 1), ("tsm", 1), (OptiCAM(iterations=4), 1 + 4)],
)
def test_passes_are_counted(method, passes):
    net, x = convnet(), images(3)
    with counted(net) as count:
        made = explain(net, x, method, [0, 1, 2], "relu3")
    assert count.images == 3 * passes
    assert count.calls == passes
    assert next(iter(made.values())).passes == count.images
    net(x)
    assert count.calls == passes, "the hook is gone"


def test_several_maps_cost_one_pass_and_two_decompositions(monkeypatch):
    ran = []
    eigh = torch.linalg.eigh
    monkeypatch.setattr(torch.linalg, "eigh", lambda gram: ran.append(gram.shape) or eigh(gram))
    net, x = convnet(), images(2)
    with counted(net) as count:
        explain(net, x, ["eigencam", "multivec-eigencam", "tsm", "mtsm"], 0, "relu3")
    assert (count.calls, len(ran)) == (1, 2), "centred and not"


def test_there_is_a_peak():
    assert peak_megabytes(CPU) > 10


def features() -> torch.Tensor:
    return torch.randn(2, 12, 3, 4, generator=torch.Generator().manual_seed(0)).double()


@pytest.mark.filterwarnings("ignore:.*:UserWarning")
@pytest.mark.parametrize("name", ["tsm", "mtsm", "multivec-eigencam"])
def test_listed_maps_are_ours_up_to_their_scale(name):
    x = features()
    made = explain(
        torch.nn.Sequential(torch.nn.Identity()), x, name, lambda y: y.mean((1, 2, 3)), "0"
    )
    kind = {"tsm": False, "mtsm": True}
    found = (
        multivec_maps(x.numpy()) if name not in kind else tucker_maps(x.numpy(), several=kind[name])
    )
    torch.testing.assert_close(
        minmax(made[name].raw), minmax(torch.from_numpy(found)), atol=1e-9, rtol=1e-9
    )


def test_the_official_procedure_is_opticam_of_one_image():
    # In double precision: Adam makes much of the rounding of a gradient near zero.
    net, x = convnet(seed=3).double(), images(1, seed=1).double()
    labels = torch.tensor([2])
    with tracing(net, x, labels, ["relu3"]) as trace:
        activations = trace["relu3"].activations
    theirs = official_opticam(net, x, labels, activations, BLACK.baseline(x), iterations=12)
    made = OptiCAM(iterations=12)(net, x, labels, "relu3", masking=BLACK)
    torch.testing.assert_close(made.details["objective"], theirs.objective, atol=1e-8, rtol=1e-8)
    before = OptiCAM(iterations=11)(net, x, labels, "relu3", masking=BLACK)
    torch.testing.assert_close(before.raw, theirs.maps, atol=1e-8, rtol=1e-8)
    assert all(parameter.grad is None for parameter in net.parameters())


def row(**changes):
    spread = {"median": 0.5, "low": 0.4, "high": 0.6, "least": 0.3, "repeats": 3}
    side = {"images": 2, "passes_per_image": 1.0, "seconds_per_image": spread}
    plain = {
        "name": "one",
        "network": "resnet50",
        "title": "Grad-CAM",
        "sides": {"torchsaliency": side, "peer": {**side, "peak_megabytes": 99}},
        "ratio": 3.14159,
        "ratio_of_least": 3.0,
        "goal": 2.8,
        "ceiling": False,
        "met": True,
        "reduced": "",
    }
    return plain | changes


@pytest.mark.skipif(not find_spec("onnxruntime"), reason="needs the group bench")
def test_the_report_renders():
    where = report.facts("cpu")
    failed = {"name": "two", "network": "vit_b_16", "error": "out of luck"}
    text = report.markdown([row(), row(reduced="one image", goal=None, met=None), failed], where)
    lines = text.splitlines()
    assert "0.5 ± 0.1 | 0.5 ± 0.1 | 1 | 1 |  | 99 | 3.14 (3) | ≥ 2.8 | yes |" in lines[2]
    assert len({line.count("|") for line in lines[:5]}) == 1
    assert where["commit"] in text
    assert f"torch {torch.__version__}" in text.replace("+cpu", "") or "torch " in text
    assert "Cut short: one (one image)." in text
    assert "Not measured: two on vit_b_16: out of luck" in text


def test_numpy_is_what_peers_get():
    assert isinstance(tucker_maps(features()[:1].numpy(), several=True), np.ndarray)


@pytest.mark.skipif(not find_spec("onnxruntime"), reason="needs the group bench")
def test_the_command_writes_both_files(tmp_path, monkeypatch):
    def answered(name, network, options):
        if "--side" in options:
            return {"peak_megabytes": 7}
        return (
            row(name=name, network=network)
            if network == "resnet50"
            else {"name": name, "network": network, "error": "no room"}
        )

    monkeypatch.setattr(command, "_ask", answered)
    command.main(
        ["gradcam-pgc"], ["resnet50", "vit_b_16"], quick=True, device="cpu", output=tmp_path
    )
    found = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))
    assert [one["network"] for one in found["rows"]] == ["resnet50", "vit_b_16"]
    assert found["rows"][0]["sides"]["torchsaliency"]["peak_megabytes"] == 7
    assert "no room" in (tmp_path / "results.md").read_text(encoding="utf-8")
    with pytest.raises(typer.BadParameter, match="nonsense is not known"):
        command.main(["nonsense"], output=tmp_path)


@pytest.mark.parametrize("name", ["gradcam-forward", "nine-forward", "curves", "evaluation"])
def test_rows_are_measured(name):
    net, x = convnet(seed=3), images(2, seed=1)
    tiny = Bench("tiny", net, x, torch.tensor([1, 3]), "relu3", None, BLACK, True)
    sides = COMPARISONS[name].sides(tiny)
    if name == "evaluation":
        sides = [sides[0], sides[0]]  # the peer's own loop takes minutes of tensorly
    found = measure(COMPARISONS[name], sides, net, repeats=2, device=CPU)
    ours = found["sides"][sides[0].name]
    assert ours["seconds_per_image"]["repeats"] == 2
    assert found["ratio"] > 0
    if name != "curves":
        return
    plain = found["sides"]["plain loop"]
    assert ours["passes_per_image"] <= plain["passes_per_image"]


@pytest.mark.parametrize("name", ["captum-saliency", "quantus-sparseness", "torchcam-layercam"])
def test_programs_of_the_peers_give_the_same_with_either_import(name):
    net, x = convnet(seed=3), images(2, seed=1)
    tiny = Bench("tiny", net, x, torch.tensor([1, 3]), "relu3", None, BLACK, True)
    ours, theirs = (side.work() for side in PROGRAMS[name].sides(tiny))
    torch.testing.assert_close(
        torch.as_tensor(np.asarray([*ours])),
        torch.as_tensor(np.asarray([*theirs])),
        rtol=1e-3,
        atol=1e-5,
        check_dtype=False,
    )


def test_a_profile_tells_the_networks_share_and_the_largest_others():
    net, x = convnet(seed=3), images(2, seed=1)
    tiny = Bench("tiny", net, x, torch.tensor([1, 3]), "relu3", None, BLACK, True)
    paths = profiles.paths(tiny)
    assert len(paths) == 9
    for name in ("Grad-CAM", "Opti-CAM, trust region, 5 passes"):
        _, title, seconds, share, largest, rest, _ = profiles.line(name, paths[name]).split("|")
        assert title.strip() == name
        assert float(seconds) > 0
        assert largest.count("`") == 2 * 4
        shares = [share, *largest.split(","), rest]
        told = [float(one.split()[-1].rstrip("%")) for one in shares]
        assert all(0 <= one <= 101 for one in told)
        assert sum(told) <= 102  # rounded; operators of several threads would be counted twice
