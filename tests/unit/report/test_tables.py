"""Ranks by hand, and every format against what it must not get wrong: marks, escapes, digits."""

import csv
import io
import json
import re
from dataclasses import asdict
from html.parser import HTMLParser

import pandas as pd
import pytest
from rich.console import Console

from torchsaliency.errors import InputError, OptionError
from torchsaliency.metrics.base import Summary
from torchsaliency.report.formats import FORMATS, MarkupFormat, register_format, render
from torchsaliency.report.results import summary_cell
from torchsaliency.report.tables import Column, Table
from torchsaliency.report.terminal import Terminal

AD, AG = Column("AD", "%", "lower"), Column("AG", "%", "higher")
NASTY = 'a_b %&#$^~{}\\ <script>alert("1")</script> |*`[x](y)'

OPTICAM_TABLE_1 = {
    "fakecam": (0.8, 1.6, 46.0),
    "gradcam": (12.2, 17.6, 44.4),
    "scorecam": (8.6, 26.6, 56.7),
    "xgradcam": (12.2, 17.6, 44.4),
    "opticam": (1.5, 68.8, 92.8),
}


def summary(value, unit="%", direction="lower", **changes):
    made = {"low": value - 1, "high": value + 1, "count": 100, "undefined": 0, **changes}
    return Summary("x", value, made["low"], made["high"], 0.95, made["count"], made["undefined"],
                   unit, direction)  # fmt: skip


def make(scores, columns=(), **about):
    """A table of {row: {column or (group, column): a number, facts, or a summary}}."""
    cells = []
    for row, line in scores.items():
        for key, score in line.items():
            group, column = key if isinstance(key, tuple) else ("", key)
            if isinstance(score, Summary):
                cells.append(summary_cell(score, row, column, group))
            else:
                facts = score if isinstance(score, dict) else {"value": score}
                cells.append({"row": row, "group": group, "column": column, **facts})
    known = {(one.group, one.label): asdict(one) for one in columns}
    for cell in cells:
        facts = known.get((cell["group"], cell["column"]), {})
        cell.update({key: facts[key] for key in ("unit", "direction", "decimals") if key in facts})
    return Table.of(cells, **about)


def paper():
    names = ("AD", "AG", "AI")
    scores = {
        method: dict(zip(names, values, strict=True)) for method, values in OPTICAM_TABLE_1.items()
    }
    columns = [AD, AG, Column("AI", "%", "higher")]
    return make(scores, columns, references={"fakecam"}, caption="Opti-CAM, Table 1")


def ranks(values, column=AD, references=()):
    scores = {str(place): {column.label: value} for place, value in enumerate(values)}
    made = make(scores, [column], references=references)
    return made.pivot("rank").iloc[:, 0].tolist()


def nasty(marked=False):
    return make(
        {NASTY: {"AD": 1.0}, "b": {"AD": 2.0 if marked else None}},
        [Column("AD", "%", "lower")],
        caption=f"caption {NASTY}",
        notes=[f"note {NASTY}"],
        corner=NASTY,
    )


