"""Results as tables for a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich import box
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from torchsaliency.apps.console import printable

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


def models_table(rows: Sequence[dict[str, Any]]) -> Table:
    """List networks."""
    table = _table("network", "family")
    for row in rows:
        mark = "  (default)" if row["default"] else ""
        table.add_row(Text(row["name"] + mark, style="bold" if mark else ""), Text(row["family"]))
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
    table = _table("photo", "class", "probability", "maps")
    for photo in photos[:_MOST_PHOTOS]:
        by_class: dict[tuple[str, float], list[str]] = {}
        for one in photo["maps"]:
            key = one["target"]["name"], one["target"]["probability"]
            remark = "" if one["status"] == "ok" else f" ({one['status']})"
            by_class.setdefault(key, []).append(one["method"] + remark)
        for index, ((name, probability), made) in enumerate(by_class.items()):
            table.add_row(
                "" if index else escape(printable(photo["name"])),
                escape(name),
                f"{probability:.1%}",
                ", ".join(made),
            )
    if len(photos) > _MOST_PHOTOS:
        table.add_row(f"… and {len(photos) - _MOST_PHOTOS} more", "", "", "")
    return table


def _table(*columns: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        right = column in {"probability", "masked"}
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
