"""A metric of the library with Quantus' arguments."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, final

import numpy as np
import torch
from torch import Tensor, nn

from torchsaliency.compat.quantus.explaining import (
    ExplainFunction,
    GivenFunction,
    read_maps,
    require_positive,
)
from torchsaliency.core.explain import explain as explain_images
from torchsaliency.core.explanation import Explanation
from torchsaliency.core.maps import Normalisation, normalise
from torchsaliency.core.masking import GivenImage, ImageMinimum, Masking, MeanColour
from torchsaliency.core.target import Logit
from torchsaliency.errors import InputError, OptionError
from torchsaliency.evaluation.scoring import score
from torchsaliency.measures import network_stages
from torchsaliency.metrics.base import create_metric, metric_entry

Convert = Callable[[Any, tuple[int, ...]], Any]
"""Makes an option of the library of one of Quantus', for images of a shape."""


def keep_value(value: Any, shape: tuple[int, ...]) -> Any:
    """Return an option as it was given."""
    del shape
    return value


def _count_pixels(shape: tuple[int, ...]) -> int:
    return int(np.prod(shape[2:]))


def count_groups(values: Any, shape: tuple[int, ...]) -> int:
    """Return how many groups of pixels there are, of so many values in all colours."""
    return max(2, min(_count_pixels(shape), round(_count_pixels(shape) * shape[1] / values)))


def count_step(values: Any, shape: tuple[int, ...]) -> int:
    """Return how many pixels make so many values in all colours."""
    return max(1, round(values / shape[1]))


def count_share(values: Any, shape: tuple[int, ...]) -> float:
    """Return the share of the pixels that so many of an image's numbers are."""
    return min(1.0, float(values) / (_count_pixels(shape) * shape[1]))


_FREE = frozenset(
    {
        *("disable_warnings", "display_progressbar", "default_plot_func", "aggregate_func"),
        *("normalise", "return_aggregate", "num_classes"),
    }
)
"""Options that change no number: warnings, pictures, and the count of classes, which is known."""


@final
@dataclass(frozen=True, eq=False)
class Asked:
    """A batch that is explained, and how it is judged."""

    model: nn.Module
    made: Explanation
    masks: Tensor | None
    softmax: bool | None
    batch_size: int


@dataclass(frozen=True)
class Spec:
    """What a class of Quantus' is here.

    Attributes:
        metric: the library's name, "" if it is a curve.
        absolute: whether Quantus takes absolute values by default.
        order: whether only the order of the pixels counts, so that maps may have signs.
        options: of Quantus' options the default, the library's name, and how it is converted.
        fixed: options of the library that make it Quantus' metric.
    """

    metric: str
    absolute: bool = False
    order: bool = False
    options: Mapping[str, tuple[Any, str, Convert]] = field(default_factory=dict)
    fixed: Mapping[str, Any] = field(default_factory=dict)


