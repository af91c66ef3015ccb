"""Quantus' names and calls: `from torchsaliency.compat import quantus`.

Its metrics are this library's, asked with arrays. `explain` serves the library's methods to the
metrics here and to those of the real Quantus. What changes, and what is corrected, is in
docs/from-quantus.md.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, final

import numpy as np
import torch
from torch import Tensor, nn

from torchsaliency.compat._shared import Array, to_numpy
from torchsaliency.core.explain import explain as explain_images
from torchsaliency.core.explanation import Explanation
from torchsaliency.core.maps import Normalisation, normalise
from torchsaliency.core.masking import GivenImage, ImageMinimum, Masking, MeanColour
from torchsaliency.core.method import Method, MethodEntry, Needs, Saliency, create, require_signs
from torchsaliency.core.target import Logit
from torchsaliency.core.trace import View
from torchsaliency.errors import InputError, OptionError
from torchsaliency.evaluation.scoring import score
from torchsaliency.measures import network_stages, perturbation_curve, region_curve
from torchsaliency.metrics.base import create_metric, metric_entry
from torchsaliency.metrics.functional import focus

ExplainFunction = Callable[..., Array]
"""Called with model, inputs and targets; returns maps (N, 1, *size) or (N, *size)."""

CAPTUM_NAMES = {
    "Saliency": "saliency",
    "InputXGradient": "input-x-gradient",
    "IntegratedGradients": "integrated-gradients",
    "GradientShap": "gradientshap",
    "DeepLift": "deeplift",
    "DeepLiftShap": "deepshap",
    "Deconvolution": "deconvnet",
    "Occlusion": "occlusion",
    "FeatureAblation": "feature-ablation",
    "LayerGradCam": "gradcam",
}
"""Methods that Quantus calls by captum's names."""


def explain(
    model: nn.Module,
    inputs: Any,
    targets: Any,
    *,
    method: str = "saliency",
    layer: Any = None,
    signed: bool = False,
    device: Any = None,
    **options: Any,
) -> Array:
    """Return maps (N, 1, *size) of a method, as Quantus wants them of an `explain_func`.

    Args:
        model: the network.
        inputs: images (N, C, *size), as an array or a tensor.
        targets: a class of each image.
        method: its name here, or captum's.
        layer: as `torchsaliency.explain` takes it.
        signed: whether what speaks against the class is below 0; else maps are in [0, 1].
        device: images are moved to the network's.
        options: of the method.

    Raises:
        OptionError: there is no such method or option, or the method has no signs.
    """
    del device
    options.pop("xai_lib", None)
    chosen = create(CAPTUM_NAMES.get(method, method), options)
    labels = torch.as_tensor(np.asarray(targets)).long()
    images = torch.as_tensor(np.asarray(inputs)).float()
    found = explain_images(model, images, {"it": chosen}, labels, layer)["it"]
    if not signed:
        return to_numpy(found.map[:, None])
    require_signs(chosen)
    assert found.signed is not None
    return to_numpy(found.signed[:, None])


@final
@dataclass(frozen=True, eq=False)
class _Explained(Method):
    """Maps of a user's function, of whatever images and networks a measure shows it."""

    joint: ClassVar[bool] = True

    function: ExplainFunction | None
    arguments: Mapping[str, Any]
    absolute: bool
    normalisation: Normalisation

    def __post_init__(self) -> None:
        entry = MethodEntry("explain_func", _Explained, "attribution", "given", Needs.TARGET)
        object.__setattr__(self, "entry", entry)  # frozen, and set once

    def saliency(self, view: View) -> Saliency:
        """Return what the function gives, or its absolute values."""
        if self.function is None:
            raise OptionError(
                "This metric explains changed images or networks again; give explain_func, such as "
                "torchsaliency.compat.quantus.explain."
            )
        labels = view.target.labels  # type: ignore[attr-defined]
        found = self.function(
            model=view.session.net,
            inputs=to_numpy(view.images),
            targets=labels.cpu().numpy(),
            **self.arguments,
        )
        maps = _read_maps(found, tuple(view.images.shape)).to(view.images.device)
        raw = maps.abs() if self.absolute else maps
        if self.normalisation == "max":
            _require_positive(raw)
        return Saliency(raw, attributions=maps[:, None])


