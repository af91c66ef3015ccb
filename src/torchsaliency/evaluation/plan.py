"""What is to be evaluated: one description, from YAML, from Python or from the command line."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator
from yaml.constructor import ConstructorError

from torchsaliency.core.acceleration.engine import Acceleration
from torchsaliency.core.method import Method, create
from torchsaliency.errors import DataError, OptionError, describe_unknown
from torchsaliency.methods.smoothing import Augmented, EigenSmoothed
from torchsaliency.metrics import SaliencyMetric, create_metric
from torchsaliency.registry import load_all

Keep = Literal["all", "correct", "misclassified"]
Baseline = Literal["mean", "black", "blur"]
Framing = Literal["crop", "squash", "fill"]
Precision = Literal["float32", "bfloat16", "float16"]

FREE = ("batch_size", "chunk", "workers", "device", "maps", "accelerate")
"""Fields that decide how a run goes and not what it finds; they may differ when it is continued."""

PLACES = ("data", "boxes", "labels", "weights", "judge_weights")
"""Fields that only say where something lies; a run's identity has its content's hash instead."""


_STUDY_NEEDS = {"boxes": "boxes", "boxes-published": "boxes", "classes": "labels"}


class Choice(BaseModel):
    """A method or metric with its options.

    Attributes:
        name: as registered.
        label: what its rows are called; the name by default, so that one may be there twice.
        options: by name.
        augmented: methods only: average over mirrored and brightened copies.
        eigen: methods only: keep the first principal component.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    label: str = ""
    options: dict[str, Any] = Field(default_factory=dict)
    augmented: bool = False
    eigen: bool = False

    def method(self) -> Method:
        """Return the method.

        Raises:
            OptionError: unknown name or option, or a value that does not fit.
        """
        made = create(self.name, self.options)
        made = EigenSmoothed(made) if self.eigen else made
        return Augmented(made) if self.augmented else made

    def metric(self) -> SaliencyMetric:
        """Return the metric, without images.

        Raises:
            OptionError: unknown name or option, or a value that does not fit.
        """
        return create_metric(self.name, self.options)


