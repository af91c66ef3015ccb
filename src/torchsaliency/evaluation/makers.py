"""How each kind of recipe is made."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from torchsaliency.core.clock import seconds_now
from torchsaliency.core.explain import explain
from torchsaliency.core.layer import Layer
from torchsaliency.core.tracing import tracing
from torchsaliency.evaluation.batches import Batch, batches
from torchsaliency.evaluation.plotting import metric_charts, sweep_chart
from torchsaliency.evaluation.probes import study_label, study_variants
from torchsaliency.evaluation.reproducing import Job, Made, Part, maker
from torchsaliency.evaluation.results import Results
from torchsaliency.evaluation.setting import Setting
from torchsaliency.evaluation.studies import BOX_ONLY, CLASSES, WITH_MAP
from torchsaliency.evaluation.tables import Cell, Column, Table
from torchsaliency.evaluation.tabulating import table
from torchsaliency.methods.decomposition import dominant_variance
from torchsaliency.metrics.base import Summary
from torchsaliency.metrics.registry import Direction, metric_entry
from torchsaliency.viz.curves import boxes as box_plot
from torchsaliency.viz.curves import charts

_MASKED = ("ad", "ag", "ai")
"""The metrics of a study, in the order of the papers' columns."""


@maker("table")
def make_table(job: Job) -> Made:
    """Methods by metrics, the parts side by side; a figure of every metric that keeps curves."""
    results = {part.label: job.results(part) for part in job.parts}
    tables = {
        part.label: table(results[part.label], published=part.published, timing=_timed(part))
        for part in job.parts
    }
    figures = {}
    for label, found in results.items():
        for name, chart in metric_charts(found).items():
            stem = name if len(results) == 1 else f"{name}-{label}"
            figures[stem] = charts([replace(chart, title=f"{chart.title}, {label}")])
    return Made({"table": _beside(tables, job)}, figures, results=results)


@maker("parts")
def make_parts(job: Job) -> Made:
    """One row a part (a layer, a network): for studies of one method."""
    results = {part.label: job.results(part) for part in job.parts}
    lines: dict[str, dict[str, Cell]] = {}
    for part in job.parts:
        found = results[part.label]
        for method in found.methods:
            row = part.label if len(found.methods) == 1 else f"{part.label}, {method}"
            lines[row] = {
                label: replace(
                    Cell.of(found.summary(method, label)),
                    published=part.published.get(row, {}).get(label),
                )
                for label in found.metrics
            }
    first = next(iter(results.values()))
    columns = [Column(k, m.entry.unit, m.entry.direction) for k, m in first.metrics.items()]
    corner = str(job.options.get("corner", "part"))
    made = Table.of(lines, columns, caption=job.caption, corner=corner)
    return Made({"table": made}, results=results)


@maker("boxes")
def make_boxes(job: Job) -> Made:
    """Opti-CAM's Table 5: the map, its part inside the boxes, its part outside; and no map."""
    tables, results = {}, {}
    for part in job.parts:
        found = results[part.label] = job.results(part)
        lines = {
            method: _variants(found, method, WITH_MAP, part.published.get(method, {}))
            for method in found.methods
        }
        some = found.methods[0]  # without a map all methods are the same
        for variant, name in zip(BOX_ONLY, ("S := B", "S := I∖B"), strict=True):
            own = part.published.get(name, {})
            lines[name] = {
                (metric.upper(), WITH_MAP[0]): replace(
                    Cell.of(found.summary(some, study_label(metric, variant))),
                    published=own.get(study_label(metric, WITH_MAP[0])),
                )
                for metric in _MASKED
            }
        columns = _grouped_columns(WITH_MAP)
        references = {*found.references, "S := B", "S := I∖B"}
        name = "table" if len(job.parts) == 1 else f"table-{part.label}"
        tables[name] = Table.of(
            lines, columns, references=references, caption=f"{job.caption} ({part.label})"
        )
    return Made(tables, results=results)


@maker("classes")
def make_classes(job: Job) -> Made:
    """Opti-CAM's Table A.9: maps of other classes, judged by the true one."""
    tables, results = {}, {}
    for part in job.parts:
        found = results[part.label] = job.results(part)
        lines = {
            method: {
                (variant, metric.upper()): replace(
                    Cell.of(found.summary(method, study_label(metric, variant))),
                    published=part.published.get(method, {}).get(study_label(metric, variant)),
                )
                for variant in CLASSES
                for metric in _MASKED
            }
            for method in found.methods
        }
        columns = [
            Column(metric.upper(), "%", _direction(metric), variant)
            for variant in CLASSES
            for metric in _MASKED
        ]
        name = "table" if len(job.parts) == 1 else f"table-{part.label}"
        tables[name] = Table.of(
            lines,
            columns,
            references=found.references,
            caption=f"{job.caption} ({part.label})",
        )
    return Made(tables, results=results)


