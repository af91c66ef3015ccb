"""How the tables and figures with numbers are made, a function for each kind of recipe."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from torchsaliency.core.clock import seconds_now
from torchsaliency.core.explain import explain
from torchsaliency.core.layer import Layer
from torchsaliency.core.trace import tracing
from torchsaliency.evaluation.batches import batches
from torchsaliency.evaluation.probes import study_label, study_metrics
from torchsaliency.evaluation.results import Results
from torchsaliency.evaluation.setting import Setting, make_setting
from torchsaliency.evaluation.studies import BOX_ONLY, WITH_MAP
from torchsaliency.methods.tucker import dominant_variance
from torchsaliency.papers.pictures import draw_random_maps, read_images
from torchsaliency.papers.plans import Experiment, Reproduction, read_methods, slug
from torchsaliency.report.charts import metric_charts, sweep_charts
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


def make_grouped(run: Reproduction) -> None:
    """The TMLR paper's Table 2: a row a network, the methods side by side, the best of each row.

    The pieces of a row ("MoCo v2 / masks") are evaluations of one network on different data. The
    option `scale` has the power of ten by which a metric is printed.
    """
    powers: Mapping[str, int] = run.options.get("scale", {})
    cells: Cells = []
    for part in run.experiments:
        for cell in _measure(run.evaluate(part), part):
            place = {"row": part.row, "group": cell["row"]}
            power = powers.get(cell["column"], 0)
            if power:
                numbers = {
                    key: cell[key] for key in ("value", "low", "high") if cell[key] is not None
                }
                place |= {key: number / 10.0**power for key, number in numbers.items()}
                place["unit"] = f"1e{power}"
            cells.append({**cell, **place})
    run.tables["table"] = Table.of(cells, rivals="group", caption=run.caption, corner="network")


def make_parts(run: Reproduction) -> None:
    """One row a part (a layer, a network): for studies of one method."""
    cells: Cells = []
    for part in run.experiments:
        results = run.evaluate(part)
        single = len(results.methods) == 1
        cells += [
            {**cell, "row": part.label if single else f"{part.label}, {cell['row']}"}
            for cell in _measure(results, part)
        ]
    corner = str(run.options.get("corner", "part"))
    run.tables["table"] = Table.of(cells, caption=run.caption, corner=corner)


def make_boxes(run: Reproduction) -> None:
    """Opti-CAM's Table 5: the map, its part inside the boxes, its part outside; and no map."""
    for part in run.experiments:
        results = run.evaluate(part)
        cells = list(_measure_study(results, part))
        boxes = []
        for cell in cells:
            # without a map all methods are the same
            if cell["column"] in BOX_ONLY and cell["row"] == results.methods[0]:
                row, column = _WITHOUT_MAP[cell["column"]], WITH_MAP[0]
                published = part.published.get(row, {}).get(study_label(cell["metric"], column))
                boxes.append({**cell, "row": row, "column": column, "published": published})
        with_map = [cell for cell in cells if cell["column"] in WITH_MAP]
        references = {*results.references, *_WITHOUT_MAP.values()}
        _add_study_table(run, part, [*boxes, *with_map], references)


def make_classes(run: Reproduction) -> None:
    """Opti-CAM's Table A.9: maps of other classes, judged by the true one."""
    for part in run.experiments:
        results = run.evaluate(part)
        cells = [
            {**cell, "group": cell["column"], "column": cell["group"]}
            for cell in _measure_study(results, part)
        ]
        _add_study_table(run, part, cells, results.references)


