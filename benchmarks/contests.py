"""The rows of the scoreboard: a method or metric done exactly, done fast, and by a peer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

import torchsaliency as ts
from benchmarks import captum_peers, comparisons
from benchmarks.board import BUILT_IN, Contest, Goal, Outputs, Row
from benchmarks.comparisons import Side
from benchmarks.networks import Bench
from benchmarks.opticam_passes import passes_needed
from benchmarks.peers import official_opticam
from benchmarks.sampling import find_error, values_of
from torchsaliency.core.method import create
from torchsaliency.measures import perturbation_curve
from torchsaliency.metrics import functional


def _as_compared(sides: Callable[[Bench], list[Side]]) -> Callable[[Bench], Contest]:
    """Return the contest of a comparison of `python -m benchmarks`."""

    def contest(bench: Bench) -> Contest:
        ours, theirs = sides(bench)
        return Contest(replace(ours, name="exact"), peer=theirs)

    return contest


def _method(bench: Bench, name: str, **options: Any) -> Callable[[], ts.Explanation]:
    method = create(name, options)
    return lambda: ts.explain(bench.net, bench.x, method, bench.labels, bench.layer)[method.name]


def _largest(one: ts.Explanation, other: ts.Explanation) -> float:
    """Return the largest difference of two maps in [0, 1]."""
    return float((one.map - other.map).abs().max())


def _relative(exact: ts.Explanation, other: ts.Explanation) -> float:
    return find_error(values_of(other), values_of(exact))


def score_cam(bench: Bench) -> Contest:
    """Score-CAM at the last layer, all channels."""
    few = bench.first(1)
    with_engine = comparisons.scorecam(few, accelerate="onnx")[0]
    return Contest(
        Side("exact", _method(few, "scorecam"), 1),
        (
            Side("tolerance=0.05", _method(few, "scorecam", tolerance=0.05), 1),
            replace(
                with_engine,
                name='accelerate="onnx"',
                work=lambda: with_engine.work()["scorecam"],  # type: ignore[index]
                counted=False,
            ),
        ),
        comparisons.scorecam(few)[1],
        _largest,
    )


def ablation_cam(bench: Bench) -> Contest:
    """Ablation-CAM at the last layer, all channels."""
    few = bench.first(1)
    return Contest(
        Side("exact", _method(few, "ablationcam"), 1),
        (Side("tolerance=0.05", _method(few, "ablationcam", tolerance=0.05), 1),),
        comparisons.ablationcam(few)[1],
        _largest,
    )


def opti_cam(bench: Bench) -> Contest:
    """Opti-CAM: the paper's 100 iterations, twenty of the two solvers, and the official loop."""
    few = bench.first(2)
    with ts.tracing(few.net, few.x, few.labels, [few.layer], gradients=False) as trace:
        features = trace[few.layer].activations
    black = few.black.baseline(few.x)

    def solve(**options: Any) -> Tensor:
        method = ts.OptiCAM(keep="best", **options)
        found = method(few.net, few.x, few.labels, few.layer, masking=few.black)
        return found.details["objective"].nan_to_num(-torch.inf).cummax(1).values

    def official() -> Tensor:
        return official_opticam(few.net, few.x, few.labels, features, black).objective

    def above(exact: Tensor, other: Tensor) -> float:
        best = exact[:, -1].mean()
        return float(100 * (other[:, -1].mean() - best) / best.abs())

    def count_passes(outputs: Outputs) -> int | None:
        wanted = outputs["official, 100 iterations"].amax(1).mean()
        ways = [outputs[f"{one}, 20 passes"].mean(0) for one in ("surrogate", "trust-region")]
        passes = min(int(passes_needed(means, wanted)) for means in ways)
        return passes if passes <= 20 else None

    return Contest(
        Side("exact", solve, len(few.x)),
        tuple(
            Side(
                f"{name}, 20 passes",
                lambda name=name: solve(solver=name, iterations=20),
                len(few.x),
            )
            for name in ("surrogate", "trust-region")
        ),
        Side("official, 100 iterations", official, len(few.x)),
        above,
        passes=count_passes,
    )


