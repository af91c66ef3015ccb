"""What names and class names do to terminals, spreadsheets and other readers: nothing."""

import csv
import io
import json
import os
import subprocess
import sys

import pytest
from PIL import Image
from typer.testing import CliRunner

from commands import photographs
from torchsaliency.cli.console import printable
from torchsaliency.cli.main import app
from torchsaliency.data import open_data
from torchsaliency.data.tables import defuse, read_table
from torchsaliency.report.formats import render
from torchsaliency.report.tables import Table

ESCAPES = {
    "colour": "\x1b[31mred",
    "clear": "\x1b[2J\x1b[H",
    "title": "\x1b]0;owned\x07",
    "answer back": "\x1b[6n",
    "hyperlink": "\x1b]8;;http://x\x1b\\y",
    "C1": "\x9b31mred",
    "bell": "\x07",
    "backspace": "abc\x08\x08\x08xyz",
    "line break": "good\nbad",
    "carriage return": "good\rbad",
    "delete": "\x7f",
    "right to left": "\u202egnp.exe",
    "line separator": "a\u2028b",
    "not UTF-8": "\udc80\udcff",
    "markup": "[bold red]x[/bold red][/]",
    "emoji code": ":smiley:",
    "zero width": "a\u200bb",
}
FORMULAS = ("=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "=cmd|' /C calc'!A0", "-2+3+cmd", "'=1")
HARMLESS = ("a", "1", "a=b", "'quoted'", "", "é", "'")


def run(*words):
    result = CliRunner().invoke(app, [str(word) for word in words])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def assert_harmless(text):
    for one in text:
        assert one in "\n\t" or printable(one, "utf-8") == one, ascii(text)


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("kind", ESCAPES)
def test_escapes_in_names_of_files_and_classes(kind, place, tally):
    """As a photograph, a folder, a class, a broken file, and where nothing is."""
    odd = ESCAPES[kind].replace("/", "|")
    photographs(place / "photos", 1)
    (place / "photos" / "000.png").rename(place / "photos" / f"{odd}.png")
    (place / "photos" / f"{odd}-broken.png").write_bytes(b"no image")
    words = ["--model", "builtin/shapes_cnn", "--method", "gradcam"]
    said = [
        run("explain", "photos", *words, "--output", "maps"),
        run("explain", f"photos/{odd}.png", *words, "--output", f"maps-{odd}"),
        run("explain", f"nothing-{odd}.png", *words, "--output", "more"),
        run("explain", "photos", *words, "--target", odd, "--output", "again"),
        run("explain", "photos", "--model", odd, "--output", "again"),
        run("evaluate", "--data", odd, "--methods", "gradcam", "--metrics", "ad"),
        run("evaluate", "--data", "photos", "--model", "builtin/shapes_cnn", "--methods",
            "gradcam", "--metrics", "ad", "--output", f"run-{odd}"),
        run("show", odd),
    ]  # fmt: skip
    for one in said:
        assert_harmless(one.stdout)
        assert_harmless(one.stderr)
    manifest = json.loads((place / "maps" / "manifest.json").read_text(encoding="utf-8"))
    assert "broken" in json.dumps(manifest)
    tally("terminals", "control characters and markup in names", len(said), len(said),
          "plain text; manifests keep the name")  # fmt: skip


@pytest.mark.parametrize("encoding", ["cp1252", "latin-1", "ascii", "koi8-r"])
def test_terminals_that_cannot_print_everything(encoding, tmp_path, tally):
    """Arrows, boxes, dashes and letters become plain ones; nothing ends in a traceback."""
    commands = [
        ["methods"],
        ["metrics"],
        ["show", "builtin/shapes_cnn"],
        ["explain", "photos", "--model", "builtin/shapes_cnn", "--method", "gradcam", "--output",
         "maps"],
        ["evaluate", "--data", "photos", "--model", "builtin/shapes_cnn", "--methods",
         "gradcam,mtsm", "--metrics", "ad,ai", "--output", "run"],
        ["table", "run"],
        ["table", "run", "--format", "markdown"],
        ["explain", "nothing-é-↓-日本.png"],
        ["--help"],
    ]  # fmt: skip
    photographs(tmp_path / "photos", 1)
    (tmp_path / "photos" / "000.png").rename(tmp_path / "photos" / "é↓日本.png")
    script = (
        "import json, sys\n"
        "from typer.testing import CliRunner\n"
        "from torchsaliency.cli import main as cli\n"
        "for words in json.loads(sys.argv[1]):\n"
        "    sys.argv = ['torchsaliency', *words]\n"
        "    try:\n"
        "        cli.main()\n"
        "    except SystemExit as end:\n"
        "        assert end.code in (0, 1, 2, None), end.code\n"
    )
    env = {**os.environ, "PYTHONIOENCODING": encoding, "PYTHONUTF8": "0", "OMP_NUM_THREADS": "1"}
    ended = subprocess.run(
        [sys.executable, "-c", script, json.dumps(commands)],
        cwd=tmp_path, env=env, capture_output=True, check=False,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    assert b"Traceback" not in ended.stderr
    assert ended.stdout.decode(encoding)
    if encoding == "ascii":
        assert b"ad v (%)" in ended.stdout
    tally("terminals", "encodings of a terminal", len(commands), len(commands), "plain characters")


def test_a_cell_that_looks_like_a_formula_is_text(tally):
    table = Table.of([{"row": name, "column": "=AD"} for name in (*FORMULAS, *HARMLESS)])
    read = list(csv.reader(io.StringIO(render(table, "csv"), newline="")))
    assert [row[0] for row in read[1:]] == [*map(defuse, FORMULAS), *HARMLESS]
    assert not any(cell.startswith(("=", "@", "\t", "\r")) for row in read for cell in row)
    made = json.loads(render(table, "json"))
    assert [row["label"] for row in made["rows"]] == [*FORMULAS, *HARMLESS]
    tally("terminals", "cells of a CSV that look like formulas", len(FORMULAS), len(FORMULAS),
          "an apostrophe before them")  # fmt: skip


def test_lists_read_back_what_they_were_given(place):
    """A label list that fine-tuning writes is one that data sets are read with."""
    names = [one for one in (*FORMULAS, "a", "'quoted'") if one.strip() == one]
    text = io.StringIO()
    lines = csv.writer(text, lineterminator="\n")
    lines.writerow(("file", "label"))
    lines.writerows((defuse(f"{name}.png"), defuse(name)) for name in names)
    path = place / "labels.csv"
    path.write_text(text.getvalue(), encoding="utf-8")
    found = read_table(path).labels
    assert found == {f"{name}.png": name for name in names}


def test_a_folder_whose_list_looks_like_formulas(place):
    for name in ("=1+1", "-x", "@y"):
        Image.new("RGB", (8, 8)).save(place / f"{name}.png")
    (place / "labels.csv").write_text("file,label\n'=1+1.png,'=a\n'-x.png,-b\n@y.png,'@c\n")
    data = open_data(place)
    assert {one.id for one in data.samples} == {"=1+1.png", "-x.png", "@y.png"}
    assert set(data.classes) == {"=a", "-b", "@c"}
