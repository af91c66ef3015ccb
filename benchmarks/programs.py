"""Programs of the peers' users, with their own import and with ours: `torchsaliency.compat`.

Each program is written once, against the peer's names; the first side imports them from
`torchsaliency.compat`, the second from the peer.
"""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
from torch import Tensor

from benchmarks.comparisons import COMPARISONS, NARROW, Comparison, Side
from benchmarks.networks import Bench

Program = Callable[[Callable[[str], Any], Bench], object]
"""Takes what imports a peer's module by its name, and the network; returns maps or numbers."""


def _compare(peer: str, title: str, program: Program, *, images: int = 4) -> Comparison:
    def sides(bench: Bench) -> list[Side]:
        few = bench.first(min(images, len(bench.x)))

        def run(package: str) -> Callable[[], object]:
            def work() -> object:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    found = program(
                        lambda name: importlib.import_module(f"{package}.{name}".rstrip(".")), few
                    )
                few.net.zero_grad()
                return found

            return work

        return [
            Side("torchsaliency.compat", run(f"torchsaliency.compat.{peer}"), len(few.x)),
            Side(_PACKAGES[peer], run(peer), len(few.x)),
        ]

    return Comparison(title, sides, networks=("builtin/efficientnet_lite0",))


_PACKAGES = {
    "pytorch_grad_cam": "pytorch-grad-cam",
    "torchcam": "torchcam",
    "captum": "captum",
    "quantus": "Quantus",
}


def _grad_cam(kind: str, layer: str = "", **options: Any) -> Program:
    def program(use: Callable[[str], Any], bench: Bench) -> object:
        targets = [
            use("utils.model_targets").ClassifierOutputTarget(int(one)) for one in bench.labels
        ]
        module = bench.net.get_submodule(layer or bench.layer)
        with getattr(use(""), kind)(model=bench.net, target_layers=[module]) as cam:
            return cam(input_tensor=bench.x, targets=targets, **options)

    return program


def _torchcam(kind: str, layer: str = "", **options: Any) -> Program:
    def program(use: Callable[[str], Any], bench: Bench) -> list[Tensor]:
        maps: list[Tensor] = []
        extractor = getattr(use("methods"), kind)
        with extractor(bench.net, layer or bench.layer, **options) as cam:
            scores = bench.net(bench.x)
            maps += cam(bench.labels.tolist(), scores)
        return maps

    return program


def _captum(kind: str, options: dict[str, Any] | None = None, **asked: Any) -> Program:
    def program(use: Callable[[str], Any], bench: Bench) -> object:
        of_layer = kind.startswith("Layer")
        given = (bench.net, bench.module) if of_layer else (bench.net,)
        explainer = getattr(use("attr"), kind)(*given, **(options or {}))
        return explainer.attribute(bench.x.clone(), target=bench.labels, **asked)

    return program


def _noise_tunnel(use: Callable[[str], Any], bench: Bench) -> object:
    attr = use("attr")
    tunnel = attr.NoiseTunnel(attr.Saliency(bench.net))
    return tunnel.attribute(bench.x.clone(), nt_samples=8, stdevs=0.2, target=bench.labels)


def _gradient_shap(use: Callable[[str], Any], bench: Bench) -> object:
    explainer = use("attr").GradientShap(bench.net)
    return explainer.attribute(
        bench.x.clone(), baselines=bench.x * 0, n_samples=8, stdevs=0.1, target=bench.labels
    )


def _quantus(kind: str, *, masks: bool = False, again: bool = False, **options: Any) -> Program:
    def program(use: Callable[[str], Any], bench: Bench) -> object:
        metric = getattr(use(""), kind)(
            disable_warnings=True, display_progressbar=False, abs=True, normalise=True, **options
        )
        size = (len(bench.x), 1, *bench.x.shape[2:])
        maps = np.random.default_rng(0).random(size).astype(np.float32)
        more: dict[str, Any] = {"s_batch": maps > 0.5} if masks else {}
        if again:
            more |= {
                "explain_func": _explain_by_gradient,
                "explain_func_kwargs": {"method": "Saliency"},
            }
        return metric(
            model=bench.net,
            x_batch=bench.x.cpu().numpy(),
            y_batch=bench.labels.cpu().numpy(),
            a_batch=maps,
            device=str(bench.x.device),
            **more,
        )

    return program


