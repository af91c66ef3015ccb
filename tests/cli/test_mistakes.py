"""A mistake costs one sentence and exit code 2."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from torchsaliency.cli.run import Run
from torchsaliency.errors import DataError


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--foo"], "No such option: --foo"),
        (["--model", "nowhere/x"], "There is no network 'nowhere/x'"),
        (["--model", "timm/resnot50"], "resnot50"),
        (["--model", "net.py:missing"], "no function 'missing'"),
        (["--model", "no.py:factory"], "does not exist"),
        (["--model", "net.py:broken"], "failed while it was explained (RuntimeError: "),
        (["--weights", "missing.pt"], "The weights file missing.pt does not exist"),
        (["--weights", "net.py"], "net.py"),
        (["--weights", "other.pt"], "other.pt does not fit the Sequential"),
        (["--method", "gradcan"], "There is no method 'gradcan'"),
        (["--method", ","], "No method was named"),
        (["--layer", "9.x"], "There is no layer '9.x' in the network"),
        (["--layer", "6"], "no spatial map"),
        (["--target", "wolf"], "no class 'wolf'"),
        (["--target", "5"], "no class 5"),
        (["--target", "-1"], "no class -1"),
        (["--set", "iterations=5"], "NAME.OPTION=VALUE"),
        (["--set", "opticam.iterations"], "NAME.OPTION=VALUE"),
        (
            ["--set", "opticam.iterations=5"],
            "opticam is neither among the methods nor the metrics (gradcam)",
        ),
        (["--set", "nomethod.iterations=5"], "nomethod is neither among the methods"),
        (["--set", "gradcam.eps=5"], "gradcam has no option 'eps'"),
        (["--set", "tsm.multilinear_rank=x", "--method", "tsm"], "tsm.multilinear_rank='x'"),
        (["--set", "opticam.iterations=0", "--method", "opticam"], "must be above 0"),
        (["--device", "abacus"], "device='abacus'"),
        (["--precision", "int8"], "int8"),
        (["--batch-size", "0"], "--batch-size"),
        (["--chunk", "x"], "--chunk"),
        (["--alpha", "2"], "--alpha"),
        (["--colormap", "turob"], "There is no colormap 'turob'"),
        (["--masking", "pink"], "pink"),
        (["--fit", "stretch"], "stretch"),
        (["--output", "net.py"], "net.py cannot be written to"),
        (["missing.png"], "missing.png does not exist"),
        (["sample:chelsae"], "chelsea"),
    ],
)
def test_options(words, said, explain, photo):
    photo("cat.png")
    torch.save({"weight": torch.zeros(3)}, "other.pt")
    assert_one_sentence(explain("cat.png", *words), said)


@pytest.mark.parametrize("content", [b"", b"no image", "torn"])
def test_a_single_bad_photo(content, explain, photo, place):
    path = photo("cat.jpg")
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2] if content == "torn" else content)
    assert_one_sentence(explain("cat.jpg"), "cat.jpg")
    assert not (place / "saliency" / "manifest.json").exists()


def test_no_photo_at_all(command, explain, place):
    (place / "empty").mkdir()
    assert_one_sentence(explain("empty"), "There are no photographs in empty")
    assert_one_sentence(command("explain"), "PHOTO")
    assert_one_sentence(command("explian"), "explian")


def test_only_bad_photos(explain, place):
    (place / "folder").mkdir()
    for name in ("a.png", "b.png"):
        (place / "folder" / name).write_text("no image")
    ran = explain("folder")
    assert ran.code == 2
    assert ran.err.splitlines()[-1] == "None of the 2 photographs could be read."


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_may_not_be_written(explain, photo, place):
    photo("cat.png")
    (place / "saliency").mkdir(mode=0o500)
    assert_one_sentence(explain("cat.png"), "Permission denied")


def test_an_output_below_a_file(explain, photo):
    photo("cat.png")
    assert_one_sentence(explain("cat.png", "--output", "cat.png/below"), "cannot be written to")


def test_a_full_disk_is_told(explain, photo, monkeypatch):
    def full(path: Path, content: bytes) -> int:  # noqa: ARG001
        raise OSError(28, "No space left on device")

    photo("cat.png")
    monkeypatch.setattr(Path, "write_bytes", full)
    assert_one_sentence(explain("cat.png"), "No space left on device")


@pytest.mark.parametrize("error", [KeyboardInterrupt(), DataError("It broke.")])
def test_what_was_written_before_an_end_is_told(error, explain, photo, place, monkeypatch):
    for name in ("a.png", "b.png", "c.png"):
        photo(f"folder/{name}")
    explained = Run._explain_batches

    def interrupt(run):
        for number, entry in enumerate(explained(run)):
            if number == 2:
                raise error
            yield entry

    monkeypatch.setattr(Run, "_explain_batches", interrupt)
    ran = explain("folder")
    assert ran.code == (130 if isinstance(error, KeyboardInterrupt) else 2)
    assert len(ran.err.splitlines()) == 1
    monkeypatch.undo()
    monkeypatch.chdir(place)
    assert explain("folder").code == 0


@pytest.mark.parametrize("command_name", ["layers", "demo", "methods", "models"])
def test_other_commands(command_name, command):
    assert_one_sentence(command(command_name, "--foo"), "No such option: --foo")


def test_layers_of_a_wrong_network(command):
    assert_one_sentence(command("layers", "nowhere/x"), "There is no network 'nowhere/x'")
    assert_one_sentence(command("layers", "net.py:broken"), "failed while it was explained")


def assert_one_sentence(ran, said):
    assert ran.code == 2, ran
    assert said in ran.err
    assert ran.err.count("\n") == 1, ran.err
    assert "Traceback" not in ran.err
    assert not ran.out
