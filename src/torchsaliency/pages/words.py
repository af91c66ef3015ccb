"""What is explained of an image, in words that a page shows beside the map."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from torchsaliency.core.detection import BoxScore, DetectionScore
from torchsaliency.core.explanation import Explanation
from torchsaliency.core.neurons import Neuron
from torchsaliency.core.segmentation import MaskScore
from torchsaliency.core.target import (
    TARGETS,
    ClassTarget,
    Contrast,
    EmbeddingSimilarity,
    Logit,
    Regression,
    Target,
)


def describe_target(
    explanation: Explanation, index: int, classes: Sequence[str] | None
) -> tuple[str, float | None]:
    """Return what is explained of one image in words, and its probability on the clean image."""
    target = explanation.target
    if isinstance(target, ClassTarget) and target.labels is not None:
        label = int(target.labels[index])
        probability = None
        if explanation.scores.classes and isinstance(explanation.output, Tensor):
            row = explanation.output[index : index + 1].detach().float()
            probability = float(explanation.scores.probabilities(row)[0, label])
        name = name_class(label, classes)
        return name if isinstance(target, Logit) else f"{_kind(target)} of {name}", probability
    if isinstance(target, Contrast):
        other = name_class(int(target.others[index, 0]), classes)
        return f"{name_class(int(target.labels[index]), classes)} rather than {other}", None
    score = f"{float(explanation.score[index]):.3g}".replace("-", "−")
    return f"{_describe(target, index, classes)}, score {score}", None


def name_class(label: int, classes: Sequence[str] | None) -> str:
    """Return a class's name, "class 7" where it has none."""
    return classes[label] if classes is not None and label < len(classes) else f"class {label}"


def _describe(target: Target, index: int, classes: Sequence[str] | None) -> str:
    """Return what a target without a class of the whole image is."""
    if isinstance(target, Regression):
        return f"{'minus ' if target.sign < 0 else ''}output {target.index}"
    if isinstance(target, Neuron):
        place = str(target.index).strip("(),")
        return f"neuron {place} of {target.layer or 'the output'}"
    if isinstance(target, EmbeddingSimilarity):
        return f"similarity ({target.kind}) of the embedding"
    if isinstance(target, MaskScore):
        category = target.category
        label = int(category[index]) if isinstance(category, Tensor) else category
        area = float(target.masks[index].float().mean())
        return f"{name_class(label, classes)} over {area:.1%} of the image".replace("%", " %")
    if isinstance(target, DetectionScore | BoxScore):
        return ", ".join(name_class(int(one), classes) for one in target.labels[index].view(-1))
    return _kind(target)


def _kind(target: Target) -> str:
    """Return a target's name on the command line, or its type's where it has none."""
    names = {entry.factory: name for name, entry in TARGETS.entries().items()}
    return names.get(type(target), type(target).__name__)