class TestRanks:
    def test_of_the_papers_table(self):
        """Bold and underlined as printed: Opti-CAM first, Score-CAM second, Fake-CAM neither."""
        by_row = {row: set(ranks) for row, ranks in paper().pivot("rank").iterrows()}
        assert by_row.pop("opticam") == {"best"}
        assert by_row.pop("scorecam") == {"second"}
        assert set(map(frozenset, by_row.values())) == {frozenset({None})}

    @pytest.mark.parametrize(
        ("values", "column", "expected"),
        [
            ([3, 1, 2], AD, [None, "best", "second"]),
            ([3, 1, 2], AG, ["best", None, "second"]),
            ([3, 1, 2], Column("x"), [None, None, None]),
            ([1, 1, 2, 2, 3], AD, ["best", "best", "second", "second", None]),
            ([1, None, 2], AD, ["best", None, "second"]),
            ([float("nan"), 2, 1], AD, [None, "second", "best"]),
            ([1, None], AD, [None, None]),
            ([0, 5], AD, ["best", "second"]),
            ([-2, 0, -1], AG, [None, "best", "second"]),
        ],
    )
    def test_by_direction(self, values, column, expected):
        assert ranks(values, column) == expected

    def test_what_prints_alike_ranks_alike(self):
        assert ranks([12.2000001, 12.2, 12.249, 12.251]) == ["best", "best", "best", "second"]
        assert ranks([-0.04, 0.04, 1]) == ["best", "best", "second"]  # both print 0.0

    def test_three_digits_decide_without_percent(self):
        column = Column("MSE", "squared distance", "lower")
        assert ranks([0.000251, 0.000252], column) == ["best", "second"]
        assert ranks([0.0002511, 0.0002512, 1], column) == ["best", "best", "second"]

    def test_references_leave_the_ranks_to_others(self):
        assert ranks([1, 2, 3], references={"0"}) == [None, "best", "second"]
        assert ranks([1, 2], references={"0"}) == [None, None]

    def test_groups_may_compete_within_a_row(self):
        """The TMLR paper's Table 2, Barlow Twins: methods stand side by side."""
        row = {
            ("Eigen-CAM", "AD"): 41.72,
            ("Eigen-CAM", "AI"): 31.02,
            ("TSM", "AD"): 21.41,
            ("TSM", "AI"): 44.69,
            ("MTSM", "AD"): 16.58,
            ("MTSM", "AI"): 46.42,
        }
        columns = [
            Column(label, "%", {"AD": "lower", "AI": "higher"}[label], group)
            for group, label in row
        ]
        made = make({"Barlow Twins": row}, columns, rivals="group", corner="encoder")
        assert made.pivot("rank").iloc[0].tolist() == [
            None,
            None,
            "second",
            "second",
            "best",
            "best",
        ]
        without = make({"Barlow Twins": row}, columns, rivals="group", references={"MTSM"})
        assert without.pivot("rank").iloc[0].tolist()[2:] == ["best", "best", None, None]
        assert made.groups == [("Eigen-CAM", 2), ("TSM", 2), ("MTSM", 2)]


class TestOf:
    def test_summaries_bring_unit_direction_and_interval(self):
        made = make({"a": {("VGG16", "AG"): summary(3.0, direction="higher", undefined=2)}})
        assert made.columns == (Column("AG", "%", "higher", "VGG16"),)
        (cell,) = made.cells
        assert (cell["low"], cell["value"], cell["high"]) == (2.0, 3.0, 4.0)
        assert (cell["confidence"], cell["count"], cell["undefined"]) == (0.95, 100, 2)

    def test_what_is_missing_is_empty(self):
        made = make({"a": {"AD": 1.0}, "b": {"AG": 2.0}}, [AD, AG])
        assert [cell["value"] for cell in made.cells] == [1, None, None, 2]
        assert made.frame["undefined"].tolist() == [0] * 4

    def test_columns_of_a_group_stand_together(self):
        made = make({"a": {("x", "AD"): 1.0, ("y", "AD"): 2.0}, "b": {("x", "AG"): 3.0}})
        places = [(column.group, column.label) for column in made.columns]
        assert places == [("x", "AD"), ("x", "AG"), ("y", "AD")]
        assert made.pivot().to_numpy().tolist()[1][1] == 3

    def test_errors(self):
        with pytest.raises(InputError, match="'fakecam' is to be a reference"):
            make({"a": {"AD": 1.0}}, [AD], references={"fakecam"})
        with pytest.raises(InputError, match="'a, AD' was given twice"):
            Table.of([{"row": "a", "column": "AD"}] * 2)
        with pytest.raises(InputError, match=r"no 'colour'; it has row, group, column"):
            make({"a": {"AD": {"colour": 1}}})
        with pytest.raises(InputError, match="at least one cell"):
            Table.of([])


class TestBeside:
    def test_rows_are_joined_and_what_one_lacks_is_empty(self):
        one = make({"a": {"AD": 1.0}, "b": {"AD": 2.0}}, [AD], notes=["same", "one"])
        two = make({"b": {"AD": 3.0}, "c": {"AD": 4.0}}, [AD], notes=["same"])
        made = Table.beside({"ResNet50": one, "ViT": two})
        assert list(made.pivot()) == [("ResNet50", "AD"), ("ViT", "AD")]
        assert [(cell["row"], cell["value"]) for cell in made.cells] == [
            *[("a", 1.0), ("a", None), ("b", 2.0), ("b", 3.0), ("c", None), ("c", 4.0)]
        ]
        assert made.pivot("rank").loc["b"].tolist() == ["second", "best"]
        assert made.notes == ("same", "ResNet50: one")

    def test_rows_stand_in_a_given_order(self):
        made = Table.beside({"x": paper()}, order=["opticam", "gradcam"])
        assert made.rows == ["opticam", "gradcam", "fakecam", "scorecam", "xgradcam"]
        assert made.references == ["fakecam"]

    def test_groups_of_groups_are_refused(self):
        made = Table.beside({"x": paper()})
        with pytest.raises(InputError, match="without groups"):
            Table.beside({"y": made})
        with pytest.raises(InputError, match="at least one"):
            Table.beside({})


