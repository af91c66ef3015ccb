"""Self-supervised encoders: MoCo v2, SwAV, Barlow Twins and VICRegL, from their published files.

Each file's own key layout is converted, and checked strictly: what the layout has beside the
encoder (projection heads, queues) is known by name and left out, and any other key is an error.
"""

# ruff: noqa: PLC0415 (heavy libraries load only when used)

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import final

from torch import Tensor, nn

from torchsaliency.core.layer import Layer
from torchsaliency.errors import CheckpointError, describe_unknown
from torchsaliency.zoo.checkpoints import Checkpoint, read_checkpoint
from torchsaliency.zoo.download import PublishedFile, fetch_file
from torchsaliency.zoo.network import Network
from torchsaliency.zoo.preprocessing import imagenet
from torchsaliency.zoo.sources.convnext import ConvNeXtEncoder
from torchsaliency.zoo.sources.source import RANDOM, Request, facts, register_source
from torchsaliency.zoo.weights import list_names


@final
@dataclass(frozen=True)
class Published:
    """A published encoder.

    Attributes:
        file: of its weights.
        build: makes it, with random weights.
        layer: at which its maps are read, as the TMLR paper's Table 4.
        inside: what the encoder's keys begin with, each tried in turn; "" for a bare state dict.
        beside: keys of the layout that are not the encoder's.
        judge: the classifier whose probabilities judge its maps (Table 5).
    """

    file: PublishedFile
    build: Callable[[], nn.Module]
    layer: str
    inside: tuple[str, ...]
    beside: str
    judge: str


def resnet50() -> nn.Module:
    """Return torchvision's ResNet-50 without its classifier: 2048 pooled numbers an image.

    The hub's SwAV and Barlow Twins networks keep a classifier with random weights; an embedding
    must not pass it.
    """
    from torchvision.models import resnet50 as build

    model: nn.Module = build(weights=None)
    model.fc = nn.Identity()
    return model


_BACKBONE = ("module.backbone.", "backbone.", "module.", "")
_VICREGL_BESIDE = r"(module\.)?(projector|maps_projector|classifier)\."
_BARLOW_TWINS = "ep1000_bs2048_lrw0.2_lrb0.0048_lambd0.0051"


def _resnet(
    path: str, published: str = "", *, inside: tuple[str, ...] = _BACKBONE, beside: str
) -> Published:
    return Published(
        file=PublishedFile(f"https://dl.fbaipublicfiles.com/{path}", published),
        build=resnet50,
        layer="layer4.2",
        inside=inside,
        beside=beside,
        judge="torchvision/resnet50.imagenet1k_v1",
    )


def _moco(epochs: int, published: str) -> Published:
    name = f"moco_v2_{epochs}ep"
    return _resnet(
        f"moco/moco_checkpoints/{name}/{name}_pretrain.pth.tar",
        published,
        inside=("module.encoder_q.", "encoder_q."),
        beside=r"(module\.)?(encoder_q\.fc\.|encoder_k\.|queue$|queue_ptr$)",
    )


def _vicregl_resnet50(alpha: str) -> Published:
    return _resnet(f"vicregl/resnet50_alpha{alpha}.pth", beside=_VICREGL_BESIDE)


def _vicregl_convnext(size: str, alpha: str) -> Published:
    path = f"vicregl/convnext_{size}_alpha{alpha}.pth"
    return Published(
        file=PublishedFile(f"https://dl.fbaipublicfiles.com/{path}"),
        build=lambda: ConvNeXtEncoder(size),
        layer="stages.3.2.dwconv",
        inside=_BACKBONE,
        beside=_VICREGL_BESIDE,
        judge=f"torchvision/convnext_{'large' if size == 'xlarge' else size}",
    )


ENCODERS: Mapping[str, Published] = {
    "moco_v2": _moco(800, "md5:a04e12f8"),
    "moco_v2_200ep": _moco(200, "md5:59fd9945"),
    "swav": _resnet(
        "deepcluster/swav_800ep_pretrain.pth.tar",
        inside=("module.", ""),
        beside=r"(module\.)?(projection_head|prototypes)\b",
    ),
    # `bn` alone is the loss's normalisation; the encoder's own is called bn1
    "barlow_twins": _resnet(
        f"barlowtwins/{_BARLOW_TWINS}/resnet50.pth", beside=r"(module\.)?(projector|bn)\."
    ),
    "vicregl_resnet50": _vicregl_resnet50("0.9"),
    "vicregl_resnet50_alpha0.75": _vicregl_resnet50("0.75"),
    "vicregl_convnext": _vicregl_convnext("small", "0.9"),
    "vicregl_convnext_small_alpha0.75": _vicregl_convnext("small", "0.75"),
    "vicregl_convnext_base": _vicregl_convnext("base", "0.9"),
    "vicregl_convnext_base_alpha0.75": _vicregl_convnext("base", "0.75"),
    "vicregl_convnext_xlarge": _vicregl_convnext("xlarge", "0.75"),
}
"""By name: those of the TMLR paper's Table 2, and their other published sizes."""


@register_source("ssl", networks=lambda: dict.fromkeys(ENCODERS, "self-supervised"))
def load(request: Request) -> Network:
    """Load a self-supervised encoder."""
    if request.name not in ENCODERS:
        names = [f"ssl/{name}" for name in ENCODERS]
        raise CheckpointError(
            describe_unknown("self-supervised encoder", f"ssl/{request.name}", names)
        )
    if request.num_classes is not None:
        raise CheckpointError(
            f"num_classes={request.num_classes} was given for ssl/{request.name}, which is an "
            "encoder and has none; leave it out."
        )
    known = ENCODERS[request.name]
    model = known.build()

    def fill(path: Path) -> Checkpoint:
        found = encoder_part(read_checkpoint(path), known, f"ssl/{request.name}")
        found.fill(model)
        return found

    checkpoint: Checkpoint | None = None
    if request.weights is not None:
        checkpoint = fill(request.weights)
    elif request.pretrained:
        name = f"ssl/{request.name}"
        checkpoint = fill(fetch_file(known.file, name=name, check=fill))
    return Network(
        model,
        name=f"ssl/{request.name}",
        preprocessing=imagenet(),
        classes=(),
        layer=Layer(known.layer),
        judge=known.judge,
        source=facts("ssl", model, checkpoint or RANDOM, "torchvision"),
    )


def encoder_part(checkpoint: Checkpoint, known: Published, name: str) -> Checkpoint:
    """Return only the encoder's tensors of a published file, under the network's own names.

    Raises:
        CheckpointError: a key belongs neither to the encoder nor to what the layout has beside it.
    """
    beside = re.compile(known.beside)
    rest = {key: value for key, value in checkpoint.tensors.items() if not beside.match(key)}
    fitting = (
        start for start in known.inside if rest and all(key.startswith(start) for key in rest)
    )
    prefix = next(fitting, None)
    if prefix is None:
        expected = known.inside[0]
        strange = [key for key in rest if not key.startswith(expected)] or ["nothing else"]
        raise CheckpointError(
            f"{checkpoint.path} is not laid out as the published file of {name}: it has "
            f"{list_names(strange)}, where keys of the encoder begin with {expected!r}; give the "
            f"file of {known.file.address}."
        )
    tensors: dict[str, Tensor] = {key.removeprefix(prefix): value for key, value in rest.items()}
    return replace(checkpoint, tensors=tensors)
