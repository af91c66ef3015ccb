"""The measures that metrics require: each runs once for an explanation."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, final

import torch
from torch import Tensor, nn

from torchsaliency import measures
from torchsaliency.core.explanation import Explanation
from torchsaliency.core.given import require_repeatable
from torchsaliency.core.inputs import InputsLike, images_of
from torchsaliency.core.masking import BlackPixel, Masking, MeanColour, RISEBlur
from torchsaliency.core.network import unwrap
from torchsaliency.core.scores import ScoreKind
from torchsaliency.core.target import ClassTarget, names_classes
from torchsaliency.errors import InputError, OptionError
from torchsaliency.measures.judge import Labels, class_labels
from torchsaliency.measures.masked import MaskedScores
from torchsaliency.methods.attribution.segments import superpixels as find_superpixels
from torchsaliency.metrics.base import SaliencyMetric
from torchsaliency.metrics.localisation import predicted_boxes
from torchsaliency.registry import Entry, Registry

Inputs = Mapping[str, Any]
"""What a measure found, by the names of the arguments of `SaliencyMetric.update`."""


@final
@dataclasses.dataclass(frozen=True)
class MeasureEntry(Entry):
    """A registered measure; see `measure`."""

    settings: tuple[str, ...]
    classes: bool
    first: bool
    explains: bool

    @property
    def options(self) -> Mapping[str, Any]:
        """None of its own: the metric has them."""
        return {}


MEASURES: Registry[MeasureEntry] = Registry("measure", "torchsaliency.measures")

MeasureFunction = Callable[..., Inputs]


def measure(
    name: str,
    *settings: str,
    classes: bool = True,
    first: bool = False,
    explains: bool = False,
) -> Callable[[MeasureFunction], MeasureFunction]:
    """Register a function as the measure that metrics require under `name`.

    The function takes a `Bench`, and the metric's values of `settings` by name. It returns
    arguments of the metric's `update` by name, and runs once for all metrics of the same values.
    Its docstring says what it costs beyond the clean pass that all share.

    Args:
        name: as in `requires` of `@metric`.
        settings: names of options of the metric.
        classes: whether it reads class probabilities.
        first: whether it runs before other measures, because it saves them passes.
        explains: whether the method must explain further images or networks.

    Raises:
        OptionError: the name is taken.

    Example:
        >>> @measure("brightness", classes=False)  # doctest: +SKIP
        ... def measure_brightness(bench):
        ...     return {"brightness": bench.images.mean((1, 2, 3))}
    """
    return MEASURES.decorate(
        lambda function: MeasureEntry(name, function, settings, classes, first, explains)
    )


def find_class_measure(metric: SaliencyMetric) -> str:
    """Return the first measure of a metric that reads class probabilities, "" if none does."""
    return next((name for name in metric.entry.requires if MEASURES.get(name).classes), "")


def explains_again(metric: SaliencyMetric) -> bool:
    """Whether a metric needs the method to explain further images or networks."""
    return any(MEASURES.get(name).explains for name in metric.entry.requires)


@final
class Bench:
    """One explanation and the results of measures for it; each measure runs once.

    The arguments are those of `score`, and attributes as they are used.

    Args:
        model: the explained network.
        explanation: what `explain` returned for a method.
        target: classes that are judged; None for the explained ones.
        judge: the network that judges; None for the explained one.
        permuted: the same network trained on permuted labels, for sanity metrics that ask for it.
        images: as the judge sees them; None for the explained ones.
        boxes: true boxes (B, 4) of every image, in pixels of the map.
        masks: true masks (N, *size).
        masking: what hidden pixels become; None for the explanation's.
        clean: (N, K) the judge's logits of the images, if they are known.
        seed: of measures that draw.
        chunk: images in one pass; None finds it.

    Attributes:
        given: all that the judge takes, if that is more than images.
        judges_itself: whether the judge is the explained network and sees the same images.
        model_masking: baseline of the explained network's masked images; `masking` is the judge's.
        measured: what each measure found, by its name and settings.
        passes: images that went through the judge for measures so far.

    Example:
        >>> import torch, torchsaliency
        >>> net = torchsaliency.load_model("builtin/shapes_cnn")
        >>> found = torchsaliency.explain(net, torch.rand(1, 3, 64, 64), "gradcam")["gradcam"]
        >>> Bench(net, found).judges_itself
        True
    """

    def __init__(  # noqa: PLR0913 (as `score`)
        self,
        model: nn.Module,
        explanation: Explanation,
        *,
        target: Labels = None,
        judge: nn.Module | None = None,
        permuted: nn.Module | None = None,
        images: InputsLike | None = None,
        boxes: Sequence[Tensor] | None = None,
        masks: Tensor | None = None,
        masking: Masking | None = None,
        clean: Tensor | None = None,
        seed: int = 0,
        chunk: int | None = None,
    ) -> None:
        self.model, self.explanation, self.permuted = model, explanation, permuted
        self.judge = model if judge is None else judge
        self.given = explanation.given if images is None else images
        self.images = images_of(self.given)
        self.judges_itself = unwrap(self.judge) is unwrap(model) and images is None
        if self.judges_itself:  # its numbers mean what they meant when it was explained
            self.judge = explanation.wrap(model)
        self.masking = masking or explanation.masking
        # a baseline in the judge's numbers means nothing to the explained network
        self.model_masking = self.masking if self.judges_itself else explanation.masking
        self.seed, self.chunk, self.passes = seed, chunk, 0
        self.boxes, self.masks = boxes, masks
        self._target, self._clean = target, clean
        self.measured: dict[Any, Inputs] = {}

    def feed(self, metrics: Sequence[SaliencyMetric]) -> list[int]:
        """Update metrics, and return how many images the judge saw for each.

        A measure that several metrics share is counted with the one that runs first. All measures
        run before the first metric is updated, so that a failure updates none.
        """
        inputs, costs = {}, {}
        for metric in sorted(metrics, key=lambda metric: not _measures(metric)[0].first):
            before = self.passes
            inputs[id(metric)] = self.inputs(metric)
            costs[id(metric)] = self.passes - before
        for metric in metrics:
            metric.update(**inputs[id(metric)])
        return [costs[id(metric)] for metric in metrics]

    def inputs(self, metric: SaliencyMetric) -> dict[str, Any]:
        """Return what a metric's `update` takes, running the measures it requires.

        Raises:
            InputError: it needs boxes or masks, and none were given.
        """
        known: dict[str, Any] = {
            "maps": self.explanation.map,
            "boxes": self.boxes,
            "masks": self.masks,
        }
        for entry in _measures(metric):
            known |= self._run(entry, metric.settings)
        needed = metric.entry.inputs
        for name in ("boxes", "masks"):
            if name in needed and known[name] is None:
                raise InputError(
                    f"{metric.name} needs the {name} of the objects; give {name}=…, or choose a "
                    "metric that needs no annotations."
                )
        return {name: _for_float64(known[name]) for name in needed if name in known}

    def _run(self, entry: MeasureEntry, options: Mapping[str, Any]) -> Inputs:
        if entry.explains:
            require_repeatable(self.explanation.method)
        settings = {name: options[name] for name in entry.settings if name in options}
        key = _key(entry.name, settings)
        if key not in self.measured:
            self.measured[key] = entry.factory(self, **settings)
        return self.measured[key]

    def ask_judge(self, function: Callable[..., Any], *maps: Tensor, **options: Any) -> Inputs:
        """Call a function of `measures` for the judge, and count its passes."""
        target, clean = self.target, None
        if names_classes(target):
            target, clean = self.labels, self.logits
        found = function(
            self.judge, self.given, *maps, target, clean=clean, chunk=self.chunk, **options
        )
        self.passes += found.passes
        inputs: Inputs = found.inputs()
        return inputs

    @property
    def scores(self) -> ScoreKind:
        """What the judge's numbers mean."""
        if self.judges_itself:
            return self.explanation.scores
        with measures.judging(self.judge, self.given, chunk=self.chunk) as judge:
            return judge.scores

    @property
    def target(self) -> Labels:
        """What is judged: as given, or else what was explained if the judge can say it.

        Where the explained network judges and has no classes, what was explained (a detection, a
        segment, an embedding's similarity) is judged by its own score; of a network with classes,
        the predicted ones are.
        """
        explained = self.explanation.target
        if self._target is None and (isinstance(explained, ClassTarget) or self._lacks_classes):
            return explained
        return self._target

    def require_probabilities(self) -> None:
        """Refuse numbers of whole images that are no probabilities, of regressions and embeddings.

        Raises:
            TargetError: what was explained is one of these, and no other target was given.
        """
        output = self.explanation.output
        of_images = isinstance(output, Tensor) and output.ndim <= 2  # noqa: PLR2004
        if self._target is None and self._lacks_classes and of_images:
            self.explanation.scores.probabilities(self.logits)

    @property
    def _lacks_classes(self) -> bool:
        """Whether the judge is the explained network, and gives no scores of classes."""
        output = self.explanation.output
        of_images = isinstance(output, Tensor) and output.ndim <= 2  # noqa: PLR2004
        return self.judges_itself and not (of_images and self.explanation.scores.classes)

    @property
    def logits(self) -> Tensor:
        """The judge's logits on the clean images: the explanation's own, or one pass."""
        if self._clean is None:
            if self.judges_itself and isinstance(self.explanation.output, Tensor):
                self._clean = self.explanation.output
            else:
                with measures.judging(self.judge, self.given, chunk=self.chunk) as judge:
                    self._clean = judge.clean_logits(None)
                    self.passes += judge.passes
        return self._clean

    @property
    def labels(self) -> Tensor:
        """The class of each image that is judged."""
        return class_labels(self.target, self.logits)


