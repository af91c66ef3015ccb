"""What an evaluation will cost, and when it knows enough."""

from __future__ import annotations

import math

import pandas as pd
import pytest
import torch

from torchsaliency.errors import DataError, OptionError
from torchsaliency.evaluation import Store, evaluate, load_results, make_plan
from torchsaliency.evaluation.costs import GPUS, SHARE, estimate_costs, suggest_savings
from torchsaliency.evaluation.results import Results
from torchsaliency.evaluation.stopping import GROWTH, LEAST, Stopping, find_widest
from torchsaliency.metrics.base import create_metric
from torchsaliency.zoo import load_model


def plan(**changes):
    return make_plan(
        {
            "data": "shapes:80?seed=5",
            "model": "builtin/shapes_cnn",
            "methods": "gradcam,opticam",
            "metrics": "ad,ep",
            "batch_size": 8,
            "workers": 0,
            **changes,
        }
    )


# --- costs ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def measured():
    made = plan(methods=[{"opticam": {"iterations": 7}}, "gradcam"])
    return made, estimate_costs(made, count=3)


def test_passes_are_counted(measured):
    _, costs = measured
    passes = {entry.label: entry.passes for entry in costs.entries}
    assert passes["gradcam"] == 1
    assert passes["opticam"] == 8  # seven iterations, and a clean pass
    assert passes["ad"] == 2  # of two methods
    assert passes["ep"] == 0
    assert costs.passes == sum(passes.values())


def test_the_shares_are_of_all_time_and_the_dearest_is_first(measured):
    _, costs = measured
    assert sum(entry.share for entry in costs.entries) == pytest.approx(1)
    seconds = [entry.seconds for entry in costs.entries]
    assert seconds == sorted(seconds, reverse=True)
    assert costs.entries[0].label == "opticam"
    assert (costs.images, costs.measured, costs.methods, costs.metrics) == (80, 3, 2, 2)
    assert costs.hours == pytest.approx(costs.seconds * 80 / 3600)


def test_operations_are_those_of_the_layers(measured):
    _, costs = measured
    made = plan()
    network = load_model(made.model).module
    found = []
    for module in network.modules():
        if isinstance(module, torch.nn.Conv2d):
            module.register_forward_hook(
                lambda m, i, o: found.append(2 * o.numel() * m.weight[0].numel())
            )
        if isinstance(module, torch.nn.Linear):
            module.register_forward_hook(lambda m, i, o: found.append(2 * m.weight.numel()))
    network(torch.rand(1, 3, 64, 64))
    assert costs.operations == sum(found)


def test_gpu_hours_are_operations_over_the_peak(measured):
    _, costs = measured
    hours = 3 * costs.passes * costs.operations * 80 / (GPUS["t4"] * 1e12 * SHARE) / 3600
    assert costs.estimate_gpu_hours("t4") == pytest.approx(hours)
    assert costs.estimate_gpu_hours("t4", 8) == pytest.approx(hours / 8)
    with pytest.raises(OptionError, match="no kind of GPU 'a1000'; close names are a100"):
        costs.estimate_gpu_hours("a1000")


def test_widths_shrink_with_the_root_of_the_images():
    few, many = (
        estimate_costs(plan(methods="gradcam"), count=6),
        estimate_costs(plan(data="shapes:320?seed=5", methods="gradcam"), count=6),
    )
    assert few.widths.keys() == {"ad", "ep"}
    assert many.hours > few.hours
    assert 0 < many.widths["ep"] < few.widths["ep"] * 2  # drawn from others, so roughly


def test_maps_take_two_bytes_a_pixel():
    costs = estimate_costs(plan(methods="gradcam,tsm", maps=True), count=1)
    assert costs.map_bytes == 2 * 2 * 64 * 64
    assert costs.row_bytes > 0
    assert not costs.widths  # of one image


def test_what_would_halve_the_bill(measured):
    made, costs = measured
    said = suggest_savings(made, costs)
    assert "opticam.solver=trust-region" in said[0]
    assert "--count 40 halves it all" in said[-1]
    steps = plan(methods=[{"integrated-gradients": {"steps": 24}}])
    said = suggest_savings(steps, estimate_costs(steps, count=1))
    assert "integrated-gradients.steps=12 in place of 24" in said[0]