@pytest.mark.parametrize(
    ("column", "value", "text"),
    [
        (AD, 12.25, "12.2"),
        (AD, 0.04, "0.0"),
        (AD, -0.04, "0.0"),
        (AD, 100.0, "100.0"),
        (Column("x"), 0.98, "0.980"),
        (Column("x"), 9.996, "10.0"),
        (Column("x"), 152.96, "153"),
        (Column("x"), 12345.6, "12346"),
        (Column("x"), 0.00025, "2.50e-04"),
        (Column("x"), -0.00123, "-0.00123"),
        (Column("x"), 0.0, "0.00"),
        (Column("x", decimals=0), 30.0, "30"),
        (Column("x", "%", decimals=2), 16.54, "16.54"),
    ],
)
def test_digits(column, value, text):
    assert column.format_number(value) == text


def test_ends_of_an_interval_share_the_digits_of_the_value():
    made = make({"a": {"MS": summary(1.05, "ratio")}})
    assert "1.05 [0.05, 2.05]" in render(made)


class TestText:
    def test_marks_and_legend(self):
        lines = render(paper()).splitlines()
        assert lines[0] == "Opti-CAM, Table 1"
        found = {line.split()[0]: line.split()[1:] for line in lines if line}
        assert found["method"] == ["AD", "↓", "(%)", "AG", "↑", "(%)", "AI", "↑", "(%)"]
        assert found["opticam"] == ["*1.5*", "*68.8*", "*92.8*"]
        assert found["scorecam"] == ["_8.6_", "_26.6_", "_56.7_"]
        assert found["fakecam"] == ["0.8", "1.6", "46.0"]
        assert "*…*: best; _…_: second; no contenders: fakecam." in lines

    def test_a_row_is_a_line_however_long(self):
        columns = [Column(f"metric {place}", "%", "lower") for place in range(60)]
        scores = {name: {one.label: summary(5.0) for one in columns} for name in ("a", "b" * 200)}
        lines = render(make(scores, columns)).splitlines()
        assert sum(line.count("5.0") for line in lines if line.startswith("a ")) == 60
        assert sum(line.startswith("b" * 200) for line in lines) == 1

    def test_what_there_is_not(self):
        made = make(
            {
                "a": {"AD": {"undefined": 7, "count": 0}, "AG": None},
                "b": {"AD": summary(3.0, undefined=2), "AG": {"published": 16.54}},
            },
            [AD, AG],
        )
        lines = render(made).splitlines()
        assert next(line for line in lines if line.startswith("a ")).split()[1:] == [
            "undefined",
            "–",  # noqa: RUF001
        ]
        assert next(line for line in lines if line.startswith("b ")).endswith("– (16.54)")  # noqa: RUF001
        assert "Undefined on some images, and left out there: a, AD (7); b, AD (2)." in lines
        assert "(number): as published." in lines

    def test_the_dagger_is_for_what_is_not_shown_to_be_worse(self):
        cells = {
            "best": 1.0,
            "same": {"value": 2.0, "worse": False},
            "worse": {"value": 3.0, "worse": True},
        }
        text = render(make({name: {"AD": cell} for name, cell in cells.items()}, [AD]))
        assert re.search(r"^same +_2\.0_†$", text, re.MULTILINE)
        assert re.search(r"^worse +3\.0$", text, re.MULTILINE)
        assert "† not shown to be worse" in text
        assert "†" not in render(paper())

    def test_intervals_may_be_left_out(self):
        made = make({"a": {"AD": summary(5.0)}})
        assert "5.0 [4.0, 6.0]" in render(made)
        assert "95 % bootstrap" in render(made)
        assert "[" not in render(made, intervals=False)

    def test_rich_markup_in_labels_is_text(self):
        assert "[bold]x[/bold]" in render(make({"[bold]x[/bold]": {"AD": 1.0}}, [AD]))


class TestTerminal:
    def printed(self, table, width):
        console = Console(width=width, force_terminal=True, file=io.StringIO())
        console.print(Terminal(table))
        return console.file.getvalue()

    def test_best_is_bold_and_second_underlined(self):
        text = self.printed(paper(), 80)
        assert "\x1b[1m68.8\x1b[0m" in text
        assert "\x1b[4m26.6\x1b[0m" in text
        assert "\x1b[1m46.0" not in text

    @pytest.mark.parametrize("width", [40, 60, 80, 200])
    def test_every_number_is_there_whole_at_any_width(self, width):
        columns = [Column(f"metric{place}", "%", "lower") for place in range(12)]
        scores = {
            name: {one.label: summary(start + place) for place, one in enumerate(columns)}
            for name, start in (("a", 10.0), ("b", 30.0))
        }
        text = re.sub(r"\x1b\[[0-9;]*m", "", self.printed(make(scores, columns), width))
        assert max(map(len, text.splitlines())) <= width
        for start in (10, 30):
            for place in range(12):
                assert re.search(rf" {start + place}\.0(?= |$)", text, re.MULTILINE)
                assert f"[{start + place - 1}.0, {start + place + 1}.0]" in text
        assert all(f"metric{place} ↓ (%)" in text for place in range(12))


class TestMarkdown:
    def test_marks(self):
        text = render(paper(), "markdown")
        assert "| method | AD ↓ (%) | AG ↑ (%) | AI ↑ (%) |\n| :-- | --: | --: | --: |" in text
        assert "| opticam | **1.5** | **68.8** | **92.8** |" in text
        assert "| scorecam | <u>8.6</u> |" in text
        assert "| *fakecam* | 0.8 | 1.6 | 46.0 |" in text

    def test_groups_stand_before_their_columns(self):
        assert "| VGG16 AD ↓ (%) |" in render(Table.beside({"VGG16": paper()}), "markdown")

    def test_labels_are_text(self):
        text = render(nasty(marked=True), "markdown")
        assert "<script>" not in text
        for line in text.splitlines():
            if line.startswith("|"):
                assert len(re.findall(r"(?<!\\)\|", line)) == 3  # no column more
        assert r"a\_b" in text


class TestLaTeX:
    def test_marks(self):
        text = render(paper(), "latex")
        assert r"\caption{Opti-CAM, Table 1}" in text
        assert r"method & AD $\downarrow$ (\%) & AG $\uparrow$ (\%) & AI $\uparrow$ (\%) \\" in text
        assert r"opticam & \textbf{1.5} & \textbf{68.8} & \textbf{92.8} \\" in text
        assert r"scorecam & \underline{8.6} & \underline{26.6} & \underline{56.7} \\" in text
        assert r"\textit{fakecam} & 0.8 & 1.6 & 46.0 \\" in text

    def test_every_special_character_is_escaped(self):
        """What is left after all escapes are taken away has no special character."""
        text = render(nasty(), "latex")
        line = next(line for line in text.splitlines() if line.endswith(r"1.0 \\"))
        assert line.startswith(
            r"a\_b \%\&\#\$\textasciicircum{}\textasciitilde{}\{\}\textbackslash{} "
            r"\textless{}script\textgreater{}"
        )
        left = re.sub(r"\\[%&#$_{}]|\\text[a-z]+\{\}|\\\\$", "", line)
        assert left.count("&") == 1  # between the two columns
        assert not set(left) & set("%#$_^~\\{}<>|")

    def test_braces_balance(self):
        text = re.sub(r"\\[{}]", "", render(nasty(), "latex"))
        depth = 0
        for sign in text:
            depth += (sign == "{") - (sign == "}")
            assert depth >= 0
        assert depth == 0

    def test_groups_span_their_columns(self):
        made = Table.beside({"ResNet50": paper(), "VGG_16": paper()})
        lines = render(made, "latex").splitlines()
        assert r"\begin{tabular}{lrrr rrr}" in lines
        assert r" & \multicolumn{3}{c}{ResNet50} & \multicolumn{3}{c}{VGG\_16} \\" in lines
        assert r"\cmidrule(lr){2-4}\cmidrule(lr){5-7}" in lines
        rows = [line for line in lines if line.startswith(("opticam", "method"))]
        assert [line.count(" & ") for line in rows] == [6, 6]

    def test_a_label_in_brackets_is_no_argument_of_the_line_break(self):
        assert "\n{}[1] & 1.0" in render(make({"[1]": {"AD": 1.0}}, [AD]), "latex")

    def test_minus_and_dash(self):
        made = make({"S∖B": {"x": -1.5}, "α = 2": {"x": None}}, [Column("x")])
        text = render(made, "latex")
        assert r"S$\setminus$B & $-$1.50 \\" in text
        assert r"$\alpha$ = 2 & -- \\" in text


class Page(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.tags, self.open, self.texts = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag != "meta":
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)