def _key(name: str, settings: Mapping[str, Any]) -> Any:
    return (name, tuple(sorted((option, repr(value)) for option, value in settings.items())))


def _measures(metric: SaliencyMetric) -> list[MeasureEntry]:
    """Return the measures that a metric requires, in the order in which they run."""
    return sorted(map(MEASURES.get, metric.entry.requires), key=lambda entry: not entry.first)


def _for_float64(value: Any) -> Any:
    """Metrics count in float64, which Apple's graphics processors do not know."""
    on_mps = isinstance(value, Tensor) and value.device.type == "mps"
    return value.cpu() if on_mps else value


# --- the library's measures -----------------------------------------------------------------------


@measure("maps", classes=False)
def _maps(bench: Bench) -> Inputs:  # noqa: ARG001
    """Nothing: only the maps are read."""
    return {}


@measure("masked_scores")
def _masked_scores(bench: Bench) -> Inputs:
    """One masked pass per image, shared by all metrics."""
    # masked images that were explained again have their scores already
    output = bench.measured.get(("masked_maps", ()), {}).get("output")
    if bench.judges_itself and isinstance(output, Tensor) and names_classes(bench.target):
        scores = bench.explanation.scores
        found = MaskedScores.of_logits(bench.logits, output, bench.labels, scores=scores)
        return found.inputs()
    bench.require_probabilities()
    return bench.ask_judge(measures.masked_scores, bench.explanation.map, masking=bench.masking)