def test_curves_that_end_early_may_take_all_steps():
    metrics = [{"insertion": {"error": 5}}, {"deletion": {"budget": 6}}, "monotonicity"]
    costs = estimate_costs(plan(methods="gradcam,fakecam", metrics=metrics), count=2)
    entries = {entry.label: entry for entry in costs.entries}
    assert entries["insertion"].passes < entries["insertion"].most == 2 * 64  # of two methods
    for label in ("deletion", "monotonicity", "gradcam", "fakecam"):
        assert entries[label].most == entries[label].passes
    assert costs.most_passes == sum(entry.most for entry in costs.entries) > costs.passes


def test_long_curves_may_end_early():
    blocks = plan(methods="gradcam", metrics=[{"selectivity": {"patch": 4}}])
    assert (
        "selectivity.error=1 knows" in suggest_savings(blocks, estimate_costs(blocks, count=1))[0]
    )


def test_nothing_is_written_and_unusable_images_are_said(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    estimate_costs(plan(methods="gradcam"), count=1)
    assert not [*tmp_path.iterdir()]
    images = [(torch.full((3, 64, 64), math.nan), 0)] * 2
    with pytest.raises(DataError, match="None of the"):
        estimate_costs(plan(methods="gradcam", metrics="ad"), count=2, data=images)


# --- when it knows enough -------------------------------------------------------------------------


def results(*columns):
    """Return results of a metric whose rows are given, a column a method."""
    names = [f"m{place}" for place in range(len(columns))]
    frame = pd.DataFrame(
        {"sample": str(number), "method": name, "metric": "ep", "value": value, "row": [value],
         "seconds": 0.0, "passes": 0.0}
        for name, column in zip(names, columns, strict=True)
        for number, value in enumerate(column)
    )  # fmt: skip
    return Results(frame, {"ep": create_metric("ep")}, tuple(names))


def test_the_widest_interval_is_found():
    draw = torch.Generator().manual_seed(0)
    narrow = (0.5 + 0.01 * torch.rand(64, generator=draw)).tolist()
    wide = torch.rand(64, generator=draw).tolist()
    found = find_widest(results(narrow, wide))
    assert (found.method, found.metric, found.images) == ("m1", "ep", 64)
    summary = results(narrow, wide).summary("m1", "ep")
    assert found.width == summary.high - summary.low


def test_it_looks_seldom_and_not_at_few_images():
    stopping = Stopping(1000.0)
    assert not stopping.is_due(LEAST - 1)
    assert stopping.is_due(LEAST)
    assert stopping.is_enough(results([0.5] * (LEAST - 1))) is None
    assert stopping.is_enough(results([0.5, 0.6] * 50)) is not None
    assert not stopping.is_due(100)
    assert stopping.is_due(int(100 * GROWTH) + 1)


def test_an_evaluation_stops_when_every_interval_is_narrow(tmp_path):
    found = evaluate(plan(methods="gradcam", metrics="ep", until_interval=99.0), tmp_path / "run")
    assert LEAST <= len(found.samples) < 80
    session = Store(tmp_path / "run").facts["sessions"][-1]
    assert session["stopped at"]["width"] <= 99.0
    # the images are a draw: the first so many of the subset of that size
    order = evaluate(
        plan(methods="gradcam", metrics="ep", count=len(found.samples)), tmp_path / "subset"
    )
    assert {*found.samples} == {*order.samples}
    again = []
    plan_again = plan(methods="gradcam", metrics="ep", until_interval=99.0)
    evaluate(plan_again, tmp_path / "run", watch=again.append)
    assert again[-1].done == 0  # it knows already


def test_an_evaluation_that_never_knows_enough_takes_all(tmp_path):
    until = plan(methods="gradcam", metrics="ep", until_interval=1e-6)
    assert len(evaluate(until, tmp_path / "run").samples) == 80
    assert "stopped at" not in Store(tmp_path / "run").facts["sessions"][-1]
    assert len(load_results(tmp_path / "run").samples) == 80


def test_maps_that_end_early_may_take_all_samples():
    methods = [{"rise": {"samples": 400, "until": 0.9, "control": "linear"}}, "gradcam"]
    made = plan(methods=methods)
    costs = estimate_costs(made, count=1)
    entries = {entry.label: entry for entry in costs.entries}
    assert entries["rise"].passes <= 401 <= entries["rise"].most <= 403
    assert entries["gradcam"].most == entries["gradcam"].passes
    assert "a larger rise.until than 0.9" in suggest_savings(made, costs)[0]
