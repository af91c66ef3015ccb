"""What a visitor of the app may ask for, chose and is shown, and the job that makes it."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field
from typing import final

from PIL import Image

from torchsaliency.core.explanation import Explanation

MASKINGS = ("mean", "black", "blur")


class Stopped(BaseException):
    """A job was stopped, or its time is over; no `except Exception` on the way holds it up."""


@final
@dataclass(frozen=True)
class Limits:
    """What a visitor may ask for.

    Attributes:
        megabytes: of an upload.
        pixels: of a photograph, before it is decoded.
        seconds: of one job.
        waiting: jobs that may wait; further ones are refused.
        maps: of one job.
    """

    megabytes: int = 20
    pixels: int = 40_000_000
    seconds: float = 300.0
    waiting: int = 16
    maps: int = 12


@final
class Job:
    """One run of the network for a visitor, which `stop` ends before its next pass."""

    def __init__(self, seconds: float) -> None:
        self.passes = 0
        self.over = False
        self._deadline = time.monotonic() + seconds
        self._stopped = threading.Event()

    def stop(self) -> None:
        """End the job before its next pass, from any thread."""
        self._stopped.set()

    def check(self) -> None:
        """Raise `Stopped` if the job was stopped or its time is over."""
        self.over = time.monotonic() > self._deadline
        if self.over or self._stopped.is_set():
            raise Stopped
        self.passes += 1


@final
@dataclass(frozen=True, eq=False)
class Choice:
    """What a visitor chose.

    Attributes:
        methods: by name, in the order in which maps appear.
        target: a class; None for the predicted one.
        layer: by name; None for the default layer.
        masking: "mean", "black" or "blur".
        signed: whether signed values are shown, of methods that have them.
        similar_to: another photograph: what both share is explained.
        text: words: what of the photograph matches them is explained, by a CLIP network.
    """

    methods: tuple[str, ...] = ("gradcam",)
    target: int | None = None
    layer: str | None = None
    masking: str = "mean"
    signed: bool = False
    similar_to: str | None = None
    text: str | None = None


@final
@dataclass(eq=False)
class Shown:
    """A photograph with what was explained of it so far.

    Attributes:
        photo: as it was read.
        title: its name.
        choice: what was asked for.
        explanations: by method.
        facts: lines below each map, by method.
        left: seconds that the rest takes, about; None where that is not known.
    """

    photo: Image.Image
    title: str
    choice: Choice
    explanations: dict[str, Explanation] = field(default_factory=dict)
    facts: dict[str, tuple[str, ...]] = field(default_factory=dict)
    left: float | None = None