@measure("masked_maps", classes=False, first=True, explains=True)
def _masked_maps(bench: Bench) -> Inputs:
    """The method explains the masked image."""
    found = measures.masked_maps(
        bench.model, bench.explanation, masking=bench.model_masking, chunk=bench.chunk
    )
    return {**found.inputs(), "output": found.output}


@measure("masked_embeddings", classes=False)
def _masked_embeddings(bench: Bench) -> Inputs:
    """One masked pass per image."""
    # of the explained network, even if a classifier judges
    output = bench.explanation.output
    found = measures.masked_embeddings(
        bench.explanation.wrap(bench.model),
        bench.explanation.given,
        bench.explanation.map,
        masking=bench.model_masking,
        clean=output if isinstance(output, Tensor) else None,
        chunk=bench.chunk,
    )
    bench.passes += found.passes
    return found.inputs()


@measure("perturbation_curve", "order", "step", "budget", "error")
def _perturbation_curve(bench: Bench, **settings: Any) -> Inputs:
    """One pass per row of the image (224); of a detection or a segment, its own score."""
    masking = bench.masking
    if settings["order"] == "insertion":
        # RISE begins with its blur; what lies outside the image has the masking's colour
        plain = isinstance(masking, MeanColour | BlackPixel)
        masking = RISEBlur(masking) if plain else RISEBlur()
    maps = bench.explanation.map
    return bench.ask_judge(measures.perturbation_curve, maps, masking=masking, **settings)


