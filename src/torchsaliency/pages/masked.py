"""The class's probability before and after masking, and what follows from it, in words."""

from __future__ import annotations

from torch import nn

from torchsaliency.core.explanation import Explanation
from torchsaliency.core.masking import Masking
from torchsaliency.core.target import ClassTarget
from torchsaliency.measures import masked_scores
from torchsaliency.pages.views import format_probability


def describe_masked(
    model: nn.Module, explanation: Explanation, masking: Masking | None = None
) -> tuple[str, ...]:
    """Say how probable the explained class is on the image masked by its map; takes one pass.

    AD is the drop max(0, p - o) / p and AG the gain max(0, o - p) / (1 - p), p before and o after.

    Args:
        model: the explained network.
        explanation: of one image.
        masking: the baseline; the explanation's own by default.

    Returns:
        Two lines; none where no class with a probability is explained.

    Example:
        >>> describe_masked(net, explanations["gradcam"][0])  # doctest: +SKIP
        ('masked 36.4 % → 41.0 %', 'AD 0.0 % · AG 7.2 %')
    """
    target = explanation.target
    if not (isinstance(target, ClassTarget) and explanation.scores.classes):
        return ()
    found = masked_scores(
        explanation.wrap(model),
        explanation.given,
        explanation.map,
        target.labels,
        masking=masking or explanation.masking,
        clean=explanation.output,
    )
    before, after = float(found.clean[0]), float(found.masked[0])
    drop = max(0.0, before - after) / before if before > 0 else 0.0
    rest = float(found.clean_rest[0])
    gain = max(0.0, after - before) / rest if rest > 0 else 0.0
    shares = f"{format_probability(before)} → {format_probability(after)}"
    return (
        f"masked {shares}",
        f"AD {format_probability(drop)} · AG {format_probability(gain)}",
    )