def _explain_by_gradient(
    model: Any, inputs: Any, targets: Any, **_: Any
) -> np.ndarray[Any, np.dtype[Any]]:
    """Return the absolute gradient of the class, summed over the channels; as users write it."""
    import torch

    x = torch.as_tensor(np.asarray(inputs)).float().requires_grad_()
    labels = torch.as_tensor(np.asarray(targets)).long()
    with torch.enable_grad():
        (slope,) = torch.autograd.grad(model(x).gather(1, labels[:, None]).sum(), x)
    return slope.abs().sum(1, keepdim=True).numpy()


_FEW = NARROW["builtin/efficientnet_lite0"]

PROGRAMS: dict[str, Comparison] = {
    **{
        f"pgc-{kind.lower()}": _compare("pytorch_grad_cam", kind, _grad_cam(kind))
        for kind in (
            *("GradCAM", "GradCAMPlusPlus", "XGradCAM", "HiResCAM", "LayerCAM", "EigenCAM"),
            *("EigenGradCAM", "GradCAMElementWise", "KPCA_CAM", "FEM", "FullGrad"),
            *("ShapleyCAM", "FinerCAM"),
        )
    },
    "pgc-aug": _compare(
        "pytorch_grad_cam", "GradCAM, aug_smooth", _grad_cam("GradCAM", aug_smooth=True)
    ),
    "pgc-eigen": _compare(
        "pytorch_grad_cam", "GradCAM, eigen_smooth", _grad_cam("GradCAM", eigen_smooth=True)
    ),
    "pgc-ablationcam": _compare(
        "pytorch_grad_cam",
        "AblationCAM, 320 channels",
        _grad_cam("AblationCAM", _FEW),
        images=1,
    ),
    **{
        f"torchcam-{kind.lower()}": _compare("torchcam", kind, _torchcam(kind))
        for kind in ("GradCAM", "GradCAMpp", "XGradCAM", "LayerCAM", "SmoothGradCAMpp")
    },
    "torchcam-scorecam": _compare(
        "torchcam", "ScoreCAM, 320 channels", _torchcam("ScoreCAM", _FEW), images=1
    ),
    **{
        f"captum-{kind.lower()}": _compare("captum", kind, program)
        for kind, program in {
            "Saliency": _captum("Saliency"),
            "InputXGradient": _captum("InputXGradient"),
            "LayerGradCam": _captum("LayerGradCam"),
        }.items()
    },
    "captum-integratedgradients": _compare(
        "captum",
        "IntegratedGradients, 16 steps",
        _captum("IntegratedGradients", n_steps=16, internal_batch_size=16),
        images=2,
    ),
    "captum-gradientshap": _compare("captum", "GradientShap, 8 samples", _gradient_shap, images=2),
    "captum-noisetunnel": _compare(
        "captum", "NoiseTunnel of Saliency, 8 samples", _noise_tunnel, images=2
    ),
    "captum-occlusion": _compare(
        "captum",
        "Occlusion, 32 pixels, stride 32",
        _captum(
            "Occlusion",
            sliding_window_shapes=(3, 32, 32),
            strides=(3, 32, 32),
            perturbations_per_eval=8,
        ),
        images=2,
    ),
    **{
        f"quantus-{kind.lower()}": _compare("quantus", title or kind, program, images=2)
        for kind, title, program in (
            ("Sparseness", "", _quantus("Sparseness")),
            ("Complexity", "", _quantus("Complexity")),
            (
                "FaithfulnessCorrelation",
                "FaithfulnessCorrelation, 20 runs",
                _quantus("FaithfulnessCorrelation", nr_runs=20),
            ),
            (
                "Selectivity",
                "Selectivity, patches of 56",
                _quantus("Selectivity", patch_size=56),
            ),
            (
                "MaxSensitivity",
                "MaxSensitivity of Saliency, 5 samples",
                _quantus("MaxSensitivity", nr_samples=5, again=True),
            ),
            (
                "LocalLipschitzEstimate",
                "LocalLipschitzEstimate of Saliency, 5 samples",
                _quantus("LocalLipschitzEstimate", nr_samples=5, again=True),
            ),
            (
                "RelevanceMassAccuracy",
                "",
                _quantus("RelevanceMassAccuracy", masks=True),
            ),
        )
    },
}
"""Rows of the classes that a peer has under the same name here."""

ROWS = COMPARISONS | PROGRAMS
"""Everything that can be measured, by name."""
