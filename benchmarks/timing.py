"""Seconds of several sides, measured in turns so that a noisy machine hits all of them alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch

Work = Callable[[], object]


@dataclass(frozen=True)
class Spread:
    """What repeated measurements say, in seconds.

    Attributes:
        median: of them.
        low: their first quartile.
        high: their third quartile.
        least: the smallest, least disturbed by other work.
        repeats: how many there were.
    """

    median: float
    low: float
    high: float
    least: float
    repeats: int

    @classmethod
    def of(cls, seconds: Sequence[float]) -> Spread:
        """Summarise measurements; one alone is its own spread."""
        if not seconds:
            raise ValueError("There are no measurements to summarise; give at least one.")
        if len(seconds) == 1:
            low = high = seconds[0]
        else:
            low, _, high = statistics.quantiles(seconds, n=4, method="inclusive")
        return cls(statistics.median(seconds), low, high, min(seconds), len(seconds))

    @property
    def width(self) -> float:
        """The distance between the quartiles."""
        return self.high - self.low


def seconds_of(work: Work, device: torch.device) -> float:
    """Time one run: by CUDA's own events on a GPU, by the steady clock elsewhere."""
    if device.type != "cuda":
        begun = time.perf_counter()
        work()
        return time.perf_counter() - begun
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize(device)
    start.record()
    work()
    end.record()
    torch.cuda.synchronize(device)
    return float(start.elapsed_time(end)) / 1000


def interleaved(
    sides: Mapping[str, Work], repeats: int, device: torch.device
) -> dict[str, list[float]]:
    """Run every side once a round, each round beginning with another one.

    Args:
        sides: what is compared, by name; already warm.
        repeats: rounds.
        device: where the work happens.
    """
    names = list(sides)
    found: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(repeats):
        shift = turn % len(names)
        for name in names[shift:] + names[:shift]:
            found[name].append(seconds_of(sides[name], device))
    return found


def paired_ratio(slow: Sequence[float], fast: Sequence[float]) -> float:
    """Return how many times longer `slow` took: the median over the rounds.

    The two of one round ran one after the other, in the same weather. A side that ran once is
    compared with every round of the other.
    """
    count = max(len(slow), len(fast))
    longer, shorter = ([*side, *[side[-1]] * (count - len(side))] for side in (slow, fast))
    return statistics.median(a / b for a, b in zip(longer, shorter, strict=True))
