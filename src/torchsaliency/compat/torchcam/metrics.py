"""Metrics that explain and judge at once: an extractor's maps, and the scores of changed images."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, final

import torch
from torch import Tensor, nn

from torchsaliency.compat._shared import EachImage, read_as_given
from torchsaliency.compat.torchcam.methods.core import Targets
from torchsaliency.core.maps import upsample
from torchsaliency.core.masking import Masking
from torchsaliency.core.target import Logit, Scores, Target
from torchsaliency.errors import InputError, OptionError, TargetError
from torchsaliency.measures.judge import judging
from torchsaliency.measures.perturbation import perturbation_curve
from torchsaliency.metrics.functional import area_under_curve, average_drop, average_increase

LogitsFunction = Callable[[Any], Any]
Baseline = Tensor | Callable[[Tensor], Tensor] | None


class _Metric:
    """What both metrics share: maps of a batch, what was explained, and a count."""

    def __init__(self, cam_extractor: Any, logits_fn: LogitsFunction | None = None) -> None:
        self.cam_extractor, self.logits_fn = cam_extractor, logits_fn
        self.reset()

    def reset(self) -> None:
        """Forget all images."""
        self.total, self.nan_count = 0, 0
        self._sums: list[Tensor] = []

    def _explain(
        self, images: Tensor, class_idx: int | list[int] | None, targets: Targets
    ) -> tuple[Tensor, Tensor, Target]:
        """Return the images with a finite map, their maps, and the target of each."""
        extractor = self.cam_extractor
        if class_idx is not None and targets is not None:
            raise TargetError("Give class_idx or targets, and not both.")
        with _evaluating(extractor.model):
            output = extractor.model(images)
            scores = output if self.logits_fn is None else self.logits_fn(output)
            target: Target
            if targets is None:
                target = Logit(class_idx).resolve(scores.detach())
                labels = class_idx if isinstance(class_idx, int) else target.labels.tolist()
                cams = extractor(labels, scores)
            else:
                several = [targets] * len(images) if callable(targets) else list(targets)
                target = EachImage(tuple(several))
                cams = extractor(scores=scores, targets=targets)
        maps = extractor.fuse_cams(cams).detach()
        if images.ndim != maps.ndim + 1:
            raise InputError(
                f"Images of {tuple(images.shape)} were given; 1D, 2D and 3D ones have maps."
            )
        found = ~maps.isnan().flatten(1).any(1)
        self.nan_count += int((~found).sum())
        kept = self._kept = found.nonzero()[:, 0]
        size = tuple(images.shape[2:])
        chosen = _OfScores(target, self.logits_fn).take(kept)
        return images.detach()[kept], upsample(maps[kept], size), chosen

    def _record(self, *columns: Tensor) -> None:
        self.total += len(columns[0])
        self._sums.append(torch.stack([column.sum() for column in columns]).cpu())

    def _means(self, *names: str) -> dict[str, float]:
        if not self.total:
            raise AssertionError("No image was seen with a finite map; call update() first.")
        means = torch.stack(self._sums).sum(0) / self.total
        return dict(zip(names, means.tolist(), strict=True))


class ClassificationMetric(_Metric):
    """Average drop and increase in confidence under the mask x ⊙ S.

    Args:
        cam_extractor: an extractor of this package, or an object that is called like one.
        logits_fn: makes probabilities of the network's output, such as a softmax.
    """

    def update(
        self,
        input_tensor: Tensor,
        class_idx: int | list[int] | None = None,
        *,
        targets: Targets = None,
    ) -> None:
        """Explain a batch and score it under its maps.

        Args:
            input_tensor: images (N, C, *size).
            class_idx: a class, or one for each image; None for the best scored.
            targets: in place of classes, as the extractor takes them.

        Raises:
            TargetError: classes or targets do not fit.
            InputError: scores that are no probabilities.
        """
        images, maps, target = self._explain(input_tensor, class_idx, targets)
        if not len(images):
            return
        stages = torch.stack([images, images * maps[:, None].to(images)], 1)
        with (
            self.cam_extractor._hooks_off(),
            judging(read_as_given(self.cam_extractor.model), images) as judge,
        ):
            scores = judge.target_scores(target, 2, lambda image, place: stages[image, place])
        clean, masked = scores.unbind(1)
        self._record(average_drop(clean, masked) / 100, average_increase(clean, masked) / 100)

    def summary(self) -> dict[str, float]:
        """Return the means over all images, in [0, 1].

        Raises:
            AssertionError: no image was seen.
        """
        return self._means("avg_drop", "conf_increase")


class DeletionInsertionMetric(_Metric):
    """The areas under the curves of a score as pixels go, or come, in the order of the map.

    Args:
        cam_extractor: as `ClassificationMetric`.
        logits_fn: as `ClassificationMetric`.
        steps: how many steps a curve has at most.
        baseline: what hidden pixels are: a tensor that can be broadcast to the images, a function
            that makes one of them, or None for zeros.
        batch_size: images in one pass.
    """

    def __init__(
        self,
        cam_extractor: Any,
        logits_fn: LogitsFunction | None = None,
        *,
        steps: int = 20,
        baseline: Baseline = None,
        batch_size: int = 32,
    ) -> None:
        for name, value in (("steps", steps), ("batch_size", batch_size)):
            if isinstance(value, bool) or not isinstance(value, int):
                raise TypeError(f"{name} is an integer, and {value!r} was given.")
            if value < 1:
                raise OptionError(f"{name} must be positive, and {value} was given.")
        if baseline is not None and not isinstance(baseline, Tensor) and not callable(baseline):
            raise TypeError(f"baseline is a tensor, a function or None, not {baseline!r}.")
        self.steps, self.baseline, self.batch_size = steps, baseline, batch_size
        super().__init__(cam_extractor, logits_fn)

    def update(
        self,
        input_tensor: Tensor,
        class_idx: int | list[int] | None = None,
        *,
        targets: Targets = None,
    ) -> None:
        """Explain a batch and draw its curves; arguments as `ClassificationMetric.update`."""
        images, maps, target = self._explain(input_tensor, class_idx, targets)
        if not len(images):
            return
        pixels = maps[0].numel()
        masking = _Given(_make_baseline(self.baseline, input_tensor.detach())[self._kept])
        areas = []
        with self.cam_extractor._hooks_off():
            for order in ("deletion", "insertion"):
                curve = perturbation_curve(
                    read_as_given(self.cam_extractor.model),
                    images,
                    maps,
                    target,
                    order=order,
                    step=-(-pixels // self.steps),
                    masking=masking,
                    chunk=self.batch_size,
                )
                areas.append(area_under_curve(curve.probabilities, curve.fractions) / 100)
        self._record(*areas)

    def summary(self) -> dict[str, float]:
        """Return the mean areas over all images.

        Raises:
            AssertionError: no image was seen.
        """
        return self._means("deletion_auc", "insertion_auc")


@final
@dataclass(frozen=True, eq=False)
class _OfScores(Target):
    """A target of what a function makes of the whole output."""

    target: Target
    function: LogitsFunction | None

    def __call__(self, output: Any) -> Scores:
        return self.target(output if self.function is None else self.function(output))

    def take(self, index: Tensor) -> Target:
        return replace(self, target=self.target.take(index))

    def describe(self) -> dict[str, Any]:
        return {"kind": "of scores", "target": self.target.describe()}


def _make_baseline(source: Baseline, images: Tensor) -> Tensor:
    """Return what hidden pixels are, of the images' shape.

    Raises:
        TypeError: a function gave no tensor.
        InputError: it cannot be broadcast.
    """
    if source is None:
        return torch.zeros_like(images)
    found = source if isinstance(source, Tensor) else source(images)
    if not isinstance(found, Tensor):
        raise TypeError(f"The baseline function gave a {type(found).__name__}, not a tensor.")
    try:
        return found.to(images).expand_as(images)
    except RuntimeError:
        raise InputError(
            f"A baseline of {tuple(found.shape)} cannot be broadcast to images of "
            f"{tuple(images.shape)}."
        ) from None


@final
@dataclass(frozen=True, eq=False)
class _Given(Masking):
    """An image for each image."""

    images: Tensor

    def baseline(self, images: Tensor) -> Tensor:  # noqa: ARG002
        return self.images

    def describe(self) -> dict[str, Any]:
        return {"baseline": "given"}


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Let a network be in evaluation mode, and give each module its own mode back."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode
