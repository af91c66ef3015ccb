"""The report of an evaluation: tables, curves, correlations, costs, and images with their maps."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from torchsaliency.errors import DataError, TorchSaliencyError
from torchsaliency.evaluation import Plan, Results, Store, load_results
from torchsaliency.evaluation.batches import batches
from torchsaliency.evaluation.scoring import explain_batch
from torchsaliency.evaluation.setting import make_setting
from torchsaliency.pages import charts, findings
from torchsaliency.pages.findings import Finding
from torchsaliency.pages.report import About, render_page
from torchsaliency.pages.viewer import viewer_html
from torchsaliency.pages.views import PhotoView, view_inputs, view_photo
from torchsaliency.report import table as table_of
from torchsaliency.report.charts import metric_charts
from torchsaliency.report.formats import read_cells, write_legend
from torchsaliency.zoo import Preprocessing

IMAGES = 12
"""Images that are shown with their maps."""


def evaluation_report(
    folder: str | Path, *, images: int = IMAGES, say: Callable[[str], None] = lambda _: None
) -> str:
    """Return what an evaluation found as one HTML file.

    The maps of some images are made again as the plan says. Where that cannot be done (the data or
    the network is somewhere else, or is another one than was evaluated), the report says why and
    has no pictures.

    Args:
        folder: what `torchsaliency evaluate --output` wrote.
        images: that are shown with their maps, at most; 0 for none.
        say: told what takes time.

    Raises:
        DataError: the folder holds no evaluation.

    Example:
        >>> html = evaluation_report("run")  # doctest: +SKIP
    """
    results = load_results(folder)
    facts = Store(folder).facts or {}
    table = table_of(results)
    rows = table.rows, read_cells(table, intervals=True), findings.list_values(table)
    means, seconds = findings.score_means(results), findings.mean_seconds(results)
    chosen = findings.choose_images(results, images) if images else []
    views, missing = [], ""
    if chosen:
        say(f"Making the maps of {len(chosen)} images again.")
        try:
            views = list(_explain_again(facts, results, chosen))
        except (TorchSaliencyError, OSError) as error:
            missing = f"The maps of images could not be made again: {error}"
    pairs = {
        "Metrics": findings.correlate_metrics(results),
        "Methods": findings.correlate_methods(results),
    }
    directions = {name: metric.entry.direction for name, metric in results.metrics.items()}
    return render_page(
        "evaluation.html.jinja",
        f"Evaluation on {facts['plan']['data']}",
        _about_run(facts, results, missing),
        table=table,
        rows=list(zip(*rows, strict=True)),
        p_values=table.pivot("p_value").to_numpy(dtype=float).tolist(),
        legend=write_legend(table),
        ranks=findings.rank_methods(results),
        curves=[charts.draw_lines(chart) for chart in metric_charts(results).values()],
        costs=[
            charts.draw_costs(
                seconds,
                means[name].drop(index=list(results.references)).to_dict(),
                higher=direction == "higher",
                x="seconds an image",
                y=name,
            )
            for name, direction in directions.items()
            if direction != "neither" and seconds
        ],
        correlations={
            name: charts.draw_correlations(labels, values)
            for name, (labels, values) in pairs.items()
            if len(labels) > 1
        },
        viewer=viewer_html(views, assets=False) if views else "",
        count=len(results.samples),
        methods=list(results.methods),
        metrics={name: metric.entry for name, metric in results.metrics.items()},
    )


def _explain_again(
    facts: Mapping[str, Any], results: Results, chosen: Sequence[Finding]
) -> Iterator[PhotoView]:

    plan = Plan.model_validate({**facts["plan"], "methods": list(facts["methods"].values())})
    setting = make_setting(plan)
    _require_same(facts["identity"], setting.identity())
    places = {sample.id: place for place, sample in enumerate(setting.data.samples)}
    for one in chosen:
        place = places[one.sample]
        batch, _ = next(iter(batches(setting, [[place]], workers=0)))
        if batch is None:
            continue
        explanations = {
            label: bench.explanation for label, bench in explain_batch(setting, batch).items()
        }
        classes, note = setting.network.classes, "; ".join(one.reasons)
        values = findings.describe_values(results, one.sample)
        if isinstance(setting.preprocessing, Preprocessing):
            photo = setting.data.picture(place).image
            views = [
                view_photo(
                    photo,
                    explanations,
                    model=setting.preprocessing,
                    classes=classes,
                    title=one.sample,
                    facts=values,
                )
            ]
        else:
            views = view_inputs(explanations, classes=classes, names=[one.sample], facts=[values])
        for view in views:
            yield replace(view, note=note)


def _require_same(evaluated: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Refuse what the plan names now if it is not what was evaluated: its maps would be others."""
    for name in evaluated.keys() & now.keys():
        if evaluated[name] != now[name]:
            raise DataError(
                f"{name} is {evaluated[name]} in the evaluation and {now[name]} in what its plan "
                "names now."
            )


def _about_run(facts: Mapping[str, Any], results: Results, missing: str) -> About:
    plan, sessions = facts["plan"], facts["sessions"]
    last = sessions[-1]
    failures = dict(facts.get("skipped", {}))
    failures |= {
        name: f"maps that are not finite: {', '.join(methods)}"
        for name, methods in facts.get("not finite", {}).items()
    }
    notes = [
        f"{name}: {entry.section('Differs')}"
        for name, metric in results.metrics.items()
        if (entry := metric.entry).section("Differs")
    ]
    about = {
        "Network": plan["model"],
        "Weights": str(facts["identity"].get("weights of the network", "")),
        "Data": plan["data"],
        "Fingerprint of the data": str(facts["identity"].get("fingerprint of the data", "")),
        "Target": str(facts["identity"].get("resolved target", "")),
        "Masking": plan["masking"],
        "Seed": str(plan["seed"]),
        "Sessions": f"{len(sessions)}, the last began {last['begun']}",
        "Versions": ", ".join(f"{name} {text}" for name, text in last["versions"].items()),
        "Hardware": ", ".join(f"{name} {text}" for name, text in last["hardware"].items()),
        "Methods": json.dumps({n: m["options"] for n, m in facts["methods"].items()}),
    }
    return About(about, failures, [*([missing] if missing else []), *notes])
