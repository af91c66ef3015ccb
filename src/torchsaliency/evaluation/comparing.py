"""Two evaluations compared image by image: two networks, two judges or two versions.

Rows of the two runs are paired by the images' ids. What decides what a number means (the data, the
masking, the target, the metrics' options) must be the same, or must be allowed to differ by name;
everything else that differs is told.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, final

from torchsaliency.errors import InputError, OptionError, describe_unknown
from torchsaliency.evaluation.results import Results
from torchsaliency.evaluation.runner import load_results
from torchsaliency.evaluation.setting import PREDICTED
from torchsaliency.evaluation.store import Store
from torchsaliency.metrics.base import MetricEntry, Summary
from torchsaliency.metrics.statistics import CONFIDENCE, RESAMPLES, Comparison, compare

DECIDING: Mapping[str, str] = {
    "data": "fingerprint of the data",
    "masking": "masking",
    "target": "resolved target",
    "normalise": "normalise",
    "study": "study",
}
"""What must be the same for a difference to mean something, and its name in a run's identity."""

_TOLD_APART = {"metrics", "target", *DECIDING.values()}
"""Facts of an identity that are not told as they are: the resolved target stands for the target."""

_SHOWN = 60
"""Characters of a value that are told."""

_HASH, _OF_HASH = re.compile(r"(sampled:)?[0-9a-f]{64}"), 12
"""Of a hash, so many characters are told."""


@final
@dataclass(frozen=True, eq=False)
class RunComparison:
    """Two runs on the same images; `torchsaliency.report.tabulate_runs` makes the table.

    Attributes:
        names: of the runs A and B.
        tests: A − B by method and metric, on the images that define both.
        summaries: of A and of B by method and metric, over the paired images.
        metrics: what the metrics are, by label.
        samples: the ids of the paired images.
        unpaired: ids of images that only A has, and that only B has.
        differences: what differs between the runs: its name, then the values of A and B.
        left_out: methods and metrics that are not compared, and why.
        confidence: of the intervals.
        predicted: whether a run explains and judges the class that is predicted in it.
    """

    names: tuple[str, str]
    tests: Mapping[str, Mapping[str, Comparison]]
    summaries: Mapping[str, Mapping[str, tuple[Summary, Summary]]]
    metrics: Mapping[str, MetricEntry]
    samples: tuple[str, ...]
    unpaired: tuple[tuple[str, ...], tuple[str, ...]]
    differences: Mapping[str, tuple[Any, Any]]
    left_out: Mapping[str, str]
    confidence: float
    predicted: bool = False

    def to_dict(self) -> dict[str, Any]:
        """Return everything but the ids of the paired images in JSON types."""
        return {
            "runs": [*self.names],
            "images": len(self.samples),
            "unpaired": [[*names] for names in self.unpaired],
            "differences": {name: [*values] for name, values in self.differences.items()},
            "left out": dict(self.left_out),
            "confidence": self.confidence,
            "methods": {
                method: {
                    metric: {
                        "a": asdict(self.summaries[method][metric][0]),
                        "b": asdict(self.summaries[method][metric][1]),
                        "difference": test.to_dict(),
                    }
                    for metric, test in tests.items()
                }
                for method, tests in self.tests.items()
            },
        }

    def describe(self) -> list[str]:
        """Return what must be known beside the numbers, one sentence each."""
        first, second = self.names
        only = [
            f"{len(ids)} only in {name} ({_list(ids)})"
            for ids, name in zip(self.unpaired, self.names, strict=True)
            if ids
        ]
        sentences = [f"Paired by id: {len(self.samples)} images" + "; ".join(["", *only]) + "."]
        sentences += [
            f"{name}: {_shorten(a)} in {first}, {_shorten(b)} in {second}."
            for name, (a, b) in self.differences.items()
        ]
        if not self.differences:
            sentences.append("The runs do not differ in anything that they record.")
        if "weights of the network" in self.differences and self.predicted:
            sentences.append(
                "Each run explains and judges the class that is predicted in it; where the "
                "networks disagree, these are two classes."
            )
        return sentences + [f"Left out {name}: {why}." for name, why in self.left_out.items()]