def make_selectivity(run: Reproduction) -> None:
    """Opti-CAM's Figure A4: AD, AI and AG by the power of the map."""
    for part in run.experiments:
        results = run.evaluate(part)
        cells = list(_measure_study(results, part))
        _add_study_table(run, part, cells, results.references)
        points = (
            (
                cell["metric"],
                cell["row"],
                float(cell["column"].removeprefix("α = ")),
                results.summary(cell["row"], study_label(cell["metric"], cell["column"])),
            )
            for cell in cells
        )
        panels = sweep_charts(points, x="power α", suffix=f", {part.label}", log_x=True)
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

    The table has the means over the stages, the figure each stage. With the option `images` there
    is also a picture of so many images' maps.
    """
    tables = {}
    for part in run.experiments:
        results = run.evaluate(part)
        tables[part.label] = table(results, published=part.published, timing=False)
        found = metric_charts(results)
        panels = []
        for method in results.methods:
            curves = [
                replace(curve, label=metric)
                for metric, chart in found.items()
                for curve in chart.series
                if curve.label == method
            ]
            x, y = "random stages, from the output", "similarity of the maps"
            panels.append(Chart(curves, x, y, f"{method}, {part.label}"))
        run.figures[run.name_file("figure", part.label)] = charts(panels)
        if count := int(run.options.get("images", 0)):
            picture = draw_random_maps(make_setting(part.plan), count)
            run.write_page(f"{run.name_file('maps', part.label)}.png", picture)
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
        for method, seconds in _time_methods(setting, repeats).items():
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
        for kind, shares in _find_singular_shares(make_setting(part.plan), first).items():
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


def _measure(results: Results, part: Experiment) -> Cells:
    """Return a row for each method, a column for each metric, and the paper's numbers."""
    cells = [
        summary_cell(results.summary(method, metric), method, metric)
        for method in results.methods
        for metric in results.metrics
    ]
    return add_published(cells, part.published)


def _measure_study(results: Results, part: Experiment) -> Iterator[dict[str, Any]]:
    """Return a row for each method, a column for each variant, in a group for each metric."""
    labels = study_metrics(part.plan.study)
    for cell in _measure(results, part):
        if cell["column"] in labels:
            metric, _, variant = cell["column"].partition(", ")
            yield {**cell, "metric": metric, "group": metric.upper(), "column": variant}


def _add_study_table(
    run: Reproduction, part: Experiment, cells: Cells, references: set[str] | frozenset[str]
) -> None:
    run.tables[run.name_file("table", part.label)] = Table.of(
        [{key: fact for key, fact in cell.items() if key != "metric"} for cell in cells],
        references=references,
        caption=f"{run.caption} ({part.label})",
    )


def _join(run: Reproduction, tables: Mapping[str, Table], caption: str) -> Table:
    """Put tables side by side, methods as the recipe lists them: parts may lack some."""
    order = [choice.label for choice in read_methods(run.recipe.plan["methods"])]
    groups = tables if len(tables) > 1 else {"": next(iter(tables.values()))}
    return Table.beside(groups, order=order, caption=caption)


def _time_methods(setting: Setting, repeats: int) -> dict[str, list[float]]:
    """Return the seconds of each run of each method by itself, after two runs to warm up."""
    x = read_images(setting, 1).images.to(setting.plan.device)
    layers = list(setting.layers) or None
    seconds: dict[str, list[float]] = {}
    for label, method in setting.methods.items():
        for _ in range(2 + repeats):
            start = seconds_now(x.device)
            explain(setting.network, x, method, None, layers, chunk=setting.plan.chunk)
            seconds.setdefault(label, []).append(seconds_now(x.device) - start)
    return {label: runs[2:] for label, runs in seconds.items()}


def _find_singular_shares(setting: Setting, first: int) -> dict[str, Tensor]:
    """Return the shares (N, first) of the first singular values of every image's features."""
    places = torch.arange(len(setting.data)).split(setting.plan.batch_size)
    shares: dict[str, list[Tensor]] = {"SVD": [], "Tucker": []}
    layer = Layer(setting.layers[0]) if setting.layers else setting.network.layer
    for batch, _ in batches(setting, [part.tolist() for part in places], setting.plan.workers):
        if batch is None:
            continue
        x = batch.images.to(setting.plan.device)
        if layer is None:
            explanation = explain(setting.network, x[:1], "eigencam")["eigencam"]
            layer = Layer(explanation.layers[0])
        with tracing(setting.network, x, _score_anything, [layer], gradients=False) as trace:
            features = trace[layer].activations
        shares["SVD"].append(dominant_variance(features, "svd", first).double().cpu())
        shares["Tucker"].append(dominant_variance(features, "tucker", first).double().cpu())
    return {kind: torch.cat(found) for kind, found in shares.items()}


def _score_anything(output: Tensor) -> Tensor:
    return output.flatten(1)[:, 0]  # only the features are used