class TestHTML:
    def test_nothing_of_a_label_becomes_markup(self):
        text = render(nasty(marked=True), "html")
        page = Page(text)
        assert page.open == []  # all closed, in order
        assert not [tag for tag, _ in page.tags if tag == "script"]
        assert text.count("<script>") == 0
        assert NASTY in page.texts  # and it reads as it was given

    def test_loads_nothing(self):
        page = Page(render(paper(), "html"))
        assert not [tag for tag, facts in page.tags if {"src", "href"} & set(facts)]
        assert "url(" not in render(paper(), "html")

    def test_headings_have_scopes_and_arrows_words(self):
        made = Table.beside({"ResNet50": paper(), "VGG16": paper()})
        text = render(made, "html")
        page = Page(text)
        scopes = [facts["scope"] for tag, facts in page.tags if tag == "th"]
        assert scopes.count("colgroup") == 2
        assert scopes.count("col") == 7
        assert scopes.count("row") == 5
        spans = [facts["colspan"] for _, facts in page.tags if "colspan" in facts]
        assert spans == ["3", "3"]
        assert page.texts.count(", lower is better") == 2
        assert "<caption>" in render(paper(), "html")
        assert "prefers-color-scheme: dark" in text

    def test_marks(self):
        text = render(paper(), "html")
        assert "<strong>1.5</strong>" in text
        assert "<u>8.6</u>" in text
        assert '<tr class="reference">\n<th scope="row" class="label">fakecam</th>' in text


class TestCSV:
    def read(self, table, **options):
        text = render(table, "csv", **options)
        return pd.read_csv(io.StringIO(text))

    def test_numbers_come_back_exactly(self):
        values = [1 / 3, 1e-17, 123456789.123456789, 2**0.5 * 100]
        scores = {
            str(place): {
                ("g", "AD"): {
                    **{"value": v, "low": v - 1, "high": v + 1, "confidence": 0.95},
                    **{"count": 7, "undefined": 1, "p_value": v / 3, "worse": True},
                }
            }
            for place, v in enumerate(values)
        }
        made = make(scores, [Column("AD", "%", "lower", "g")])
        # pandas before 3.1 does not read all digits by default; Python does
        found = list(csv.DictReader(io.StringIO(render(made, "csv"))))
        assert [float(line["value"]) for line in found] == values
        assert [float(line["low"]) for line in found] == [value - 1 for value in values]
        assert [float(line["p_value"]) for line in found] == [value / 3 for value in values]
        assert {line["count"] for line in found} == {"7"}
        assert {line["worse"] for line in found} == {"True"}
        assert {line["group"] for line in found} == {"g"}

    def test_a_line_is_a_cell(self):
        found = self.read(paper())
        assert list(found.columns[:6]) == [
            "method",
            "reference",
            "group",
            "column",
            "unit",
            "direction",
        ]
        best = found[found["rank"] == "best"]
        assert len(found) == 15
        assert set(best["method"]) == {"opticam"}
        assert found[found["reference"]]["method"].unique().tolist() == ["fakecam"]

    def test_labels_come_back(self):
        assert self.read(nasty())[NASTY].tolist() == [NASTY, "b"]

    def test_without_intervals(self):
        assert "low" not in self.read(paper(), intervals=False)


def test_json_has_everything():
    made = make({"a": {"AD": summary(1 / 3)}}, caption="c")
    assert json.loads(render(made, "json")) == made.to_dict()
    assert made.to_dict()["rows"][0]["cells"][0]["value"] == 1 / 3


@pytest.mark.parametrize("form", list(FORMATS))
def test_a_table_without_numbers_is_written(form):
    assert "AD" in render(make({"a": {"AD": None}}, [AD]), form)


def test_an_unknown_format_lists_those_there_are():
    with pytest.raises(OptionError, match=r"'pdf'.*csv, html, json, latex, markdown, text"):
        render(paper(), "pdf")


def test_a_format_is_added_by_one_class():
    @register_format("brackets")
    class Brackets(MarkupFormat):
        """Lines of labels and numbers."""

        suffix = "txt"
        best, second = "[{}]", "({})"

        def render(self, table):
            lines = zip(self.labels(table), self.cells(table), strict=True)
            return "\n".join(" ".join([label, *cells]) for label, cells in lines)

    try:
        assert render(paper(), "brackets").splitlines()[-1] == "opticam [1.5] [68.8] [92.8]"
        assert "brackets" in FORMATS
    finally:
        FORMATS._drop(lambda entry: entry.name == "brackets")
