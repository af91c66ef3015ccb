"""Where people keep results: evaluations and training runs in MLflow, W&B and TensorBoard."""

from typing import TYPE_CHECKING, Any

from torchsaliency.tracking.trackers import TRACKERS, PictureFolder, Tracker, create_tracker
from torchsaliency.tracking.training import FixedImages

if TYPE_CHECKING:
    from torchsaliency.tracking.evaluation import EvaluationLog

__all__ = [
    "TRACKERS",
    "EvaluationLog",
    "FixedImages",
    "PictureFolder",
    "Tracker",
    "create_tracker",
]


def __getattr__(name: str) -> Any:
    """Import what needs the extra `eval` at its first use: maps of a training run do not."""
    if name == "EvaluationLog":
        from torchsaliency.tracking.evaluation import EvaluationLog  # noqa: PLC0415

        return EvaluationLog
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
