"""Charts of a page: their geometry, which a template draws as SVG and a script reads for hover.

Vega-Lite and plotly bring a megabyte and more into every file, matplotlib's SVG knows no pointer;
see docs/adr/0015. Charts here are of a few kinds only, so this is all that they need.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

import numpy as np
import torch
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray
from scipy.cluster import hierarchy
from scipy.spatial.distance import squareform

from torchsaliency.pages.viewer import format_value
from torchsaliency.viz.curves import Chart, Curve
from torchsaliency.viz.overlay import colourise

WIDTH, HEIGHT = 460.0, 300.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 52.0, 12.0, 10.0, 40.0
_TICKS = 5
_LINE = 13  # pixels between two labels
_LINEAR = 0.04045  # sRGB is linear below
_BRIGHT = 0.179  # the luminance from which black text has more contrast than white


@final
@dataclass(frozen=True)
class Axis:
    """One axis: from the numbers' range to pixels.

    Attributes:
        low: the number at its beginning.
        high: the number at its end.
        begin: the pixel there.
        end: the pixel at the end.
        log: whether it is logarithmic.
    """

    low: float
    high: float
    begin: float
    end: float
    log: bool = False

    @classmethod
    def of(cls, values: Sequence[float], begin: float, end: float, *, log: bool = False) -> Axis:
        """Return an axis that holds all values, with some room."""
        known = [value for value in values if math.isfinite(value) and (value > 0 or not log)]
        low, high = (min(known), max(known)) if known else (1.0, 1.0) if log else (0.0, 1.0)
        if log:
            return cls(low / 1.3, high * 1.3, begin, end, log)
        room = (high - low) * 0.04 or 0.5
        return cls(low - room, high + room, begin, end)

    def place(self, value: float) -> float:
        """Return the pixel of a number."""
        scale = math.log if self.log else float
        share = (scale(value) - scale(self.low)) / (scale(self.high) - scale(self.low))
        return round(self.begin + share * (self.end - self.begin), 1)

    @property
    def ticks(self) -> list[tuple[float, str]]:
        """Pixels and words of a few round numbers."""
        if self.log:
            first, last = math.floor(math.log10(self.low)), math.ceil(math.log10(self.high))
            few = math.log10(self.high / self.low) < 1
            steps = range(1, 10) if few else (1, 2, 5)
            values = [m * 10.0**e for e in range(first, last + 1) for m in steps]
        else:
            values = list(MaxNLocator(_TICKS).tick_values(self.low, self.high))
        inside = [value for value in values if self.low <= value <= self.high]
        return [(self.place(value), format_value(round(value, 10))) for value in inside]


def draw_lines(chart: Chart) -> dict[str, Any]:
    """Return the geometry of curves with bands: what `charts.html.jinja` draws."""
    points = [float(x) for curve in chart.series for x in curve.x]
    heights = [
        float(y)
        for curve in chart.series
        for values in (curve.y, curve.low, curve.high)
        if values is not None
        for y in values
    ]
    x = Axis.of(points, _LEFT, WIDTH - _RIGHT, log=chart.log_x)
    y = Axis.of(heights, HEIGHT - _BOTTOM, _TOP)
    return {
        "title": chart.title,
        "x": chart.x,
        "y": chart.y,
        "x_ticks": x.ticks,
        "y_ticks": y.ticks,
        "series": [_draw_curve(curve, x, y) for curve in chart.series],
        "readout": {
            "x": [
                [x.place(float(value)), format_value(float(value))] for value in chart.series[0].x
            ],
            "lines": [
                [curve.label, [format_value(float(value)) for value in curve.y]]
                for curve in chart.series
            ],
        },
    }


def _draw_curve(curve: Curve, x: Axis, y: Axis) -> dict[str, Any]:
    across = [x.place(float(value)) for value in curve.x]

    def line(values: Any) -> list[str]:
        pairs = zip(across, map(float, values), strict=True)
        return [f"{left},{y.place(value)}" for left, value in pairs if math.isfinite(value)]

    band = ""
    if curve.low is not None and curve.high is not None:
        band = " ".join([*line(curve.low), *reversed(line(curve.high))])
    return {"label": curve.label, "line": " ".join(line(curve.y)), "band": band}


def draw_costs(
    costs: Mapping[str, float], scores: Mapping[str, float], *, higher: bool, x: str, y: str
) -> dict[str, Any]:
    """Return the geometry of methods by cost and score, with the front that none beats in both.

    Args:
        costs: seconds an image, by method, above 0.
        scores: of one metric, by method.
        higher: whether a higher score is better.
        x: what the costs are.
        y: what the scores are.
    """
    known = [name for name in scores if math.isfinite(scores[name]) and costs.get(name, 0) > 0]
    across = Axis.of([costs[name] for name in known], _LEFT, WIDTH - _RIGHT, log=True)
    up = Axis.of([scores[name] for name in known], HEIGHT - _BOTTOM, _TOP)
    front = find_front({name: (costs[name], scores[name]) for name in known}, higher=higher)
    middle = (_LEFT + WIDTH) / 2
    heights = _part_labels({name: up.place(scores[name]) for name in known})
    return {
        "title": y,
        "x": x,
        "y": y,
        "x_ticks": across.ticks,
        "y_ticks": up.ticks,
        "front": " ".join(f"{across.place(costs[n])},{up.place(scores[n])}" for n in front),
        "points": [
            {
                "label": name,
                "x": across.place(costs[name]),
                "y": up.place(scores[name]),
                "label_y": heights[name],
                "left": across.place(costs[name]) > middle,
                "front": name in front,
                "words": f"{name}: {format_value(scores[name])} at {format_value(costs[name])} s",
            }
            for name in known
        ],
    }


def _part_labels(places: Mapping[str, float]) -> dict[str, float]:
    """Move labels down or up until each has a line of its own."""
    parted: dict[str, float] = {}
    last = -math.inf
    for name in sorted(places, key=lambda key: places[key]):
        last = parted[name] = max(places[name], last + _LINE)
    over = max(0.0, last - (HEIGHT - _BOTTOM)) if parted else 0.0
    return {name: height - over for name, height in parted.items()}


def find_front(points: Mapping[str, tuple[float, float]], *, higher: bool) -> list[str]:
    """Return the names that no other beats in cost and score at once, by cost.

    Args:
        points: cost (lower is better) and score, by name.
        higher: whether a higher score is better.

    Example:
        >>> find_front({"a": (1.0, 5.0), "b": (2.0, 4.0), "c": (3.0, 9.0)}, higher=True)
        ['a', 'c']
    """
    front: list[str] = []
    best = -math.inf
    sign = 1 if higher else -1
    for name in sorted(points, key=lambda key: (points[key][0], -sign * points[key][1])):
        if sign * points[name][1] > best:
            front.append(name)
            best = sign * points[name][1]
    return front


def draw_correlations(labels: Sequence[str], values: NDArray[Any]) -> dict[str, Any]:
    """Return a matrix of correlations as coloured cells, ordered and joined by a dendrogram.

    Average linkage of 1 - ρ; a correlation that is not defined (NaN) counts as 0.

    Args:
        labels: of the rows and columns.
        values: (n, n), symmetric, n at least 2.
    """
    known = np.nan_to_num(np.asarray(values, dtype=float), nan=0.0)
    known = (known + known.T) / 2
    np.fill_diagonal(known, 1.0)
    linkage = hierarchy.average(squareform(np.clip(1 - known, 0, None), checks=False))
    tree = hierarchy.dendrogram(linkage, no_plot=True)
    order = tree["leaves"]
    highest = max(float(np.max(tree["dcoord"])), 1e-9)
    row = 2.1  # em: of a row of the table beside it
    branches = [
        " ".join(
            f"{100 * distance / highest:.1f},{place / 10 * row * 10:.1f}"
            for place, distance in zip(places, distances, strict=True)
        )
        for places, distances in zip(tree["icoord"], tree["dcoord"], strict=True)
    ]
    colours = colourise(torch.from_numpy(known).clamp(-1, 1), signed=True)
    rows = []
    for i in order:
        cells = []
        for j in order:
            red, green, blue = (int(part) for part in colours[i, j])
            light = _luminance(red, green, blue) > _BRIGHT
            text = f"{known[i, j]:.2f}".replace("-", "−") if np.isfinite(values[i, j]) else "–"  # noqa: RUF001
            cells.append((text, f"rgb({red} {green} {blue})", "#000" if light else "#fff"))
        rows.append((labels[i], cells))
    return {
        "labels": [labels[i] for i in order],
        "rows": rows,
        "branches": branches,
        "height": len(order) * row * 10,
    }


def _luminance(*colour: int) -> float:
    """Return the relative luminance of a colour (WCAG 2)."""
    parts = np.array(colour) / 255
    linear = np.where(parts <= _LINEAR, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
    return float(linear @ (0.2126, 0.7152, 0.0722))
