"""How the tables and figures with numbers are made, a function for each kind of recipe."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from torchsaliency.core.discovery import default_layer
from torchsaliency.core.explain import explain
from torchsaliency.core.layer import Layer
from torchsaliency.core.runtime import seconds_now
from torchsaliency.core.trace import tracing
from torchsaliency.evaluation.batches import batches
from torchsaliency.evaluation.callbacks import Progress
from torchsaliency.evaluation.results import Results
from torchsaliency.evaluation.setting import Setting, make_setting
from torchsaliency.evaluation.studies import BOX_ONLY, WITH_MAP, study_label, study_metrics
from torchsaliency.methods.tucker import dominant_variance
from torchsaliency.papers.drawn import draw_once
from torchsaliency.papers.pictures import draw_random_maps, read_images
from torchsaliency.papers.plans import Experiment, Reproduction, read_methods, slug
from torchsaliency.report.charts import (
    method_charts,
    metric_charts,
    selectivity_charts,
    sweep_charts,
)
from torchsaliency.report.results import TIME, add_published, summary_cell, table
from torchsaliency.report.tables import Table
from torchsaliency.viz.curves import Chart, charts
from torchsaliency.viz.curves import boxes as box_plot

Cells = list[dict[str, Any]]
"""Cells of a `Table`."""

_WITHOUT_MAP = dict(zip(BOX_ONLY, ("S := B", "S := I∖B"), strict=True))
"""Rows of the box itself and of its complement."""


def make_table(run: Reproduction) -> None:
    """Methods by metrics, the parts side by side; a figure of every metric that keeps curves.

    Parts that have a piece of their own ("ResNet50 / Kvasir") stand in a table of that name; with
    the option `apart` every part has its own table.
    """
    groups: dict[str, dict[str, Table]] = {}
    panels: dict[str, list[Chart]] = {}
    for part in run.experiments:
        results = run.evaluate(part)
        name = part.label if run.options.get("apart") else part.piece
        timed = any(TIME in row for row in part.published.values())  # a column T as in the paper
        groups.setdefault(name, {})[part.row] = table(
            results, published=part.published, timing=timed
        )
        for metric, chart in metric_charts(results).items():
            panel = replace(chart, title=f"{chart.title}, {part.label}")
            panels.setdefault(slug(metric), []).append(panel)
    for name, tables in groups.items():
        stem, caption = "table", run.caption
        if len(groups) > 1:
            stem = run.name_file("table", name)
            caption += f" ({name})" * bool(name)
        run.tables[stem] = _join(run, tables, caption)
    run.figures |= {metric: charts(found) for metric, found in panels.items()}


def make_parts(run: Reproduction) -> None:
    """A row for each part: a layer, or a network.

    With the option `groups: methods`, as in the TMLR paper's Table 2, the methods stand side by
    side, the best of each row is marked, and the pieces of a row ("MoCo v2 / masks") are
    evaluations of one network on different data. The option `scale` has the power of ten by which
    a metric is printed, `corner` what the rows are.
    """
    groups = run.options.get("groups") == "methods"
    cells: Cells = []
    for part in run.experiments:
        results = run.evaluate(part)
        for cell in _measure(results, part):
            method = cell["row"]
            place = {"row": part.label if len(results.methods) == 1 else f"{part.label}, {method}"}
            if groups:
                place = {"row": part.row, "group": method}
            cells.append({**cell, **place})
            if power := run.options.get("scale", {}).get(cell["column"], 0):
                for end in ("value", "low", "high"):
                    cells[-1][end] = None if cell[end] is None else cell[end] / 10.0**power
                cells[-1]["unit"] = f"1e{power}"
    run.tables["table"] = Table.of(
        cells,
        rivals="group" if groups else "row",
        caption=run.caption,
        corner=str(run.options.get("corner", "part")),
    )


def make_study(run: Reproduction) -> None:
    """Opti-CAM's studies: a table for each part, a group for each metric, a column a variant.

    Maps inside and outside the boxes (Table 5) have rows of the box itself; powers of the map
    (Figure A4) also have a figure. With the option `groups: variants`, as for maps of other classes
    (Table A.9), groups and columns are exchanged.
    """
    for part in run.experiments:
        results = run.evaluate(part)
        labels = study_metrics(part.plan.study)
        references = set(results.references)
        cells: Cells = []
        for cell in _measure(results, part):
            if cell["column"] not in labels:
                continue
            method, (metric, _, variant) = cell["row"], cell["column"].partition(", ")
            if row := _WITHOUT_MAP.get(variant):
                if method != results.methods[0]:
                    continue  # without a map all methods are the same
                variant = WITH_MAP[0]
                published = part.published.get(row, {}).get(study_label(metric, variant))
                cell |= {"row": row, "published": published}
                references.add(row)
            place = {"group": metric.upper(), "column": variant}
            if run.options.get("groups") == "variants":
                place = {"group": variant, "column": metric.upper()}
            cells.append({**cell, **place})
        run.tables[run.name_file("table", part.label)] = Table.of(
            cells,
            references=references,
            order=[*_WITHOUT_MAP.values()],
            caption=f"{run.caption} ({part.label})",
        )
        if part.plan.study == "selectivity":
            studies = {
                method: {label: results.summary(method, label) for label in labels}
                for method in results.methods
            }
            panels = selectivity_charts(studies, suffix=f", {part.label}")
            run.figures[run.name_file("figure", part.label)] = charts(list(panels.values()))


def make_sweep(run: Reproduction) -> None:
    """Opti-CAM's Figure A5: a metric by one option, a curve for each value of another.

    The methods' labels are "CURVE @ PLACE", as the recipe spells them.
    """
    for part in run.experiments:
        results = run.evaluate(part)
        points = (
            (metric, curve, float(place), results.summary(method, metric))
            for metric in results.metrics
            for method in results.methods
            for curve, _, place in [method.partition(" @ ")]
        )
        panels = sweep_charts(points, x=str(run.options["x"]), suffix=f", {part.label}")
        run.figures[run.name_file("figure", part.label)] = charts(list(panels.values()))
        run.tables[run.name_file("table", part.label)] = table(
            results, timing=False, caption=f"{run.caption} ({part.label})"
        )


def make_sanity(run: Reproduction) -> None:
    """Opti-CAM's Figures A6 and A7: how a map changes as the network's stages become random.

    The table has the last stage, the figure each stage. With the option `images` there is also a
    picture of so many images' maps. Appendix G compares with one network, so it has no figure.
    """
    tables = {}
    for part in run.experiments:
        results = run.evaluate(part)
        tables[part.label] = table(results, published=part.published, timing=False)
        panels = method_charts(results, y="similarity of the maps", suffix=f", {part.label}")
        if panels:
            run.figures[run.name_file("figure", part.label)] = charts(panels)
        if count := int(run.options.get("images", 0)):
            setting, name = make_setting(part.plan), f"{run.name_file('maps', part.label)}.png"
            draw_once(run, [name], [setting], partial(_write_maps, run, name, setting, count))
    run.tables["table"] = _join(run, tables, run.caption)


def make_timing(run: Reproduction) -> None:
    """The TMLR paper's Table 3: seconds for one map of one image, each method by itself.

    Loading the image is not counted; every pass is. Two runs warm up, and the median of the rest
    is the number.
    """
    repeats = int(run.options.get("repeats", 7))
    cells: Cells = []
    for part in run.experiments:
        setting = make_setting(part.plan)
        for method, seconds in _time_methods(run, setting, repeats).items():
            cells.append(
                {
                    **{"row": part.label, "group": method, "column": TIME},
                    **{"unit": "s", "direction": "lower"},
                    "value": statistics.median(seconds),
                    "low": min(seconds),
                    "high": max(seconds),
                    "count": len(seconds),
                    "published": part.published.get(method, {}).get(TIME),
                }
            )
    run.tables["table"] = Table.of(
        cells,
        rivals="group",
        caption=run.caption,
        corner="network",
        notes=(f"Median, fastest and slowest of {repeats} runs of one image, forward included.",),
    )


def make_variance(run: Reproduction) -> None:
    """The TMLR paper's Figures 2 and 3: shares of the singular values, centred and not.

    The option `first` is the number of values; with more than one, each network has its own figure.
    """
    first = int(run.options.get("first", 1))
    cells: Cells = []
    boxes: dict[str, dict[str, list[float]]] = {}
    for part in run.experiments:
        for kind, shares in _find_singular_shares(run, make_setting(part.plan), first).items():
            for place in range(first):
                values = 100 * shares[:, place]
                row = f"{part.label}, {kind}"
                label, figure = row, ""
                if first > 1:
                    row += f", σ{place + 1}"
                    label, figure = f"{kind} {place + 1}", part.label
                boxes.setdefault(figure, {})[label] = values.tolist()
                quarters = shares[:, place].quantile(torch.tensor([0.25, 0.5, 0.75]).double())
                low, middle, high = (100 * quarter for quarter in quarters.tolist())
                numbers = {"value": middle, "low": low, "high": high}
                cells.append({"row": row, "column": "share", "unit": "%", **numbers})
    y = "share of all (%)" if first > 1 else "share of the first (%)"
    for figure, groups in boxes.items():
        run.figures[run.name_file("figure", figure)] = box_plot(groups, y=y, title=figure)
    run.tables["table"] = Table.of(
        cells,
        caption=run.caption,
        corner="features",
        notes=(
            "Median over images, and the middle half of them. SVD: each channel's mean is "
            "subtracted; Tucker: it is not.",
        ),
    )


# --- what they share ------------------------------------------------------------------------------


def _write_maps(run: Reproduction, name: str, setting: Setting, count: int) -> None:
    run.write_page(name, draw_random_maps(setting, count))


def _measure(results: Results, part: Experiment) -> Cells:
    """Return a row for each method, a column for each metric, and the paper's numbers."""
    cells = [
        summary_cell(results.summary(method, metric), method, metric)
        for method in results.methods
        for metric in results.metrics
    ]
    return add_published(cells, part.published)


