"""Tiny networks and helpers shared by the tests: every shape of thing a user may bring."""

from __future__ import annotations

import copy
import math
from collections import OrderedDict
from types import SimpleNamespace
from typing import Any, TypeVar

import numpy as np
import torch
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.detection import FasterRCNN, MaskRCNN, RetinaNet
from torchvision.models.detection.anchor_utils import AnchorGenerator, DefaultBoxGenerator
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.models.detection.ssd import SSD
from torchvision.ops import MultiScaleRoIAlign

from torchsaliency.core import acceleration, layout, session
from torchsaliency.core.layer import Grid
from torchsaliency.core.method import Method, Needs, create, methods
from torchsaliency.core.space import LINEAR
from torchsaliency.errors import LayerError

CLASSES = 5

Net = TypeVar("Net", bound=nn.Module)

_SPECIAL = Needs.ATTENTION | Needs.DETECTIONS

NAMES = sorted(name for name, one in methods().items() if not one.needs & _SPECIAL)
"""Every registered method of any network; tests over it pick up a new one by themselves."""

ATTENTION_NAMES = sorted(name for name, one in methods().items() if Needs.ATTENTION in one.needs)
"""Every registered method that only transformers have."""

DETECTION_NAMES = sorted(name for name, one in methods().items() if Needs.DETECTIONS in one.needs)
"""Every registered method of detectors alone."""

SLOWEST = {"sscam", "iscam"}
"""Score-CAM several times over: too slow for a network of a thousand channels."""

FEW = {"iterations": 3, "steps": 3, "samples": 4}
"""Options that make a method quick, wherever it has them."""

PASSES = {"samples": 40, "iterations": 20, "passes": 40}
"""Options of the methods that take hundreds of passes, where few will do."""


def few_passes(**wanted: int) -> list[str]:
    """Return `--set` words that make every slow method quick on a tiny network."""
    slow = [name for name in NAMES if methods()[name].family in ("masking", "attribution")]
    return [
        word
        for name in slow
        for key, value in {**PASSES, **wanted}.items()
        if key in methods()[name].options
        for word in ("--set", f"{name}.{key}={value}")
    ]


def _convolves(dtype: torch.dtype) -> bool:
    try:
        F.conv2d(torch.ones(1, 1, 3, 3).to(dtype), torch.ones(1, 1, 2, 2).to(dtype))
    except RuntimeError:
        return False
    return True


OTHER_DTYPES = [one for one in (torch.float64, torch.bfloat16, torch.float16) if _convolves(one)]
"""Precisions other than float32 in which this processor's torch has convolutions."""

NEEDS_RELU = {"guided-backprop", "deconvnet", "guided-gradcam"}

NEEDS_CONVOLUTIONS = {"fullgrad"}

NEEDS_A_LINEAR_HEAD = {"cam"}
"""Methods that are not defined on every network; they say so with a LayerError."""


def quick(name: str, **options: Any) -> Method:
    """Make a method that takes few steps, if it takes steps at all."""
    known = methods()[name].options
    few = {key: value for key, value in FEW.items() if key in known}
    return create(name, {**few, **options})


def images(count: int = 2, height: int = 16, width: int = 16, seed: int = 0) -> Tensor:
    """Smooth images with a bright blob, so that features are well conditioned."""
    draw = torch.Generator().manual_seed(seed)
    coarse = torch.randn(count, 3, 4, 4, generator=draw)
    return F.interpolate(coarse, (height, width), mode="bilinear") + 0.1 * torch.randn(
        count, 3, height, width, generator=draw
    )


def volumes(*size: int, count: int = 2, seed: int = 0) -> Tensor:
    """Smooth signals, images or volumes of any size, as `images`."""
    draw = torch.Generator().manual_seed(seed)
    coarse = torch.randn(count, 3, *[4] * len(size), generator=draw)
    smooth = F.interpolate(coarse, size, mode=LINEAR[len(size)])
    return smooth + 0.1 * torch.randn(count, 3, *size, generator=draw)


