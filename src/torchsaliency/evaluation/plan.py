"""What is evaluated: one description, from YAML, from Python or from the command line."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import PrivateAttr
from yaml.constructor import ConstructorError

from torchsaliency.core.acceleration import ENGINES
from torchsaliency.core.given import GIVEN
from torchsaliency.core.method import Method, create
from torchsaliency.data import DataSet, as_dataset, open_data
from torchsaliency.data.opening import IN_MEMORY
from torchsaliency.errors import DataError, OptionError
from torchsaliency.evaluation.given import create_given, parse_given
from torchsaliency.methods.smoothing import smooth
from torchsaliency.metrics import SaliencyMetric, create_metric
from torchsaliency.options import Choice, PlanOptions, validate_options
from torchsaliency.registry import load_all

ENGINE_OPTIONS = ("actors", "workers_per_gpu", "gpus_per_actor", "address")
"""Fields that are options of an engine; each engine has some."""

FREE = (
    *("batch_size", "chunk", "workers", "device", "maps", "accelerate", "engine"),
    "until_interval",
    *ENGINE_OPTIONS,
)
"""Fields that decide how a run goes and not what it finds; they may differ when it is continued."""

PLACES = ("data", "boxes", "labels", "weights", "judge_weights", "permuted_weights", "inputs")
"""Fields that only say where something lies; a run's identity has its content's hash instead."""

_STUDY_NEEDS = {"boxes": "boxes", "boxes-published": "boxes", "classes": "labels"}

T = TypeVar("T")


class Plan(PlanOptions):
    """What is evaluated, and how; the fields are those of `PlanOptions`.

    Everything but `FREE` decides the numbers.
    """

    _images: DataSet | None = PrivateAttr(default=None)
    """The data set that `make_plan` was given."""

    def open_data(self) -> DataSet:
        """Return the data set that `make_plan` was given, or open the one that is named.

        Raises:
            DataError: it cannot be opened, or was given from Python when the plan was written.
        """
        if self._images is not None:
            return self._images
        return open_data(self.data, split=self.split, boxes=self.boxes, labels=self.labels)

    @property
    def needs(self) -> dict[str, str]:
        """The annotations that the plan reads, and the field that reads each."""
        read_by_study = _STUDY_NEEDS.get(self.study or "", "")
        found = {read_by_study: f"study: {self.study}"}
        for place, (label, metric) in enumerate(self.create_metrics().items()):
            found.setdefault(metric.entry.annotations, f"metrics[{place}]: {label}")
        return {needed: field for needed, field in found.items() if needed}

    def create_methods(self) -> dict[str, Method]:
        """Return the methods by label.

        Raises:
            OptionError: unknown name or option, a value that does not fit, or a label twice.
        """

        def create_one(choice: Choice) -> Method:
            if choice.name == GIVEN.name:
                return create_given(choice.options)
            method = create(choice.name, choice.options)
            return smooth(
                method, eigen=choice.eigen, augmented=choice.augmented, noise=choice.noise
            )

        return _create("methods", self.methods, create_one)

    def create_metrics(self) -> dict[str, SaliencyMetric]:
        """Return the metrics by label, without images.

        Raises:
            OptionError: unknown name or option, a value that does not fit, or a label twice.
        """
        return _create(
            "metrics", self.metrics, lambda choice: create_metric(choice.name, choice.options)
        )

    def identity(self) -> dict[str, Any]:
        """Return all that decides the numbers, in JSON types; methods apart, each decides its own.

        What `device` and `precision` have in common is the kind of processor, so a run may go on
        with cuda:1 that cuda:0 began.
        """
        facts: dict[str, Any] = self.model_dump(mode="json", exclude={*FREE, *PLACES, "methods"})
        rounded = not ENGINES.get(self.accelerate).factory.exact
        return {**facts, "processor": self.device.partition(":")[0], "bf16": rounded}

    def method_identity(self) -> dict[str, Any]:
        """Return what decides each method's numbers, by label."""
        return {choice.label: choice.model_dump(mode="json") for choice in self.methods}

    def to_yaml(self) -> str:
        """Return the plan as YAML that `read_plan` takes back.

        With a data set from Python, it says that it cannot be run by name.
        """
        facts = self.model_dump(mode="json", exclude_defaults=True)
        for field in ("methods", "metrics"):
            facts[field] = [
                _short(choice.model_dump(mode="json", exclude_defaults=True))
                for choice in getattr(self, field)
            ]
        text: str = yaml.safe_dump(facts, sort_keys=False, allow_unicode=True)
        if self.data.startswith(IN_MEMORY):
            name = self.data.removeprefix(IN_MEMORY)
            return f"# The data set {name} is in memory: this plan cannot be run by name.\n{text}"
        return text


