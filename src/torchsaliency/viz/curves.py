"""Curves of sweeps and boxes of distributions, drawn with matplotlib and kept as PNG and SVG.

Figures are made without pyplot, so nothing global knows of them, and in matplotlib's default style
whatever the user's is: the same numbers give the same file. Twelve methods stay apart for readers
who do not see colours as most do, and on grey paper: seven colours (Okabe and Ito's without their
yellow, which white paper swallows), then the same dashed, and a marker of its own for each.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import Any, final

import matplotlib.style
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, NullFormatter
from numpy.typing import NDArray

from torchsaliency.errors import InputError, OptionError

_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#000000", "#E69F00", "#56B4E9")
_DASHES: tuple[Any, ...] = ("-", (0, (4, 1.6)), (0, (1.2, 1.4)))
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "p", "h", "*")

_INK, _SOFT_INK, _RULE = "#1a1a1a", "#6b6b6b", "#dcdcdc"
_STYLE: dict[str, Any] = {
    "font.size": 9,
    "text.color": _INK,
    "axes.labelcolor": _INK,
    "axes.edgecolor": _SOFT_INK,
    "xtick.color": _SOFT_INK,
    "ytick.color": _SOFT_INK,
    "xtick.labelcolor": _INK,
    "ytick.labelcolor": _INK,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": _RULE,
    "grid.linewidth": 0.6,
    "lines.linewidth": 1.5,
    "lines.markersize": 4.5,
    "legend.frameon": False,
    "figure.dpi": 100,
    "savefig.dpi": 200,
    "svg.hashsalt": "torchsaliency",  # without one, every file has other ids
    "svg.fonttype": "path",  # letters as shapes: the same where DejaVu Sans is missing
}
_WIDTH, _HEIGHT, _LEGEND = 3.7, 2.9, 1.7  # inches: of a chart, and of the legend beside them
_MARKED = 30  # a curve of more points has markers on some of them only
_BESIDE = 3
_FEW = 5  # curves whose bands may be strong: more of them hide each other

Numbers = Sequence[float | int] | NDArray[Any]
"""One number a point, or an image."""


@final
@dataclass(frozen=True, eq=False)
class Curve:
    """One line of a chart.

    Attributes:
        label: what the legend calls it; curves of one label look alike in all charts of a figure.
        x: where it is known, ascending.
        y: its values there; NaN leaves a gap.
        low: lower end of a band around it; None for no band.
        high: upper end.
    """

    label: str
    x: Numbers
    y: Numbers
    low: Numbers | None = None
    high: Numbers | None = None

    def __post_init__(self) -> None:
        given = [values for values in (self.x, self.y, self.low, self.high) if values is not None]
        lengths = [len(values) for values in given]
        if len({*lengths}) > 1 or not lengths[0]:
            raise InputError(
                f"Curve {self.label!r} has {', '.join(map(str, lengths))} numbers for x, y and its "
                "band; give one of each for every point, and one point at least."
            )
        if (self.low is None) != (self.high is None):
            raise InputError(f"The band of {self.label!r} has one end; give both low and high.")


@final
@dataclass(frozen=True)
class Chart:
    """Curves over one pair of axes.

    Attributes:
        series: the curves.
        x: what the horizontal axis shows, with its unit.
        y: what the vertical axis shows, with its unit.
        title: stands above, on the left.
        log_x: whether x is logarithmic.
        references: heights of horizontal lines, by what is written on them.
    """

    series: Sequence[Curve]
    x: str
    y: str
    title: str = ""
    log_x: bool = False
    references: Mapping[str, float | int] | None = None

    def __post_init__(self) -> None:
        labels = [curve.label for curve in self.series]
        if not labels or len(set(labels)) < len(labels):
            raise InputError(
                f"A chart was given {len(labels)} curves of {len(set(labels))} labels; give one at "
                "least, each label once."
            )
        if self.log_x and any(min(curve.x) <= 0 for curve in self.series):
            raise InputError("A logarithmic axis begins above 0; leave out such points or log_x.")


def charts(panels: Sequence[Chart]) -> Figure:
    """Draw charts beside each other, three in a line, with one legend for all on the right.

    Args:
        panels: at least one. Curves of one label have one colour, dash and marker in all of them.

    Raises:
        InputError: none was given.

    Example:
        >>> curve = Curve("gradcam", [0, 50, 100], [9, 60, 80])
        >>> len(charts([Chart([curve], x="pixels (%)", y="p (%)")]).axes)
        1
    """
    if not panels:
        raise InputError("No chart was given; a figure needs one at least.")
    labels = list(dict.fromkeys(curve.label for panel in panels for curve in panel.series))
    looks = dict(zip(labels, _looks(), strict=False))
    across = min(len(panels), _BESIDE)
    down = -(-len(panels) // across)
    legend = len(labels) > 1
    with _style():
        figure = Figure(
            figsize=(_WIDTH * across + _LEGEND * legend, _HEIGHT * down),
            layout=ConstrainedLayoutEngine(w_pad=0.1, h_pad=0.08),
        )
        FigureCanvasAgg(figure)
        for place, panel in enumerate(panels):
            _draw(figure.add_subplot(down, across, place + 1), panel, looks)
        if legend:
            handles = [Line2D([], [], label=label, **looks[label]) for label in labels]
            figure.legend(handles=handles, loc="outside right upper", handlelength=3.2)
    return figure


def boxes(
    groups: Mapping[str, Numbers],
    *,
    y: str,
    x: str = "",
    title: str = "",
    references: Mapping[str, float | int] | None = None,
) -> Figure:
    """Draw the distribution of each group: quartiles, median, whiskers, every point beyond them.

    The whiskers reach the last point within 1.5 times the box's height, as Tukey drew them.

    Args:
        groups: numbers by label; NaN is left out.
        y: what is shown, with its unit.
        x: what the groups are.
        title: stands above, on the left.
        references: heights of horizontal lines, by what is written on them.

    Raises:
        InputError: no group, or one without a number.
    """
    numbers = {label: np.asarray(list(values), dtype=float) for label, values in groups.items()}
    numbers = {label: values[~np.isnan(values)] for label, values in numbers.items()}
    if not numbers or not all(map(len, numbers.values())):
        empty = next((label for label, values in numbers.items() if not len(values)), None)
        what = "No group was given" if empty is None else f"Group {empty!r} has no number"
        raise InputError(f"{what}; a box needs one number at least.")
    longest = max(map(len, numbers))
    slanted = longest * len(numbers) > _SLANTED
    with _style():
        width = max(_WIDTH, 1.0 + 0.55 * len(numbers))
        figure = Figure(figsize=(width, _HEIGHT + 0.4 * slanted), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.add_subplot()
        colour = _COLOURS[0]
        axes.boxplot(
            list(numbers.values()),
            tick_labels=list(numbers),
            widths=0.55,
            patch_artist=True,
            boxprops={"facecolor": f"{colour}33", "edgecolor": colour},
            medianprops={"color": _COLOURS[1], "linewidth": 2},
            whiskerprops={"color": colour},
            capprops={"color": colour},
            flierprops={"marker": "o", "markersize": 2.5, "markeredgecolor": colour},
        )
        axes.grid(visible=False, axis="x")
        if slanted:
            for tick in axes.get_xticklabels():
                tick.set(rotation=35, ha="right", rotation_mode="anchor")
        _refer(axes, references)
        axes.set(xlabel=x, ylabel=y, title=title)
    return figure


_SLANTED = 44
"""Letters that fit under the boxes when written level."""


def save(figure: Figure, path: str | Path) -> tuple[Path, ...]:
    """Write a figure; the same figure gives the same bytes with the same matplotlib.

    Args:
        figure: as made here.
        path: ending in .png or .svg, or a stem without either, for both files.

    Returns:
        The files written.

    Raises:
        OptionError: another ending of an image.
    """
    path = Path(path)
    if path.suffix.lower() in _OTHERS:
        raise OptionError(
            f"{path.name} ends in {path.suffix}, and figures are written as .png or .svg; give one "
            "of them, or a name without ending for both."
        )
    single = path.suffix.lower() in _METADATA
    # a stem may have a dot: "opticam-0.1"
    paths = (path,) if single else tuple(path.with_name(path.name + end) for end in _METADATA)
    for file in paths:
        file.write_bytes(encode_figure(figure, file.suffix.lower()))
    return paths


def encode_figure(figure: Figure, suffix: str) -> bytes:
    """Return a figure as the bytes of a file, ".png" or ".svg"."""
    buffer = io.BytesIO()
    with _style():
        figure.savefig(buffer, format=suffix[1:], metadata=_METADATA[suffix])
    return buffer.getvalue()


_METADATA: Mapping[str, dict[str, Any]] = {".png": {"Software": None}, ".svg": {"Date": None}}
_OTHERS = {".pdf", ".eps", ".jpg", ".jpeg", ".gif", ".webp", ".tif", ".tiff"}


@contextmanager
def _style() -> Iterator[None]:
    with matplotlib.style.context(["default", _STYLE]):
        yield


def _looks() -> Iterator[dict[str, Any]]:
    """Return how each curve differs from all before it, for as many as there are."""
    dashes = (dash for dash in cycle(_DASHES) for _ in _COLOURS)
    for colour, dash, marker in zip(cycle(_COLOURS), dashes, cycle(_MARKERS), strict=False):
        yield {"color": colour, "linestyle": dash, "marker": marker}


def _draw(axes: Axes, panel: Chart, looks: Mapping[str, dict[str, Any]]) -> None:
    order = list(looks)
    for curve in panel.series:
        look = looks[curve.label]
        if curve.low is not None and curve.high is not None:
            alpha = 0.15 if len(order) <= _FEW else 0.07
            axes.fill_between(
                curve.x, curve.low, curve.high, color=look["color"], alpha=alpha, lw=0
            )
        # markers of curves with many points must not fall on each other
        shift = 0.12 * order.index(curve.label) / len(order)
        every = (shift, 0.12) if len(curve.x) > _MARKED else None
        axes.plot(curve.x, curve.y, markevery=every, **look)
    if panel.log_x:
        axes.set_xscale("log")
        # as people write powers of ten: 0.01 and not 10⁻²
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.xaxis.set_minor_formatter(NullFormatter())
    _refer(axes, panel.references)
    axes.set(xlabel=panel.x, ylabel=panel.y, title=panel.title)


def _refer(axes: Axes, references: Mapping[str, float | int] | None) -> None:
    for label, height in (references or {}).items():
        axes.axhline(height, color=_SOFT_INK, linewidth=1, linestyle=(0, (1, 2)), zorder=1.5)
        axes.annotate(
            label,
            (1, height),
            xycoords=("axes fraction", "data"),
            xytext=(3, 0),
            textcoords="offset points",
            ha="left",
            va="center",
            color=_SOFT_INK,
            fontsize=8,
        )


__all__ = ["Chart", "Curve", "Numbers", "boxes", "charts", "save"]