def _read_maps(found: Any, shape: tuple[int, ...]) -> Tensor:
    """Return maps (N, *size) of an array, for images of a shape.

    Raises:
        InputError: they do not fit the images.
    """
    maps = torch.as_tensor(np.array(found)).float()
    if maps.ndim == len(shape) and maps.shape[1] == 1:
        maps = maps[:, 0]
    if tuple(maps.shape) != (shape[0], *shape[2:]):
        raise InputError(
            f"Maps of {tuple(np.shape(found))} were given for images of {shape}; give one number a "
            "pixel, (N, 1, …), such as a sum over the colours."
        )
    return maps


Convert = Callable[[Any, tuple[int, ...]], Any]
"""Makes an option of the library of one of Quantus', for images of a shape."""


def _same(value: Any, shape: tuple[int, ...]) -> Any:
    del shape
    return value


def _pixels(shape: tuple[int, ...]) -> int:
    return int(np.prod(shape[2:]))


def _groups(values: Any, shape: tuple[int, ...]) -> int:
    """Return how many groups of pixels there are, of so many values in all colours."""
    return max(2, min(_pixels(shape), round(_pixels(shape) * shape[1] / values)))


def _step(values: Any, shape: tuple[int, ...]) -> int:
    """Return how many pixels make so many values in all colours."""
    return max(1, round(values / shape[1]))


def _share(values: Any, shape: tuple[int, ...]) -> float:
    return min(1.0, float(values) / (_pixels(shape) * shape[1]))


_FREE = frozenset(
    {
        *("disable_warnings", "display_progressbar", "default_plot_func", "aggregate_func"),
        *("normalise", "return_aggregate", "num_classes"),
    }
)
"""Options that change no number: warnings, pictures, and the count of classes, which is known."""


@dataclass(frozen=True)
class _Spec:
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

    _spec: ClassVar[_Spec]

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
            found = self._evaluate(model, made, masks, softmax, batch_size)
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
        method = _Explained(function, arguments or {}, self.absolute, self._scaling)
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
        found = _read_maps(maps, tuple(images.shape))
        found = found.abs() if self.absolute else found
        if not self._spec.order:
            _require_positive(found)
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

    def _evaluate(
        self,
        model: nn.Module,
        made: Explanation,
        masks: Tensor | None,
        softmax: bool | None,
        batch_size: int,
    ) -> Tensor:
        entry = metric_entry(self._spec.metric)
        options = self._make_options(tuple(made.images.shape))
        if "stages" in entry.options:  # Quantus makes all of them random
            options["stages"] = len(network_stages(model))
        if softmax is not None and "by" in entry.options:
            options["by"] = "probability" if softmax else "logit"
        elif softmax is False and entry.unit == "%" and entry.group == "faithfulness":
            raise self._needs_probabilities()
        metric = create_metric(self._spec.metric, {**options, **self._spec.fixed})
        score(model, made, [metric], masks=masks, masking=self.masking, chunk=batch_size)
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


def _require_positive(maps: Tensor) -> None:
    if bool((maps < 0).any()):
        raise OptionError(
            "The maps have negative values, and this metric reads how much each pixel counts; "
            "give abs=True, or maps without signs."
        )


@final
class PixelFlipping(Metric):
    """The probability as the most salient pixels disappear: a curve an image, or its area."""

    _spec = _Spec("", order=True, options={"features_in_step": (1, "step", _step)})

    def __init__(self, *, return_auc_per_sample: bool = False, **options: Any) -> None:
        super().__init__(**options)
        self.return_auc_per_sample = return_auc_per_sample

    def _evaluate(
        self,
        model: nn.Module,
        made: Explanation,
        masks: Tensor | None,
        softmax: bool | None,
        batch_size: int,
    ) -> Tensor:
        del masks
        if softmax is False:
            raise self._needs_probabilities()
        curve = perturbation_curve(
            model,
            made.images,
            made.map,
            made.target,
            order="deletion",
            step=_step(self.options["features_in_step"], tuple(made.images.shape)),
            masking=self.masking,
            chunk=batch_size,
        ).probabilities[:, 1:]
        return torch.trapezoid(curve, dim=1) if self.return_auc_per_sample else curve