def make_plan(facts: Mapping[str, Any]) -> Plan:
    """Return a plan whose every name and option exists.

    Args:
        facts: values of the fields; `data` may be any data set that `as_dataset` takes.

    Raises:
        DataError: the data set cannot be used.
        OptionError: naming the field, what was given, and what is close to it.

    Example:
        >>> plan = make_plan({"data": "shapes:4", "methods": ["gradcam"], "metrics": ["ad", "ag"]})
        >>> [choice.name for choice in plan.metrics]
        ['ad', 'ag']
    """
    load_all()
    images = None
    if not isinstance(given := facts.get("data", ""), str | Path):
        try:
            images = as_dataset(given)
        except DataError as error:
            raise DataError(f"data: {error}") from error
        facts = {**facts, "data": IN_MEMORY + images.name}
    plan = validate_options(Plan, facts, where=" in a plan")
    if plan.maps_from:
        given = [Choice.model_validate(parse_given(text)) for text in plan.maps_from]
        plan = plan.model_copy(update={"methods": (*plan.methods, *given), "maps_from": ()})
    plan._images = images
    if plan.accelerate not in ENGINES:
        known = ", ".join(ENGINES.names())
        raise OptionError(f"accelerate: {plan.accelerate!r} was given; choose one of {known}.")
    if not plan.methods:
        raise OptionError("methods: a plan needs at least 1 method.")
    if not plan.metrics and plan.study is None:
        raise OptionError("metrics: a plan needs at least one metric, or a study.")
    plan.create_methods(), plan.create_metrics()
    return plan


def read_plan(path: str | Path, changes: Mapping[str, Any] | None = None) -> Plan:
    """Read a plan from a YAML file.

    Args:
        path: of the file.
        changes: fields that replace the file's, by name.

    Raises:
        DataError: the file cannot be read or is no YAML mapping.
        OptionError: a field does not fit.

    Example:
        >>> text = "{methods: [gradcam, {opticam: {iterations: 50}}], metrics: [ad]}"
        >>> count = Path("plan.yaml").write_text(text)
        >>> read_plan("plan.yaml").methods[1].options
        {'iterations': 50}
    """
    path = Path(path)
    try:
        facts = yaml.load(path.read_text(encoding="utf-8"), _Strict)
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}); give a plan's YAML.") from error
    except RecursionError:
        raise DataError(f"{path} is nested too deeply for a plan.") from None
    except (yaml.YAMLError, ValueError) as error:  # numbers and dates that Python refuses, too
        reason = " ".join(str(error).split()).rstrip(".")
        raise DataError(f"{path} is no YAML of a plan: {reason}.") from error
    if not isinstance(facts, dict):
        raise DataError(f"{path} holds a {type(facts).__name__}; a plan is a mapping of fields.")
    return make_plan({**facts, **(changes or {})})


def restore_plan(folder: str | Path, facts: Mapping[str, Any]) -> Plan:
    """Return the plan of a run, with every method that was ever added to it.

    Args:
        folder: of the run, for the error.
        facts: what its `run.json` says.

    Raises:
        DataError: the plan has what is not known here, as another version wrote it, or plug-ins
            that are not installed.
    """
    try:
        return make_plan({**facts["plan"], "methods": list(facts["methods"].values())})
    except (OptionError, KeyError, TypeError, AttributeError) as error:
        reason = str(error) if isinstance(error, OptionError) else f"{error} is not told."
        raise DataError(
            f"{folder} holds an evaluation that cannot be read here, as another version of "
            f"torchsaliency wrote it, or a plug-in is missing: {reason}"
        ) from error


class _Strict(yaml.SafeLoader):  # type: ignore[misc]  # PyYAML has no types
    """Reads YAML whose keys are words, each there once, and whose text is Unicode."""

    def construct_mapping(self, node: yaml.Node, deep: bool = False) -> dict[Any, Any]:
        if isinstance(node, yaml.MappingNode):
            seen = set()
            for key, _ in node.value:
                if not isinstance(key, yaml.ScalarNode) or not key.tag.endswith((":str", ":merge")):
                    what = f"the key {key.value!r}" if key.id == "scalar" else "a key"
                    raise ConstructorError(None, None, f"{what} is no word", key.start_mark)
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
        try:
            str(node.value).encode()
        except UnicodeEncodeError as error:
            what = f"{node.value!r} is no Unicode"
            raise ConstructorError(None, None, what, node.start_mark) from error
        return super().construct_scalar(node)


_Strict.add_constructor("tag:yaml.org,2002:int", _Strict.construct_yaml_int)


def _short(choice: dict[str, Any]) -> Any:
    if choice["label"] == choice["name"]:
        choice = {key: value for key, value in choice.items() if key != "label"}
    if set(choice) == {"name"}:
        return choice["name"]
    return {choice["name"]: choice["options"]} if set(choice) == {"name", "options"} else choice


def _create(
    field: str, choices: Sequence[Choice], create_one: Callable[[Choice], T]
) -> dict[str, T]:
    found: dict[str, T] = {}
    for place, choice in enumerate(choices):
        if choice.label in found:
            raise OptionError(
                f"{field}: {choice.label!r} is there twice; give one of them another label."
            )
        try:
            found[choice.label] = create_one(choice)
        except OptionError as error:
            raise OptionError(f"{field}[{place}]: {error}") from None
    return found