def settle(net: Net, seed: int = 0) -> Net:
    """Give a network random but repeatable weights and batch statistics, in evaluation mode."""
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in net.parameters():
            fan = max(1, parameter[0].numel()) if parameter.ndim > 1 else 4
            parameter.copy_(torch.randn(parameter.shape, generator=draw) * (1.5 / fan) ** 0.5)
        for module in net.modules():
            if (
                isinstance(module, nn.BatchNorm2d | nn.BatchNorm3d)
                and module.running_mean is not None
            ):
                module.weight.abs_().add_(0.5)
                module.running_mean.copy_(torch.randn(module.num_features, generator=draw) * 0.1)
                module.running_var.copy_(torch.rand(module.num_features, generator=draw) + 0.5)
    return known_apart(net.eval())


def known_apart(net: Net) -> Net:
    """Let the library know what it finds out once a network by passes that tests would count.

    Its images do not mix, and 8 x 8 cells of 8 channels are laid out (N, C, h, w).
    """
    session._mixing[net] = {None: (tuple(type(module) for module in net.modules()), False)}
    layout._decided[net] = _AllGrids()
    return net


def run_accelerated(net: nn.Module, images: Tensor) -> Any:
    """Run a network as sessions do, by the engine of the context."""
    return acceleration.run(session.call_network, net, images)


class _AllGrids(dict[Any, Grid]):
    def __contains__(self, key: object) -> bool:
        return True

    def __missing__(self, key: object) -> Grid:
        return Grid()


def convnet(*, inplace: bool = True, channels: int = 8, seed: int = 0) -> nn.Sequential:
    """conv-BN-ReLU three times, halving once, then global average pooling and one linear layer."""
    net = nn.Sequential(
        OrderedDict(
            conv1=nn.Conv2d(3, 6, 3, padding=1),
            bn1=nn.BatchNorm2d(6),
            relu1=nn.ReLU(inplace=inplace),
            conv2=nn.Conv2d(6, 8, 3, stride=2, padding=1),
            bn2=nn.BatchNorm2d(8),
            relu2=nn.ReLU(inplace=inplace),
            conv3=nn.Conv2d(8, channels, 3, padding=1),
            bn3=nn.BatchNorm2d(channels),
            relu3=nn.ReLU(inplace=inplace),
            pool=nn.AdaptiveAvgPool2d(1),
            flatten=nn.Flatten(),
            fc=nn.Linear(channels, CLASSES),
        )
    )
    return settle(net, seed)


_MODULES = {
    1: (nn.Conv1d, nn.BatchNorm1d, nn.MaxPool1d, nn.AdaptiveAvgPool1d),
    2: (nn.Conv2d, nn.BatchNorm2d, nn.MaxPool2d, nn.AdaptiveAvgPool2d),
    3: (nn.Conv3d, nn.BatchNorm3d, nn.MaxPool3d, nn.AdaptiveAvgPool3d),
}


def convnet_of(sides: int, seed: int = 0) -> nn.Sequential:
    """A small network of signals, images or volumes, with pooling and one linear layer last."""
    conv, norm, most, mean = _MODULES[sides]
    net = nn.Sequential(
        OrderedDict(
            conv1=conv(3, 6, 3, padding=1),
            bn1=norm(6),
            relu1=nn.ReLU(inplace=True),
            most=most(2),
            conv2=conv(6, 8, 3, padding=1),
            relu2=nn.ReLU(),
            pool=mean(1),
            flatten=nn.Flatten(),
            fc=nn.Linear(8, CLASSES),
        )
    )
    return settle(net, seed)


def lift(net: nn.Sequential) -> nn.Sequential:
    """The twin of a network of images that sees each slice of a volume by itself, and pools all."""
    twin = OrderedDict[str, nn.Module]()
    for name, module in net.named_children():
        if isinstance(module, nn.Conv2d):
            sides = ((1, *module.kernel_size), (1, *module.stride), (0, *module.padding))
            twin[name] = nn.Conv3d(module.in_channels, module.out_channels, *sides)
        elif isinstance(module, nn.BatchNorm2d):
            twin[name] = nn.BatchNorm3d(module.num_features)
        else:
            pools = isinstance(module, nn.AdaptiveAvgPool2d)
            twin[name] = nn.AdaptiveAvgPool3d(1) if pools else copy.deepcopy(module)
    found = nn.Sequential(twin)
    state = {
        key: value[:, :, None] if value.ndim == 4 else value
        for key, value in net.state_dict().items()
    }
    found.load_state_dict(state)
    return known_apart(found.to(next(net.parameters()).dtype).eval())