def rise(bench: Bench) -> Contest:
    """RISE: 4,000 masks, and those that a control variate needs for the same error."""
    few = bench.first(1)
    learned = {"samples": 4000, "sampler": "antithetic", "control": "linear"}

    def reference() -> ts.Explanation:
        with ts.accelerated("onnx"):
            return _method(few, "rise", **learned | {"samples": 2000}, seed=1000)()

    def count_passes(outputs: Outputs) -> int | None:
        exact, fast = (_relative(outputs["reference"], outputs[one]) for one in ("exact", learning))
        return outputs[learning].passes - 1 if fast <= exact else None

    learning = "learned, until=0.3"
    return Contest(
        Side("exact", _method(few, "rise"), 1),
        (Side(learning, _method(few, "rise", **learned, until=0.3), 1),),
        None,
        _relative,
        reference,
        count_passes,
    )


def _curves(bench: Bench, orders: Sequence[Any], error: float | None, engine: str) -> list[float]:
    """Return 100 times the areas under a Grad-CAM's curves."""
    few = bench.first(1)
    made = ts.explain(few.net, few.x, "gradcam", few.labels, few.layer)["gradcam"]
    areas = []
    with ts.accelerated(engine):
        for order in orders:
            curve = perturbation_curve(
                few.net,
                few.x,
                made.map,
                few.labels,
                order=order,
                step=few.x.shape[3],
                clean=made.output,
                error=error,
            )
            points = curve.probabilities.double()
            places = torch.linspace(0, 1, points.shape[1], dtype=torch.float64)
            areas.append(float(functional.area_under_curve(points, places)))
    return areas


def _by_curves(
    orders: Sequence[str], peer: Callable[[Bench], list[Side]]
) -> Callable[[Bench], Contest]:
    def contest(bench: Bench) -> Contest:
        few = bench.first(1)

        def side(name: str, error: float | None = None, engine: str = "off") -> Side:
            accelerated = engine != "off"
            return Side(
                name,
                lambda: _curves(few, orders, error, engine),
                1,
                accelerated=accelerated,
                counted=not accelerated,
            )

        return Contest(
            side("exact"),
            (side("error=1", 1.0), side('accelerate="onnx"', engine="onnx")),
            peer(few)[1],
            lambda exact, other: max(abs(a - b) for a, b in zip(exact, other, strict=True)),
        )

    return contest


def max_sensitivity(bench: Bench) -> Contest:
    """Max-Sensitivity of Grad-CAM; on the built-in network in ONNX Runtime, too."""
    ours, theirs = comparisons.sensitivity(bench)
    if bench.name != BUILT_IN:
        return Contest(replace(ours, name="exact"), peer=theirs)
    engine = comparisons.sensitivity(bench, accelerate="onnx")[0]
    return Contest(
        replace(ours, name="exact"),
        (replace(engine, name='accelerate="onnx"', counted=False),),
        theirs,
        lambda exact, other: float((exact - other).abs().max()),
    )


def _attribution(
    name: str,
    theirs: Callable[[Bench], Tensor],
    fast: dict[str, dict[str, Any]] | None = None,
    reference: tuple[str, dict[str, Any]] | None = None,
) -> Callable[[Bench], Contest]:
    """Return the contest of an attribution with captum, on one image.

    Args:
        name: the method, whose exact side has its published options.
        theirs: captum's.
        fast: options of other ways, by label.
        reference: the method and options that errors are measured from where the exact side is
            a sample itself; it runs in ONNX Runtime if it needs no gradients.
    """

    def contest(bench: Bench) -> Contest:
        few = bench.first(1)

        def peer() -> Tensor:
            found = theirs(few)
            few.net.zero_grad()
            return found

        def refer() -> ts.Explanation:
            method, options = reference or (name, {})
            with ts.accelerated("onnx"):
                return _method(few, method, **options)()

        return Contest(
            Side("exact", _method(few, name), 1),
            tuple(Side(label, _method(few, name, **how), 1) for label, how in (fast or {}).items()),
            Side("captum", peer, 1),
            _relative if fast else None,
            refer if reference else None,
        )

    return contest


