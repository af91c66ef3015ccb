"""What a visitor of the app may ask for, chose and is shown, and the job that makes it."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, final

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
        pixels: of a photograph, or voxels of a scan, before it is decoded; of a longer video frames
            are left out.
        seconds: that one job may have the network.
        waiting: visitors who may wait; further ones are refused.
        maps: of one job.
    """

    megabytes: int = 20
    pixels: int = 40_000_000
    seconds: float = 300.0
    waiting: int = 16
    maps: int = 12


@final
class Job:
    """Work of the network for a visitor, which `stop` ends before the network's next pass.

    Its time runs while it has the network, not while it waits for others.
    """

    def __init__(self, seconds: float) -> None:
        self.passes = 0
        self.over = False
        self._left = seconds
        self._since: float | None = None  # when it was given the network
        self._stopped = threading.Event()

    def stop(self) -> None:
        """End the job before its next pass, from any thread."""
        self._stopped.set()

    def check(self) -> None:
        """Raise `Stopped` if the job was stopped or its time is over."""
        used = 0.0 if self._since is None else time.monotonic() - self._since
        self.over = used > self._left
        if self.over or self._stopped.is_set():
            raise Stopped

    @contextmanager
    def running(self) -> Iterator[None]:
        """Count the job's time."""
        self._since = time.monotonic()
        try:
            yield
        finally:
            self._left -= time.monotonic() - self._since
            self._since = None


@final
class Line:
    """Jobs that wait for the network, each of which gets it in the order of arrival."""

    def __init__(self) -> None:
        self._jobs: deque[Job] = deque()  # the first one has the network
        self._change = threading.Condition()

    def __len__(self) -> int:
        return len(self._jobs)

    @contextmanager
    def turn(self, job: Job) -> Iterator[None]:
        """Wait until it is a job's turn, and give it the network.

        Raises:
            Stopped: the job was stopped while it waited, or its time is over.
        """
        with self._change:
            self._jobs.append(job)
        try:
            with self._change:
                while self._jobs[0] is not job:
                    job.check()
                    self._change.wait(0.1)
            with job.running():
                job.check()
                yield
        finally:
            with self._change:
                self._jobs.remove(job)
                self._change.notify_all()


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
    similar_to: str | Sequence[str] | None = None
    text: str | None = None


@final
@dataclass(eq=False)
class Shown:
    """What was explained so far of a photograph, a scan or a video.

    Attributes:
        source: as it was read.
        title: its name.
        choice: what was asked for.
        explanations: by method.
        facts: lines below each map, by method.
        left: seconds that the rest takes, about; None where that is not known.
    """

    source: Any
    title: str
    choice: Choice
    explanations: dict[str, Explanation] = field(default_factory=dict)
    facts: dict[str, tuple[str, ...]] = field(default_factory=dict)
    left: float | None = None