@maker("selectivity")
def make_selectivity(job: Job) -> Made:
    """Opti-CAM's Figure A4: AD, AI and AG by the power of the map."""
    tables, figures, results = {}, {}, {}
    variants = study_variants("selectivity")
    for part in job.parts:
        found = results[part.label] = job.results(part)
        columns = _grouped_columns(variants)
        lines = {
            method: {
                (metric.upper(), variant): found.summary(method, study_label(metric, variant))
                for metric in _MASKED
                for variant in variants
            }
            for method in found.methods
        }
        end = "" if len(job.parts) == 1 else f"-{part.label}"
        tables[f"table{end}"] = Table.of(
            lines, columns, references=found.references, caption=f"{job.caption} ({part.label})"
        )
        panels = [
            sweep_chart(
                {
                    method: {
                        float(variant.removeprefix("α = ")): found.summary(
                            method, study_label(metric, variant)
                        )
                        for variant in variants
                    }
                    for method in found.methods
                },
                x="power α",
                title=f"{metric.upper()}, {part.label}",
                log_x=True,
            )
            for metric in _MASKED
        ]
        figures[f"figure{end}"] = charts(panels)
    return Made(tables, figures, results=results)


@maker("sweep")
def make_sweep(job: Job) -> Made:
    """Opti-CAM's Figure A5: a metric by one option, a curve for each value of another.

    The methods' labels are "CURVE @ PLACE", as the recipe spells them.
    """
    tables, figures, results = {}, {}, {}
    for part in job.parts:
        found = results[part.label] = job.results(part)
        panels = []
        for label in found.metrics:
            lines: dict[str, dict[float | int, Summary]] = {}
            for method in found.methods:
                curve, _, place = method.partition(" @ ")
                lines.setdefault(curve, {})[float(place)] = found.summary(method, label)
            panels.append(sweep_chart(lines, x=str(job.options["x"]), title=label.upper()))
        end = "" if len(job.parts) == 1 else f"-{part.label}"
        figures[f"figure{end}"] = charts(panels)
        tables[f"table{end}"] = replace(
            table(found, timing=False), caption=f"{job.caption} ({part.label})"
        )
    return Made(tables, figures, results=results)


@maker("sanity")
def make_sanity(job: Job) -> Made:
    """Opti-CAM's Figures A6 and A7: how a map changes as the network's stages become random."""
    return make_table(job)


@maker("timing")
def make_timing(job: Job) -> Made:
    """The TMLR paper's Table 3: seconds for one map of one image, each method by itself.

    Loading the image is not counted; every pass is. Two runs warm up, and the median of the rest
    is shown.
    """
    repeats = int(job.options.get("repeats", 7))
    columns, lines = [], dict[str, dict[str, Cell]]()
    for part in job.parts:
        setting = job.setting(part)
        batch = first_batch(setting, 1)
        columns.append(Column(part.label, "s", "lower"))
        for label, took in times(setting, batch, repeats).items():
            line = lines.setdefault(label, {})
            line[part.label] = Cell(
                statistics.median(took),
                min(took),
                max(took),
                count=len(took),
                published=part.published.get(label, {}).get("T"),
            )
    made = Table.of(
        lines,
        columns,
        caption=job.caption,
        notes=(f"Median, fastest and slowest of {repeats} runs of one image, forward included.",),
    )
    return Made({"table": made})


