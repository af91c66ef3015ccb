"""From a plan to networks, data and targets, all checked before the first pass."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, final

import torch
from torch import Tensor

from torchsaliency.core.explain import explain
from torchsaliency.core.explanation import Explanation
from torchsaliency.core.inputs import InputsLike, find_images_argument
from torchsaliency.core.layer import Layer
from torchsaliency.core.masking import Masking
from torchsaliency.core.method import Method
from torchsaliency.core.network import unwrap
from torchsaliency.data import DataSet, as_dataset, select
from torchsaliency.data.media import Kind
from torchsaliency.data.photosets import PhotoSet
from torchsaliency.data.side_inputs import SideInputs, list_images, read_side_inputs
from torchsaliency.errors import DataError, InputError, OptionError, TargetError, TorchSaliencyError
from torchsaliency.evaluation.bench import explains_again, find_class_measure
from torchsaliency.evaluation.given import FolderMaps
from torchsaliency.evaluation.plan import Plan
from torchsaliency.measures.reexplained import require_other_weights
from torchsaliency.metrics import SaliencyMetric
from torchsaliency.metrics.sanity import SanityMetric
from torchsaliency.zoo import Network, Preprocessing, load_model
from torchsaliency.zoo.checkpoints import state_dict_sha256
from torchsaliency.zoo.code import code_sha256
from torchsaliency.zoo.inputs import given_facts
from torchsaliency.zoo.media import choose_volume_preprocessing, find_kind, takes_volumes
from torchsaliency.zoo.preprocessing import PHOTOGRAPHIC
from torchsaliency.zoo.volumes import ClipPreprocessing, ScanPreprocessing, VolumePreprocessing

LABEL, PREDICTED = "label", "predicted"
_FINGERPRINT = "fingerprint of the data"


@final
@dataclass(frozen=True, eq=False)
class Setting:
    """All that an evaluation works with; methods and metrics by label, metrics without images."""

    plan: Plan
    data: DataSet  # already a subset (but for `keep`, which needs the network)
    network: Network
    # of the network, as the plan changes it
    preprocessing: Preprocessing | VolumePreprocessing
    judge: Network | None  # None if the explained network scores
    # the same pixels in the judge's normalisation
    judge_preprocessing: Preprocessing | VolumePreprocessing | None
    permuted: Network | None  # trained on permuted labels, for sanity metrics
    methods: dict[str, Method]
    metrics: dict[str, SaliencyMetric]
    masking: Masking  # of methods, and of measures of the same network
    judge_masking: Masking | None  # in the judge's normalisation
    # "label", "predicted" or a class, explained and judged; of an encoder its own embedding is
    # explained, and this is what a judge looks at
    target: int | str
    side_inputs: SideInputs | None  # what the network takes beside the images
    judge_side_inputs: SideInputs | None  # what the judge takes of that
    # the network's (or, of an encoder, its judge's) class of each of the data's labels; empty if
    # they do not fit
    class_of_label: dict[int | None, int]

    def target_of(self, labels: Sequence[int | None]) -> list[int] | int | None:
        """Return the target of images with these classes, as `explain` and `score` take it."""
        if self.target == PREDICTED:
            return None
        if self.target == LABEL:
            return [-1 if label is None else label for label in labels]
        return int(self.target)

    @property
    def photo_preprocessing(self) -> Preprocessing:
        """How photographs become the network's input, where the data holds photographs."""
        assert isinstance(self.preprocessing, Preprocessing)
        return self.preprocessing

    @property
    def batch_size(self) -> int:
        """Images of a batch; one, where they differ in size."""
        differ = isinstance(self.preprocessing, ScanPreprocessing) and not self.preprocessing.size
        return 1 if differ else self.plan.batch_size

    def inputs(self, images: Tensor, ids: Sequence[str]) -> InputsLike:
        """Return what the explained network takes: images (N, C, *size) and what is beside them."""
        return images if self.side_inputs is None else self.side_inputs.beside(images, ids)

    def judge_inputs(self, images: Tensor, ids: Sequence[str]) -> InputsLike:
        """Return what the judge takes: images (N, C, *size) and what is beside them."""
        side = self.judge_side_inputs
        return images if side is None else side.beside(images, ids)

    def explain(
        self,
        x: InputsLike,
        target: Any,
        *,
        methods: Collection[str] | None = None,
        ids: Sequence[str] = (),
    ) -> dict[str, Explanation]:
        """Explain images (N, C, *size) as the plan says, by all methods or by those labels.

        By `ids`, maps that another program made are found.
        """
        labels = self.methods if methods is None else methods
        chosen = {label: self.methods[label] for label in labels}
        return explain(
            self.network,
            x,
            {
                label: method.take(ids) if isinstance(method, FolderMaps) else method
                for label, method in chosen.items()
            },
            target,
            list(self.plan.layers) or None,
            masking=self.masking,
            chunk=self.plan.chunk,
            fuse=self.plan.fuse,
        )

    def identity(self, begun: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Return all that decides the numbers of every method, in JSON types.

        To be compared with that of a run that was begun, whose fingerprint may be of another kind.
        """
        judge, judge_preprocessing = self.judge, self.judge_preprocessing
        side, permuted = self.side_inputs, self.permuted
        return {
            **self.plan.identity(),
            **({} if side is None else {"side inputs": side.identity()}),
            _FINGERPRINT: self.data.fingerprint((begun or {}).get(_FINGERPRINT, "")),
            "weights of the network": state_dict_sha256(self.network.module),
            "code of the network": code_sha256(self.network),
            "preprocessing": self.preprocessing.to_dict(),
            "weights of the judge": None if judge is None else state_dict_sha256(judge.module),
            "code of the judge": None if judge is None else code_sha256(judge),
            "judge's preprocessing": judge_preprocessing and judge_preprocessing.to_dict(),
            "weights of permuted": None if permuted is None else state_dict_sha256(permuted.module),
            "code of permuted": None if permuted is None else code_sha256(permuted),
            "resolved target": self.target,
        }


def make_setting(
    plan: Plan,
    *,
    model: Network | None = None,
    judge: Network | None = None,
    permuted: Network | None = None,
    data: Any = None,
) -> Setting:
    """Load and find everything that a plan names.

    What is given is used instead of what the plan names.

    Raises:
        TorchSaliencyError: a name, file or combination that does not work, in a sentence that
            begins with the plan's field.
    """
    methods, metrics = plan.create_methods(), plan.create_metrics()
    with _field("data"):
        images = plan.open_data() if data is None else as_dataset(data)
    _check_annotations(plan, images)
    network = model or _load("model", plan, plan.model, plan.weights)
    judge_name = plan.judge
    if judge_name is None and network.encoder:  # the classifier of the TMLR paper's Table 5
        needed = plan.study is not None or any(map(find_class_measure, metrics.values()))
        judge_name = network.judge if needed else None
    if judge is None and judge_name is not None:
        judge = _load("judge", plan, judge_name, plan.judge_weights)
    kind, images = _read_media(images, network)
    if kind == "photographs" and network.preprocessing.size is None:
        raise OptionError(
            f"model: {network.name} takes photographs of any size and finds objects or segments in "
            "them, and an evaluation is of one class an image; use `torchsaliency explain`, and "
            "torchsaliency.measures.perturbation_curve with the explanation's target."
        )
    preprocessing = _preprocess(plan, network, kind)
    judge_preprocessing = judge_masking = None
    if judge is not None:
        judge_preprocessing = _normalise_for_judge(preprocessing, _preprocess(plan, judge, kind))
        judge_masking = judge_preprocessing.baseline(plan.masking)
    if permuted is None and plan.permuted is not None:
        permuted = _load("permuted", plan, plan.permuted, plan.permuted_weights)
    if permuted is not None:
        _require_same_input(preprocessing, _preprocess(plan, permuted, kind), permuted)
    require_classes(metrics, network, judge)
    with _field("inputs"):  # of all images, before some are drawn
        side = read_side_inputs(plan.inputs, plan.of, list_images(images.samples), network)
    classifier = judge if network.encoder and judge is not None else network
    labels = match_classes(images, classifier)
    with _field("target"):
        target = _resolve_target(plan, images, classifier, labels)
    if target == LABEL and images.several_labels:  # a row for each image and label
        images = select(images, [sample.label is not None for sample in images.samples])
    with _field("classes"):
        if plan.classes or plan.count is not None:
            images = images.subset(
                count=plan.count, seed=plan.subset_seed, classes=plan.classes or None
            )
    methods = _find_given(plan, methods, metrics, images)
    with _field("layers"):
        for name in plan.layers:
            Layer(name).module_of(unwrap(network))
    return Setting(
        plan=plan,
        data=images,
        network=network,
        preprocessing=preprocessing,
        judge=judge,
        judge_preprocessing=judge_preprocessing,
        permuted=permuted,
        methods=methods,
        metrics=metrics,
        masking=preprocessing.baseline(plan.masking),
        judge_masking=judge_masking,
        target=target,
        side_inputs=side,
        judge_side_inputs=_side_inputs_of(judge, side),
        class_of_label=dict(enumerate(labels or ())),
    )


def _find_given(
    plan: Plan,
    methods: Mapping[str, Method],
    metrics: Mapping[str, SaliencyMetric],
    images: DataSet,
) -> dict[str, Method]:
    """Return the methods; maps that another program made are checked, and have their digest."""
    given = [label for label, method in methods.items() if isinstance(method, FolderMaps)]
    again = [label for label, metric in metrics.items() if explains_again(metric)]
    if given and (again or plan.study == "classes"):
        raise OptionError(
            f"metrics: {again[0] if again else 'the study classes'} needs the methods to explain "
            f"further images, and the maps {given[0]} were made by another program; leave one of "
            "them out."
        )
    ids = [sample.id for sample in images.samples]
    found: dict[str, Method] = {}
    for label, method in methods.items():
        with _field(label):
            found[label] = method.with_digest(ids) if isinstance(method, FolderMaps) else method
    return found


@contextmanager
def _field(name: str) -> Iterator[None]:
    """Let an error begin with the plan's field."""
    try:
        yield
    except TorchSaliencyError as error:
        raise type(error)(f"{name}: {error}") from error


def _load(field: str, plan: Plan, name: str, weights: Path | None) -> Network:
    dtype: torch.dtype = getattr(torch, plan.precision)
    given = given_facts(plan) if field == "model" else None
    with _field(field):
        return load_model(name, weights=weights, device=plan.device, dtype=dtype, given=given)


def _read_media(data: DataSet, network: Network) -> tuple[Kind, DataSet]:
    """Return what the files of a data set are to the network, and the data set that reads them so.

    Raises:
        DataError: the network takes volumes, and the data set has pictures that lie in no file.
        OptionError: there are files of several kinds.
    """
    volumes = takes_volumes(network)
    if not isinstance(data, PhotoSet):
        if volumes:
            raise DataError(
                f"data: The data set {data.name} has pictures and {network.name} takes volumes; "
                "give a folder of scans or videos."
            )
        return "photographs", data
    data = data.group_series() if volumes else data
    with _field("data"):
        kind = find_kind({Path(str(sample.source)) for sample in data.samples}, network)
    channels = network.preprocessing.channels
    counted = kind == "photographs" and channels not in PHOTOGRAPHIC
    return kind, data.read_as(kind, channels if counted else None)


def _normalise_for_judge(
    preprocessing: Preprocessing | VolumePreprocessing, judge: Preprocessing | VolumePreprocessing
) -> Preprocessing | VolumePreprocessing:
    """Return how the pixels that are explained become the judge's input: in its normalisation."""
    if isinstance(preprocessing, ScanPreprocessing) and isinstance(judge, ScanPreprocessing):
        return replace(
            judge, size=preprocessing.size, spacing=preprocessing.spacing, axes=preprocessing.axes
        )
    if isinstance(preprocessing, ClipPreprocessing) and isinstance(judge, ClipPreprocessing):
        frame = replace(preprocessing.frame, mean=judge.frame.mean, std=judge.frame.std)
        return replace(preprocessing, frame=frame)
    assert isinstance(preprocessing, Preprocessing)  # both are of one kind
    assert isinstance(judge, Preprocessing)
    return replace(preprocessing, mean=judge.mean, std=judge.std)


def _preprocess(plan: Plan, network: Network, kind: Kind) -> Preprocessing | VolumePreprocessing:
    if kind != "photographs":
        if not plan.normalise or plan.needs.keys() - {"labels"}:
            what = ", ".join([*plan.needs.values()] if plan.normalise else ["normalise: false"])
            raise OptionError(
                f"{what} is for photographs, and the data holds {kind}; leave it out."
            )
        found, assumed = choose_volume_preprocessing(network, kind, plan)
        if assumed:
            warnings.warn(assumed, stacklevel=2)
        return found
    framed = network.preprocessing.frame(plan.fit)
    return framed if plan.normalise else framed.skip_normalisation()


def _require_same_input(
    preprocessing: Preprocessing | VolumePreprocessing,
    other: Preprocessing | VolumePreprocessing,
    permuted: Network,
) -> None:
    """Refuse a network of permuted labels that takes pixels in another normalisation."""
    if _normalise_for_judge(preprocessing, other) != preprocessing:
        raise OptionError(
            f"permuted: {permuted.name} takes images in another normalisation than the explained "
            "network; give a network of the same architecture and input."
        )


def require_permuted(setting: Setting) -> None:
    """Refuse a sanity metric of permuted labels without such a network, and the other way round.

    Raises:
        OptionError: one is there without the other, or the network has the explained one's weights.
    """
    asking = [
        label
        for label, metric in setting.metrics.items()
        if isinstance(metric, SanityMetric) and metric.mode == "labels"
    ]
    if asking and setting.permuted is None:
        raise OptionError(
            f"metrics: {asking[0]} has mode=labels, and no network trained on permuted labels was "
            "given; give it by --permuted, or permuted= of a plan or in Python."
        )
    if setting.permuted is not None and not asking:
        raise OptionError(
            f"permuted: {setting.permuted.name} was given, and no metric compares with it; set "
            "mode=labels of a sanity metric such as ssim, or leave it out."
        )
    if setting.permuted is not None:
        with _field("permuted"):
            require_other_weights(setting.network, setting.permuted)


def _side_inputs_of(judge: Network | None, side: SideInputs | None) -> SideInputs | None:
    """Return what a judge takes beside the images: all that is given, or nothing."""
    if judge is None or side is None:
        return None
    try:
        argument = find_images_argument(unwrap(judge), side.rows)
    except InputError:
        return None
    return replace(side, of=argument)


def _check_annotations(plan: Plan, data: DataSet) -> None:
    for needed, field in plan.needs.items():
        if needed not in data.annotations:
            known = ", ".join(sorted(data.annotations)) or "no annotations"
            raise OptionError(
                f"{field} needs {needed} of the objects, and the data {data.name} has {known}; "
                f"give data with {needed}, or leave it out."
            )


def require_classes(
    metrics: Mapping[str, SaliencyMetric], network: Network, judge: Network | None
) -> None:
    """Refuse metrics of class probabilities where no network has classes."""
    if not network.encoder or judge is not None:
        return
    for place, (label, metric) in enumerate(metrics.items()):
        if measure := find_class_measure(metric):
            raise OptionError(
                f"metrics[{place}]: {label} reads class probabilities ({measure}), and "
                f"{network.name} is an encoder; give a classifier as judge, or leave it out."
            )


def match_classes(data: DataSet, network: Network) -> tuple[int, ...] | None:
    """Return the network's class of each of the data's labels, None if they are not known to fit.

    Labels without names are the network's numbers. Names are looked up among the network's names;
    names that are numbers, such as folders 0 … 999, are the network's numbers, too. Two lists of
    the same length have the same order if most of their names agree: ImageNet's names are spelt in
    several ways.
    """
    count = network.class_count
    if data.classes is None:
        known = [sample.label for sample in data.samples if sample.label is not None]
        if not known or (count is not None and max(known) >= count):
            return None
        return tuple(range(max(known) + 1))
    names, classes = [*map(_plain, data.classes)], [*map(_plain, network.classes or ())]
    if all(classes.count(name) == 1 for name in names):
        return tuple(classes.index(name) for name in names)
    if all(name.isascii() and name.isdecimal() for name in names):
        numbers = tuple(map(int, names))
        fits = count is not None and max(numbers) < count and len({*numbers}) == len(numbers)
        return numbers if fits else None
    if data.codes and not classes and len(names) == count:
        warnings.warn(
            f"{network.name} has no class names; its {count} classes are taken for those of "
            f"{data.name}, in their usual order.",
            stacklevel=2,
        )
        return tuple(range(len(names)))
    shared = 0
    if len(names) == len(classes):  # entries such as "tench, tinca tinca" that share a name
        pairs = zip(names, classes, strict=True)
        shared = sum(not {*a.split(", ")}.isdisjoint(b.split(", ")) for a, b in pairs)
    return tuple(range(len(names))) if shared > len(names) / 2 else None


def _plain(name: str) -> str:
    return " ".join(name.replace("_", " ").lower().split())


def _resolve_target(
    plan: Plan, data: DataSet, network: Network, labels: tuple[int, ...] | None
) -> int | str:
    there = [sample.label is not None for sample in data.samples]
    labelled = labels is not None and (any(there) if data.several_labels else all(there))
    if plan.target is None:
        if labels is None and not network.encoder:
            _warn_of_classes(data, network)
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
    try:
        return network.class_index(plan.target)
    except TargetError as error:
        raise TargetError(
            f"{str(error).rstrip('.')}; a plan's target is label, predicted or a class."
        ) from error


def _warn_of_classes(data: DataSet, network: Network) -> None:
    if data.classes is not None and any(sample.label is not None for sample in data.samples):
        names = ", ".join(map(repr, data.classes[:3])) + (", …" if len(data.classes) > 3 else "")  # noqa: PLR2004
        warnings.warn(
            f"The classes of the data ({names}) are not those of {network.name}, so the predicted "
            "classes are explained and judged; name them as the network does, or label the images "
            "by the network's numbers (labels=FILE), if the labels are to be.",
            stacklevel=2,
        )
