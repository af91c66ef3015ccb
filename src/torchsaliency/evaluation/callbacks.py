"""What an evaluation tells others while it runs: how far it is, some maps, and the results."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, final, runtime_checkable

from torch import Tensor

from torchsaliency.evaluation.plan import Plan
from torchsaliency.evaluation.results import Results


@final
@dataclass(frozen=True)
class Progress:
    """How far an evaluation is.

    Attributes:
        done: images of this session that are finished.
        total: images of this session.
        before: images that earlier sessions finished.
        skipped: images that cannot be read, or that a network fails on.
        odd: images for which some method's map is not finite.
        what: what is done, such as "evaluating".
        unit: what is counted, where it is not images.

    Given to `Callback.advance`.
    """

    done: int
    total: int
    before: int = 0
    skipped: int = 0
    odd: int = 0
    what: str = "evaluating"
    unit: str = "images"


@final
@dataclass(frozen=True, eq=False)
class ExplainedImage:
    """An image as the network saw it, with its maps.

    Attributes:
        name: of the sample.
        image: (C, *size), the network's input.
        maps: by method, (*size) in [0, 1].
        mean: of the input's normalisation, one per channel; None if it is not known.
        std: of it, too.

    Given to `Callback.show`.
    """

    name: str
    image: Tensor
    maps: Mapping[str, Tensor]
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None


Watch = Callable[[Progress], None]


@runtime_checkable
class Callback(Protocol):
    """Hears of an evaluation; an error that it raises ends the evaluation.

    Attributes:
        samples: how many images it is shown.

    `EvaluationLog` is one; any object with these methods will do.
    """

    samples: int

    def begin(self, plan: Plan, folder: Path | str) -> None:
        """Take the plan and the folder (or address) of the store, before the first image."""

    def advance(self, progress: Progress) -> None:
        """Take how far it is, at the beginning and after every batch."""

    def show(self, explained: ExplainedImage) -> None:
        """Take one of the first images of this session, with the maps of all methods."""

    def finish(self, results: Results | None) -> None:
        """Take what was found; None if the evaluation was stopped."""