@measure("region_curve", "patch", "regions", "placement", "error")
def _region_curve(bench: Bench, **settings: Any) -> Inputs:
    """One pass per region (10)."""
    return bench.ask_judge(measures.region_curve, bench.explanation.map, **settings)


@measure("least_region_curve", "patch", "regions", "placement")
def _least_region_curve(bench: Bench, **settings: Any) -> Inputs:
    """One pass per region (10), the least relevant first."""
    found = bench.ask_judge(measures.region_curve, bench.explanation.map, order="least", **settings)
    return {"least_regions": found["regions"]}


@measure("block_curve", "patch", "error")
def _block_curve(bench: Bench, **settings: Any) -> Inputs:
    """One pass per block of 8 pixels (784)."""
    how: dict[str, Any] = {"placement": "grid", "regions": None}
    return bench.ask_judge(measures.region_curve, bench.explanation.map, **how, **settings)


@measure("group_removals", "groups", "by")
def _group_removals(bench: Bench, **settings: Any) -> Inputs:
    """One pass per group of pixels (10)."""
    maps = bench.explanation.map
    return bench.ask_judge(measures.group_removals, maps, masking=bench.masking, **settings)


@measure("group_resamplings", "groups", "samples", "by")
def _group_resamplings(bench: Bench, **settings: Any) -> Inputs:
    """One pass per group of pixels and colour (100)."""
    maps = bench.explanation.map
    return bench.ask_judge(measures.group_resamplings, maps, seed=bench.seed, **settings)


@measure("subset_removals", "shares", "samples", "by")
def _subset_removals(bench: Bench, shares: tuple[float, ...], **settings: Any) -> Inputs:
    """One pass per share and sample (50 a share); metrics that name the same share share them."""
    parts = []
    for share in shares:
        key = ("subset_removals", share, *settings.items())
        if key not in bench.measured:
            bench.measured[key] = bench.ask_judge(
                measures.subset_removals,
                bench.explanation.map,
                shares=(share,),
                masking=bench.masking,
                seed=bench.seed,
                **settings,
            )
        parts.append(bench.measured[key])
    return {name: torch.cat([part[name] for part in parts], 1) for name in parts[0]}


@measure("segment_curve", "superpixels", "by")
def _segment_curve(bench: Bench, superpixels: int, **settings: Any) -> Inputs:
    """One pass per superpixel (50)."""
    segments = torch.stack([find_superpixels(one, "slic", superpixels) for one in bench.images])
    return bench.ask_judge(
        measures.segment_curve,
        bench.explanation.map,
        segments,
        masking=bench.masking,
        **settings,
    )


@measure("information_curve", "known")
def _information_curve(bench: Bench, **settings: Any) -> Inputs:
    """Fourteen passes per image, shared by `sic` and `aic`."""
    maps = bench.explanation.map
    return bench.ask_judge(measures.information_curve, maps, seed=bench.seed, **settings)


@measure("removal_curves", "percentages", "noise")
def _removal_curves(bench: Bench, **settings: Any) -> Inputs:
    """Two passes per percentage (18)."""
    maps = bench.explanation.map
    return bench.ask_judge(measures.removal_curves, maps, seed=bench.seed, **settings)


@measure("square_removals", "samples", "side", "by")
def _square_removals(bench: Bench, **settings: Any) -> Inputs:
    """One pass per square (100), shared by all methods."""
    how = {"seed": bench.seed, "masking": bench.masking}
    return bench.ask_judge(measures.square_removals, **how, **settings)


@measure("crop_scores", "short")
def _crop_scores(bench: Bench, **settings: Any) -> Inputs:
    """One pass per image."""
    return bench.ask_judge(measures.crop_scores, predicted_boxes(bench.explanation.map, **settings))


@measure("predictions")
def _predictions(bench: Bench) -> Inputs:
    """Nothing: the judge's prediction on the clean image is known."""
    return {
        "correct": bench.scores.predicts(bench.logits, bench.labels),
        "predicted": bench.logits.argmax(1),
    }


@measure("noisy_features", "radius", "samples", classes=False, first=True, explains=True)
def _noisy_features(bench: Bench, **settings: Any) -> Inputs:
    """The method explains ten noisy copies, shared with the metrics that need no features."""
    found = measures.noisy_maps(
        bench.model,
        bench.explanation,
        seed=bench.seed,
        features=True,
        chunk=bench.chunk,
        **settings,
    ).inputs()
    bench.measured[_key("noisy_maps", settings)] = found
    return found