class Plan(BaseModel):
    """What is evaluated, and how. Everything but `FREE` decides the numbers.

    Attributes:
        data: as `open_data`: a folder, "samples", "shapes:64", "voc:FOLDER" …
        split: of the data, where it has several.
        boxes: file or folder with boxes.
        labels: file with labels.
        count: at most so many images, drawn by `subset_seed`; None for all.
        subset_seed: of the draw.
        classes: only images of these classes, by number or name.
        keep: all images, or those that the explained network classifies right or wrong.
        model: the explained network, as `load_model`.
        weights: its weights.
        judge: the network that scores; the explained one by default.
        judge_weights: its weights.
        methods: names, `{name: {option: value}}`, or `Choice`s.
        metrics: likewise; none are needed beside a study.
        study: AD, AG and AI of variants: "boxes" (the map inside and outside the boxes, Opti-CAM's
            Table 5; "boxes-published" with its helper's defect), "classes" (maps of other classes,
            Table A.9) or "selectivity" (powers of the map, Figure A4).
        target: "label" (the papers' ground truth), "predicted", or a class by number or name; by
            default the label where the data has labels that the network knows.
        layers: where maps are read; the network's default if empty.
        masking: "mean", "black" or "blur"; of methods and measures alike.
        fit: how photographs become the network's square: "crop" the middle, "squash" the whole, or
            "fill" it with the shorter side and crop the rest; the network's own way by default.
        normalise: feed the network images in [0, 1] without its normalisation if false (Opti-CAM's
            Table A.14).
        seed: of the measures that draw.
        precision: of the networks.
        batch_size: images that share a pass.
        chunk: images in one derived pass; None finds it. Halved where the memory ends.
        workers: processes that read images; None for as many as the machine bears.
        device: "cpu", "cuda" …
        accelerate: how derived passes run, see `accelerated`.
        maps: whether maps are kept, too.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    data: str = Field(default="samples", min_length=1)
    split: str | None = None
    boxes: Path | None = None
    labels: Path | None = None
    count: int | None = Field(default=None, ge=1)
    subset_seed: int = Field(default=0, ge=-(2**63), lt=2**64)
    classes: tuple[int | str, ...] = ()
    keep: Keep = "all"
    model: str = "builtin/efficientnet_lite0"
    weights: Path | None = None
    judge: str | None = None
    judge_weights: Path | None = None
    methods: tuple[Choice, ...] = Field(min_length=1)
    metrics: tuple[Choice, ...] = ()
    study: Literal["boxes", "boxes-published", "classes", "selectivity"] | None = None
    target: int | str | None = None
    layers: tuple[str, ...] = ()
    masking: Baseline = "mean"
    fit: Framing | None = None
    normalise: bool = True
    seed: int = Field(default=0, ge=-(2**63), lt=2**64)
    precision: Precision = "float32"
    batch_size: int = Field(default=8, ge=1)
    chunk: int | None = Field(default=None, ge=1)
    workers: int | None = Field(default=None, ge=0, le=512)
    device: str = "cpu"
    accelerate: Acceleration = "off"
    maps: bool = False

    @field_validator("methods", "metrics", mode="before")
    @classmethod
    def _as_choices(cls, value: Any) -> Any:
        several = value.split(",") if isinstance(value, str) else value
        if isinstance(several, Mapping):
            several = [{name: options} for name, options in several.items()]
        return tuple(map(_choice, several)) if isinstance(several, Sequence) else several

    @field_validator("layers", "classes", mode="before")
    @classmethod
    def _as_several(cls, value: Any) -> Any:
        return (value,) if isinstance(value, int | str) else value

    @property
    def needs(self) -> dict[str, str]:
        """The annotations that the plan reads, and the field that reads each."""
        read_by_study = _STUDY_NEEDS.get(self.study or "", "")
        found = {read_by_study: f"study: {self.study}"}
        for place, (label, metric) in enumerate(self.made_metrics.items()):
            found.setdefault(metric.entry.annotations, f"metrics[{place}]: {label}")
        return {needed: field for needed, field in found.items() if needed}

    @property
    def made_methods(self) -> dict[str, Method]:
        """The methods by label."""
        return _by_label("methods", [(one.label, one.method()) for one in self.methods])

    @property
    def made_metrics(self) -> dict[str, SaliencyMetric]:
        """The metrics by label, without images."""
        return _by_label("metrics", [(one.label, one.metric()) for one in self.metrics])

    def identity(self) -> dict[str, Any]:
        """Return all that decides the numbers, in JSON types; methods apart, each decides its own.

        What `device` and `precision` have in common is the kind of processor, so a run may go on
        with cuda:1 that cuda:0 began.
        """
        facts: dict[str, Any] = self.model_dump(mode="json", exclude={*FREE, *PLACES, "methods"})
        rounded = self.accelerate == "bf16"  # the only acceleration that changes the numbers
        return {**facts, "processor": self.device.partition(":")[0], "bf16": rounded}

    def method_identity(self) -> dict[str, Any]:
        """Return what decides each method's numbers, by label."""
        return {one.label: one.model_dump(mode="json") for one in self.methods}

    def to_yaml(self) -> str:
        """Return the plan as YAML that `read_plan` takes back."""
        told = self.model_dump(mode="json", exclude_defaults=True)
        for field in ("methods", "metrics"):
            told[field] = [
                _short(one.model_dump(mode="json", exclude_defaults=True))
                for one in getattr(self, field)
            ]
        text: str = yaml.safe_dump(told, sort_keys=False, allow_unicode=True)
        return text

    def key(self) -> str:
        """Return a hash of everything that decides the numbers."""
        text = json.dumps([self.identity(), self.method_identity()], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()


def make_plan(facts: Mapping[str, Any]) -> Plan:
    """Return a plan whose every name and option exists.

    Raises:
        OptionError: naming the field, what was given, and what is close to it.
    """
    load_all()
    for key in facts:
        if key not in Plan.model_fields:
            raise OptionError(describe_unknown("field", key, Plan.model_fields, where=" in a plan"))
    try:
        plan = Plan.model_validate(dict(facts))
    except ValidationError as error:
        first = error.errors()[0]
        raise OptionError(f"{_place(first['loc'])}: {first['msg']}.") from None
    for field, made in (("methods", Choice.method), ("metrics", Choice.metric)):
        for place, choice in enumerate(getattr(plan, field)):
            try:
                made(choice)
            except OptionError as error:
                raise OptionError(f"{field}[{place}]: {error}") from None
    if not plan.metrics and plan.study is None:
        raise OptionError("metrics: a plan needs at least one metric, or a study.")
    _ = plan.made_methods, plan.made_metrics
    return plan


def read_plan(path: str | Path, changes: Mapping[str, Any] | None = None) -> Plan:
    """Read a plan from a YAML file; `changes` replace its fields.

    Raises:
        DataError: the file cannot be read or is no YAML mapping.
        OptionError: a field does not fit.
    """
    path = Path(path)
    try:
        facts = yaml.load(path.read_text(encoding="utf-8"), _Strict)
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}); give a plan's YAML.") from error
    except RecursionError:
        raise DataError(f"{path} is nested too deeply for a plan.") from None
    except (yaml.YAMLError, ValueError) as error:  # numbers and dates that Python refuses, too
        told = " ".join(str(error).split()).rstrip(".")
        raise DataError(f"{path} is no YAML of a plan: {told}.") from error
    if not isinstance(facts, dict):
        raise DataError(f"{path} holds a {type(facts).__name__}; a plan is a mapping of fields.")
    return make_plan({**facts, **(changes or {})})


