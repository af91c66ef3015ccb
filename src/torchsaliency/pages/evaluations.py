"""The report of an evaluation: tables, curves, correlations, costs, and images with their maps."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, final

from torchsaliency.core.isolation import describe_failure
from torchsaliency.errors import DataError
from torchsaliency.evaluation import Plan, Results, Store, load_results
from torchsaliency.evaluation.batches import batches
from torchsaliency.evaluation.plan import restore_plan
from torchsaliency.evaluation.scoring import explain_batch
from torchsaliency.evaluation.setting import Setting, make_setting
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
    folder: str | Path,
    *,
    images: int = IMAGES,
    again: int = 0,
    watch: Callable[[int, int], object] = lambda done, total: None,  # noqa: ARG005
) -> str:
    """Return what an evaluation found as one HTML file.

    The maps of some images are made again as the plan says. Where that cannot be done (the data or
    the network is somewhere else, or is another one than was evaluated), the report says why and
    has no pictures; an image that fails alone is missing alone. What an old run does not tell of
    itself, so that nobody can compare it, is said, too.

    Args:
        folder: what `torchsaliency evaluate --output` wrote.
        images: that are shown with their maps, at most; 0 for none.
        again: after so many seconds a browser loads the file again, as the evaluation goes on; 0
            for never.
        watch: told how many of these images are done, and of how many.

    Raises:
        DataError: the folder holds no evaluation.

    Example:
        >>> html = evaluation_report("run")  # doctest: +SKIP
    """
    results = load_results(folder)
    store = Store(folder)
    facts = store.facts or {}
    plan = restore_plan(store.place.name, facts)
    table = table_of(results)
    rows = table.rows, read_cells(table, intervals=True), findings.list_values(table)
    means, seconds = findings.score_means(results), findings.mean_seconds(results)
    chosen = findings.choose_images(results, images) if images else []
    shown = Shown()
    if chosen:
        try:
            shown.explain_all(plan, facts.get("identity", {}), chosen, results, watch)
        except Exception as error:  # a network of one's own may raise anything, and the tables stay
            reason = describe_failure(error)
            shown.remarks.append(f"The maps of images could not be made again: {reason}")
    pairs = {
        "Metrics": findings.correlate_metrics(results),
        "Methods": findings.correlate_methods(results),
    }
    directions = {name: metric.entry.direction for name, metric in results.metrics.items()}
    return render_page(
        "evaluation.html.jinja",
        f"Evaluation on {plan.data}",
        _about_run(facts, plan, results),
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
        viewer=viewer_html(shown.views, assets=False) if shown.views else "",
        remarks=shown.remarks,
        again=again,
        count=len(results.samples),
        total=max(len(results.samples), len(facts.get("samples", ()))),
        methods=list(results.methods),
        metrics={name: metric.entry for name, metric in results.metrics.items()},
    )


@final
@dataclass(frozen=True)
class Shown:
    """The images that a report shows.

    Attributes:
        views: with their maps.
        remarks: sentences on what is missing, or may be another than was evaluated.
    """

    views: list[PhotoView] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)

    def explain_all(
        self,
        plan: Plan,
        identity: Mapping[str, Any],
        chosen: Sequence[Finding],
        results: Results,
        watch: Callable[[int, int], object],
    ) -> None:
        """Make the maps of images again; one that fails costs no other."""
        setting = make_setting(plan)
        if remark := compare_identities(identity, setting.identity(identity)):
            self.remarks.append(remark)
        places = {sample.id: place for place, sample in enumerate(setting.data.samples)}
        watch(0, len(chosen))
        for done, one in enumerate(chosen, 1):
            values = findings.describe_values(results, one.sample)
            try:
                views = _explain_one(setting, places.get(one.sample), values)
            except Exception as error:  # a decoder or a network may raise anything
                self.remarks.append(f"{one.sample} is not shown: {describe_failure(error)}")
            else:
                note = "; ".join(one.reasons)
                self.views.extend(replace(view, note=note) for view in views)
            watch(done, len(chosen))


def _explain_one(
    setting: Setting, place: int | None, values: Mapping[str, Sequence[str]]
) -> list[PhotoView]:
    """Return an image with its maps; of a scan, three cuts."""
    if place is None:
        raise DataError("The data has no image of this name now.")
    batch, failed = next(iter(batches(setting, [[place]], workers=0)))
    if batch is None:
        raise DataError(failed[0].reason)
    found = explain_batch(setting, batch)
    explanations = {label: bench.explanation for label, bench in found.items()}
    classes, name = setting.network.classes, setting.data.samples[place].id
    if not isinstance(setting.preprocessing, Preprocessing):
        return view_inputs(explanations, classes=classes, names=[name], facts=[values])
    return [
        view_photo(
            setting.data.picture(place).image,
            explanations,
            model=setting.preprocessing,
            classes=classes,
            title=name,
            facts=values,
        )
    ]


def compare_identities(evaluated: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """Refuse what the plan names now if it is not what was evaluated: its maps would be others.

    Args:
        evaluated: what decided the numbers, as the run says.
        now: the same of what its plan names now.

    Returns:
        A sentence on what only one of both tells, as another version wrote the run; empty if they
        tell the same.

    Raises:
        DataError: they differ.
    """
    for name in evaluated.keys() & now.keys():
        if evaluated[name] != now[name]:
            raise DataError(
                f"{name} is {evaluated[name]} in the evaluation and {now[name]} in what its plan "
                "names now."
            )
    # what is nothing on one side and not named on the other is nothing on both
    unknown = sorted(
        name
        for name in evaluated.keys() ^ now.keys()
        if evaluated.get(name) is not None or now.get(name) is not None
    )
    if not unknown:
        return ""
    return (
        f"Another version of torchsaliency wrote this run, and {', '.join(unknown)} cannot be "
        "compared with what its plan names now; the maps below may differ from those that were "
        "evaluated."
    )


def _about_run(facts: Mapping[str, Any], plan: Plan, results: Results) -> About:
    sessions: list[dict[str, Any]] = facts.get("sessions") or [{}]
    last, identity = sessions[-1], facts.get("identity", {})
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
        "Network": plan.model,
        "Weights": str(identity.get("weights of the network", "")),
        "Data": plan.data,
        "Fingerprint of the data": str(identity.get("fingerprint of the data", "")),
        "Target": str(identity.get("resolved target", "")),
        "Masking": plan.masking,
        "Seed": str(plan.seed),
        "Sessions": f"{len(sessions)}, the last began {last.get('begun', 'at a time not told')}",
        "Versions": _join(last.get("versions", {})),
        "Hardware": _join(last.get("hardware", {})),
        "Methods": json.dumps({n: m["options"] for n, m in facts["methods"].items()}),
    }
    return About(about, failures, notes)


def _join(facts: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {text}" for name, text in facts.items())