class Metric:
    """A metric of Quantus': made with its options, called with a network and arrays.

    Args:
        abs: whether absolute values of the maps are taken; the metric's own default if None.
        perturb_baseline: what hidden pixels show: "black" (the image's smallest number), "mean"
            (the mean colour, 0) or a number.
        return_aggregate: whether the mean over the images is returned, in a list.
        aggregate_func: in the place of the mean.
        options: others of Quantus'; those without an equal here must be left out.

    Raises:
        OptionError: an option has no equal.
    """

    _spec: ClassVar[Spec]

    def __init__(
        self,
        abs: bool | None = None,  # noqa: A002 (Quantus' name)
        perturb_baseline: Any = "black",
        return_aggregate: bool = False,
        aggregate_func: Callable[[Any], Any] | None = None,
        **options: Any,
    ) -> None:
        self.absolute = self._spec.absolute if abs is None else abs
        self.return_aggregate, self.aggregate_func = return_aggregate, aggregate_func or np.mean
        self.masking = _read_baseline(perturb_baseline)
        self.layer: Any = options.pop("layer_names", None)
        known = self._spec.options
        for name, value in options.items():
            if name not in known and name not in _FREE and value is not None:
                listed = ", ".join(known) or "none"
                raise OptionError(
                    f"{type(self).__name__}.{name} has no equal here; leave it out (its options "
                    f"are abs, perturb_baseline and {listed})."
                )
        self.options = {name: options.get(name, known[name][0]) for name in known}
        self.evaluation_scores: Any = None

    def __call__(  # noqa: PLR0913, PLR0917 (Quantus' arguments)
        self,
        model: Any,
        x_batch: Any,
        y_batch: Any,
        a_batch: Any = None,
        s_batch: Any = None,
        channel_first: bool | None = None,
        explain_func: ExplainFunction | None = None,
        explain_func_kwargs: Mapping[str, Any] | None = None,
        model_predict_kwargs: Mapping[str, Any] | None = None,
        softmax: bool | None = None,
        device: Any = None,
        batch_size: int = 64,
        **others: Any,
    ) -> list[Any]:
        """Return one number an image, or a curve an image.

        Args:
            model: the network; None for a metric that reads given maps alone.
            x_batch: images (N, C, *size).
            y_batch: a class of each.
            a_batch: their maps (N, 1, *size) or (N, *size); made by `explain_func` if None.
            s_batch: masks of the objects (N, 1, *size), for metrics of localisation.
            channel_first: not False.
            explain_func: called with model, inputs and targets, wherever a metric explains again.
            explain_func_kwargs: its other arguments.
            model_predict_kwargs: None.
            softmax: False for logits in the place of probabilities, where a metric can read them.
            device: images are moved to the network's.
            batch_size: images in one pass.
            others: none.

        Raises:
            OptionError: something has no equal here, or `explain_func` is missing.
            InputError: maps or masks do not fit the images.
        """
        del device
        refused = {"model_predict_kwargs": model_predict_kwargs, **others}
        if channel_first is False or any(value is not None for value in refused.values()):
            names = [name for name, value in refused.items() if value is not None]
            raise OptionError(
                f"{', '.join(names) or 'channel_first=False'} has no equal here; give images "
                "(N, C, …), and a network that needs no more."
            )
        images = torch.as_tensor(np.asarray(x_batch)).float()
        masks = _read_masks(s_batch, images.ndim)
        if a_batch is not None and self._reads_maps_alone:
            found = self._evaluate_maps(self._scale(a_batch, images), masks)
        else:
            labels = torch.as_tensor(np.asarray(y_batch)).long()
            made = self._explain(model, images, labels, a_batch, explain_func, explain_func_kwargs)
            found = self._evaluate(Asked(model, made, masks, softmax, batch_size))
        scores: list[Any] = found.tolist()
        if self.return_aggregate:
            scores = [self.aggregate_func(scores)]
        self.evaluation_scores = scores
        return scores

    def _explain(
        self,
        model: Any,
        images: Tensor,
        labels: Tensor,
        maps: Any,
        function: ExplainFunction | None,
        arguments: Mapping[str, Any] | None,
    ) -> Explanation:
        """Return the maps that are scored, as of a method that explains by the user's function."""
        if maps is None and function is None:
            raise OptionError("Neither a_batch nor explain_func was given; give one of them.")
        method = GivenFunction(function, arguments or {}, self.absolute, self._scaling)
        given = method if maps is None else replace(method, function=lambda **_: maps, arguments={})
        needs_layer = "noisy_features" in self._requires
        layer = self.layer if self.layer else None if needs_layer else "input"
        target = Logit(labels)
        found = explain_images(
            model, images, {"explain_func": given}, target, layer, masking=self.masking
        )
        return replace(found["explain_func"], method=method)

    @property
    def _reads_maps_alone(self) -> bool:
        """Whether a metric needs no network once there are maps."""
        spec = self._spec
        return bool(spec.metric) and {"maps", "masks"} >= {*metric_entry(spec.metric).inputs}

    def _scale(self, maps: Any, images: Tensor) -> Tensor:
        """Return given maps as the metric reads them, in [0, 1]."""
        found = read_maps(maps, tuple(images.shape))
        found = found.abs() if self.absolute else found
        if not self._spec.order:
            require_positive(found)
        return normalise(found, self._scaling)

    def _evaluate_maps(self, maps: Tensor, masks: Tensor | None) -> Tensor:
        """Return the numbers of a metric that reads maps, and perhaps masks, alone."""
        entry = metric_entry(self._spec.metric)
        given = {"maps": maps, "masks": masks}
        wanted = {name: given[name] for name in entry.inputs}
        if any(value is None for value in wanted.values()):
            raise InputError(f"{type(self).__name__} needs masks of the objects, as s_batch.")
        shape = (len(maps), 1, *maps.shape[1:])
        metric = create_metric(self._spec.metric, {**self._make_options(shape), **self._spec.fixed})
        metric.update(**wanted)
        return metric.per_image / (100 if entry.unit == "%" else 1)

    def _make_options(self, shape: tuple[int, ...]) -> dict[str, Any]:
        """Return the library's options, for images of a shape."""
        return {
            ours: convert(self.options[theirs], shape)
            for theirs, (_, ours, convert) in self._spec.options.items()
        }

    @property
    def _scaling(self) -> Normalisation:
        return "range" if self._spec.order else "max"

    @property
    def _requires(self) -> tuple[str, ...]:
        return metric_entry(self._spec.metric).requires if self._spec.metric else ()

    def _evaluate(self, asked: Asked) -> Tensor:
        if self._reads_maps_alone:
            return self._evaluate_maps(asked.made.map, asked.masks)
        softmax, made = asked.softmax, asked.made
        entry = metric_entry(self._spec.metric)
        options = self._make_options(tuple(made.images.shape))
        if "stages" in entry.options:  # Quantus makes all of them random
            options["stages"] = len(network_stages(asked.model))
        if softmax is not None and "by" in entry.options:
            options["by"] = "probability" if softmax else "logit"
        elif softmax is False and entry.unit == "%" and entry.group == "faithfulness":
            raise self._needs_probabilities()
        metric = create_metric(self._spec.metric, {**options, **self._spec.fixed})
        score(
            asked.model,
            made,
            [metric],
            masks=asked.masks,
            masking=self.masking,
            chunk=asked.batch_size,
        )
        return metric.per_image / (100 if entry.unit == "%" else 1)

    def _needs_probabilities(self) -> OptionError:
        return OptionError(
            f"{type(self).__name__} is of probabilities here, and softmax=False was given; leave "
            "it out."
        )


def _read_baseline(value: Any) -> Masking:
    if isinstance(value, float | int) and not isinstance(value, bool):
        return GivenImage(torch.full((1, 1, 1), float(value)))
    known = {"black": ImageMinimum(), "mean": MeanColour()}
    if value not in known:
        raise OptionError(
            f"perturb_baseline is {value!r}, which has no equal here; give black, mean or a number."
        )
    return known[value]


def _read_masks(masks: Any, sides: int) -> Tensor | None:
    """Return masks (N, *size), of images of so many dimensions."""
    if masks is None:
        return None
    found = torch.as_tensor(np.asarray(masks))
    return (found[:, 0] if found.ndim == sides and found.shape[1] == 1 else found).long()