class _Strict(yaml.SafeLoader):  # type: ignore[misc]  # PyYAML has no types
    """Reads YAML whose keys are words, each there once, and whose text is Unicode."""

    def construct_mapping(self, node: yaml.Node, deep: bool = False) -> dict[Any, Any]:
        if isinstance(node, yaml.MappingNode):
            seen = set()
            for key, _ in node.value:
                if not isinstance(key, yaml.ScalarNode) or not key.tag.endswith((":str", ":merge")):
                    told = f"the key {key.value!r} is no word" if key.id == "scalar" else "no word"
                    raise ConstructorError(None, None, told, key.start_mark)
                if key.value in seen:
                    raise ConstructorError(
                        None, None, f"{key.value!r} is there twice", key.start_mark
                    )
                seen.add(key.value)
        found: dict[Any, Any] = super().construct_mapping(node, deep=deep)
        return found

    def construct_yaml_int(self, node: yaml.ScalarNode) -> int:
        number: int = super().construct_yaml_int(node)
        if not -(2**63) <= number < 2**64:
            raise ConstructorError(
                None, None, "a whole number has more than 64 bits", node.start_mark
            )
        return number

    def construct_scalar(self, node: yaml.ScalarNode) -> Any:
        if not _is_unicode(node.value):
            raise ConstructorError(None, None, f"{node.value!r} is no Unicode", node.start_mark)
        return super().construct_scalar(node)


_Strict.add_constructor("tag:yaml.org,2002:int", _Strict.construct_yaml_int)


def _is_unicode(text: Any) -> bool:
    try:
        str(text).encode()
    except UnicodeEncodeError:
        return False
    return True


def _choice(value: Any) -> Any:
    """Read "gradcam", {"opticam": {"iterations": 50}} and {"name": …, "label": …} alike."""
    if isinstance(value, str):
        value = {"name": value.strip()}
    elif isinstance(value, Choice):
        value = value.model_dump()
    elif isinstance(value, Mapping) and len(value) == 1 and "name" not in value:
        (name, options), *_ = value.items()
        value = {"name": name, "options": options or {}}
    if isinstance(value, Mapping) and not value.get("label") and isinstance(value.get("name"), str):
        value = {**value, "label": value["name"]}
    return value


def _short(choice: dict[str, Any]) -> Any:
    if choice["label"] == choice["name"]:
        choice = {key: value for key, value in choice.items() if key != "label"}
    if set(choice) == {"name"}:
        return choice["name"]
    return {choice["name"]: choice["options"]} if set(choice) == {"name", "options"} else choice


def _by_label(field: str, pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        labels = [label for label, _ in pairs]
        twice = next(label for label in labels if labels.count(label) > 1)
        raise OptionError(f"{field}: {twice!r} is there twice; give one of them another label.")
    return made


def _place(location: Sequence[int | str]) -> str:
    parts = [f"[{one}]" if isinstance(one, int) else f".{one}" for one in location]
    return "".join(parts).lstrip(".") or "plan"
