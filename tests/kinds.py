"""Kinds of networks, one small network each, and what every method says of them.

`scripts/network_table.py` makes docs/networks.md of it; tests/architecture/test_kinds.py checks it.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.video.resnet import BasicBlock, BasicStem, Conv3DSimple, VideoResNet
from torchvision.models.video.swin_transformer import SwinTransformer3d
from transformers import (
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
    SegformerConfig,
    SegformerForSemanticSegmentation,
    SwinConfig,
    SwinForImageClassification,
    ViTConfig,
    ViTForImageClassification,
)

from nets import (
    CLASSES,
    ChannelsLastNet,
    TinySegmenter,
    VolumeTransformer,
    convnet,
    convnet_of,
    images,
    quick,
    settle,
    tiny_detector,
    tiny_vit,
    volumes,
)
from torchsaliency import Box, OwnEmbedding, Regression, Segment, TorchSaliencyError, explain
from torchsaliency.core.method import methods

FAMILIES = {
    "cam": "CAMs",
    "decomposition": "Tucker and PCA",
    "masking": "masking",
    "attribution": "gradients and propagation",
    "attention": "attention",
}
"""The families of methods, and the heads of their columns."""


@dataclass(frozen=True)
class Kind:
    """A kind of network.

    Attributes:
        name: the row's first cell.
        build: gives the network.
        inputs: gives what it takes, two images.
        options: further arguments of `explain`.
        typed: what a user says about it, beside the network and its input; nothing for most.
    """

    name: str
    build: Callable[[], nn.Module]
    inputs: Callable[[], Any]
    options: dict[str, Any] = field(default_factory=dict)
    typed: str = ""


class _Around(nn.Module):
    """A small network whose output or input has another form."""

    def __init__(self, last: nn.Module | None = None) -> None:
        super().__init__()
        self.net = convnet()
        self.last = last or nn.Identity()

    def forward(self, x: Tensor) -> Any:
        return self.last(self.net(x))


class _GivesDict(_Around):
    def forward(self, x: Tensor) -> dict[str, Any]:
        logits = self.net(x)
        return {"loss": None, "features": x, "logits": logits}


class _TwoInputs(_Around):
    def forward(self, image: Tensor, meta: Tensor) -> Tensor:
        logits: Tensor = self.net(image)
        return logits + meta @ torch.ones(3, CLASSES).cumsum(1)


def _channels(count: int) -> nn.Module:
    net = convnet()
    net.conv1 = nn.Conv2d(count, 6, 3, padding=1)
    return settle(net)


def _one_output() -> nn.Module:
    net = convnet()
    net.fc = nn.Linear(8, 1)
    return settle(net)


def _transformer(model: Callable[[Any], nn.Module], config: Any) -> nn.Module:
    torch.manual_seed(0)
    return model(config).eval()


_VIT = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 32,
    "patch_size": 8,
}


def _vit() -> nn.Module:
    return _transformer(ViTForImageClassification, ViTConfig(**_VIT, num_labels=CLASSES))


def _clip() -> nn.Module:
    config = CLIPVisionConfig(**_VIT, projection_dim=8)
    return _transformer(CLIPVisionModelWithProjection, config)


def _swin() -> nn.Module:
    sizes = {"image_size": 32, "patch_size": 2, "embed_dim": 8, "window_size": 4}
    config = SwinConfig(**sizes, depths=[1, 1], num_heads=[2, 2], num_labels=CLASSES)
    return _transformer(SwinForImageClassification, config)


def _segformer() -> nn.Module:
    config = SegformerConfig(
        hidden_sizes=[8, 8, 8, 16],
        depths=[1, 1, 1, 1],
        num_attention_heads=[1, 1, 1, 2],
        decoder_hidden_size=16,
        num_labels=CLASSES,
    )
    return _transformer(SegformerForSemanticSegmentation, config)


def _video_swin() -> nn.Module:
    torch.manual_seed(0)
    heads = [2, 2]
    return SwinTransformer3d([2, 4, 4], 12, [2, 2], heads, [4, 4, 4], num_classes=CLASSES).eval()


def _video_resnet() -> nn.Module:
    torch.manual_seed(0)
    return VideoResNet(BasicBlock, [Conv3DSimple] * 4, [1] * 4, BasicStem, CLASSES).eval()


def _text() -> Callable[[Tensor], Tensor]:
    """What a text's embedding stands for: a direction among the network's embeddings."""
    direction = torch.linspace(-1, 1, 8)
    return lambda embeddings: embeddings @ direction


KINDS = [
    Kind("convolutional classifier", convnet, images),
    Kind("transformer with a class token (timm)", tiny_vit, lambda: images(2, 32, 32)),
    Kind("transformer (Hugging Face ViT)", _vit, lambda: images(2, 32, 32)),
    Kind("channels last (Hugging Face Swin)", _swin, lambda: images(2, 32, 32)),
    Kind("channels last, not square", lambda: ChannelsLastNet().eval(), lambda: images(2, 12, 16)),
    Kind("one channel (grey)", lambda: _channels(1), lambda: images()[:, :1]),
    Kind(
        "13 channels (multispectral)",
        lambda: _channels(13),
        lambda: images().repeat(1, 5, 1, 1)[:, :13],
    ),
    Kind("independent labels", convnet, images, {"scores": "sigmoid"}, 'scores="sigmoid"'),
    Kind("one logit", _one_output, images, {"scores": "binary"}, 'scores="binary"'),
    Kind("probabilities (ends in softmax)", lambda: _Around(nn.Softmax(1)).eval(), images),
    Kind("regression", _one_output, images, {"target": Regression()}, "Regression()"),
    Kind("a dict of several tensors", lambda: _GivesDict().eval(), images),
    Kind(
        "two inputs",
        lambda: _TwoInputs().eval(),
        lambda: {"image": images(), "meta": torch.tensor([[0.1, 0.2, 0.3], [0.3, 0.2, 0.1]])},
    ),
    Kind("encoder", convnet, images, {"target": OwnEmbedding()}, "OwnEmbedding()"),
    Kind(
        "CLIP and a text",
        _clip,
        lambda: images(2, 32, 32),
        {"target": _text()},
        "the text's target",
    ),
    Kind("signals (N, C, T)", lambda: convnet_of(1), lambda: volumes(40)),
    Kind("volumes (N, C, D, H, W)", lambda: convnet_of(3), lambda: volumes(6, 12, 10)),
    Kind("transformer of volumes", lambda: VolumeTransformer().eval(), lambda: volumes(6, 8, 16)),
    Kind("video (torchvision VideoResNet)", _video_resnet, lambda: volumes(4, 16, 16)),
    Kind("video (torchvision Swin3d)", _video_swin, lambda: volumes(8, 32, 48)),
    Kind(
        "two-stage detector",
        lambda: tiny_detector("fpn"),
        lambda: images(2, 64, 64),
        {"target": Box(least=0.1)},
        "Box()",
    ),
    Kind(
        "single-shot detector",
        lambda: tiny_detector("ssd"),
        lambda: images(2, 64, 64),
        {"target": Box(least=0.1)},
        "Box()",
    ),
    Kind("segmenter", TinySegmenter, lambda: images(2, 32, 32), {"target": Segment()}, "Segment()"),
    Kind(
        "segmenter (Hugging Face SegFormer)",
        _segformer,
        lambda: images(2, 64, 64),
        {"target": Segment()},
        "Segment()",
    ),
]

FEW = {"passes": 12, "iterations": 2}


def ask(kind: Kind, net: nn.Module, name: str) -> str:
    """Return "" if a method gives finite maps of the input's size, or the sentence of its refusal.

    Raises:
        AssertionError: the map is wrong.
    """
    known = methods()[name].options
    method = quick(name, **{key: value for key, value in FEW.items() if key in known})
    inputs = kind.inputs()
    images = inputs["image"] if isinstance(inputs, dict) else inputs
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # what it says of a guess is tested apart
            made = explain(net, inputs, method, **kind.options)[name]
    except TorchSaliencyError as error:
        return str(error)
    assert made.map.shape == (len(images), *images.shape[2:]), (kind.name, name)
    assert bool(made.map.isfinite().all()), (kind.name, name)
    return ""


def shorten(sentence: str) -> str:
    """Return a refusal's reason: what stands before its advice, and no name or size in it."""
    reason = sentence.partition("; ")[0].rstrip(".")
    reason = re.sub(r"'[\w.]+' is not", "the layer that is found is not", reason)
    return re.sub(r"images of [\dx]+ were", "others were", reason)
