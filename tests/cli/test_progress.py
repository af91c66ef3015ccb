"""What a long command shows while one waits, on a terminal and in a file of logs."""

import io
import itertools
import re
import signal
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
    meter.update(done=150.7)  # photos in work are not done
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


def test_a_command_that_is_asked_to_end_ends_as_by_ctrl_c():
    with pytest.raises(KeyboardInterrupt), show_progress("explaining", "photos", 8):
        signal.raise_signal(signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


AGAIN = 'id="again"'
PLAN = {
    "data": "shapes:6?seed=5",
    "model": "builtin/shapes_cnn",
    "methods": "gradcam,tsm",
    "metrics": "ad,sm",
    "batch_size": 2,
    "workers": 0,
}


@pytest.fixture
def opened(monkeypatch):
    """The addresses that a browser was asked for; reports are written after every batch."""
    monkeypatch.setattr(runner, "FLUSH_SECONDS", -1.0)
    monkeypatch.setattr(watching, "_LEAST", 0.0)
    monkeypatch.setattr(watching, "_SHARE", float("inf"))
    monkeypatch.setenv("DISPLAY", ":0")
    found = []
    monkeypatch.setattr(webbrowser, "open", found.append)
    return found


def test_the_report_grows(tmp_path, opened):
    grown = []
    report, file = GrowingReport(), tmp_path / "run" / "report.html"

    def look(now):
        if file.exists():
            grown.append((now.done, AGAIN in (html := file.read_text()), len(html)))

    results = evaluate(make_plan(PLAN), tmp_path / "run", callbacks=[report], watch=look)
    assert len(results.samples) == 6
    # the report of what was done before this batch
    assert [done for done, *_ in grown] == [4, 6]
    assert all(again for _, again, _ in grown)
    whole = file.read_text()
    assert AGAIN not in whole
    assert len(whole) > max(size for *_, size in grown), "the images came at the end"
    assert opened == [file.absolute().as_uri()]


def stop_at(done):
    def look(now):
        if now.done == done:
            raise KeyboardInterrupt

    return look


@pytest.mark.parametrize(("done", "words"), [(0, None), (4, "2 metrics, 4 of 6 images")])
def test_a_stopped_evaluation_leaves_a_report_of_what_is_done_or_none(tmp_path, done, words):
    file, report = tmp_path / "run" / "report.html", GrowingReport(browse=False)
    plan = make_plan(PLAN)
    with pytest.raises(KeyboardInterrupt):
        evaluate(plan, tmp_path / "run", callbacks=[report], watch=stop_at(done))
    assert file.exists() == (words is not None)
    if words:
        html = file.read_text()
        assert words in html
        assert AGAIN not in html
        assert html.endswith("</html>")
    whole = evaluate(plan, tmp_path / "run", callbacks=[GrowingReport(browse=False)])
    assert len(whole.samples) == 6
    assert "2 metrics, 6 images" in file.read_text()


def test_a_report_that_fails_costs_no_evaluation(tmp_path, opened, monkeypatch, capsys):
    def fail(*_, **__):
        raise ZeroDivisionError("a chart of nothing")

    monkeypatch.setattr("torchsaliency.pages.evaluations.evaluation_report", fail)
    results = evaluate(make_plan(PLAN), tmp_path / "run", callbacks=[GrowingReport()])
    assert len(results.samples) == 6
    said = "report.html could not be written: ZeroDivisionError: a chart of nothing.\n"
    assert capsys.readouterr().err == said
    assert opened == []


def test_somebody_elses_report_stays(tmp_path, opened, capsys):
    evaluate(make_plan(PLAN), tmp_path / "run")
    (tmp_path / "run" / "report.html").write_text("mine")
    evaluate(make_plan(PLAN), tmp_path / "run", callbacks=[GrowingReport()])
    assert (tmp_path / "run" / "report.html").read_text() == "mine"
    assert opened == []
    assert "report.html exists and no earlier run wrote it" in capsys.readouterr().err


def test_no_browser_where_there_is_no_screen(monkeypatch):
    for name in ("DISPLAY", "WAYLAND_DISPLAY", "BROWSER"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(watching.sys, "platform", "linux")
    assert not watching._has_screen()
    monkeypatch.setattr(watching.sys, "platform", "darwin")
    assert watching._has_screen()


def test_the_command_opens_the_report(tmp_path, opened):
    words = ["evaluate", "--data", "shapes:2", "--model", PLAN["model"], "--methods", "gradcam"]
    words += ["--metrics", "sm", "--output", str(tmp_path / "run"), "--watch"]
    ran = CliRunner().invoke(app, words)
    assert ran.exit_code == 0, ran.output
    assert opened == [(tmp_path / "run" / "report.html").as_uri()]
    assert AGAIN not in (tmp_path / "run" / "report.html").read_text()


def test_reports_take_little_of_the_time(monkeypatch):
    ticks = itertools.count(0, 10)
    monkeypatch.setattr(watching.time, "monotonic", lambda: next(ticks))
    written = []
    report = GrowingReport(browse=False)
    monkeypatch.setattr(report, "_write", lambda **given: written.append(given) or True)
    progress_of = runner.Progress
    for done in range(60):
        report.advance(progress_of(done, 60, 0, 0))
    # a report of 10 seconds is followed by 200 without one
    assert 2 <= len(written) <= 4
