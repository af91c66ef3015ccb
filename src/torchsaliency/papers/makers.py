"""How each kind of recipe is made."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from matplotlib.figure import Figure
from PIL.Image import Image, Resampling, fromarray
from torch import Tensor

from torchsaliency.core.clock import seconds_now
from torchsaliency.core.explain import explain
from torchsaliency.core.layer import Layer
from torchsaliency.core.trace import tracing
from torchsaliency.evaluation.batches import Batch, batches
from torchsaliency.evaluation.plan import make_plan
from torchsaliency.evaluation.probes import study_label, study_variants
from torchsaliency.evaluation.results import Results
from torchsaliency.evaluation.setting import LABEL, Setting
from torchsaliency.evaluation.studies import BOX_ONLY, CLASSES, WITH_MAP
from torchsaliency.measures import network_stages, randomised_maps
from torchsaliency.methods.tucker import dominant_variance
from torchsaliency.metrics import SaliencyMetric
from torchsaliency.metrics.base import Direction, Summary, metric_entry
from torchsaliency.papers.plans import slug
from torchsaliency.papers.reproduce import Job, Made, Part, maker
from torchsaliency.report.charts import metric_charts, sweep_chart
from torchsaliency.report.results import TIME, table
from torchsaliency.report.tables import Cell, Column, Table
from torchsaliency.viz import Row, grid
from torchsaliency.viz.curves import Chart, charts
from torchsaliency.viz.curves import boxes as box_plot
from torchsaliency.viz.overlay import png

_MASKED = ("ad", "ag", "ai")
"""The metrics of a study, in the order of the papers' columns."""

_WITHOUT_MAP = ("S := B", "S := I∖B")
"""Rows of the box itself and of its complement."""

_CELL = 160
"""Pixels of a map in the picture of random networks."""

_STAGES = 5
"""Stages that become random there."""


@maker("table")
def make_table(job: Job) -> Made:
    """Methods by metrics, the parts side by side; a figure of every metric that keeps curves.

    Parts that have a piece of their own ("ResNet50 / Kvasir") stand in a table of that name; with
    the option `apart` every part has its own table.
    """
    results = {part.label: job.results(part) for part in job.parts}
    groups: dict[str, dict[str, Table]] = {}
    for part in job.parts:
        name = part.label if job.options.get("apart") else part.piece
        groups.setdefault(name, {})[part.row] = table(
            results[part.label], published=part.published, timing=_timed(part)
        )
    tables = {}
    for name, parts in groups.items():
        said = f"{job.caption} ({name})" if name and len(groups) > 1 else job.caption
        stem = job.name("table", name) if len(groups) > 1 else "table"
        tables[stem] = _beside(parts, _order(job), said)
    return Made(tables, _curves(results), results=results)