class VolumeTransformer(nn.Module):
    """A class token and two blocks of timm on patches of 2 x 4 x 4 voxels."""

    def __init__(self, grid: tuple[int, int, int] = (3, 2, 4)) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.patches = nn.Conv3d(3, 16, (2, 4, 4), (2, 4, 4))
        self.token = nn.Parameter(torch.randn(1, 1, 16))
        self.places = nn.Parameter(torch.randn(1, 1 + math.prod(grid), 16))
        self.blocks = nn.Sequential(*(Block(16, 2) for _ in range(2)))
        self.norm = nn.LayerNorm(16)
        self.fc = nn.Linear(16, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.patches(x).flatten(2).mT
        tokens = torch.cat([self.token.expand(len(x), -1, -1), tokens], 1) + self.places
        return self.fc(self.norm(self.blocks(tokens))[:, 0])


def two_layer_head(seed: int = 0) -> nn.Sequential:
    """A head with a hidden layer after flattening: gradients differ from position to position."""
    net = nn.Sequential(
        OrderedDict(
            conv=nn.Conv2d(3, 8, 3, stride=2, padding=1),
            relu=nn.ReLU(inplace=True),
            pool=nn.AdaptiveAvgPool2d(4),
            flatten=nn.Flatten(),
            hidden=nn.Linear(8 * 16, 16),
            tanh=nn.Tanh(),
            fc=nn.Linear(16, CLASSES),
        )
    )
    return settle(net, seed)


def tiny_vit(**options: Any) -> nn.Module:
    """Two transformer blocks on 32x32 images in 8x8 patches, class token first."""
    torch.manual_seed(0)
    defaults = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2}
    return VisionTransformer(**{**defaults, "num_classes": CLASSES, **options}).eval()


class ChannelsLastNet(nn.Module):
    """Features (N, h, w, C), as in Swin and ConvNeXt; 3 x 4 cells for 12 x 16 pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, 8, 4, stride=4)
        self.norm = nn.LayerNorm(8)
        self.mlp = nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 8))
        self.fc = nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        y = self.patch(x).permute(0, 2, 3, 1)
        y = y + self.mlp(self.norm(y))
        return self.fc(y.mean((1, 2)))


class Joins(nn.Module):
    """A tail that joins an earlier feature map, so the batch cannot grow at `late`."""

    def __init__(self) -> None:
        super().__init__()
        self.early = nn.Conv2d(3, 4, 3, stride=2, padding=1)
        self.late = nn.Sequential(nn.Conv2d(4, 6, 3, padding=1), nn.ReLU())
        self.head = nn.Conv2d(10, CLASSES, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.early(x).tanh()
        return self.head(torch.cat([y, self.late(y)], 1)).tanh().mean((2, 3))


class Twice(nn.Module):
    """Calls one module twice and another not at all."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)
        self.idle = nn.Conv2d(3, 3, 3, padding=1)
        self.fc = nn.Linear(3, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.conv(self.conv(x).relu()).mean((2, 3)))


