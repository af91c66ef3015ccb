"""Figures: what is drawn, that twelve curves stay apart, and files that are the same each time."""

import math
import xml.etree.ElementTree as ET

import matplotlib as mpl
import matplotlib._pylab_helpers
import numpy as np
import pytest
from PIL import Image

from torchsaliency.errors import InputError, OptionError
from torchsaliency.viz.curves import Chart, Curve, boxes, charts, save


def curves(series, **options):
    return charts([Chart(series, **options)])


def many(count, points=101):
    x = np.linspace(0, 100, points).tolist()
    return [
        Curve(f"method{place}", x, [place + value for value in x], x, [2 * value for value in x])
        for place in range(count)
    ]


def drawn_lines(axes):
    return [line for line in axes.get_lines() if len(line.get_xdata()) > 2]


def texts(figure):
    return [text.get_text() for text in figure.findobj(mpl.text.Text)]


class TestCurves:
    def test_the_numbers_that_were_given(self):
        figure = curves(
            [Curve("a", [1, 2, 3], [4, math.nan, 6], [3, 4, 5], [5, 6, 7])],
            x="pixels (%)",
            y="p (%)",
            title="Insertion",
        )
        (axes,) = figure.axes
        (line,) = axes.get_lines()
        np.testing.assert_array_equal(line.get_xydata(), [[1, 4], [2, math.nan], [3, 6]])
        (band,) = axes.collections
        box = band.get_paths()[0].get_extents()
        assert (box.x0, box.x1, box.y0, box.y1) == (1, 3, 3, 7)
        assert (axes.get_xlabel(), axes.get_ylabel()) == ("pixels (%)", "p (%)")
        assert axes.get_title("left") == "Insertion"

    def test_twelve_methods_look_different_twice_over(self):
        """By colour and dash together, and by the marker alone."""
        (axes,) = curves(many(12), x="x", y="y").axes
        found = drawn_lines(axes)
        looks = {(line.get_color(), str(line._dash_pattern)) for line in found}
        assert len(looks) == 12
        assert len({line.get_marker() for line in found}) == 12

    def test_colours_stay_apart_for_readers_who_do_not_see_red(self):
        """Lightness or blue tells any two colours apart, without red against green."""
        (axes,) = curves(many(7), x="x", y="y").axes
        seen = []
        for line in drawn_lines(axes):
            red, green, blue = mpl.colors.to_rgb(line.get_color())
            linear = [((one + 0.055) / 1.055) ** 2.4 if one > 0.04 else one / 12.92
                      for one in (red, green, blue)]  # fmt: skip
            light = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
            # as a deuteranope: what is left is the mix of red and green, and blue
            mixed = 0.63 * linear[0] + 0.37 * linear[1]
            seen.append((light**0.4, mixed**0.4, linear[2] ** 0.4))
        for place, one in enumerate(seen):
            for other in seen[:place]:
                assert np.abs(np.subtract(one, other)).max() > 0.1

    def test_a_label_looks_alike_in_all_charts(self):
        a, b, c = many(3, points=5)
        figure = charts([Chart([a, b], "x", "y"), Chart([c, b], "x", "y")])
        first, second = (drawn_lines(axes)[1] for axes in figure.axes)
        assert first.get_color() == second.get_color()
        assert first.get_marker() == second.get_marker()
        (legend,) = figure.legends
        assert [text.get_text() for text in legend.get_texts()] == ["method0", "method1", "method2"]

    def test_one_curve_needs_no_legend(self):
        assert curves(many(1), x="x", y="y").legends == []

    def test_the_legend_covers_no_chart(self):
        figure = curves(many(12), x="x", y="y")
        figure.draw_without_rendering()
        box = figure.legends[0].get_window_extent()
        assert box.x0 > figure.axes[0].get_window_extent().x1
        assert box.x1 <= figure.bbox.x1
        assert box.y0 >= 0

    def test_powers_are_written_plainly_on_a_logarithmic_axis(self):
        figure = curves([Curve("a", [0.01, 0.1, 1, 10], [1, 2, 3, 4])], x="α", y="y", log_x=True)
        figure.draw_without_rendering()
        assert figure.axes[0].get_xscale() == "log"
        assert {"0.01", "0.1", "1", "10"} <= set(texts(figure))

    def test_references_are_lines_with_their_names(self):
        figure = curves(many(2), x="x", y="y", references={"whole image": 42.0})
        heights = [set(line.get_ydata()) for line in figure.axes[0].get_lines()]
        assert {42.0} in heights
        assert "whole image" in texts(figure)

    @pytest.mark.parametrize("count", [1, 2, 3, 4, 7])
    def test_charts_are_three_in_a_line(self, count):
        figure = charts([Chart(many(2, 5), "x", "y", str(place)) for place in range(count)])
        figure.draw_without_rendering()
        assert len(figure.axes) == count
        tops = [round(axes.get_position().y1, 2) for axes in figure.axes]
        assert len(set(tops)) == -(-count // 3)

    def test_errors(self):
        with pytest.raises(InputError, match=r"'a' has 3, 2 numbers"):
            Curve("a", [1, 2, 3], [1, 2])
        with pytest.raises(InputError, match="has one end"):
            Curve("a", [1], [1], low=[0])
        with pytest.raises(InputError, match="one point at least"):
            Curve("a", [], [])
        with pytest.raises(InputError, match="2 curves of 1 labels"):
            curves([Curve("a", [1], [1])] * 2, x="x", y="y")
        with pytest.raises(InputError, match="0 curves"):
            curves([], x="x", y="y")
        with pytest.raises(InputError, match="begins above 0"):
            curves([Curve("a", [0, 1], [1, 1])], x="x", y="y", log_x=True)
        with pytest.raises(InputError, match="No chart"):
            charts([])


class TestBoxes:
    def test_medians_and_quartiles(self):
        """0 to 100 by hand, NaN left out; the outlier lies beyond 1.5 boxes."""
        figure = boxes(
            {"one": [*range(101), math.nan], "two": [0, 1, 2, 3, 4, 100.0]}, y="share (%)"
        )
        (axes,) = figure.axes
        extents = [patch.get_path().get_extents() for patch in axes.patches]
        assert [(box.y0, box.y1) for box in extents] == [(25, 75), (1.25, 3.75)]
        heights = [tuple(line.get_ydata()) for line in axes.get_lines()]
        assert (50, 50) in heights
        assert (2.5, 2.5) in heights
        assert (100.0,) in heights
        assert [tick.get_text() for tick in axes.get_xticklabels()] == ["one", "two"]

    def test_long_names_do_not_touch(self):
        figure = boxes({f"Barlow Twins {place}": [1, 2, 3] for place in range(8)}, y="y")
        figure.draw_without_rendering()
        labels = figure.axes[0].get_xticklabels()
        assert {label.get_rotation() for label in labels} == {35}
        assert min(label.get_window_extent().y0 for label in labels) >= 0

    def test_errors(self):
        with pytest.raises(InputError, match="No group"):
            boxes({}, y="y")
        with pytest.raises(InputError, match="'b' has no number"):
            boxes({"a": [1], "b": [math.nan]}, y="y")


class TestSave:
    def test_a_stem_gives_both(self, tmp_path):
        made = save(curves(many(2), x="x", y="y"), tmp_path / "opticam-0.1")
        assert [path.name for path in made] == ["opticam-0.1.png", "opticam-0.1.svg"]
        with Image.open(made[0]) as picture:
            assert picture.size[0] > 600
        assert ET.parse(made[1]).getroot().tag.endswith("svg")

    @pytest.mark.parametrize("end", [".png", ".svg"])
    def test_one_ending_gives_one_file(self, end, tmp_path):
        assert save(curves(many(2), x="x", y="y"), tmp_path / f"a{end}") == (tmp_path / f"a{end}",)
        assert [path.name for path in tmp_path.iterdir()] == [f"a{end}"]

    def test_the_same_numbers_give_the_same_bytes(self, tmp_path):
        """Also where the user's own style differs."""
        first = save(boxes({"a": [1, 2, 9]}, y="y"), tmp_path / "first")
        first += save(curves(many(3), x="x", y="y"), tmp_path / "first-curves")
        with mpl.rc_context({"font.size": 20, "axes.facecolor": "red", "svg.hashsalt": "other"}):
            second = save(boxes({"a": [1, 2, 9]}, y="y"), tmp_path / "second")
            second += save(curves(many(3), x="x", y="y"), tmp_path / "second-curves")
        for one, other in zip(first, second, strict=True):
            assert one.read_bytes() == other.read_bytes()
        assert b"<dc:date>" not in first[1].read_bytes()

    def test_other_endings_are_refused(self, tmp_path):
        with pytest.raises(OptionError, match=r"a.pdf ends in .pdf"):
            save(curves(many(1), x="x", y="y"), tmp_path / "a.pdf")


def test_nothing_global_is_left(tmp_path):
    before = dict(mpl.rcParams)
    save(charts([Chart(many(3), "x", "y")]), tmp_path / "a")
    save(boxes({"a": [1, 2]}, y="y"), tmp_path / "b")
    assert dict(mpl.rcParams) == before
    assert matplotlib._pylab_helpers.Gcf.figs == {}
