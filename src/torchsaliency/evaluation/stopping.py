"""When an evaluation knows enough: every interval is narrower than the user wants."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, final

from torchsaliency.evaluation.results import Results
from torchsaliency.metrics.statistics import RESAMPLES

LEAST = 32
"""Images before the first look: intervals of fewer are not to be trusted."""

GROWTH = 1.25
"""So many times more images than at the last look."""


@final
@dataclass(frozen=True)
class Widest:
    """The widest interval of an evaluation.

    Attributes:
        width: upper end - lower end, in the metric's unit; None where no interval is known.
        method: whose interval it is.
        metric: of which metric.
        unit: of the width.
        images: that the evaluation has so far.
    """

    width: float | None
    method: str
    metric: str
    unit: str
    images: int

    def to_dict(self) -> dict[str, Any]:
        """Return the fields in JSON types."""
        return asdict(self)


def find_widest(results: Results, *, resamples: int = RESAMPLES) -> Widest:
    """Return the widest interval over all methods and metrics.

    References such as Fake-CAM count, too: a table shows their intervals as well. A metric that no
    image defines has no interval, and never will; it is left out, and so is one whose images all
    agree (width 0).

    Example:
        >>> find_widest(load_results("run")).width  # doctest: +SKIP
        1.7
    """
    widest = Widest(None, "", "", "", len(results.samples))
    for method in results.methods:
        for label in results.metrics:
            found = results.summary(method, label, resamples=resamples)
            if found.low is None or found.high is None:
                continue
            width = found.high - found.low
            if widest.width is None or width > widest.width:
                widest = Widest(width, method, label, found.unit, len(results.samples))
    return widest


@final
class Stopping:
    """Looks now and then whether every interval is narrow enough.

    A look costs a bootstrap of every number of the table, so the next one comes when there are
    `GROWTH` times as many images. That the end depends on the data makes intervals a little too
    narrow; with `LEAST` images and more it does not matter beside their own error.
    """

    def __init__(self, until: float) -> None:
        self.until = until
        self._next = LEAST

    def is_due(self, images: int) -> bool:
        """Whether it is time to look."""
        return images >= self._next

    def is_enough(self, results: Results) -> Widest | None:
        """Return the widest interval if it is narrow enough, else None."""
        found = find_widest(results)
        self._next = max(LEAST, int(found.images * GROWTH) + 1)
        narrow = found.images >= LEAST and found.width is not None and found.width <= self.until
        return found if narrow else None
