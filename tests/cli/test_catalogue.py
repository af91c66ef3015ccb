"""The lists answer at once: from a file that says what the registries say, without torch."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from torchsaliency.cli import catalogue

FILE = Path(catalogue.__file__).with_name("catalogue.json")

COMMANDS = [
    ["--help"],
    ["--version"],
    ["explain", "--help"],
    *([kind] for kind in catalogue.FINDERS),
]

SAID = """
import sys
from torchsaliency.cli.main import app
for words in {commands}:
    try:
        app(words, standalone_mode=False)
    except SystemExit:
        pass
    slow = {{"torch", "numpy", "pandas", "torchmetrics"}} & sys.modules.keys()
    assert not slow, (words, slow)
"""


@pytest.mark.parametrize("kind", catalogue.FINDERS)
def test_the_file_says_what_is_registered(kind):
    found = json.loads(json.dumps(catalogue.FINDERS[kind](), default=str))
    kept = json.loads(FILE.read_text(encoding="utf-8"))[kind]
    assert found == kept, "run: uv run python scripts/catalogue.py"


def test_help_and_lists_load_no_torch():
    ended = subprocess.run(
        [sys.executable, "-c", SAID.format(commands=COMMANDS)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    assert "gradcam" in ended.stdout


def test_a_plug_in_is_listed(monkeypatch):
    monkeypatch.delitem(sys.modules, "torch")
    monkeypatch.setattr(catalogue.metadata, "entry_points", lambda group: [group])
    monkeypatch.setitem(catalogue.FINDERS, "methods", lambda: [{"name": "theirs"}])
    assert catalogue.read_facts("methods") == [{"name": "theirs"}]
    assert len(catalogue.read_facts("recipes")) > 10  # files of the library, which nobody adds to
