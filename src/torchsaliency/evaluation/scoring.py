"""From maps to metrics: every measure that metrics need runs once, no pass is made twice."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from typing import Any, final

from jaxtyping import Float
from torch import Tensor, nn

from torchsaliency import measures
from torchsaliency.core.acceleration.engine import accelerated
from torchsaliency.core.explanation import Explanation
from torchsaliency.core.masking import BlackPixel, Masking, MeanColour, RISEBlur
from torchsaliency.core.target import ClassTarget
from torchsaliency.core.wrapper import unwrap
from torchsaliency.errors import InputError, OptionError
from torchsaliency.measures.judge import Labels, class_labels
from torchsaliency.measures.masked import MaskedScores
from torchsaliency.metrics.base import SaliencyMetric, create_metric
from torchsaliency.metrics.localisation import predicted_boxes

Inputs = Mapping[str, Any]


def score(  # noqa: PLR0913 (all but the first three by name)
    model: nn.Module,
    explanation: Explanation,
    metrics: Sequence[str | SaliencyMetric],
    *,
    target: Labels = None,
    judge: nn.Module | None = None,
    images: Float[Tensor, "n c H W"] | None = None,
    boxes: Sequence[Tensor] | None = None,
    masks: Tensor | None = None,
    masking: Masking | None = None,
    seed: int = 0,
    chunk: int | None = None,
    accelerate: str | None = None,
) -> dict[str, SaliencyMetric]:
    """Score the maps of one explanation by several metrics.

    Args:
        model: the network that was explained.
        explanation: what `explain` made of it.
        metrics: names or metrics; those given are updated, so that batches add up.
        target: classes that are judged; by default those that were explained, or, if the
            explanation has no classes, those the judge predicts.
        judge: the network that scores, if it is not the explained one.
        images: the images as the judge wants them, if its preprocessing differs.
        boxes: (B, 4) an image, x0 y0 x1 y1 in the map's pixels, for localisation metrics.
        masks: (N, H, W) object masks, 0 background, 255 void, for segmentation metrics.
        masking: baseline of masked images; the explanation's own by default. Insertion begins with
            RISE's blur all the same, and AOPC replaces regions by the image's minimum; for other
            baselines call `perturbation_curve` and `region_curve`.
        seed: of the measures that draw.
        chunk: images in one pass; None finds it.
        accelerate: how passes run, see `accelerated`; None leaves it as it is.

    Returns:
        The metrics by name, updated.

    Raises:
        OptionError: an unknown metric.
        InputError: annotations are missing, or something does not fit.
        TargetError: the target does not fit the judge.

    Example:
        >>> found = score(net, made["gradcam"], ["ad", "ag"])  # doctest: +SKIP
        >>> found["ad"].summary().value  # doctest: +SKIP
        12.2
    """
    made = [create_metric(one) if isinstance(one, str) else one for one in metrics]
    if not made or len({one.name for one in made}) != len(made):
        raise OptionError(f"{len(made)} metrics were given; give at least one, each name once.")
    bench = Bench(
        model,
        explanation,
        target=target,
        judge=judge,
        images=images,
        boxes=boxes,
        masks=masks,
        masking=masking,
        seed=seed,
        chunk=chunk,
    )
    with nullcontext() if accelerate is None else accelerated(accelerate):
        bench.feed(made)
    return {one.name: one for one in made}


@final
class Bench:
    """One explanation, and what measures have found out about it; each runs once.

    Attributes:
        passes: images that went through the judge for measures so far.
    """

    def __init__(  # noqa: PLR0913 (as `score`)
        self,
        model: nn.Module,
        explanation: Explanation,
        *,
        target: Labels = None,
        judge: nn.Module | None = None,
        images: Tensor | None = None,
        boxes: Sequence[Tensor] | None = None,
        masks: Tensor | None = None,
        masking: Masking | None = None,
        clean: Tensor | None = None,
        seed: int = 0,
        chunk: int | None = None,
    ) -> None:
        """Take the arguments of `score`, and the judge's clean logits if they are known."""
        self._model, self._explanation = model, explanation
        self._judge = model if judge is None else judge
        self._images = explanation.images if images is None else images
        self._given: dict[str, Any] = {"boxes": boxes, "masks": masks}
        self._masking, self._seed, self._chunk = masking, seed, chunk
        self._own = unwrap(self._judge) is unwrap(model) and images is None
        self._target = target
        self._clean = clean
        self._found: dict[Any, Any] = {}
        self.passes = 0

    def feed(self, metrics: Sequence[SaliencyMetric]) -> list[int]:
        """Update metrics, and return how many images the judge saw for each.

        A measure that several metrics share is counted with the one that comes first.
        """
        # re-explained masked images bring their scores along, so they come before masked scores;
        # and everything is measured before the first metric takes it, so that a failure counts
        # nothing
        order = sorted(metrics, key=lambda one: "masked_maps" not in one.entry.requires)
        taken, cost = [], {}
        for one in order:
            before = self.passes
            taken.append((one, self.inputs(one)))
            cost[id(one)] = self.passes - before
        for one, inputs in taken:
            one.update(**inputs)
        return [cost[id(one)] for one in metrics]

    def inputs(self, metric: SaliencyMetric) -> dict[str, Any]:
        """Return what a metric's `update` takes, running the measures it requires.

        Raises:
            InputError: it needs boxes or masks, and none were given.
        """
        known: dict[str, Any] = {"maps": self._explanation.map, **self._given}
        # measures of maps alone come last: ADCC's maps also bring its scores
        for name in sorted(metric.entry.requires, key=lambda one: one == "masked_scores"):
            if name != "maps":
                known.update(self._measured(name, metric.settings))
        needed = metric.entry.inputs
        for name in ("boxes", "masks"):
            if name in needed and known[name] is None:
                raise InputError(
                    f"{metric.name} needs the {name} of the objects; give {name}=…, or choose a "
                    "metric that needs no annotations."
                )
        return {name: _wide_enough(known[name]) for name in needed if name in known}

    def _measured(self, name: str, settings: Mapping[str, Any]) -> Inputs:
        measure, options = _MEASURES[name]
        chosen = {key: settings[key] for key in options if key in settings}
        key = (name, tuple(sorted((k, repr(v)) for k, v in chosen.items())))
        if key not in self._found:
            self._found[key] = measure(self, chosen)
        found: Inputs = self._found[key]
        return found

    @property
    def logits(self) -> Tensor:
        """The judge's logits on the clean images: the explanation's own, or one pass."""
        if self._clean is None:
            if self._own and isinstance(self._explanation.output, Tensor):
                self._clean = self._explanation.output
            else:
                with measures.judging(self._judge, self._images, chunk=self._chunk) as judge:
                    self._clean = judge.clean_logits(None)
                    self.passes += judge.passes
        return self._clean

    @property
    def labels(self) -> Tensor:
        """The class of each image that is judged."""
        if self._target is not None:
            return class_labels(self._target, self.logits)
        explained = self._explanation.target
        return class_labels(explained if isinstance(explained, ClassTarget) else None, self.logits)

    def _counted(self, found: Any) -> Any:
        self.passes += found.passes
        return found

    def _masked_scores(self, chosen: dict[str, Any]) -> Inputs:
        del chosen
        masking = self._masking or self._explanation.masking
        again = self._found.get(("masked_maps", ()))
        output = again["output"] if again else None
        if self._own and isinstance(output, Tensor):
            found = MaskedScores.of_logits(self.logits, output, self.labels)
        else:
            found = measures.masked_scores(
                self._judge,
                self._images,
                self._explanation.map,
                self.labels,
                masking=masking,
                clean=self.logits,
                chunk=self._chunk,
            )
        return self._counted(found).inputs()  # type: ignore[no-any-return]

    def _masked_maps(self, chosen: dict[str, Any]) -> Inputs:
        del chosen
        # the explained network runs here: a baseline in the judge's numbers is none of its own
        masking = (self._masking if self._own else None) or self._explanation.masking
        found = measures.masked_maps(
            self._model, self._explanation, masking=masking, chunk=self._chunk
        )
        return {**found.inputs(), "output": found.output}

    def _curve(self, chosen: dict[str, Any]) -> Inputs:
        masking = self._masking or self._explanation.masking
        if chosen["order"] == "insertion":
            # RISE begins with its blur; what lies outside the image has the masking's colour
            plain = isinstance(masking, MeanColour | BlackPixel)
            masking = RISEBlur(masking) if plain else RISEBlur()
        options = {"masking": masking, **chosen}
        return self._on_judge(measures.perturbation_curve, options, maps=True)

    def _regions(self, chosen: dict[str, Any]) -> Inputs:
        return self._on_judge(measures.region_curve, chosen, maps=True)

    def _removals(self, chosen: dict[str, Any]) -> Inputs:
        return self._on_judge(measures.removal_curves, {"seed": self._seed, **chosen}, maps=True)

    def _squares(self, chosen: dict[str, Any]) -> Inputs:
        masking = self._masking or self._explanation.masking
        drawn = {"seed": self._seed, "masking": masking, **chosen}
        return self._on_judge(measures.square_removals, drawn, maps=False)

    def _crops(self, chosen: dict[str, Any]) -> Inputs:
        found = measures.crop_scores(
            self._judge,
            self._images,
            predicted_boxes(self._explanation.map, **chosen),
            self.labels,
            chunk=self._chunk,
        )
        return self._counted(found).inputs()  # type: ignore[no-any-return]

    def _predictions(self, chosen: dict[str, Any]) -> Inputs:
        del chosen
        return {"correct": self.logits.argmax(1) == self.labels}

    def _embeddings(self, chosen: dict[str, Any]) -> Inputs:
        del chosen
        # what the encoder itself still says; a judge may be a classifier beside it
        output = self._explanation.output
        found = measures.masked_embeddings(
            self._model,
            self._explanation.images,
            self._explanation.map,
            masking=(self._masking if self._own else None) or self._explanation.masking,
            clean=output if isinstance(output, Tensor) else None,
            chunk=self._chunk,
        )
        return self._counted(found).inputs()  # type: ignore[no-any-return]

    def _noisy(self, chosen: dict[str, Any]) -> Inputs:
        return measures.noisy_maps(
            self._model, self._explanation, seed=self._seed, chunk=self._chunk, **chosen
        ).inputs()

    def _randomised(self, chosen: dict[str, Any]) -> Inputs:
        names = measures.network_stages(self._model)
        wanted = chosen["stages"]
        if wanted > len(names):
            raise OptionError(
                f"{wanted} stages are to become random and the network has {len(names)}: "
                f"{', '.join(names)}."
            )
        return measures.randomised_maps(
            self._model,
            self._explanation,
            **{**chosen, "stages": names[:wanted]},
            chunk=self._chunk,
        ).inputs()

    def _on_judge(
        self, measure: Callable[..., Any], options: Mapping[str, Any], *, maps: bool
    ) -> Inputs:
        given = [self._explanation.map] if maps else []
        found = measure(
            self._judge,
            self._images,
            *given,
            self.labels,
            clean=self.logits,
            chunk=self._chunk,
            **options,
        )
        return self._counted(found).inputs()  # type: ignore[no-any-return]


def _wide_enough(value: Any) -> Any:
    """Metrics count in float64, which Apple's graphics processors do not know."""
    on_mps = isinstance(value, Tensor) and value.device.type == "mps"
    return value.cpu() if on_mps else value


_MEASURES: dict[str, tuple[Callable[[Bench, dict[str, Any]], Inputs], tuple[str, ...]]] = {
    "masked_scores": (Bench._masked_scores, ()),
    "masked_maps": (Bench._masked_maps, ()),
    "masked_embeddings": (Bench._embeddings, ()),
    "perturbation_curve": (Bench._curve, ("order", "step", "budget")),
    "region_curve": (Bench._regions, ("patch", "regions", "placement")),
    "removal_curves": (Bench._removals, ("percentages", "noise")),
    "square_removals": (Bench._squares, ("samples", "side")),
    "crop_scores": (Bench._crops, ("short",)),
    "predictions": (Bench._predictions, ()),
    "noisy_maps": (Bench._noisy, ("radius", "samples")),
    "randomised_maps": (Bench._randomised, ("mode", "stages", "seed")),
}
"""How a metric's required measure is run, and which of the metric's settings it is told."""