@maker("variance")
def make_variance(job: Job) -> Made:
    """The TMLR paper's Figures 2 and 3: shares of the singular values, centred and not."""
    first = int(job.options.get("first", 1))
    lines: dict[str, dict[str, Cell]] = {}
    figures = {}
    shares: dict[str, dict[str, Tensor]] = {}
    for part in job.parts:
        shares[part.label] = singular_shares(job.setting(part), first)
        for way, values in shares[part.label].items():
            for place in range(first):
                row = f"{part.label}, {way}" + (f", σ{place + 1}" if first > 1 else "")
                quarters = values[:, place].quantile(torch.tensor([0.25, 0.5, 0.75]).double())
                low, middle, high = quarters.tolist()
                lines[row] = {"share": Cell(100 * middle, 100 * low, 100 * high)}
        if first > 1:
            groups = {
                f"{way} {place + 1}": (100 * values[:, place]).tolist()
                for place in range(first)
                for way, values in shares[part.label].items()
            }
            figures[f"figure-{part.label}"] = box_plot(
                groups, y="share of the singular value (%)", title=part.label
            )
    if first == 1:
        groups = {
            f"{label}\n{way}": (100 * values[:, 0]).tolist()
            for label, both in shares.items()
            for way, values in both.items()
        }
        figures["figure"] = box_plot(groups, y="share of the first singular value (%)")
    made = Table.of(
        lines,
        [Column("share", "%")],
        caption=job.caption,
        corner="features",
        notes=(
            "Median over images, and the middle half of them. SVD: each channel's mean is "
            "subtracted; Tucker: it is not.",
        ),
    )
    return Made({"table": made}, figures)


# --- what the makers share -----------------------------------------------------------------------


def first_batch(setting: Setting, count: int) -> Batch:
    """Return the first images that can be read."""
    groups = [[place] for place in range(len(setting.data))]
    found: list[Batch] = []
    for batch, _ in batches(setting, groups, 0):
        if batch is not None:
            found.append(batch)
        if len(found) == count:
            break
    return Batch(
        tuple(one.ids[0] for one in found),
        torch.cat([one.images for one in found]),
        None,
        tuple(one.labels[0] for one in found),
        None,
        None,
    )


def times(setting: Setting, batch: Batch, repeats: int) -> dict[str, list[float]]:
    """Return the seconds of each run of each method by itself, after two runs to warm up."""
    x = batch.images.to(setting.plan.device)
    layers = list(setting.layers) or None
    found: dict[str, list[float]] = {}
    for label, method in setting.methods.items():
        took = []
        for _ in range(2 + repeats):
            begun = seconds_now(x.device)
            explain(setting.network, x, method, None, layers, chunk=setting.plan.chunk)
            took.append(seconds_now(x.device) - begun)
        found[label] = took[2:]
    return found


def singular_shares(setting: Setting, first: int) -> dict[str, Tensor]:
    """Return the shares (N, first) of the first singular values of every image's features."""
    size, count = setting.plan.batch_size, len(setting.data)
    groups = [list(range(at, min(at + size, count))) for at in range(0, count, size)]
    found: dict[str, list[Tensor]] = {"SVD": [], "Tucker": []}
    chosen = setting.network.layer
    if setting.layers:
        chosen = Layer(setting.layers[0])
    for batch, _ in batches(setting, groups, setting.plan.workers):
        if batch is None:
            continue
        x = batch.images.to(setting.plan.device)
        if chosen is None:
            made = explain(setting.network, x[:1], "eigencam")["eigencam"]
            chosen = Layer(made.layers[0])
        with tracing(setting.network, x, _first, [chosen], gradients=False) as trace:
            features = trace[chosen].activations
        found["SVD"].append(dominant_variance(features, "svd", first).double().cpu())
        found["Tucker"].append(dominant_variance(features, "tucker", first).double().cpu())
    return {way: torch.cat(values) for way, values in found.items()}


def _first(output: Tensor) -> Tensor:
    """Score an image by anything: only its features are wanted."""
    return output.flatten(1)[:, 0]


def _timed(part: Part) -> bool:
    """A column T only where the paper has one, or has no numbers at all."""
    return not part.published or any("T" in row for row in part.published.values())


def _beside(tables: Mapping[str, Table], job: Job) -> Table:
    made = Table.beside(tables) if len(tables) > 1 else next(iter(tables.values()))
    return replace(made, caption=job.caption)


def _direction(metric: str) -> Direction:
    return metric_entry(metric).direction


def _grouped_columns(variants: tuple[str, ...]) -> list[Column]:
    return [
        Column(variant, "%", _direction(metric), metric.upper())
        for metric in _MASKED
        for variant in variants
    ]


def _variants(
    found: Results, method: str, variants: tuple[str, ...], published: Mapping[str, float]
) -> dict[tuple[str, str], Cell]:
    return {
        (metric.upper(), variant): replace(
            Cell.of(found.summary(method, study_label(metric, variant))),
            published=published.get(study_label(metric, variant)),
        )
        for metric in _MASKED
        for variant in variants
    }
