"""What is compared: one function a row, each giving the sides that do the same work.

The first side is this library, the second the one it is measured against; each makes maps or
numbers for `images` images in one run. Everything of ours goes through the public API. Peers are
imported where they are used: all of them together take a minute on a busy machine.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import torchsaliency as ts
from benchmarks.networks import Bench
from torchsaliency.measures import masked_scores, noisy_maps, perturbation_curve, region_curve
from torchsaliency.metrics import functional

NINE = (
    "gradcam",
    "gradcam++",
    "xgradcam",
    "hirescam",
    "layercam",
    "eigencam",
    "multivec-eigencam",
    "tsm",
    "mtsm",
)
_PEERS = {
    "gradcam": "GradCAM",
    "gradcam++": "GradCAMPlusPlus",
    "xgradcam": "XGradCAM",
    "hirescam": "HiResCAM",
    "layercam": "LayerCAM",
    "eigencam": "EigenCAM",
    "ablationcam": "AblationCAM",
    "scorecam": "ScoreCAM",
}
"""The names of pytorch-grad-cam's classes; the others are the listings'."""
NARROW = {
    "builtin/efficientnet_lite0": "blocks.6",  # 320 channels in place of 1280
    "resnet50": "layer1",  # 256 in place of 2048
    "vgg16_bn": "features.13",  # 128 in place of 512
}
"""Layers of few channels, for a quick Score-CAM."""


@dataclass(frozen=True)
class Side:
    """One way to do the work.

    Attributes:
        name: who does it.
        work: does it once.
        images: how many images that makes maps or numbers of.
        once: too slow to repeat.
        accelerated: needs a run of its own to warm up (a compiler's), without counting hooks.
        counted: whether its passes are counted; if not, they are those of the first side.
    """

    name: str
    work: Callable[[], object]
    images: int
    once: bool = False
    accelerated: bool = False
    counted: bool = True


@dataclass(frozen=True)
class Comparison:
    """One row of the goals.

    Attributes:
        title: what is done.
        sides: makes the sides, this library first.
        goal: how many times faster, or how many times the cost where `ceiling`; None is no goal.
        ceiling: whether the ratio is our cost against the other side's, to stay below the goal.
        reduced: what `--quick` leaves out.
        networks: it makes sense on these alone; empty is all.
    """

    title: str
    sides: Callable[[Bench], list[Side]]
    goal: float | None = None
    ceiling: bool = False
    reduced: str = ""
    networks: tuple[str, ...] = ()


def _peer_maps(kind: str, bench: Bench) -> np.ndarray[Any, Any]:
    import pytorch_grad_cam as pgc
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    from benchmarks.peers import ListedCAM

    targets = [ClassifierOutputTarget(int(label)) for label in bench.labels]
    layers = [bench.module]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if kind in _PEERS:
            cam = getattr(pgc, _PEERS[kind])(bench.net, layers, reshape_transform=bench.reshape)
        else:
            cam = ListedCAM(kind, bench.net, layers, bench.reshape)
        with cam, _silent():
            return np.asarray(cam(bench.x, targets))


@contextmanager
def _silent() -> Iterator[None]:
    """Switch off the progress bars of pytorch-grad-cam's masking methods."""
    from pytorch_grad_cam import ablation_cam, score_cam

    modules = [ablation_cam, score_cam]
    kept = [module.tqdm.tqdm for module in modules]
    for module in modules:
        module.tqdm.tqdm = lambda steps, *_, **__: steps
    try:
        yield
    finally:
        for module, bar in zip(modules, kept, strict=True):
            module.tqdm.tqdm = bar


def _ours(methods: str | Sequence[str], bench: Bench, **options: Any) -> Callable[[], object]:
    return lambda: ts.explain(bench.net, bench.x, methods, bench.labels, bench.layer, **options)


def _forward(bench: Bench) -> Side:
    def work() -> Tensor:
        with torch.no_grad():
            output: Tensor = bench.net(bench.x)
            return output

    return Side("bare forward pass", work, len(bench.x))


def gradcam_forward(bench: Bench) -> list[Side]:
    """One Grad-CAM against the pass it cannot do without."""
    return [Side("torchsaliency", _ours("gradcam", bench), len(bench.x)), _forward(bench)]


def gradcam_pgc(bench: Bench) -> list[Side]:
    """Grad-CAM against pytorch-grad-cam."""
    return [
        Side("torchsaliency", _ours("gradcam", bench), len(bench.x)),
        Side("pytorch-grad-cam", lambda: _peer_maps("gradcam", bench), len(bench.x)),
    ]


def gradcam_torchcam(bench: Bench) -> list[Side]:
    """Grad-CAM against torchcam, which leaves the resizing to its user."""
    from torchcam.methods import GradCAM

    def work() -> Tensor:
        with GradCAM(bench.net, bench.layer) as cam:
            output = bench.net(bench.x.clone().requires_grad_())
            found: Tensor = cam([int(label) for label in bench.labels], output)[0]
        bench.net.zero_grad()
        return ts.core.maps.upsample(found.detach(), (bench.x.shape[2], bench.x.shape[3]))

    return [
        Side("torchsaliency", _ours("gradcam", bench), len(bench.x)),
        Side("torchcam", work, len(bench.x)),
    ]


def nine_forward(bench: Bench) -> list[Side]:
    """Nine maps against one forward pass."""
    return [Side("torchsaliency", _ours(NINE, bench), len(bench.x)), _forward(bench)]


def nine_peers(bench: Bench) -> list[Side]:
    """Nine maps against pytorch-grad-cam and the listings, one by one."""
    few = bench.first(1 if bench.quick else 2)
    return [
        Side("torchsaliency", _ours(NINE, bench), len(bench.x)),
        Side(
            "pytorch-grad-cam, tensorly",
            lambda: [_peer_maps(kind, few) for kind in NINE],
            len(few.x),
            once=True,
        ),
    ]


def tucker(bench: Bench) -> list[Side]:
    """TSM and MTSM against the listings, from the image to the map."""
    few = bench.first(1)
    return [
        Side("torchsaliency", _ours(["tsm", "mtsm"], bench), len(bench.x)),
        Side("tensorly listing", lambda: [_peer_maps(k, few) for k in ("tsm", "mtsm")], 1, True),
    ]


def ablationcam(bench: Bench) -> list[Side]:
    """Ablation-CAM against pytorch-grad-cam, one image."""
    few = bench.first(1)
    return [
        Side("torchsaliency", _ours("ablationcam", few), 1),
        Side("pytorch-grad-cam", lambda: _peer_maps("ablationcam", few), 1, once=True),
    ]


def scorecam(bench: Bench, **options: Any) -> list[Side]:
    """Score-CAM against pytorch-grad-cam, one image."""
    few = bench.first(1)
    if bench.quick:
        few = few.at(NARROW[bench.name])
    return [
        Side("torchsaliency", _ours("scorecam", few, **options), 1, accelerated=bool(options)),
        Side("pytorch-grad-cam", lambda: _peer_maps("scorecam", few), 1),
    ]


def scorecam_compiled(bench: Bench) -> list[Side]:
    """Score-CAM compiled; the compiler's own time is not counted, as it runs once a network."""
    return scorecam(bench, accelerate="compile")


def scorecam_onnx(bench: Bench) -> list[Side]:
    """Score-CAM in ONNX Runtime; the export is not counted, as it runs once a network."""
    return scorecam(bench, accelerate="onnx")


def opticam(bench: Bench, *, accelerate: str = "off") -> list[Side]:
    """The passes of the trust region that reach the official 100 iterations' mean objective."""
    from benchmarks.opticam_passes import passes_needed
    from benchmarks.peers import official_opticam

    few = bench.first(2 if bench.quick else len(bench.x))
    with ts.tracing(few.net, few.x, few.labels, [few.layer], gradients=False) as trace:
        features = trace[few.layer].activations
    black = few.black.baseline(few.x)

    def official() -> Any:
        return official_opticam(few.net, few.x, few.labels, features, black)

    def trust(iterations: int) -> ts.Explanation:
        method = ts.OptiCAM(solver="trust-region", iterations=iterations, keep="best")
        with ts.accelerated(accelerate):
            return method(few.net, few.x, few.labels, few.layer, masking=few.black)

    wanted = official().objective.amax(1).mean()
    most = 60
    means = trust(most).details["objective"].nan_to_num(-torch.inf).cummax(1).values.mean(0)
    needed = int(passes_needed(means, wanted))
    reached = "" if needed <= most else f" (not reached in {most})"
    return [
        Side(
            f"trust region, {min(needed, most)} passes{reached}",
            lambda: trust(min(needed, most)),
            len(few.x),
            accelerated=accelerate != "off",
        ),
        Side("official, 100 iterations", official, len(few.x), once=bench.quick),
    ]


def opticam_laid(bench: Bench) -> list[Side]:
    """The same on a channels-last copy."""
    return opticam(bench, accelerate="channels-last")


def _maps(bench: Bench) -> Tensor:
    """Return maps without ties, so that all sides take the pixels in one order."""
    draw = torch.Generator().manual_seed(0)
    size = (len(bench.x), *bench.x.shape[2:])
    return torch.rand(size, generator=draw).to(bench.x.device)


def curves(bench: Bench, *, accelerate: str = "off") -> list[Side]:
    """Insertion and deletion against a plain loop over steps, one image at a time, as in RISE."""
    few = bench.first(1 if bench.quick else 2)
    maps, height = _maps(few), few.x.shape[2]
    step = few.x.shape[3] * (8 if bench.quick else 1)

    def ours() -> None:
        with ts.accelerated(accelerate):
            first = perturbation_curve(few.net, few.x, maps, few.labels, step=step)
            perturbation_curve(
                few.net, few.x, maps, few.labels, order="deletion", step=step, clean=first.clean
            )

    def plain() -> None:
        blurred = ts.RISEBlur().baseline(few.x)
        for i, one in enumerate(few.x):
            order = maps[i].flatten().argsort(descending=True)
            blank = torch.zeros_like(one)
            for start, end in ((blurred[i], one), (one, blank)):
                now = start.flatten(1).clone()
                for place in range(0, height * few.x.shape[3] + 1, step):
                    with torch.no_grad():
                        float(few.net(now.view_as(one)[None]).softmax(1)[0, few.labels[i]])
                    taken = order[place : place + step]
                    now[:, taken] = end.flatten(1)[:, taken]

    return [
        Side("torchsaliency", ours, len(few.x), accelerated=accelerate != "off"),
        Side("plain loop", plain, len(few.x)),
    ]


def curves_compiled(bench: Bench) -> list[Side]:
    """Insertion and deletion, compiled."""
    return curves(bench, accelerate="compile")


def curves_onnx(bench: Bench) -> list[Side]:
    """Insertion and deletion in ONNX Runtime."""
    return curves(bench, accelerate="onnx")


def flipping(bench: Bench, *, accelerate: str = "off") -> list[Side]:
    """Deletion against Quantus's PixelFlipping, with as many steps."""
    few = bench.first(2)
    maps = _maps(few)
    steps = 28 if bench.quick else 224
    pixels = few.x.shape[2] * few.x.shape[3] // steps
    each = maps[:, None].double().cpu().numpy()
    metric = _quantus(
        "PixelFlipping", features_in_step=pixels, perturb_baseline=0.0, normalise=False
    )

    def ours() -> None:
        with ts.accelerated(accelerate):
            perturbation_curve(few.net, few.x, maps, few.labels, order="deletion", step=pixels)

    return [
        Side("torchsaliency", ours, len(few.x), accelerated=accelerate != "off"),
        Side("Quantus", lambda: _judged(metric, few, each), len(few.x)),
    ]


def flipping_compiled(bench: Bench) -> list[Side]:
    """The same, compiled."""
    return flipping(bench, accelerate="compile")


def flipping_onnx(bench: Bench) -> list[Side]:
    """The same in ONNX Runtime."""
    return flipping(bench, accelerate="onnx")


def aopc(bench: Bench, *, accelerate: str = "off") -> list[Side]:
    """AOPC's region perturbation against Quantus."""
    few = bench.first(4)
    maps = _maps(few)
    metric = _quantus(
        "RegionPerturbation",
        patch_size=14,
        regions_evaluation=10,
        order="morf",
        perturb_baseline="black",
        normalise=False,
    )

    def ours() -> Tensor:
        with ts.accelerated(accelerate):
            curve = region_curve(
                few.net, few.x, maps, few.labels, patch=14, regions=10, placement="grid"
            )
        return functional.aopc(curve.probabilities)

    theirs = maps[:, None].double().cpu().numpy()
    return [
        Side("torchsaliency", ours, len(few.x), accelerated=accelerate != "off"),
        Side("Quantus", lambda: _judged(metric, few, theirs), len(few.x)),
    ]


def aopc_compiled(bench: Bench) -> list[Side]:
    """The same, compiled."""
    return aopc(bench, accelerate="compile")


def aopc_onnx(bench: Bench) -> list[Side]:
    """The same in ONNX Runtime."""
    return aopc(bench, accelerate="onnx")


def sensitivity(bench: Bench, *, accelerate: str = "off") -> list[Side]:
    """Max-Sensitivity of Grad-CAM against Quantus with pytorch-grad-cam."""
    few = bench.first(2)
    samples = 4 if bench.quick else 10
    made = ts.explain(few.net, few.x, "gradcam", few.labels, few.layer)["gradcam"]

    def explained(model: nn.Module, inputs: Any, targets: Any, **_: Any) -> np.ndarray[Any, Any]:
        images = torch.as_tensor(inputs, dtype=torch.float32, device=few.x.device)
        return _peer_maps(
            "gradcam",
            replace(few, net=model, x=images, labels=torch.as_tensor(targets)),
        )[:, None]

    metric = _quantus("MaxSensitivity", nr_samples=samples, normalise=False)

    def ours() -> Tensor:
        with ts.accelerated(accelerate):
            again = noisy_maps(few.net, made, samples=samples)
        return functional.sensitivities(again.maps, again.noisy_maps).amax(1)

    theirs = made.map[:, None].double().cpu().numpy()
    return [
        Side("torchsaliency", ours, len(few.x), accelerated=accelerate != "off"),
        Side(
            "Quantus, pytorch-grad-cam",
            lambda: _judged(metric, few, theirs, explain_func=explained),
            len(few.x),
        ),
    ]


def sensitivity_laid(bench: Bench) -> list[Side]:
    """The same on a channels-last copy."""
    return sensitivity(bench, accelerate="channels-last")


def sensitivity_onnx(bench: Bench) -> list[Side]:
    """The same in ONNX Runtime up to the layer."""
    return sensitivity(bench, accelerate="onnx")


def evaluation(bench: Bench) -> list[Side]:
    """Ten methods (the nine and Ablation-CAM) by AD, AI and AG against the peers' own loop."""
    ten = [*NINE, "ablationcam"]
    few = bench.first(1 if bench.quick else 2)

    def ours() -> None:
        made = ts.explain(bench.net, bench.x, ten, bench.labels, bench.layer)
        masks = torch.stack([one.map for one in made.values()], 1)
        clean = made["gradcam"].output
        found = masked_scores(bench.net, bench.x, masks, bench.labels, clean=clean)
        _drops(found.clean[:, None], found.masked)

    def theirs() -> None:
        for i in range(len(few.x)):
            one = few.first(i + 1)
            image = replace(one, x=one.x[i:], labels=one.labels[i:])
            for kind in ten:
                mask = torch.from_numpy(_peer_maps(kind, image)).to(image.x)
                with torch.no_grad():
                    clean, masked = (
                        image.net(x).softmax(1)[:, image.labels]
                        for x in (image.x, image.x * mask[:, None])
                    )
                _drops(clean, masked)

    return [
        Side("torchsaliency", ours, len(bench.x)),
        Side("peers' own loop", theirs, len(few.x), once=True),
    ]


def _drops(clean: Tensor, masked: Tensor) -> tuple[float, ...]:
    """Return AD, AI and AG of probabilities in percent."""
    drop = ((clean - masked).clamp_min(0) / clean).mean()
    gain = ((masked - clean).clamp_min(0) / (1 - clean)).mean()
    rise = (masked > clean).double().mean()
    return tuple(100 * float(one) for one in (drop, rise, gain))


def integrated(bench: Bench) -> list[Side]:
    """Integrated gradients against captum, as many steps."""
    from captum.attr import IntegratedGradients

    few, steps = bench.first(2), 10 if bench.quick else 50
    method = ts.IntegratedGradients(steps=steps)

    def theirs() -> Tensor:
        found: Tensor = IntegratedGradients(few.net).attribute(
            few.x.clone().requires_grad_(),
            target=few.labels,
            n_steps=steps,
            internal_batch_size=32,
        )
        few.net.zero_grad()
        return found

    return [
        Side("torchsaliency", lambda: method(few.net, few.x, few.labels, "input"), len(few.x)),
        Side("captum", theirs, len(few.x)),
    ]


def _quantus(kind: str, **options: Any) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import quantus

        return getattr(quantus, kind)(
            disable_warnings=True, display_progressbar=False, abs=False, **options
        )


def _judged(metric: Any, bench: Bench, maps: np.ndarray[Any, Any], **options: Any) -> object:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return metric(
            model=bench.net,
            x_batch=bench.x.cpu().numpy().copy(),
            y_batch=bench.labels.cpu().numpy().copy(),
            a_batch=maps.copy(),
            softmax=True,
            device=str(bench.x.device),
            **options,
        )


_CNN = ("builtin/efficientnet_lite0", "resnet50", "vgg16_bn")

COMPARISONS: dict[str, Comparison] = {
    "gradcam-forward": Comparison("Grad-CAM / a forward pass", gradcam_forward, 1.10, True),
    "gradcam-pgc": Comparison("Grad-CAM", gradcam_pgc, 2.8),
    "gradcam-torchcam": Comparison("Grad-CAM", gradcam_torchcam, networks=_CNN),
    "nine-forward": Comparison("nine maps / a forward pass", nine_forward, 1.20, True),
    "nine-peers": Comparison(
        "nine maps", nine_peers, 50, reduced="the peers make one image's, once", networks=_CNN
    ),
    "tucker": Comparison(
        "TSM and MTSM", tucker, 20, reduced="the listing makes one image's, once", networks=_CNN
    ),
    "ablationcam": Comparison(
        "Ablation-CAM", ablationcam, 100, reduced="one image, the peer once", networks=_CNN
    ),
    "scorecam": Comparison(
        "Score-CAM, float32", scorecam, 3, reduced="one image; 128 to 320 channels", networks=_CNN
    ),
    "scorecam-compiled": Comparison(
        "Score-CAM, compiled",
        scorecam_compiled,
        6,
        reduced="one image; 128 to 320 channels",
        networks=_CNN,
    ),
    "scorecam-onnx": Comparison(
        "Score-CAM, ONNX Runtime",
        scorecam_onnx,
        6,
        reduced="one image; 128 to 320 channels",
        networks=_CNN,
    ),
    "opticam": Comparison(
        "Opti-CAM to one objective", opticam, 10, reduced="two images, the official once"
    ),
    "opticam-laid": Comparison(
        "Opti-CAM to one objective, channels-last",
        opticam_laid,
        10,
        reduced="two images, the official once",
    ),
    "curves": Comparison("insertion and deletion", curves, 5, reduced="28 steps, one image"),
    "curves-compiled": Comparison(
        "insertion and deletion, compiled", curves_compiled, 5, reduced="28 steps, one image"
    ),
    "curves-onnx": Comparison(
        "insertion and deletion, ONNX Runtime", curves_onnx, 5, reduced="28 steps, one image"
    ),
    "flipping": Comparison("deletion", flipping, 5, reduced="28 steps, two images"),
    "flipping-compiled": Comparison(
        "deletion, compiled", flipping_compiled, 5, reduced="28 steps, two images"
    ),
    "flipping-onnx": Comparison(
        "deletion, ONNX Runtime", flipping_onnx, 5, reduced="28 steps, two images"
    ),
    "sensitivity": Comparison(
        "Max-Sensitivity of Grad-CAM", sensitivity, 8, reduced="two images, 4 samples"
    ),
    "sensitivity-laid": Comparison(
        "Max-Sensitivity of Grad-CAM, channels-last",
        sensitivity_laid,
        8,
        reduced="two images, 4 samples",
    ),
    "sensitivity-onnx": Comparison(
        "Max-Sensitivity of Grad-CAM, ONNX Runtime",
        sensitivity_onnx,
        8,
        reduced="two images, 4 samples",
    ),
    "aopc": Comparison("AOPC", aopc, 8, reduced="at most four images"),
    "aopc-compiled": Comparison("AOPC, compiled", aopc_compiled, 8, reduced="at most four images"),
    "aopc-onnx": Comparison("AOPC, ONNX Runtime", aopc_onnx, 8, reduced="at most four images"),
    "evaluation": Comparison(
        "ten methods by AD, AI, AG",
        evaluation,
        10,
        reduced="the peers' loop over one image, once",
        networks=_CNN,
    ),
    "integrated-gradients": Comparison(
        "integrated gradients", integrated, reduced="two images, 10 steps"
    ),
}