@maker("grouped")
def make_grouped(job: Job) -> Made:
    """The TMLR paper's Table 2: a row a network, the methods side by side, the best of each row.

    The pieces of a row ("MoCo v2 / masks") are evaluations of one network on different data. The
    option `scale` has the power of ten by which a metric is printed.
    """
    results = {part.label: job.results(part) for part in job.parts}
    powers: Mapping[str, int] = job.options.get("scale", {})
    lines: dict[str, dict[tuple[str, str], Cell]] = {}
    metrics: dict[str, SaliencyMetric] = {}
    for part in job.parts:
        found = results[part.label]
        metrics |= found.metrics
        for method in found.methods:
            for label in found.metrics:
                cell = Cell.of(found.summary(method, label))
                lines.setdefault(part.row, {})[method, label] = replace(
                    _scaled(cell, powers.get(label, 0)),
                    published=part.published.get(method, {}).get(label),
                )
    methods = dict.fromkeys(method for line in lines.values() for method, _ in line)
    columns = [
        Column(
            label,
            _unit(metrics[label], powers.get(label, 0)),
            metrics[label].entry.direction,
            method,
        )
        for method in methods
        for label in metrics
    ]
    made = Table.of(lines, columns, rivals="groups", caption=job.caption, corner="network")
    return Made({"table": made}, results=results)


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
                    published=part.published.get(method, {}).get(label),
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
        some = found.methods[0]  # without a map all methods are the same
        lines = {
            name: {
                (metric.upper(), WITH_MAP[0]): replace(
                    Cell.of(found.summary(some, study_label(metric, variant))),
                    published=part.published.get(name, {}).get(study_label(metric, WITH_MAP[0])),
                )
                for metric in _MASKED
            }
            for name, variant in zip(_WITHOUT_MAP, BOX_ONLY, strict=True)
        }
        lines |= {
            method: _variants(found, method, WITH_MAP, part.published.get(method, {}))
            for method in found.methods
        }
        columns = _grouped_columns(WITH_MAP)
        references = {*found.references, *_WITHOUT_MAP}
        tables[job.name("table", part)] = Table.of(
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
        tables[job.name("table", part)] = Table.of(
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
        tables[job.name("table", part)] = Table.of(
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
        figures[job.name("figure", part)] = charts(panels)
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
            panels.append(
                sweep_chart(lines, x=str(job.options["x"]), title=f"{label.upper()}, {part.label}")
            )
        figures[job.name("figure", part)] = charts(panels)
        tables[job.name("table", part)] = replace(
            table(found, timing=False), caption=f"{job.caption} ({part.label})"
        )
    return Made(tables, figures, results=results)


@maker("sanity")
def make_sanity(job: Job) -> Made:
    """Opti-CAM's Figures A6 and A7: how a map changes as the network's stages become random.

    The table has the means over the stages, the figure each stage. With the option `images` there
    is also a picture of so many images' maps.
    """
    results = {part.label: job.results(part) for part in job.parts}
    tables = {
        part.label: table(results[part.label], published=part.published, timing=False)
        for part in job.parts
    }
    figures, pages = {}, []
    for part in job.parts:
        found = results[part.label]
        made = metric_charts(found)
        panels = [
            Chart(
                [
                    replace(curve, label=label)
                    for label, chart in made.items()
                    for curve in chart.series
                    if curve.label == method
                ],
                "random stages, from the output",
                "similarity of the maps",
                f"{method}, {part.label}",
            )
            for method in found.methods
        ]
        figures[job.name("figure", part)] = charts(panels)
        if count := int(job.options.get("images", 0)):
            name = f"{job.name('maps', part)}.png"
            job.output.write(name, png(_random_maps(job.setting(part), count)))
            pages.append(job.output.path / name)
    made_table = _beside(tables, _order(job), job.caption)
    return Made({"table": made_table}, figures, tuple(pages), results)


@maker("timing")
def make_timing(job: Job) -> Made:
    """The TMLR paper's Table 3: seconds for one map of one image, each method by itself.

    Loading the image is not counted; every pass is. Two runs warm up, and the median of the rest
    is shown.
    """
    repeats = int(job.options.get("repeats", 7))
    lines: dict[str, dict[tuple[str, str], Cell]] = {}
    for part in job.parts:
        setting = job.setting(part)
        batch = first_batch(setting, 1)
        lines[part.label] = {
            (label, TIME): Cell(
                statistics.median(took),
                min(took),
                max(took),
                count=len(took),
                published=part.published.get(label, {}).get(TIME),
            )
            for label, took in times(setting, batch, repeats).items()
        }
    methods = dict.fromkeys(method for line in lines.values() for method, _ in line)
    made = Table.of(
        lines,
        [Column(TIME, "s", "lower", method) for method in methods],
        rivals="groups",
        caption=job.caption,
        corner="network",
        notes=(f"Median, fastest and slowest of {repeats} runs of one image, forward included.",),
    )
    return Made({"table": made})


@maker("variance")
def make_variance(job: Job) -> Made:
    """The TMLR paper's Figures 2 and 3: shares of the singular values, centred and not."""
    first = int(job.options.get("first", 1))
    lines: dict[str, dict[str, Cell]] = {}
    shares: dict[str, dict[str, Tensor]] = {}
    for part in job.parts:
        shares[part.label] = singular_shares(job.setting(part), first)
        for way, values in shares[part.label].items():
            for place in range(first):
                row = f"{part.label}, {way}" + (f", σ{place + 1}" if first > 1 else "")
                quarters = values[:, place].quantile(torch.tensor([0.25, 0.5, 0.75]).double())
                low, middle, high = quarters.tolist()
                lines[row] = {"share": Cell(100 * middle, 100 * low, 100 * high)}
    figures = _shares_apart(job, shares, first) if first > 1 else _shares_together(shares)
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


def _shares_apart(
    job: Job, shares: Mapping[str, Mapping[str, Tensor]], first: int
) -> dict[str, Figure]:
    """Draw a figure a network: its first values, both ways."""
    found = {}
    for label, both in shares.items():
        groups = {
            f"{way} {place + 1}": (100 * values[:, place]).tolist()
            for way, values in both.items()
            for place in range(first)
        }
        found[job.name("figure", label)] = box_plot(groups, y="share of all (%)", title=label)
    return found


def _shares_together(shares: Mapping[str, Mapping[str, Tensor]]) -> dict[str, Figure]:
    """Draw the first value of all networks, both ways."""
    groups = {
        f"{label}, {way}": (100 * values[:, 0]).tolist()
        for label, both in shares.items()
        for way, values in both.items()
    }
    return {"figure": box_plot(groups, y="share of the first (%)")}


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
    """A column T only where the paper has one."""
    return any(TIME in row for row in part.published.values())


def _order(job: Job) -> list[str]:
    """Return the methods as the recipe lists them: parts may lack some."""
    listed = make_plan({"methods": job.recipe.plan["methods"], "metrics": "ad"}).methods
    return [one.label for one in listed]


def _beside(tables: Mapping[str, Table], order: Sequence[str], caption: str) -> Table:
    made = Table.beside(tables) if len(tables) > 1 else next(iter(tables.values()))
    places = {label: place for place, label in enumerate(order)}
    rows = sorted(made.rows, key=lambda row: places.get(row.label, len(places)))
    return replace(made, rows=tuple(rows), caption=caption)


def _curves(results: Mapping[str, Results]) -> dict[str, Figure]:
    """Draw every metric that keeps a curve: a figure a metric, a panel a part."""
    panels: dict[str, list[Chart]] = {}
    for part, found in results.items():
        for name, chart in metric_charts(found).items():
            panels.setdefault(name, []).append(replace(chart, title=f"{chart.title}, {part}"))
    return {slug(name): charts(made) for name, made in panels.items()}


def _scaled(cell: Cell, power: int) -> Cell:
    """Return a cell in units of a power of ten."""
    if not power or cell.value is None:
        return cell
    value, low, high = (
        None if one is None else one / 10.0**power for one in (cell.value, cell.low, cell.high)
    )
    return replace(cell, value=value, low=low, high=high)


def _unit(metric: SaliencyMetric, power: int) -> str:
    return f"1e{power}" if power else metric.entry.unit


def _random_maps(setting: Setting, count: int) -> Image:
    """Draw the first images' maps by the trained network and by ever more random ones."""
    batch = first_batch(setting, count)
    x = batch.images.to(setting.plan.device)
    (method, *_) = setting.methods.values()
    labels = [label for label in batch.labels if label is not None]
    target = labels if setting.target == LABEL and len(labels) == len(batch) else None
    explanation = explain(
        setting.network,
        x,
        method,
        target,
        list(setting.layers) or None,
        masking=setting.masking,
        chunk=setting.plan.chunk,
    )[method.name]
    stages = network_stages(setting.network)[:_STAGES]
    found = randomised_maps(
        setting.network,
        explanation,
        stages=stages,
        seed=setting.plan.seed,
        chunk=setting.plan.chunk,
    )
    shown = setting.preprocessing.denormalise(x).mul(255).round().byte().permute(0, 2, 3, 1)
    rows = []
    for pixels, own, others in zip(
        shown.cpu().numpy(), explanation.map.cpu(), found.random_maps.cpu(), strict=True
    ):
        photo = fromarray(pixels).resize((_CELL, _CELL), Resampling.LANCZOS)
        titles = [
            "trained",
            *(f"+ {name}" if place else f"random {name}" for place, name in enumerate(stages)),
        ]
        rows.append(Row.of(photo, dict(zip(titles, [own, *others], strict=True))))
    return grid(rows, columns=2 + len(stages))


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
