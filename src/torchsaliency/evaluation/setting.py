"""A plan made real: its networks loaded, its data found, everything checked before any pass."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, final

import torch
from torch import nn

from torchsaliency.core.layer import Layer
from torchsaliency.core.masking import Masking
from torchsaliency.core.method import Method
from torchsaliency.core.wrapper import unwrap
from torchsaliency.data import DataSet, open_data
from torchsaliency.errors import OptionError, TargetError, TorchSaliencyError
from torchsaliency.evaluation.plan import Plan
from torchsaliency.metrics import SaliencyMetric
from torchsaliency.zoo import Network, Preprocessing, load_model
from torchsaliency.zoo.checkpoints import state_dict_sha256

LABEL, PREDICTED = "label", "predicted"


@final
@dataclass(frozen=True, eq=False)
class Setting:
    """All that an evaluation works with.

    Attributes:
        plan: as asked.
        data: the images, already a subset (but for `keep`, which needs the network).
        network: the explained one.
        preprocessing: its own, as the plan changes it.
        judge: the network that scores; None if it is the explained one.
        judge_preprocessing: the same pixels in the judge's normalisation.
        methods: by label.
        metrics: by label, without images.
        layers: where maps are read; empty for the default.
        masking: of methods, and of measures of the same network.
        judge_masking: of the judge, in its own normalisation.
        target: "label", "predicted" or a class, explained and judged; of an encoder its own
            embedding is explained, and this is what a judge looks at.
        class_of_label: the network's (or, of an encoder, its judge's) class of each of the data's
            labels; None if they do not fit.
    """

    plan: Plan
    data: DataSet
    network: Network
    preprocessing: Preprocessing
    judge: Network | None
    judge_preprocessing: Preprocessing | None
    methods: dict[str, Method]
    metrics: dict[str, SaliencyMetric]
    layers: tuple[str, ...]
    masking: Masking
    judge_masking: Masking | None
    target: int | str
    class_of_label: tuple[int, ...] | None

    @property
    def judges_explained(self) -> bool:
        """Whether the classes that are explained are also the judge's."""
        return self.judge is None or self.judge.class_count == self.network.class_count

    @property
    def module(self) -> nn.Module:
        """The explained network itself."""
        return self.network.module

    def label(self, of_data: int | None) -> int | None:
        """Return the network's class of a label of the data, None if it has none."""
        if of_data is None or self.class_of_label is None:
            return None
        return self.class_of_label[of_data]

    def identity(self) -> dict[str, Any]:
        """Return all that decides the numbers of every method, in JSON types."""
        return {
            **self.plan.identity(),
            "fingerprint of the data": self.data.fingerprint(),
            "weights of the network": state_dict_sha256(self.module),
            "preprocessing": self.preprocessing.to_dict(),
            "weights of the judge": None
            if self.judge is None
            else state_dict_sha256(self.judge.module),
            "judge's preprocessing": (
                None if self.judge_preprocessing is None else self.judge_preprocessing.to_dict()
            ),
            "resolved target": self.target,
        }


def make_setting(
    plan: Plan,
    *,
    model: Network | None = None,
    judge: Network | None = None,
    data: DataSet | None = None,
) -> Setting:
    """Load and find everything that a plan names.

    Args:
        plan: what is evaluated.
        model: the explained network, instead of `plan.model`.
        judge: the network that scores, instead of `plan.judge`.
        data: the images, instead of `plan.data`.

    Raises:
        TorchSaliencyError: a name, file or combination that does not work, in a sentence that
            begins with the plan's field.
    """
    methods, metrics = plan.create_methods(), plan.create_metrics()
    found = _named("data", lambda: _data(plan)) if data is None else data
    _insist_on_annotations(plan, found)
    network = model or _named("model", lambda: _load(plan, plan.model, plan.weights))
    scorer = judge
    name = plan.judge or _usual_judge(network, metrics, plan.study)
    if scorer is None and name is not None:
        scorer = _named("judge", lambda: _load(plan, name, plan.judge_weights))
    preprocessing = _framed(plan, network)
    seen = None if scorer is None else _as_judged(preprocessing, _framed(plan, scorer))
    insist_on_classes(metrics, network, scorer)
    known = scorer if network.encoder and scorer is not None else network
    labels = _labels(found, known)
    target = _named("target", lambda: _target(plan, found, known, labels))
    if labels is None:
        _say_if_unmatched(plan, found, known, target)
    return Setting(
        plan=plan,
        data=_named("classes", lambda: _subset(plan, found)),
        network=network,
        preprocessing=preprocessing,
        judge=scorer,
        judge_preprocessing=seen,
        methods=methods,
        metrics=metrics,
        layers=_named("layers", lambda: _layers(plan.layers, network)),
        masking=preprocessing.baseline(plan.masking),
        judge_masking=None if seen is None else seen.baseline(plan.masking),
        target=target,
        class_of_label=labels,
    )


def _named(field: str, work: Any) -> Any:
    """Do it, and let an error begin with the plan's field."""
    try:
        return work()
    except TorchSaliencyError as error:
        raise type(error)(f"{field}: {error}") from error


def _data(plan: Plan) -> DataSet:
    return open_data(plan.data, split=plan.split, boxes=plan.boxes, labels=plan.labels)


def _subset(plan: Plan, data: DataSet) -> DataSet:
    if not plan.classes and plan.count is None:
        return data
    return data.subset(count=plan.count, seed=plan.subset_seed, classes=plan.classes or None)


