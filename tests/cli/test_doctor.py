"""The doctor, shell completion and the manual page."""

import importlib.metadata
import os
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from torchsaliency.cli import doctor
from torchsaliency.cli.main import COMMANDS

ROOT = Path(__file__).parents[2]
MANUAL = ROOT / "share" / "man" / "man1" / "torchsaliency.1"


def test_a_healthy_installation(command):
    ran = command("doctor", "--json")
    assert ran.code == 0, ran.out
    found = ran.json
    assert found["healthy"]
    assert found["packages"]["torch"]["version"] == importlib.metadata.version("torch")
    assert found["self-test"][0]["device"] == "cpu"
    assert found["extras"]["dicom"]["command"] == "pip install 'torchsaliency[dicom]'"
    assert set(found["caches"]) == {"torchsaliency", "torch", "Hugging Face"}


def test_what_is_missing_is_named_with_the_command_that_adds_it(command, monkeypatch):
    known = importlib.metadata.version

    def version(name):
        if name == "pydicom":
            raise importlib.metadata.PackageNotFoundError(name)
        return "0.1" if name == "av" else known(name)

    monkeypatch.setattr(importlib.metadata, "version", version)
    monkeypatch.setattr(doctor, "_test_device", lambda device: {
        "device": device, "ok": True, "faults": [], "seconds": 0
    })  # fmt: skip
    ran = command("doctor")
    assert ran.code == 0  # an extra is no fault
    text = " ".join(ran.out.split())
    assert "Extra dicom: pydicom: not installed; run pip install 'torchsaliency[dicom]'" in text
    assert "av: 12.0 or later is needed; run pip install 'torchsaliency[video]'" in text


def test_a_base_package_that_is_missing_or_a_wrong_number_is_a_fault(command, monkeypatch):
    monkeypatch.setattr(doctor, "_LOGIT", 4.0)
    ran = command("doctor", "--json")
    assert ran.code == 1
    assert not ran.json["healthy"]
    assert ran.json["self-test"][0]["faults"] == ["its logit is 3.8522, and 4.0000 is known"]
    monkeypatch.setattr(doctor, "_look_for", lambda *_: {"version": None, "fault": "not installed"})
    ran = command("doctor")
    assert ran.code == 1
    assert "Something is wrong" in ran.out


@pytest.mark.parametrize(
    ("version", "release"), [("2.6.0+cpu", (2, 6, 0)), ("1.0rc1", (1, 0)), ("", ()), ("x", ())]
)
def test_the_numbers_of_a_version(version, release):
    assert doctor._release(version) == release


def test_requirements_are_lower_bounds_only():
    """The doctor reads no others."""
    for text in importlib.metadata.requires("torchsaliency"):
        name, lowest, _ = doctor._REQUIREMENT.match(text).groups()
        assert name, text
        assert not set(text.partition(";")[0]) & set("<!~"), text
        assert lowest or ">" not in text, text


def test_shells_complete_commands_and_options():
    asked = {"_TORCHSALIENCY_COMPLETE": "complete_bash", "COMP_WORDS": "torchsaliency comp",
             "COMP_CWORD": "1"}  # fmt: skip
    ran = subprocess.run(
        [sys.executable, "-m", "torchsaliency"],
        env={**os.environ, **asked}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert sorted(ran.stdout.split()) == ["compact", "compare"], ran


def test_the_manual_is_that_of_the_commands(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "scripts")
    made = runpy.run_path(str(ROOT / "scripts" / "man_page.py"))["page"]()
    assert made == MANUAL.read_text(encoding="utf-8"), "run scripts/option_page.py"
    assert made.count("\n.SS ") == len(COMMANDS)


@pytest.mark.skipif(shutil.which("groff") is None, reason="groff renders manuals")
def test_the_manual_can_be_read():
    ran = subprocess.run(
        ["groff", "-man", "-Kutf8", "-Tutf8", "-ww", MANUAL],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert ran.stderr == ""
    assert "torchsaliency explain PHOTO..." in re.sub(".\b", "", ran.stdout)
