"""`torchsaliency explain`: overlays, raw maps and a manifest of photographs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.markup import escape
from rich.table import Table

from torchsaliency.cli.console import bold, grid_of, print_json, print_line, stdout
from torchsaliency.cli.options import ExplainCommandOptions

_MOST_PHOTOS = 30


def explain(options: ExplainCommandOptions) -> int:
    """Show where a network looks in photographs.

    Per photo and method an overlay (PNG, with the colour scale beside the photo) and the raw map
    (.npy), and one manifest.json that says everything needed to repeat them.
    """
    from torchsaliency.cli.photographs import explain_photos
    from torchsaliency.zoo.sources.source import UNKNOWN
    from torchsaliency.zoo.weights import list_names

    manifest = explain_photos(options)
    if options.as_json:
        print_json(manifest)
    else:
        stdout.print(_photos_table(manifest["photos"]))
        if manifest["scores"]:
            stdout.print(_scores_table(manifest["scores"]))
        for row in manifest["scores"]:
            if about := row.get("evaluation"):
                print_line(f"{row['method']}: {about}")
        for name in manifest["grids"]:
            print_line(f"Look at {options.output / name}.")
        made = [facts for photo in manifest["photos"] for facts in photo["maps"]]
        maps = "1 map is" if len(made) == 1 else f"{len(made)} maps are"
        layers = list(dict.fromkeys(layer for facts in made for layer in facts["layers"]))
        read = f", read at layer{'s' * (len(layers) > 1)} {list_names(layers)}" if layers else ""
        if manifest["network"]["weights"] == UNKNOWN:
            print_line(
                f"{options.model} was given no weights (--weights FILE): it has those that its "
                "factory made, which may be random."
            )
        print_line(f"{maps} in {options.output}/{read}, described in its manifest.json.")
    return 1 if manifest["skipped_photos"] else 0


def _photos_table(photos: Sequence[Mapping[str, Any]]) -> Table:
    """List what was explained: photo, class, probability and methods."""
    of_classes = all(facts["target"]["index"] is not None for p in photos for facts in p["maps"])
    heading = "class" if of_classes else "explained"
    table = grid_of("photo", heading, "probability", "maps", right=["probability"])
    for photo in photos[:_MOST_PHOTOS]:
        by_class: dict[tuple[str, float | None], list[str]] = {}
        for facts in photo["maps"]:
            key = facts["target"]["name"], facts["target"]["probability"]
            remark = "" if facts["status"] == "ok" else f" ({facts['status']})"
            by_class.setdefault(key, []).append(facts["method"] + remark)
        for index, ((name, probability), methods) in enumerate(by_class.items()):
            table.add_row(
                "" if index else escape(photo["name"]),
                escape(name),
                "" if probability is None else f"{probability:.1%}",
                ", ".join(methods),
            )
    if len(photos) > _MOST_PHOTOS:
        table.add_row(f"… and {len(photos) - _MOST_PHOTOS} more", "", "", "")
    return table


def _scores_table(scores: Sequence[Mapping[str, Any]]) -> Table:
    """List each metric's mean over the maps of every method, with interval, the best in bold."""
    table = grid_of("metric", "method", "mean", "95 % interval", "maps", right=["mean"])
    for name in dict.fromkeys(row["metric"] for row in scores):
        rows = [row for row in scores if row["metric"] == name]
        direction = rows[0]["direction"]
        arrow = {"higher": "↑", "lower": "↓", "neither": ""}[direction]
        values = [row["value"] for row in rows if row["value"] is not None]
        best = (
            {"higher": max, "lower": min}[direction](values)
            if direction != "neither" and values
            else None
        )
        for place, row in enumerate(rows):
            leads = len(rows) > 1 and best is not None and row["value"] == best
            low, high = row["low"], row["high"]
            undefined = f" ({row['undefined']} undefined)" if row["undefined"] else ""
            table.add_row(
                "" if place else f"{name} {arrow} {row['unit']}",
                bold(row["method"], leads),
                bold(_number(row["value"]), leads),
                "" if low is None else f"{_number(low)} to {_number(high)}",
                f"{row['count']}{undefined}",
            )
    return table


def _number(value: float | None) -> str:
    if value is None:
        return "undefined"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.3g}"  # noqa: PLR2004