class InPlaceInput(nn.Module):
    """Normalises the image it is given in place, as some networks of the wild do."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x.sub_(0.25).mul_(2))


class Fails(nn.Module):
    """Raises in mid-forward, at the given call."""

    def __init__(self, at: int = 1) -> None:
        super().__init__()
        self.calls, self.at = 0, at

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        if self.calls >= self.at:
            raise RuntimeError("the network broke")
        return x


WRAPPINGS = {
    "tensor": lambda y: y,
    "dict": lambda y: {"out": y, "aux": y * 0},
    "dict of features": lambda y: {"note": "text", "anything": y},
    "tuple": lambda y: (None, y, y[:, :, None, None]),
    "list": lambda y: [y],
    "logits": lambda y: SimpleNamespace(logits=y),
}


class Wraps(nn.Module):
    """Gives its output in another form."""

    def __init__(self, net: nn.Module, kind: str) -> None:
        super().__init__()
        self.net, self.kind = net, kind

    def forward(self, x: Tensor) -> Any:
        return WRAPPINGS[self.kind](self.net(x))


class Counter:
    """Counts forward calls and images of a module, and whether gradients were on."""

    def __init__(self, module: nn.Module) -> None:
        self.calls, self.images, self.with_gradients = 0, 0, 0
        self._handle = module.register_forward_pre_hook(self._count)

    def _count(self, module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        del module
        self.calls += 1
        self.images += len(inputs[0])
        self.with_gradients += torch.is_grad_enabled()

    def remove(self) -> None:
        self._handle.remove()


def state_of(net: nn.Module) -> dict[str, Any]:
    """Everything about a network (and torch) that explaining must leave alone."""
    return {
        "training": {name: module.training for name, module in net.named_modules()},
        "requires_grad": {name: p.requires_grad for name, p in net.named_parameters()},
        "grad": {
            name: None if p.grad is None else p.grad.clone() for name, p in net.named_parameters()
        },
        "parameters": {name: p.detach().clone() for name, p in net.named_parameters()},
        "buffers": {name: b.clone() for name, b in net.named_buffers()},
        "hooks": {name: _hooks(module) for name, module in net.named_modules()},
        "parameter hooks": {
            name: len(p._backward_hooks or ()) for name, p in net.named_parameters()
        },
        "random": torch.get_rng_state(),
        "numpy": torch.from_numpy(np.random.get_state()[1].astype(np.int64)),  # noqa: NPY002
        "grad mode": (torch.is_grad_enabled(), torch.is_inference_mode_enabled()),
    }


def _hooks(module: nn.Module) -> int:
    return sum(
        len(getattr(module, kind))
        for kind in (
            "_forward_hooks",
            "_forward_pre_hooks",
            "_backward_hooks",
            "_backward_pre_hooks",
        )
    )


def assert_same_state(before: dict[str, Any], after: dict[str, Any]) -> None:
    """Insist that two states are equal, tensors bit by bit."""
    assert before.keys() == after.keys()
    for key, state in before.items():
        parts = isinstance(state, dict)
        value, other = (state, after[key]) if parts else ({"": state}, {"": after[key]})
        assert value.keys() == other.keys(), key
        for name, one in value.items():
            same = (
                torch.equal(one, other[name])
                if isinstance(one, Tensor) and isinstance(other[name], Tensor)
                else one == other[name]
            )
            assert same, f"{key} of {name!r} changed"


def assert_good_map(made: Any, count: int, size: tuple[int, ...]) -> None:
    """Insist on what every explanation promises."""
    assert made.map.shape == (count, *size)
    assert made.map.isfinite().all()
    assert made.raw.isfinite().all()
    assert made.raw.ndim == made.map.ndim
    assert len(made.raw) == count
    assert 0 <= made.map.min() <= made.map.max() <= 1
    assert len(made.status) == count
    rounded = made.images.dtype in (torch.float16, torch.bfloat16)
    accepted = {"ok", "constant map", "no positive evidence"}
    assert set(made.status) <= accepted | ({"incomplete"} if rounded else set())
    assert not made.map.requires_grad
    assert not made.raw.requires_grad


def insist_it_is_undefined_here(name: str, error: LayerError) -> None:
    """Insist that a method rightly refuses a network without what it needs, and says so."""
    needed = {
        **dict.fromkeys(NEEDS_A_LINEAR_HEAD, "global average pooling"),
        **dict.fromkeys(NEEDS_RELU, "at ReLU"),
        **dict.fromkeys(NEEDS_CONVOLUTIONS, "defined on convolutional networks"),
    }
    assert name in needed, error
    assert needed[name] in str(error)
    assert "gradcam" in str(error), "it names a method that fits"


def tiny_detector(kind: str = "fasterrcnn", seed: int = 0) -> nn.Module:
    """A torchvision detector of 64 x 64 pixels with few channels; it finds up to five objects.

    Args:
        kind: "fasterrcnn", "maskrcnn", "retinanet", "ssd" or "fpn" (Faster R-CNN on a pyramid).
        seed: of the weights.
    """
    torch.manual_seed(seed)
    common = {"num_classes": CLASSES, "detections_per_img": 5}
    body = nn.Sequential(
        OrderedDict(
            conv1=nn.Conv2d(3, 8, 3, stride=2, padding=1),
            relu1=nn.ReLU(),
            conv2=nn.Conv2d(8, 12, 3, stride=2, padding=1),
            relu2=nn.ReLU(),
            conv3=nn.Conv2d(12, 16, 3, stride=2, padding=1),
            relu3=nn.ReLU(),
        )
    )
    size = {"min_size": 64, "max_size": 128}
    if kind == "ssd":
        net: nn.Module = SSD(
            _Pyramid(body),
            DefaultBoxGenerator([[2], [2]], min_ratio=20, max_ratio=90),
            (64, 64),
            score_thresh=0.01,
            **common,
        )
        return settle_detector(net, seed)
    body.out_channels = 16
    sizes, ratios = ((16, 32),), ((0.5, 1.0),)
    if kind == "retinanet":
        net = RetinaNet(
            body,
            anchor_generator=AnchorGenerator(sizes, ratios),
            score_thresh=0.01,
            **common,
            **size,
        )
        return settle_detector(net, seed)
    levels = ["0"]
    if kind == "fpn":
        body = BackboneWithFPN(body, {"relu2": "0", "relu3": "1"}, [12, 16], 16)
        levels, sizes = ["0", "1", "pool"], ((8, 16), (16, 32), (32, 64))
        ratios = ratios * 3
    masks = {}
    if kind == "maskrcnn":
        masks = {
            "mask_roi_pool": MultiScaleRoIAlign(levels, 4, 2),
            "mask_head": MaskRCNNHeads(16, (8,), 1),
            "mask_predictor": MaskRCNNPredictor(8, 8, CLASSES),
        }
    net = (MaskRCNN if masks else FasterRCNN)(
        body,
        rpn_anchor_generator=AnchorGenerator(sizes, ratios),
        box_roi_pool=MultiScaleRoIAlign(levels, 3, 2),
        box_head=TwoMLPHead(16 * 9, 16),
        box_predictor=FastRCNNPredictor(16, CLASSES),
        rpn_pre_nms_top_n_test=20,
        rpn_post_nms_top_n_test=10,
        box_score_thresh=0.01,
        box_detections_per_img=5,
        **size,
        **masks,
    )
    return settle_detector(net, seed)


class _Pyramid(nn.Module):
    """SSD's backbone: features, and a coarser map beside them."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.features = body
        self.extra = nn.Sequential(nn.Conv2d(16, 16, 3, stride=2, padding=1), nn.ReLU())
        self.out_channels = [16, 16]

    def forward(self, x: Tensor) -> OrderedDict[str, Tensor]:
        fine = self.features(x)
        return OrderedDict([("0", fine), ("1", self.extra(fine))])


def settle_detector(net: Net, seed: int) -> Net:
    """Give a detector random weights, small ones where boxes are moved: none shrinks to a line."""
    settle(net, seed)
    with torch.no_grad():
        for name, parameter in net.named_parameters():
            if "bbox" in name or "regression" in name:
                parameter.mul_(0.1)
    return net


class TinySegmenter(nn.Module):
    """A U-shaped network of one skip: five logits a cell, at half the size, in a dict."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        self.fine = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.ReLU())
        self.coarse = nn.Sequential(nn.Conv2d(8, 12, 3, stride=2, padding=1), nn.ReLU())
        self.join = nn.Sequential(nn.Conv2d(20, 8, 3, padding=1), nn.ReLU())
        self.head = nn.Conv2d(8, CLASSES, 1)
        settle(self, seed)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        fine = self.fine(x)
        coarse = F.interpolate(self.coarse(fine), fine.shape[2:], mode="bilinear")
        return {"out": self.head(self.join(torch.cat([fine, coarse], 1)))}