def compare_runs(
    a: str | Path,
    b: str | Path,
    *,
    methods: Sequence[str] = (),
    allow: Collection[str] = (),
    confidence: float = CONFIDENCE,
    resamples: int = RESAMPLES,
) -> RunComparison:
    """Compare two runs image by image: each method by each metric that both have.

    The difference of an image is A − B, in the metric's unit. Its mean has a bootstrap interval
    over images, and Wilcoxon's signed-rank test says whether it is 0 (`metrics.compare`).

    Args:
        a: a run, a folder or an address, that `evaluate` wrote.
        b: another.
        methods: labels that are compared; all that both runs have by default.
        allow: what may differ though it decides what a number means, names of `DECIDING`: "data",
            "masking", "target", "normalise", "study". It is then warned of instead.
        confidence: of the intervals.
        resamples: of the bootstrap.

    Returns:
        The comparison. A metric whose options differ between the runs, or that fewer than two
        images define in both, is left out, and `left_out` says so.

    Raises:
        DataError: one of them holds no evaluation, or a damaged one.
        OptionError: the runs differ in what decides the numbers, a name is not known, or one run
            was given twice.
        InputError: fewer than two images are in both runs, or nothing is left to compare.

    Example:
        >>> from torchsaliency.evaluation import evaluate, make_plan
        >>> facts = {"model": "builtin/shapes_cnn", "data": "shapes:4", "metrics": ["ad"]}
        >>> for name in ("builtin/shapes_cnn", "builtin/shapes_vit"):
        ...     plan = make_plan({**facts, "model": name, "methods": ["tsm"]})
        ...     found = evaluate(plan, name.rpartition("/")[2])
        >>> compare_runs("shapes_cnn", "shapes_vit").tests["tsm"]["ad"].count
        4
    """
    for name in allow:
        if name not in DECIDING:
            raise OptionError(describe_unknown("difference", name, DECIDING, where=" to allow"))
    names = _name_runs(str(a), str(b))
    first, second = load_results(a), load_results(b)
    facts = (_read_facts(a), _read_facts(b))
    differences = _find_differences(*facts)
    _check_deciding(names, differences, allow)
    order = {name: place for place, name in enumerate(second.samples)}
    shared = [name for name in first.samples if name in order]
    if len(shared) < 2:  # noqa: PLR2004
        raise InputError(
            f"{len(shared)} images have the same id in {names[0]} and {names[1]}, and a paired "
            "comparison needs at least two; evaluate both on the same data."
        )
    places = {name: place for place, name in enumerate(first.samples)}
    index = ([places[name] for name in shared], [order[name] for name in shared])
    chosen = _choose_methods(names, first, second, methods)
    left_out = {} if methods else _list_lonely("method", first.methods, second.methods, names)
    labels, odd = _choose_metrics(first, second, names)
    left_out |= odd
    tests: dict[str, dict[str, Comparison]] = {}
    summaries: dict[str, dict[str, tuple[Summary, Summary]]] = {}
    settings: Any = {"confidence": confidence, "resamples": resamples}
    for method in chosen:
        for label in labels:
            metric = first.metrics[label]
            rows = [
                run.rows(method, label)[places]
                for run, places in zip((first, second), index, strict=True)
            ]
            defined = [~part.isnan().any(1) for part in rows]
            if int((defined[0] & defined[1]).sum()) < 2:  # noqa: PLR2004
                left_out[f"{label} of {method}"] = "fewer than two images define it in both runs"
                continue
            values = []
            for part, where in zip(rows, defined, strict=True):
                of_images = part.new_full((len(part),), float("nan"))
                of_images[where] = metric.image_values(part[where])
                values.append(of_images)
            tests.setdefault(method, {})[label] = compare(*values, **settings)
            one, other = (metric.summarise(part, **settings) for part in rows)
            summaries.setdefault(method, {})[label] = (one, other)
    if not tests:
        raise InputError(
            f"Nothing of {names[0]} and {names[1]} can be compared: "
            + "; ".join(f"{name}: {why}" for name, why in left_out.items())
            + "."
        )
    return RunComparison(
        names=names,
        tests=tests,
        summaries=summaries,
        metrics={label: first.metrics[label].entry for label in labels},
        samples=tuple(shared),
        unpaired=(
            tuple(name for name in first.samples if name not in order),
            tuple(name for name in second.samples if name not in places),
        ),
        differences=differences,
        left_out=left_out,
        confidence=confidence,
        predicted=any(fact["identity"].get("resolved target") == PREDICTED for fact in facts),
    )


def _name_runs(a: str, b: str) -> tuple[str, str]:
    """Return a short name of each run: its last part, or as much as tells them apart."""
    parts = ([*Path(a).parts], [*Path(b).parts])
    if "://" in a or "://" in b:
        parts = (a.rstrip("/").split("/"), b.rstrip("/").split("/"))
    if a == b or ("://" not in a + b and Path(a).resolve() == Path(b).resolve()):
        raise OptionError(
            f"{a} was given to be compared with itself; give two runs, or a run and two of its "
            "methods."
        )
    for count in range(1, max(map(len, parts)) + 1):
        first, second = ("/".join(part[-count:]) for part in parts)
        if first != second:
            return first, second
    return a, b


def _read_facts(folder: str | Path) -> dict[str, Any]:
    facts = Store(folder).facts
    assert facts is not None  # its results were loaded
    return facts


