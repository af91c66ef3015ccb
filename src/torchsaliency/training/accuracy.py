"""How often a classifier is right: overall, in each class, and what it takes for what."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, final


@final
@dataclass(frozen=True)
class Accuracy:
    """What a classifier made of labelled images.

    Attributes:
        classes: names.
        confusion: images by true class (row) and predicted class (column).
    """

    classes: tuple[str, ...]
    confusion: tuple[tuple[int, ...], ...]

    @property
    def count(self) -> int:
        """The images."""
        return sum(map(sum, self.confusion))

    @property
    def overall(self) -> float | None:
        """The share of images that are classified right; None of no image."""
        return _share(sum(row[place] for place, row in enumerate(self.confusion)), self.count)

    @property
    def per_class(self) -> dict[str, float | None]:
        """The same of each class's images alone (its recall)."""
        rows = enumerate(self.confusion)
        shares = (_share(row[place], sum(row)) for place, row in rows)
        return dict(zip(self.classes, shares, strict=True))

    @property
    def balanced(self) -> float | None:
        """The mean over the classes: a network that always says the commonest one gains nothing."""
        known = [share for share in self.per_class.values() if share is not None]
        return sum(known) / len(known) if known else None

    def to_dict(self) -> dict[str, Any]:
        """Return all of it in JSON types."""
        return {
            "images": self.count,
            "accuracy": self.overall,
            "balanced_accuracy": self.balanced,
            "per_class": self.per_class,
            "images_per_class": dict(zip(self.classes, map(sum, self.confusion), strict=True)),
            "confusion": [list(row) for row in self.confusion],
        }


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None