def _join(run: Reproduction, tables: Mapping[str, Table], caption: str) -> Table:
    """Put tables side by side, methods as the recipe lists them: parts may lack some."""
    order = [choice.label for choice in read_methods(run.recipe.plan["methods"])]
    groups = tables if len(tables) > 1 else {"": next(iter(tables.values()))}
    return Table.beside(groups, order=order, caption=caption)


def _time_methods(run: Reproduction, setting: Setting, repeats: int) -> dict[str, list[float]]:
    """Return the seconds of each run of each method by itself, after two runs to warm up."""
    x = read_images(setting, 1).images.to(setting.plan.device)
    layers = list(setting.plan.layers) or None
    seconds: dict[str, list[float]] = {}
    count = len(setting.methods)
    for done, (label, method) in enumerate(setting.methods.items()):
        run.report_progress(Progress(done, count, what="timing", unit="methods"))
        for _ in range(2 + repeats):
            start = seconds_now(x.device)
            explain(setting.network, x, method, None, layers, chunk=setting.plan.chunk)
            seconds.setdefault(label, []).append(seconds_now(x.device) - start)
    return {label: runs[2:] for label, runs in seconds.items()}


def _find_singular_shares(run: Reproduction, setting: Setting, first: int) -> dict[str, Tensor]:
    """Return the shares (N, first) of the first singular values of every image's features."""
    shares: dict[str, list[Tensor]] = {"SVD": [], "Tucker": []}
    layer = Layer(setting.plan.layers[0]) if setting.plan.layers else setting.network.layer
    done = 0
    for batch, failed in batches(setting):
        done += len(failed) + (0 if batch is None else len(batch))
        run.report_progress(Progress(done, len(setting.data), what="reading features"))
        if batch is None:
            continue
        x = batch.images.to(setting.plan.device)
        layer = layer or default_layer(setting.network.module, x[:1])
        # only the features are used, and any number is a score
        with tracing(
            setting.network, x, lambda y: y.flatten(1)[:, 0], [layer], gradients=False
        ) as trace:
            features = trace[layer].activations
        shares["SVD"].append(dominant_variance(features, "svd", first).double().cpu())
        shares["Tucker"].append(dominant_variance(features, "tucker", first).double().cpu())
    return {kind: torch.cat(found) for kind, found in shares.items()}
