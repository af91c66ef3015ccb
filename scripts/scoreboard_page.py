"""Write the scoreboard in docs/benchmarks.md and the table of README.md from the measured JSON."""

import json
import statistics
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "2026-12-01-scoreboard-cpu.json"
PAGE, README = ROOT / "docs" / "benchmarks.md", ROOT / "README.md"
START = "<!-- scripts/scoreboard_page.py writes this from the JSON. -->\n"
END = "<!-- The scoreboard ends. -->\n"
HEAD = (
    "| what | network | ours, exact: passes | seconds | ours, fast | passes | seconds | error "
    "| peer | passes | seconds |"
)
SMALL, LARGE, SAME, TWO_DIGITS = 1e-4, 1000, 0.05, 100
KINDS = {
    "speed": "≥ {:g} × the peer",
    "cost": "≤ {:g} × a forward pass",
    "passes": "≤ {:g} passes",
}

Found = dict[str, Any]


def _number(value: float) -> str:
    """Write three digits, without an exponent."""
    if abs(value) < SMALL:
        return "0" if value == 0 else "< 0.0001"
    return f"{value:.3g}" if abs(value) < LARGE else f"{value:,.0f}"


def _seconds(seconds: list[float]) -> str:
    """Write the median and the range of rounds."""
    if len(seconds) == 1:
        return f"{_number(seconds[0])} (once)"
    middle = _number(statistics.median(seconds))
    return f"{middle} ({_number(min(seconds))} to {_number(max(seconds))})"


def _cells(side: Found) -> list[str]:
    return [_number(side["passes_per_image"]), _seconds(side["seconds_per_image"])]


def _label(name: str) -> str:
    """Write what is typed as code."""
    return f"`{name}`" if "=" in name and " " not in name else name


def lines_of(row: Found) -> list[str]:
    """Return a row's lines of the table: further fast sides have lines of their own."""
    sides: dict[str, list[tuple[str, Found]]] = defaultdict(list)
    for name, side in row["sides"].items():
        sides[side["kind"]].append((name, side))
    ((_, exact),) = sides["exact"]
    exact_cells = _cells(exact)
    if "error" in exact:
        exact_cells[1] += f", error {_number(exact['error'])}"
    lines = []
    for place, (name, fast) in enumerate(sides["fast"] or [("", {})]):
        first = place == 0
        ours = [_label(name), *_cells(fast), _number(fast["error"])] if name else [""] * 4
        theirs = (
            [sides["peer"][0][0], *_cells(sides["peer"][0][1])]
            if first and sides["peer"]
            else [""] * 3
        )
        about = [row["title"], row["network"].removeprefix("builtin/")]
        cells = [*about, *(exact_cells if first else [""] * 2), *ours, *theirs]
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def goal_of(row: Found) -> str:
    """Return the line of a row's goal."""
    goal = row["goal"]
    result = "not reached" if goal["result"] is None else _number(goal["result"])
    by = f" ({_label(goal['by'])})" if goal["by"] not in ("", "exact") else ""
    bound = KINDS[goal["kind"]].format(goal["bound"])
    met = "yes" if goal["met"] else "no"
    limit = "" if goal["met"] else goal["limit"]
    place = row["network"].removeprefix("builtin/")
    return f"| {row['title']} | {place} | {bound} | {result}{by} | {met} | {limit} |"


def places_of(rows: list[Found]) -> str:
    """Return where and when the rows were measured."""
    groups: dict[str, list[float]] = defaultdict(list)
    for row in rows:
        where = row["where"]
        text = "{date}, commit {commit}, {processor}, {cores} cores, Python {python}".format_map(
            where
        )
        groups[f"{text}, threads: {where['threads']}"].append(where["load"])
    return "\n".join(
        f"- {text}: {len(loads)} of the rows, load {min(loads):g} to {max(loads):g}"
        for text, loads in groups.items()
    )


def list_missing(rows: list[list[str]]) -> list[str]:
    """Return the sentence about rows that no run has measured yet, if there are any."""
    names = "; ".join(f"`{name}` on {network.removeprefix('builtin/')}" for name, network in rows)
    return [f"Not measured yet: {names}.", ""] if rows else []


