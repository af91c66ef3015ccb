"""What a long command shows while one waits, on a terminal and in a file of logs."""

import io
import itertools
import re
import time
import webbrowser

import pytest
from rich.console import Console
from typer.testing import CliRunner

from torchsaliency.cli import console, progress, watching
from torchsaliency.cli.main import app
from torchsaliency.cli.progress import Meter, show_progress
from torchsaliency.cli.watching import GrowingReport
from torchsaliency.evaluation import evaluate, make_plan, runner


@pytest.fixture
def clock(monkeypatch):
    """Seconds that the test sets."""
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def test_how_far_it_is_in_a_sentence(clock):
    meter = Meter("explaining", "photos", 200)
    clock[0] = 40
    assert meter.describe() == "explaining: 0 of 200 photos (0%), for 40 s so far."
    meter.update(done=50)
    clock[0] = 100
    assert meter.describe() == "explaining: 50 of 200 photos (25%), 2.0 s each, 5 min left."
    meter.update(done=150)
    assert meter.describe() == "explaining: 150 of 200 photos (75%), 1.5 a second, 33 s left."


def test_another_stage_has_its_own_speed(clock):
    meter = Meter("training the head", "images", 100)
    clock[0] = 1000
    meter.update(done=0, what="training everything")
    clock[0] = 1010
    meter.update(done=20)
    assert (
        meter.describe() == "training everything: 20 of 100 images (20%), 2.0 a second, 40 s left."
    )


def test_of_what_nobody_counted_the_time_is_told(clock):
    meter = Meter("finding concepts", "photos", None)
    clock[0] = 3900
    assert meter.describe() == "finding concepts, for 1 h 05 min so far."


def wait_for(condition):
    end = time.monotonic() + 10
    while not condition() and time.monotonic() < end:
        time.sleep(0.005)


def lines_of(capsys, text):
    text[0] += capsys.readouterr().err
    return text[0].splitlines()


def test_lines_where_there_is_no_terminal(monkeypatch, capsys):
    monkeypatch.setattr(progress, "_SOONEST", 0.01)
    seen = [""]
    with show_progress("explaining", "photos", 100, where="They are in maps/.") as meter:
        wait_for(lambda: len(lines_of(capsys, seen)) >= 1)
        meter.update(done=4)
        time.sleep(0.05)
        assert len(lines_of(capsys, seen)) == 1, "less than a tenth more is no line"
        meter.update(done=40)
        wait_for(lambda: len(lines_of(capsys, seen)) >= 2)
    first, second = lines_of(capsys, seen)
    assert first.startswith("explaining: 0 of 100 photos (0%)")
    assert first.endswith("They are in maps/.")
    assert second.startswith("explaining: 40 of 100 photos (40%)")
    assert "maps" not in second


def test_silence_does_not_last(monkeypatch, capsys):
    monkeypatch.setattr(progress, "_SOONEST", 0.01)
    monkeypatch.setattr(progress, "_LATEST", 0.02)
    seen = [""]
    with show_progress("explaining", "photos", 100):
        wait_for(lambda: len(lines_of(capsys, seen)) >= 3)
    assert len(lines_of(capsys, seen)) >= 3, "a batch that takes long is told of, too"


def test_a_short_command_is_silent(capsys):
    with show_progress("explaining", "photos", 100) as meter:
        meter.advance(100)
    assert capsys.readouterr().err == ""


def test_a_terminal_has_a_bar(monkeypatch):
    screen = Console(file=io.StringIO(), force_terminal=True, width=100)
    monkeypatch.setattr(progress, "stderr", screen)
    monkeypatch.setattr(console, "stderr", screen)
    with show_progress("explaining", "photos", 8, where="They are in maps/.") as meter:
        for _ in range(4):
            meter.advance(1)
        meter._bar.refresh()
    shown = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", screen.file.getvalue())
    assert shown.startswith("They are in maps/.")
    assert "explaining" in shown
    assert "4/8 photos," in shown
    assert "left" in shown


REFRESH = 'http-equiv="refresh"'
PLAN = {
    "data": "shapes:6?seed=5",
    "model": "builtin/shapes_cnn",
    "methods": "gradcam,tsm",
    "metrics": "ad,sm",
    "batch_size": 2,
    "workers": 0,
}


def test_the_report_grows(tmp_path, monkeypatch):
    monkeypatch.setattr(runner, "FLUSH_SECONDS", -1.0)
    monkeypatch.setattr(watching, "_LEAST", 0.0)
    monkeypatch.setattr(watching, "_SHARE", float("inf"))
    opened, grown = [], []
    monkeypatch.setattr(webbrowser, "open", opened.append)
    report, file = GrowingReport(), tmp_path / "run" / "report.html"

    def look(now):
        if file.exists():
            grown.append((now.done, REFRESH in (html := file.read_text()), len(html)))

    results = evaluate(make_plan(PLAN), tmp_path / "run", callbacks=[report], watch=look)
    assert len(results.samples) == 6
    # the report of what was done before this batch
    assert [done for done, *_ in grown] == [4, 6]
    assert all(refreshes for _, refreshes, _ in grown)
    whole = file.read_text()
    assert REFRESH not in whole
    assert len(whole) > max(size for *_, size in grown), "the images came at the end"
    assert opened == [file.absolute().as_uri()]


def test_the_command_opens_the_report(tmp_path, monkeypatch):
    opened = []
    monkeypatch.setattr(webbrowser, "open", opened.append)
    words = ["evaluate", "--data", "shapes:2", "--model", PLAN["model"], "--methods", "gradcam"]
    words += ["--metrics", "sm", "--output", str(tmp_path / "run"), "--watch"]
    ran = CliRunner().invoke(app, words)
    assert ran.exit_code == 0, ran.output
    assert opened == [(tmp_path / "run" / "report.html").as_uri()]
    assert REFRESH not in (tmp_path / "run" / "report.html").read_text()


def test_reports_take_little_of_the_time(monkeypatch):
    ticks = itertools.count(0, 10)
    monkeypatch.setattr(watching.time, "monotonic", lambda: next(ticks))
    written = []
    report = GrowingReport(browse=False)
    monkeypatch.setattr(report, "_write", lambda *, refresh: written.append(refresh) or True)
    progress_of = runner.Progress
    for done in range(60):
        report.advance(progress_of(done, 60, 0, 0))
    # a report of 10 seconds is followed by 200 without one
    assert 2 <= len(written) <= 4