@final
class RegionPerturbation(Metric):
    """How far the probability has fallen after each region: a curve an image."""

    _spec = _Spec(
        "",
        order=True,
        options={
            "patch_size": (8, "patch", _same),
            "regions_evaluation": (100, "regions", _same),
            "order": ("morf", "order", _same),
        },
    )

    def _evaluate(
        self,
        model: nn.Module,
        made: Explanation,
        masks: Tensor | None,
        softmax: bool | None,
        batch_size: int,
    ) -> Tensor:
        del masks
        if softmax is False:
            raise self._needs_probabilities()
        orders = {"morf": "most", "lerf": "least"}
        if self.options["order"] not in orders:
            raise OptionError(f"order is {self.options['order']!r}; give morf or lerf.")
        patch, regions = self.options["patch_size"], self.options["regions_evaluation"]
        most = int(np.prod([side // patch for side in made.images.shape[2:]]))
        curve = region_curve(
            model,
            made.images,
            made.map,
            made.target,
            patch=patch,
            regions=min(regions, most),
            placement="grid",
            order=orders[self.options["order"]],  # type: ignore[arg-type]
            masking=self.masking,
            chunk=batch_size,
        ).probabilities
        return curve[:, :1] - curve[:, 1:]


@final
class PointingGame(Metric):
    """Whether a largest pixel lies on the object: 1 or 0."""

    _spec = _Spec("", order=True)

    @property
    def _reads_maps_alone(self) -> bool:
        return True

    def _evaluate(
        self,
        model: nn.Module,
        made: Explanation,
        masks: Tensor | None,
        softmax: bool | None,
        batch_size: int,
    ) -> Tensor:
        del model, softmax, batch_size
        return self._evaluate_maps(made.map, masks)

    def _evaluate_maps(self, maps: Tensor, masks: Tensor | None) -> Tensor:
        if masks is None or masks.shape != maps.shape:
            raise InputError(
                f"PointingGame needs masks of {tuple(maps.shape)} as s_batch; "
                f"{None if masks is None else tuple(masks.shape)} was given."
            )
        maps = maps.flatten(1)
        largest = maps == maps.amax(1, keepdim=True)
        return (largest & (masks.to(maps.device).flatten(1) > 0)).any(1).double()


@final
class Focus(Metric):
    """The share of a mosaic's map on the tiles of the class that is explained.

    Called with mosaics as `x_batch`, and where in each the class is as `custom_batch`: 1 or 0 for
    top left, top right, bottom left and bottom right.
    """

    _spec = _Spec("")

    def __call__(self, *args: Any, custom_batch: Any = None, **kwargs: Any) -> list[Any]:
        """Return the share of each mosaic, in [0, 1]; other arguments as `Metric`.

        Raises:
            OptionError: `custom_batch` is missing, or not of four numbers a mosaic.
        """
        found = np.asarray(() if custom_batch is None else custom_batch)
        if found.ndim != 2 or found.shape[1] != 4:  # noqa: PLR2004
            raise OptionError(
                "Focus needs custom_batch=, four numbers a mosaic that say which tiles are of its "
                f"class, such as (1, 0, 0, 1); {found.shape} was given."
            )
        self._tiles = torch.as_tensor(found).bool()
        return super().__call__(*args, **kwargs)

    def _scale(self, maps: Any, images: Tensor) -> Tensor:
        """Return what is above 0 of given maps: no other relevance counts."""
        return normalise(_read_maps(maps, tuple(images.shape)).clamp_min(0), "max")

    @property
    def _reads_maps_alone(self) -> bool:
        return True

    def _evaluate(
        self,
        model: nn.Module,
        made: Explanation,
        masks: Tensor | None,
        softmax: bool | None,
        batch_size: int,
    ) -> Tensor:
        del model, softmax, batch_size
        return self._evaluate_maps(made.map, masks)

    def _evaluate_maps(self, maps: Tensor, masks: Tensor | None) -> Tensor:
        del masks
        height, width = maps.shape[1:]
        middle_row, middle_column = height // 2, width // 2
        tiles = torch.tensor(
            [
                (0, 0, middle_column, middle_row),
                (middle_column, 0, width, middle_row),
                (0, middle_row, middle_column, height),
                (middle_column, middle_row, width, height),
            ]
        )
        shares = [
            focus(one[None], tiles[kept][None])
            for one, kept in zip(maps.cpu(), self._tiles, strict=True)
        ]
        return torch.cat(shares) / 100


_SAMPLES = {"nr_samples": (200, "samples", _same)}
_STABLE = {**_SAMPLES, "eps_min": (1e-6, "least", _same)}
_NOISY = {**_SAMPLES, "lower_bound": (0.2, "radius", _same)}
_SEED = {"seed": (42, "seed", _same)}

_SPECS = {
    "Completeness": _Spec("completeness", order=True),
    "InputInvariance": _Spec("input-invariance", options={"input_shift": (-1, "shift", _same)}),
    "NonSensitivity": _Spec("non-sensitivity", True, options={"eps": (1e-5, "least", _same)}),
    "Complexity": _Spec("entropy", True),
    "EffectiveComplexity": _Spec(
        "effective-complexity", True, options={"eps": (1e-5, "threshold", _same)}
    ),
    "Sparseness": _Spec("sparseness", True),
    "MSTC": _Spec("mst-c", True, options={"threshold": (80.0, "percentile", _same)}),
    "FaithfulnessCorrelation": _Spec(
        "faithfulness-correlation",
        order=True,
        options={"nr_runs": (100, "samples", _same), "subset_size": (224, "share", _share)},
    ),
    "FaithfulnessEstimate": _Spec(
        "faithfulness-estimate", order=True, options={"features_in_step": (1, "groups", _groups)}
    ),
    "Infidelity": _Spec(
        "infidelity",
        options={"n_perturb_samples": (10, "samples", _same)},
        fixed={"normalise": False},
    ),
    "IROF": _Spec("irof", order=True),
    "Monotonicity": _Spec(
        "monotonicity", True, order=True, options={"features_in_step": (1, "step", _step)}
    ),
    "MonotonicityCorrelation": _Spec(
        "monotonicity-correlation",
        True,
        order=True,
        options={
            "features_in_step": (1, "groups", _groups),
            "nr_samples": (100, "samples", _same),
        },
    ),
    "ROAD": _Spec("road", order=True, options={"noise": (0.01, "noise", _same)}),
    "Selectivity": _Spec("selectivity", order=True, options={"patch_size": (8, "patch", _same)}),
    "SensitivityN": _Spec("sensitivity-n", order=True),
    "Sufficiency": _Spec(
        "sufficiency",
        True,
        options={"threshold": (0.6, "threshold", _same)},
        fixed={"itself": False},
    ),
    "AttributionLocalisation": _Spec(
        "attribution-localisation",
        True,
        options={"weighted": (False, "weighted", _same), "max_size": (1.0, "max_size", _same)},
    ),
    "AUC": _Spec("auc", order=True),
    "RelevanceMassAccuracy": _Spec("relevance-mass"),
    "RelevanceRankAccuracy": _Spec("relevance-rank", order=True),
    "TopKIntersection": _Spec(
        "top-k",
        order=True,
        options={
            "k": (1000, "k", _same),
            "concept_influence": (False, "concept_influence", _same),
        },
    ),
    "MPRT": _Spec("mprt", True, options=_SEED),
    "EfficientMPRT": _Spec("emprt", options=_SEED),
    "SmoothMPRT": _Spec(
        "smprt",
        True,
        options={
            **_SEED,
            "nr_samples": (50, "samples", _same),
            "noise_magnitude": (0.1, "noise", _same),
        },
    ),
    "RandomLogit": _Spec("random-logit", options=_SEED),
    "AvgSensitivity": _Spec("avg-sensitivity", options=_NOISY),
    "MaxSensitivity": _Spec("max-sensitivity", options=_NOISY),
    "Consistency": _Spec("consistency", True),
    "Continuity": _Spec("continuity", True, options={"nr_steps": (28, "steps", _same)}),
    "LocalLipschitzEstimate": _Spec("local-lipschitz", options=_SAMPLES),
    "RelativeInputStability": _Spec("ris", options=_STABLE),
    "RelativeOutputStability": _Spec("ros", options=_STABLE),
    "RelativeRepresentationStability": _Spec("rrs", options=_STABLE),
}
"""The classes that are a metric of the library under another name."""

CURVES = (PixelFlipping, RegionPerturbation, PointingGame, Focus)

METRICS: Mapping[str, type[Metric]] = {
    **{
        name: type(
            name,
            (Metric,),
            {
                "__doc__": f"Quantus' {name}: `{spec.metric}` of the library.",
                "__module__": __name__,
                "_spec": spec,
            },
        )
        for name, spec in _SPECS.items()
    },
    **{kind.__name__: kind for kind in CURVES},
}
"""Every class by its name in Quantus."""


def __getattr__(name: str) -> type[Metric]:
    """Return the class that has Quantus' name.

    Raises:
        AttributeError: there is none.
    """
    if name in METRICS:
        return METRICS[name]
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def evaluate(  # noqa: PLR0913, PLR0917 (Quantus' arguments)
    metrics: Mapping[str, Metric],
    xai_methods: Mapping[str, Any],
    model: nn.Module,
    x_batch: Any,
    y_batch: Any,
    s_batch: Any = None,
    agg_func: Callable[[Any], Any] = lambda scores: scores,
    explain_func_kwargs: Mapping[str, Any] | None = None,
    call_kwargs: Mapping[str, Mapping[str, Any]] | None = None,
    return_as_df: bool = False,
    verbose: bool = False,
) -> Any:
    """Return what each metric gives of each method's maps: {method: {metric: scores}}.

    Args:
        metrics: by label.
        xai_methods: by label: a function, as `explain_func`; options of `explain`; or maps.
        model: the network.
        x_batch: images (N, C, *size).
        y_batch: a class of each.
        s_batch: masks of the objects.
        agg_func: of each list of scores.
        explain_func_kwargs: for functions; each is also told its label as `method`.
        call_kwargs: sets of arguments of the metrics, by label; of several, each has a result.
        return_as_df: whether a pandas.DataFrame is returned.
        verbose: nothing is printed.

    Raises:
        OptionError: a method is none of these. A metric that fails raises its own error, where
            Quantus prints it and leaves the metric out.
    """
    del verbose
    calls = {"": {}} if call_kwargs is None else dict(call_kwargs)
    results: dict[str, dict[str, Any]] = {}
    for label, given in xai_methods.items():
        function, arguments, maps = _read_method(label, given, explain_func_kwargs)
        if maps is None:
            maps = function(model=model, inputs=x_batch, targets=y_batch, **arguments)
        results[label] = {}
        for name, metric in metrics.items():
            found = {
                call: agg_func(
                    metric(
                        model=model,
                        x_batch=x_batch,
                        y_batch=y_batch,
                        a_batch=maps,
                        s_batch=s_batch,
                        explain_func=function,
                        explain_func_kwargs=arguments,
                        **more,
                    )
                )
                for call, more in calls.items()
            }
            results[label][name] = found if len(calls) > 1 else next(iter(found.values()))
    if not return_as_df:
        return results
    import pandas as pd  # noqa: PLC0415 (at first use)

    return pd.DataFrame.from_dict(results)


def _read_method(
    label: str, given: Any, arguments: Mapping[str, Any] | None
) -> tuple[Any, dict[str, Any], Any]:
    """Return the function that explains, its arguments, and maps that are known."""
    if callable(given):
        return given, {**(arguments or {}), "method": label}, None
    if isinstance(given, Mapping):
        return explain, {"method": label, **given}, None
    if isinstance(given, np.ndarray | Tensor | Sequence):
        return None, {}, given
    raise OptionError(
        f"xai_methods[{label!r}] is a {type(given).__name__}; give a function, options of explain, "
        "or maps."
    )