def _load(plan: Plan, name: str, weights: Any) -> Network:
    dtype: torch.dtype = getattr(torch, plan.precision)
    return load_model(name, weights=weights, device=plan.device, dtype=dtype)


def _framed(plan: Plan, network: Network) -> Preprocessing:
    own = network.preprocessing.framed(plan.fit)
    return own if plan.normalise else own.unnormalised()


def _as_judged(preprocessing: Preprocessing, judge: Preprocessing) -> Preprocessing:
    """Return what shows the judge the pixels that were explained, in its own normalisation."""
    return replace(preprocessing, mean=judge.mean, std=judge.std)


def _layers(names: Sequence[str], network: Network) -> tuple[str, ...]:
    for name in names:
        Layer(name).module_of(unwrap(network))
    return tuple(names)


def _insist_on_annotations(plan: Plan, data: DataSet) -> None:
    for needed, field in plan.needs.items():
        if needed not in data.annotations:
            known = ", ".join(sorted(data.annotations)) or "no annotations"
            raise OptionError(
                f"{field} needs {needed} of the objects, and the data {data.name} has {known}; "
                f"give data with {needed}, or leave it out."
            )


def _usual_judge(
    network: Network, metrics: dict[str, SaliencyMetric], study: str | None
) -> str | None:
    """Return the classifier that judges an encoder's maps (the TMLR paper's Table 5)."""
    asked = {one for metric in metrics.values() for one in metric.entry.requires}
    needed = study is not None or not asked <= set(_WITHOUT_CLASSES)
    return network.judge if network.encoder and needed else None


def insist_on_classes(
    metrics: Mapping[str, SaliencyMetric], network: Network, judge: Network | None
) -> None:
    """Refuse metrics of class probabilities where no network has classes.

    Raises:
        OptionError: there is one.
    """
    if not network.encoder or judge is not None:
        return
    for place, (label, metric) in enumerate(metrics.items()):
        if needed := [one for one in metric.entry.requires if one not in _WITHOUT_CLASSES]:
            raise OptionError(
                f"metrics[{place}]: {label} reads class probabilities ({needed[0]}), and "
                f"{network.name} is an encoder; give a classifier as judge, or leave it out."
            )


_WITHOUT_CLASSES = ("maps", "masked_embeddings", "masked_maps", "noisy_maps", "randomised_maps")
"""Measures that an encoder alone can give."""


def _labels(data: DataSet, network: Network) -> tuple[int, ...] | None:
    """Return the network's class of each of the data's labels, None if they are not known to fit.

    Labels without names are the network's numbers. Names are looked for among the network's own;
    names that are numbers, as of folders 0 … 999, are the network's numbers, too. Two lists of one
    length are in one order if most of their names say so: ImageNet's are spelt in several ways.
    """
    count = network.class_count
    if data.classes is None:
        known = [sample.label for sample in data.samples if sample.label is not None]
        if not known or (count is not None and max(known) >= count):
            return None
        return tuple(range(max(known) + 1))
    theirs, ours = [*map(_plain, data.classes)], [*map(_plain, network.classes or ())]
    if all(ours.count(name) == 1 for name in theirs):
        return tuple(ours.index(name) for name in theirs)
    if all(name.isascii() and name.isdecimal() for name in theirs):
        numbers = tuple(map(int, theirs))
        fits = count is not None and max(numbers) < count and len({*numbers}) == len(numbers)
        return numbers if fits else None
    same = sum(map(_share_a_word_for_it, theirs, ours)) if len(theirs) == len(ours) else 0
    usual = bool(data.codes) and not ours and len(theirs) == count
    if usual:
        warnings.warn(
            f"{network.name} has no class names; its {count} classes are taken for those of "
            f"{data.name}, in their usual order.",
            stacklevel=2,
        )
    return tuple(range(len(theirs))) if usual or same > len(theirs) / 2 else None


def _plain(name: str) -> str:
    return " ".join(name.replace("_", " ").lower().split())


def _share_a_word_for_it(one: str, other: str) -> bool:
    """Whether two entries of the kind "tench, tinca tinca" have a name in common."""
    return not {*one.split(", ")}.isdisjoint(other.split(", "))


def _say_if_unmatched(plan: Plan, data: DataSet, network: Network, target: int | str) -> None:
    if plan.target is not None or target != PREDICTED or network.encoder:
        return
    named = [sample for sample in data.samples if sample.label is not None]
    if named and data.classes is not None:
        some = ", ".join(repr(name) for name in data.classes[:3])
        warnings.warn(
            f"The classes of the data ({some}{', …' if len(data.classes) > 3 else ''}) are not "  # noqa: PLR2004
            f"those of {network.name}, so the predicted classes are explained and judged; name "
            "them as the network does, or label the images by the network's numbers (labels=FILE), "
            "if the labels are to be.",
            stacklevel=2,
        )


def _target(
    plan: Plan, data: DataSet, network: Network, labels: tuple[int, ...] | None
) -> int | str:
    labelled = labels is not None and all(one.label is not None for one in data.samples)
    if plan.target is None:
        return LABEL if labelled else PREDICTED
    if plan.target == LABEL and not labelled:
        why = (
            "some of its images have no label"
            if labels is not None
            else f"its classes are not those of {network.name}"
        )
        raise TargetError(
            f"The label cannot be the target, for the data is {data.name} and {why}; give "
            '"predicted", or a class.'
        )
    if plan.target in (LABEL, PREDICTED):
        return plan.target
    return network.class_index(plan.target)
