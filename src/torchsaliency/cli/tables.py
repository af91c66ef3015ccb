"""Results as tables for a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich import box
from rich.markup import escape
from rich.table import Table
from rich.text import Text

_MOST_PHOTOS = 30


def methods_table(rows: Sequence[dict[str, Any]]) -> Table:
    """List methods: what each is, what it needs, and its options."""
    table = _table("method", "needs", "what it is")
    for row in rows:
        text = Text(row["summary"])
        text.append(f"\n{row['paper']}", style="dim")
        if row["options"]:
            options = "  ".join(f"{key}={value}" for key, value in row["options"].items())
            text.append(f"\n{options}", style="cyan")
        table.add_row(Text(row["name"], style="bold"), Text(_needs(row)), text)
    return table


def metrics_table(rows: Sequence[dict[str, Any]]) -> Table:
    """List metrics: direction and unit, what each is and where it misleads."""
    table = _table("metric", "better", "unit", "what it is")
    for row in rows:
        text = Text(row["summary"].partition(": ")[2] or row["summary"])
        text.append(f"\nMisleads: {row['misleads']}", style="dim")
        if row["annotations"]:
            text.append(f"\nneeds {row['annotations']} of the objects", style="yellow")
        if row["options"]:
            options = "  ".join(f"{key}={value}" for key, value in row["options"].items())
            text.append(f"\n{options}", style="cyan")
        table.add_row(Text(row["name"], style="bold"), row["direction"], row["unit"], text)
    return table


def scores_table(scores: Sequence[dict[str, Any]]) -> Table:
    """List each metric's mean over the maps of every method, with interval, the best in bold."""
    table = _table("metric", "method", "mean", "95 % interval", "maps")
    for name in dict.fromkeys(row["metric"] for row in scores):
        rows = [row for row in scores if row["metric"] == name]
        arrow = {"higher": "↑", "lower": "↓", "neither": ""}[rows[0]["direction"]]
        best = _best(rows)
        for place, row in enumerate(rows):
            style = "bold" if len(rows) > 1 and best is not None and row["value"] == best else ""
            low, high = row["low"], row["high"]
            undefined = f" ({row['undefined']} undefined)" if row["undefined"] else ""
            table.add_row(
                "" if place else f"{name} {arrow} {row['unit']}",
                Text(row["method"], style=style),
                Text(_number(row["value"]), style=style),
                "" if low is None else f"{_number(low)} to {_number(high)}",
                f"{row['count']}{undefined}",
            )
    return table


def _best(rows: Sequence[dict[str, Any]]) -> float | None:
    values = [row["value"] for row in rows if row["value"] is not None]
    if not values or rows[0]["direction"] == "neither":
        return None
    best: float = max(values) if rows[0]["direction"] == "higher" else min(values)
    return best


def _number(value: float | None) -> str:
    if value is None:
        return "undefined"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.3g}"  # noqa: PLR2004


def models_table(rows: Sequence[dict[str, Any]]) -> Table:
    """List networks."""
    table = _table("network", "family")
    for row in rows:
        mark = "  (default)" if row["default"] else ""
        table.add_row(Text(row["name"] + mark, style="bold" if mark else ""), Text(row["family"]))
    return table


def recipes_table(rows: Sequence[dict[str, Any]]) -> Table:
    """List recipes."""
    table = _table("recipe", "item", "shows", "needs")
    for row in rows:
        table.add_row(
            Text(row["name"], style="bold"),
            Text(f"{row['paper']}, {row['item']}"),
            Text(row["title"]),
            Text(row["data"]),
        )
    return table


def layers_table(rows: Sequence[dict[str, Any]]) -> Table:
    """List layers: their output, and the feature maps in it."""
    table = _table("layer", "module", "output", "maps", "")
    for row in rows:
        table.add_row(
            Text(row["name"], style="bold" if row["default"] else ""),
            Text(row["module"]),
            "x".join(map(str, row["output"])),
            "x".join(map(str, row["maps"])),
            Text("default", style="bold green") if row["default"] else "",
        )
    return table


def findings_table(photos: Sequence[dict[str, Any]]) -> Table:
    """List what was explained: photo, class, probability and methods."""
    of_classes = all(one["target"]["index"] is not None for p in photos for one in p["maps"])
    table = _table("photo", "class" if of_classes else "explained", "probability", "maps")
    for photo in photos[:_MOST_PHOTOS]:
        by_class: dict[tuple[str, float | None], list[str]] = {}
        for one in photo["maps"]:
            key = one["target"]["name"], one["target"]["probability"]
            remark = "" if one["status"] == "ok" else f" ({one['status']})"
            by_class.setdefault(key, []).append(one["method"] + remark)
        for index, ((name, probability), made) in enumerate(by_class.items()):
            table.add_row(
                "" if index else escape(photo["name"]),
                escape(name),
                "" if probability is None else f"{probability:.1%}",
                ", ".join(made),
            )
    if len(photos) > _MOST_PHOTOS:
        table.add_row(f"… and {len(photos) - _MOST_PHOTOS} more", "", "", "")
    return table


def _table(*columns: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        right = column in {"probability", "masked", "mean"}
        table.add_column(column, justify="right" if right else "left", overflow="fold")
    return table


def _needs(row: dict[str, Any]) -> str:
    """Say what a method asks beyond the shared pass."""
    named = {"label_free": "no class", "gradients": "gradients", "passes": "more passes"}
    return "\n".join(words for key, words in named.items() if row[key])


def demo_table(rows: Sequence[dict[str, Any]]) -> Table:
    """List the demo's photos: class, probability, and that of what the map keeps."""
    table = _table("photo", "class", "probability", "masked")
    for row in rows:
        table.add_row(
            row["photo"], escape(row["class"]), f"{row['probability']:.1%}", f"{row['masked']:.1%}"
        )
    return table