def scoreboard(found: Found) -> str:
    """Return the section of docs/benchmarks.md."""
    rows = found["rows"]
    units = {row["title"]: row["unit"] for row in rows if row["unit"]}
    versions = ", ".join(f"{name} {version}" for name, version in found["versions"].items())
    columns = HEAD.count("|") - 1
    numbers = [" --: " if place in {2, 3, 5, 6, 7, 9, 10} else " --- " for place in range(columns)]
    return "\n".join(
        [
            HEAD,
            "|" + "|".join(numbers) + "|",
            *(line for row in rows for line in lines_of(row)),
            "",
            "Errors: " + "; ".join(f"{title}: {unit}" for title, unit in units.items()) + ".",
            "",
            "| goal | network | bound | result | met | limit |",
            "| --- | --- | --- | --- | --- | --- |",
            *(goal_of(row) for row in rows if "goal" in row),
            "",
            *list_missing(found["not_measured"]),
            "Measured:",
            "",
            places_of(rows),
            "",
            f"{versions}.",
            "",
        ]
    )


def table(found: Found) -> str:
    """Return the table of README.md: the built-in network's rows, but those with nothing beside."""
    lines = [
        "| on `efficientnet_lite0` | against | exact | fast |",
        "| --- | --- | --- | --- |",
    ]
    lines += [
        "| " + " | ".join([row["title"], *compare(row)]) + " |"
        for row in found["rows"]
        if row["network"].startswith("builtin/") and len(row["sides"]) > 1
    ]
    loads = [row["where"]["load"] for row in found["rows"]]
    said = (
        f"Medians of seconds, measured at a load of {min(loads):g} to {max(loads):g} on two cores."
    )
    return "\n".join([*lines, "", said, ""])


def _say_speed(value: float) -> str:
    """Return how many times faster, or slower, something is."""
    if abs(value - 1) <= SAME:
        return "as fast"
    times, word = (value, "faster") if value > 1 else (1 / value, "slower")
    return f"{times:.2g} × {word}" if times < TWO_DIGITS else f"{times:,.0f} × {word}"


def compare(row: Found) -> list[str]:
    """Return what a row is compared with, its exact side, and its fastest with the error."""
    middle = {
        name: statistics.median(side["seconds_per_image"]) for name, side in row["sides"].items()
    }
    kinds = {name: side["kind"] for name, side in row["sides"].items()}
    peer = next((name for name, kind in kinds.items() if kind == "peer"), "exact")
    times = {name: middle[peer] / one for name, one in middle.items()}
    exact = _say_speed(times["exact"])
    if row.get("goal", {}).get("kind") == "cost":
        exact = f"{1 / times['exact']:.3g} × its time"
    fast = [name for name, kind in kinds.items() if kind == "fast"]
    against = "our exact side" if peer == "exact" else peer
    if not fast:
        return [against, exact, ""]
    best = min(fast, key=middle.__getitem__)
    off = f"error {_number(row['sides'][best]['error'])} {row['unit']}".rstrip()
    said = f"{_label(best)}: {_say_speed(times[best])}, {off}"
    return [against, "" if peer == "exact" else exact, said]


def insert(text: str, section: str) -> str:
    """Return a page with the section between the marks."""
    head, _, rest = text.partition(START)
    _, _, tail = rest.partition(END)
    return f"{head}{START}\n{section}\n{END}{tail}"


def pages() -> dict[Path, str]:
    """Return both pages as the JSON says that they are."""
    found = json.loads(RESULTS.read_text(encoding="utf-8"))
    sections = {PAGE: scoreboard(found), README: table(found)}
    return {
        path: insert(path.read_text(encoding="utf-8"), section)
        for path, section in sections.items()
    }


def main() -> None:
    """Write both pages."""
    for path, text in pages().items():
        path.write_text(text, encoding="utf-8")
    sys.stdout.write("docs/benchmarks.md and README.md are written.\n")


if __name__ == "__main__":
    main()