@measure("grid_maps", "grid", "shrink", classes=False, explains=True)
def _grid_maps(bench: Bench, **settings: Any) -> Inputs:
    """The method explains one mosaic of images of the batch."""
    found = measures.grid_maps(bench.model, bench.explanation, chunk=bench.chunk, **settings)
    return found.inputs()


@measure("focus_maps", "shrink", classes=False, explains=True)
def _focus_maps(bench: Bench, **settings: Any) -> Inputs:
    """The method explains one mosaic of images of the batch, two of them of the class."""
    found = measures.grid_maps(
        bench.model, bench.explanation, same=2, chunk=bench.chunk, **settings
    )
    return {"focus_maps": found.maps, "target_cells": found.cells}


@measure("predicted_classes")
def _predicted_classes(bench: Bench) -> Inputs:
    """Nothing: the judge's prediction on the clean image is known."""
    return {"predicted": bench.logits.argmax(1)}


@measure("noisy_maps", "radius", "samples", classes=False, explains=True)
def _noisy_maps(bench: Bench, **settings: Any) -> Inputs:
    """The method explains ten noisy copies."""
    return measures.noisy_maps(
        bench.model, bench.explanation, seed=bench.seed, chunk=bench.chunk, **settings
    ).inputs()


@measure("translated_maps", "steps", classes=False, explains=True)
def _translated_maps(bench: Bench, **settings: Any) -> Inputs:
    """The method explains 28 copies that are moved sideways."""
    return measures.translated_maps(
        bench.model, bench.explanation, chunk=bench.chunk, **settings
    ).inputs()


@measure("other_class_maps", "seed", classes=False, explains=True)
def _other_class_maps(bench: Bench, **settings: Any) -> Inputs:
    """The method explains another class."""
    return measures.other_class_maps(
        bench.model, bench.explanation, chunk=bench.chunk, **settings
    ).inputs()


@measure("random_network_maps", "seed", classes=False, explains=True)
def _random_network_maps(bench: Bench, **settings: Any) -> Inputs:
    """The method explains with one randomised network."""
    return measures.random_network_maps(
        bench.model, bench.explanation, chunk=bench.chunk, **settings
    ).inputs()


@measure(
    "smooth_randomised_maps",
    "mode",
    "stages",
    "seed",
    "samples",
    "noise",
    classes=False,
    explains=True,
)
def _smooth_randomised_maps(bench: Bench, stages: int, **settings: Any) -> Inputs:
    """The method explains ten noisy copies with the network and with five randomised ones."""
    return measures.smooth_randomised_maps(
        bench.model,
        bench.explanation,
        stages=_name_stages(bench, stages),
        chunk=bench.chunk,
        **settings,
    ).inputs()


@measure("attribution_sums", classes=False)
def _attribution_sums(bench: Bench) -> Inputs:
    """One pass per image, on its baseline."""
    found = measures.attribution_sums(bench.model, bench.explanation, chunk=bench.chunk)
    bench.passes += found.passes
    return found.inputs()


@measure("shifted_maps", "shift", classes=False, explains=True)
def _shifted_maps(bench: Bench, **settings: Any) -> Inputs:
    """The method explains the shifted image."""
    return measures.shifted_maps(
        bench.model, bench.explanation, chunk=bench.chunk, **settings
    ).inputs()


@measure("randomised_maps", "mode", "stages", "seed", classes=False, explains=True)
def _randomised_maps(bench: Bench, mode: Any, stages: int, seed: int) -> Inputs:
    """The method explains with five randomised networks, or one trained on permuted labels."""
    if mode == "labels":
        how: dict[str, Any] = {"permuted": bench.permuted}
    else:
        how = {"stages": _name_stages(bench, stages), "seed": seed}
    return measures.randomised_maps(
        bench.model, bench.explanation, mode=mode, chunk=bench.chunk, **how
    ).inputs()


def _name_stages(bench: Bench, count: int) -> list[str]:
    names = measures.network_stages(bench.model)
    if count > len(names):
        raise OptionError(
            f"{count} stages are to become random and the network has {len(names)}: "
            f"{', '.join(names)}."
        )
    return names[:count]
