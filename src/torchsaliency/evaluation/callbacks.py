"""What an evaluation tells others while it runs: how far it is, pictures, and the results."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, final, runtime_checkable

from PIL import Image

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
    """

    done: int
    total: int
    before: int
    skipped: int
    odd: int = 0


Watch = Callable[[Progress], None]


@runtime_checkable
class Callback(Protocol):
    """Hears of an evaluation; an error that it raises ends the evaluation.

    Attributes:
        samples: of how many images it is shown a picture.
    """

    samples: int

    def begin(self, plan: Plan, folder: Path) -> None:
        """Take the plan and the folder, before the first image."""

    def advance(self, progress: Progress) -> None:
        """Take how far it is, at the beginning and after every batch."""

    def show(self, sample: str, picture: Image.Image) -> None:
        """Take the picture of an image of this session under the maps of all methods."""

    def finish(self, results: Results | None) -> None:
        """Take what was found; None if the evaluation was stopped."""
