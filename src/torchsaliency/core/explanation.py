"""The result of a method on a batch: the maps, and everything needed to make them again."""

from __future__ import annotations

import importlib.metadata
import json
import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

import numpy as np
import torch
from torch import Tensor

from torchsaliency.core.errors import InputError
from torchsaliency.core.layer import Reshape
from torchsaliency.core.masking import Masking
from torchsaliency.core.target import Target

if TYPE_CHECKING:
    from torchsaliency.core.method import Method

Renderer = Callable[["Explanation"], bytes]
"""Draws an explanation as a PNG; set by `torchsaliency.viz`, because core draws nothing."""

_renderers: list[Renderer] = []


def set_renderer(renderer: Renderer) -> None:
    """Let `renderer` draw explanations in notebooks and for `Explanation.save`."""
    _renderers[:] = [renderer]


@final
@dataclass(frozen=True, eq=False)
class Explanation:
    """Maps of one method for a batch of images, and how they were made.

    Attributes:
        map: (N, H, W) in [0, 1] at the size of the network's input.
        raw: (N, h, w) as the method gave it, at the layer's resolution.
        images: (N, C, H, W) the explained images, as the network saw them.
        target: what was explained, resolved.
        score: (N,) the target's value on the clean images.
        output: the network's output on the clean images, (N, K) logits for a classifier.
        layers: names of the layers read.
        reshapes: how each layer's output became feature maps.
        method: the method with its hyper-parameters.
        masking: the baseline of masked passes.
        status: one an image: "ok", "constant map", "no positive evidence"; "incomplete" where
            shares that must add up to the score are off by more than 1 % (`details["gap"]`); "not
            finite" where the network or the method gave NaN or infinite numbers.
        details: what else the method found out, by name, first dimension N.
        seconds: what the batch took: the shared pass, the shared backward pass if the method reads
            gradients, and the method's own work. Over several methods they add up to more than it
            took, since the passes are shared.
        passes: images that went through the network for the batch, the shared pass included.
    """

    map: Tensor
    raw: Tensor
    images: Tensor
    target: Target
    score: Tensor
    output: Any
    layers: tuple[str, ...]
    reshapes: tuple[Reshape | None, ...]
    method: Method
    masking: Masking
    status: tuple[str, ...]
    details: Mapping[str, Tensor] = field(default_factory=dict)
    seconds: float = 0.0
    passes: int = 0

    def __len__(self) -> int:
        return len(self.map)

    def __getitem__(self, index: int | slice) -> Explanation:
        """Return the explanation of one image, or of some, still as a batch."""
        where = torch.arange(len(self), device="cpu")[[index] if isinstance(index, int) else index]
        where = where.to(self.map.device)
        return replace(
            self,
            map=self.map[where],
            raw=self.raw[where],
            images=self.images[where],
            target=self.target.take(where),
            score=self.score[where],
            output=_rows(self.output, where),
            status=tuple(self.status[i] for i in where.tolist()),
            details={name: value[where.to(value.device)] for name, value in self.details.items()},
        )

    def __iter__(self) -> Iterator[Explanation]:
        return (self[i] for i in range(len(self)))

    def __repr__(self) -> str:
        size = "x".join(map(str, self.map.shape[1:]))
        return (
            f"Explanation({self.method.name}, {len(self)} maps of {size}, "
            f"layer {'+'.join(self.layers)}, status {', '.join(sorted(set(self.status)))})"
        )

    def _repr_png_(self) -> bytes | None:
        return _renderers[0](self) if _renderers else None

    def manifest(self) -> dict[str, Any]:
        """Return everything needed to make these maps again, in JSON types."""
        return {
            "method": self.method.name,
            "options": _jsonable(self.method.options),
            "layers": list(self.layers),
            "target": self.target.describe(),
            "score": self.score.tolist(),
            "masking": self.masking.describe(),
            "status": list(self.status),
            "versions": versions(),
        }

    def save(self, directory: str | Path, names: Sequence[str] | None = None) -> list[Path]:
        """Write for every image an overlay (PNG) and the raw map (.npy), and one manifest.json.

        Args:
            directory: made if it does not exist; files of the same names are replaced.
            names: one file stem an image; image-0, image-1, … by default.

        Returns:
            The files written.

        Raises:
            InputError: another number of names than images, or a name twice.
        """
        stems = list(names) if names is not None else [f"image-{i}" for i in range(len(self))]
        if len(set(stems)) != len(self) or len(stems) != len(self):
            raise InputError(
                f"{len(stems)} names were given for {len(self)} maps; give one different name each."
            )
        folder = Path(directory)
        folder.mkdir(parents=True, exist_ok=True)
        written = []
        for stem, one in zip(stems, self, strict=True):
            written += [folder / f"{stem}.{self.method.name}.npy"]
            np.save(written[-1], one.raw[0].float().cpu().numpy())
            if _renderers:
                written += [folder / f"{stem}.{self.method.name}.png"]
                written[-1].write_bytes(_renderers[0](one))
        written += [folder / "manifest.json"]
        facts = {"images": stems, **self.manifest()}
        written[-1].write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
        return written


def versions() -> dict[str, str]:
    """Return the versions that decide a result."""
    return {
        "torchsaliency": importlib.metadata.version("torchsaliency"),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
    }


def _rows(output: Any, where: Tensor) -> Any:
    if isinstance(output, Tensor):
        return output[where.to(output.device)]
    return [output[i] for i in where.tolist()]


def _jsonable(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _jsonable(part) for key, part in value.items()}
    if isinstance(value, tuple | list):
        return [_jsonable(part) for part in value]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    described = getattr(value, "options", None)
    if described is not None:
        return {"method": value.name, "options": _jsonable(described)}
    return str(value)
