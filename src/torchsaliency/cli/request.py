"""What a user asks of `torchsaliency explain`, as plain values."""

from __future__ import annotations

import enum
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torchsaliency.cli.options import Baseline, Framing, Precision


@dataclass(frozen=True)
class Request:
    """The arguments of one run; each is described in `options`."""

    photos: list[str]
    model: str
    weights: Path | None
    device: str
    precision: Precision
    fit: Framing | None
    method: list[str]
    settings: list[str]
    score: list[str]
    target: list[str]
    similar_to: str | None
    text: str | None
    layer: list[str]
    masking: Baseline
    aug_smooth: bool
    eigen_smooth: bool
    batch_size: int
    chunk: int | None
    accelerate: str
    output: Path
    alpha: float
    colormap: str
    raw: bool
    grid: bool

    def arguments(self) -> dict[str, Any]:
        """Return the arguments in JSON types, for manifests."""
        return {key: _plain(value) for key, value in asdict(self).items()}


def _plain(value: Any) -> Any:
    if isinstance(value, enum.Enum):
        return value.value
    return str(value) if isinstance(value, Path) else value