def _find_differences(
    first: Mapping[str, Any], second: Mapping[str, Any]
) -> dict[str, tuple[Any, Any]]:
    """Return what differs: of what decides the numbers, the methods' options, and the versions."""

    def describe(facts: Mapping[str, Any]) -> dict[str, Any]:
        identity = facts["identity"]
        deciding = {name: identity.get(key) for name, key in DECIDING.items()}
        others = {key: part for key, part in identity.items() if key not in _TOLD_APART}
        methods = {f"method {label}": part for label, part in facts["methods"].items()}
        session = facts["sessions"][-1] if facts["sessions"] else {}
        versions = {
            name: version
            for name, version in session.get("versions", {}).items()
            if name in {"torchsaliency", "torch"}
        }
        scores = {"scores": facts["scores"]} if "scores" in facts else {}
        return {**deciding, **others, **scores, **methods, **versions}

    one, other = describe(first), describe(second)
    lonely = {f"method {name}" for name in {*first["methods"]} ^ {*second["methods"]}}
    found: dict[str, tuple[Any, Any]] = {}
    for name in {**one, **other}:
        values = (one.get(name), other.get(name))
        if name in lonely or values[0] == values[1]:
            continue
        if isinstance(mine := values[0], Mapping) and isinstance(its := values[1], Mapping):
            pairs = {key: (mine.get(key), its.get(key)) for key in {**mine, **its}}
            found |= {f"{name}, {key}": pair for key, pair in pairs.items() if pair[0] != pair[1]}
        else:
            found[name] = values
    return found


def _check_deciding(
    names: tuple[str, str],
    differences: Mapping[str, tuple[Any, Any]],
    allow: Collection[str],
) -> None:
    """Refuse runs that differ in what decides what a number means; warn where that is allowed."""
    found = [name for name in DECIDING if name in differences]
    if "study" in found and None in differences["study"]:
        found.remove("study")  # the metrics of a study are in one run only
    told = {name: f"{name} ({' and '.join(map(_shorten, differences[name]))})" for name in found}
    refused = [name for name in found if name not in allow]
    if refused:
        same = "" if "data" not in refused else (
            ", where images of one id may be different pictures (or the runs have another number "
            "of images of the same data)"
        )  # fmt: skip
        options = " ".join(f"--allow {name}" for name in refused)
        raise OptionError(
            f"{names[0]} and {names[1]} differ in {', '.join(told[name] for name in refused)}"
            f"{same}, so their numbers do not mean the same; evaluate both alike, or give "
            f"{options} if that is what you compare."
        )
    for name in found:
        warnings.warn(
            f"{names[0]} and {names[1]} differ in {told[name]}, as was allowed: the differences "
            "are of that, too.",
            stacklevel=3,
        )


def _choose_methods(
    names: tuple[str, str], first: Results, second: Results, methods: Sequence[str]
) -> list[str]:
    for method in methods:
        for run, name in zip((first, second), names, strict=True):
            if method not in run.methods:
                raise OptionError(
                    describe_unknown("method", method, run.methods, where=f" in {name}")
                )
    shared = [method for method in first.methods if method in second.methods]
    if not shared:
        raise InputError(
            f"{names[0]} has the methods {', '.join(first.methods)} and {names[1]} has "
            f"{', '.join(second.methods)}: none is in both; evaluate one of them in both."
        )
    return [*dict.fromkeys(methods)] or shared


def _choose_metrics(
    first: Results, second: Results, names: tuple[str, str]
) -> tuple[list[str], dict[str, str]]:
    """Return the metrics that are the same in both runs, and why others are left out."""
    left_out = _list_lonely("metric", [*first.metrics], [*second.metrics], names)
    chosen = []
    for label, metric in first.metrics.items():
        if label not in second.metrics:
            continue
        other = second.metrics[label]
        one, two = ({"name": m.entry.name, **m.settings} for m in (metric, other))
        if one == two:
            chosen.append(label)
            continue
        parts = [
            f"{key} = {one.get(key)} in {names[0]} and {two.get(key)} in {names[1]}"
            for key in {**one, **two}
            if one.get(key) != two.get(key)
        ]
        left_out[label] = f"its options differ ({', '.join(parts)})"
        warnings.warn(f"{label} is not compared: {left_out[label]}.", stacklevel=3)
    return chosen, left_out


def _list_lonely(
    kind: str, first: Sequence[str], second: Sequence[str], names: tuple[str, str]
) -> dict[str, str]:
    """Return methods or metrics that one run has and the other lacks."""
    found = {label: names[0] for label in first if label not in second}
    found |= {label: names[1] for label in second if label not in first}
    return {f"{kind} {label}": f"only {name} has it" for label, name in found.items()}


def _list(names: Sequence[str], count: int = 3) -> str:
    return ", ".join(names[:count]) + (", …" if len(names) > count else "")


def _shorten(value: Any) -> str:
    text = "nothing" if value is None else str(value)
    if _HASH.fullmatch(text):
        return f"{text[:_OF_HASH]}…"
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"
