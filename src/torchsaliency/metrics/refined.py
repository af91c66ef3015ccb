"""What metrics of curves keep where curves were evaluated only until their number is known."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from torchsaliency.core.scores import require_error
from torchsaliency.errors import InputError
from torchsaliency.metrics.base import SaliencyMetric

_FACTS = 3
"""Numbers that are kept of how a curve was evaluated: error, passes and steps."""


class RefinedMetric(SaliencyMetric):
    """A metric of curves whose number may be wrong by an `error`, for fewer passes.

    Without an error curves are exact, and nothing else is kept. With one, an image's row ends with
    the error's bound, the passes that its curve took, and those of the exact curve.

    Args:
        error: by how many points an image's number may be wrong, to save passes; None: it is exact.
    """

    def __init__(self, error: float | int | None = None, **options: Any) -> None:
        self.error = require_error(error) or None
        if self.error is not None:
            self.width = self.width + _FACTS
        super().__init__(**options)

    @property
    def settings(self) -> Mapping[str, Any]:
        """All options that decide the number; without an error, measures run as if none existed."""
        return {
            name: value
            for name, value in super().settings.items()
            if name != "error" or value is not None
        }

    @property
    def errors(self) -> Float[Tensor, " n"]:
        """What each image's number may be wrong by, as estimated, in points; 0 if it is exact."""
        return self.evaluations(self.rows)[:, 0]

    @property
    def passes(self) -> Float[Tensor, " n"]:
        """The passes that each image's curve took; NaN if curves are exact."""
        return self.evaluations(self.rows)[:, 1]

    def evaluations(self, rows: Tensor) -> Float[Tensor, "n 3"]:
        """Return error, passes and exact passes of rows (N, width); 0, NaN, NaN if exact."""
        if self.error is not None:
            return rows[:, -_FACTS:]
        exact = torch.tensor([0.0, torch.nan, torch.nan], dtype=rows.dtype, device=rows.device)
        return exact.expand(len(rows), -1)

    def describe(self, evaluations: Float[Tensor, "n 3"]) -> str:
        """Say how many passes curves took and what they may be wrong by; "" if they are exact."""
        known = evaluations[~evaluations.isnan().any(1)]
        if not len(known):
            return ""
        mean, most = known.mean(0).tolist(), known.amax(0).tolist()
        return (
            f"{self.name} is known to {self.error:g} points an image (by estimate to {mean[0]:.2g} "
            f"on average): {mean[1]:.1f} passes an image in place of {mean[2]:.0f}, at most "
            f"{most[1]:.0f}."
        )

    def _record_curves(self, rows: Tensor, refinement: Tensor | None) -> None:
        """Keep rows (n,) or (n, width), and what is known of their curves' evaluation."""
        if self.error is None:
            self._record(rows)
            return
        if refinement is None:
            raise InputError(
                f"{self.name} with error={self.error:g} needs to know how its curves were "
                "evaluated; give refinement=…, as a measure with the same error returns it."
            )
        rows = rows[:, None] if rows.ndim == 1 else rows
        self._record(torch.cat([rows, refinement.to(rows)], 1))