def extremal(bench: Bench) -> Contest:
    """Extremal perturbation of one image."""
    return Contest(Side("exact", _method(bench.first(1), "extremal-perturbation"), 1))


_SAME_PASSES = (
    "both sides send the same images through the network, and its own layers are most of the time"
)

ROWS: dict[str, Row] = {
    "gradcam-forward": Row(
        "Grad-CAM",
        _as_compared(comparisons.gradcam_forward),
        goal=Goal("cost", 1.1, "the tail's backward pass and constant costs of a short pass"),
        large=True,
    ),
    "gradcam": Row(
        "Grad-CAM",
        _as_compared(comparisons.gradcam_pgc),
        goal=Goal("speed", 2.8, "the peer's cost is a backward pass of the whole network"),
        large=True,
    ),
    "nine-forward": Row(
        "nine CAMs in one pass",
        _as_compared(comparisons.nine_forward),
        goal=Goal("cost", 1.2, "the tail's backward pass and two decompositions"),
        large=True,
    ),
    "nine": Row(
        "nine CAMs in one pass",
        lambda bench: _as_compared(comparisons.nine_peers)(replace(bench, quick=True)),
        goal=Goal("speed", 50),
    ),
    "ablationcam": Row("Ablation-CAM", ablation_cam, "of the map's range", Goal("speed", 100)),
    "scorecam": Row("Score-CAM", score_cam, "of the map's range", Goal("speed", 3, _SAME_PASSES)),
    "opticam": Row(
        "Opti-CAM",
        opti_cam,
        "% of the best logit, above the exact one",
        Goal("passes", 10, "the objective is rough: gradients of neighbouring steps disagree"),
    ),
    "rise": Row(
        "RISE, 4000 masks",
        rise,
        "relative, from 2000 learned masks of another seed",
        Goal("passes", 1200, "what a linear model of the mask leaves is left to chance"),
    ),
    "curves": Row(
        "insertion and deletion",
        _by_curves(("insertion", "deletion"), comparisons.curves),
        "points",
        Goal("speed", 5, _SAME_PASSES),
    ),
    "deletion": Row(
        "deletion",
        _by_curves(("deletion",), comparisons.flipping),
        "points",
        Goal("speed", 5, _SAME_PASSES),
    ),
    "aopc": Row(
        "AOPC",
        lambda bench: _as_compared(comparisons.aopc)(bench.first(1)),
        goal=Goal("speed", 8, _SAME_PASSES),
        large=True,
    ),
    "max-sensitivity": Row(
        "Max-Sensitivity of Grad-CAM",
        max_sensitivity,
        "",
        Goal("speed", 8, "the peer's Grad-CAM costs about three passes, ours one"),
        large=True,
    ),
    "integrated-gradients": Row(
        "integrated gradients, 50 steps",
        _attribution("integrated-gradients", captum_peers.integrate_gradients),
    ),
    "smoothgrad": Row(
        "SmoothGrad, 50 samples", _attribution("smoothgrad", captum_peers.smooth_gradients)
    ),
    "gradientshap": Row(
        "GradientSHAP, 50 samples",
        _attribution(
            "gradientshap",
            captum_peers.gradient_shap,
            {"stratified, 16": {"sampler": "stratified", "samples": 16}},
            ("integrated-gradients", {"steps": 100}),
        ),
        "relative, from integrated gradients of 100 steps",
    ),
    "kernelshap": Row(
        "KernelSHAP, 500 coalitions",
        _attribution(
            "kernelshap",
            captum_peers.kernel_shap,
            {"until=0.5": {"until": 0.5}},
            ("kernelshap", {"passes": 2000, "seed": 1000}),
        ),
        "relative, from 2000 coalitions of another seed",
    ),
    "lime": Row(
        "LIME, 1000 samples",
        _attribution(
            "lime",
            captum_peers.lime,
            {"until=0.5": {"until": 0.5}},
            ("lime", {"passes": 2000, "seed": 1000}),
        ),
        "relative, from 2000 samples of another seed",
    ),
    "extremal-perturbation": Row(
        "extremal perturbation",
        extremal,
        goal=Goal("passes", 400, "no solver with fewer passes was built"),
    ),
}
