"""Evaluation: maps scored by measures and metrics."""

from torchsaliency.evaluation.scoring import Bench, score

__all__ = ["Bench", "score"]
