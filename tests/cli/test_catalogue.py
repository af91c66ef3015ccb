"""Lists and completion answer at once: from a file that says what is registered, without torch."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from torchsaliency.cli import catalogue, completing
from torchsaliency.cli.main import COMMANDS as COMMANDS_OF_MAIN
from torchsaliency.cli.options import fields_of, options_of
from torchsaliency.zoo import models

FILE = Path(catalogue.__file__).with_name("catalogue.json")

COMMANDS = [
    ["--help"],
    ["--version"],
    ["explain", "--help"],
    *([kind] for kind in catalogue.FINDERS if kind != "networks"),
]

COMPLETED = {
    "explain --method gradcam+": ["gradcam++"],
    "explain --method gradcam,gradcam": ["gradcam,gradcam++", "gradcam,gradcam-elementwise"],
    "explain --method al": ["all"],
    "evaluate --methods al": [],
    "explain --score ad,inse": ["ad,insertion"],
    "evaluate --metrics inse": ["insertion"],
    "evaluate --data shap": ["shapes"],
    "evaluate --data voc": ["voc-classes:", "voc:"],
    "explain --target marg": ["margin"],
    "explain --set opticam.iter": ["opticam.iterations=100"],
    "evaluate --judge builtin/shapes_v": ["builtin/shapes_vit"],
    "evaluate --permuted builtin/shapes_v": ["builtin/shapes_vit"],
    "explain --model timm/resnet50_g": ["timm/resnet50_gn"],
    "layers torchvision/resnet1": [
        *("torchvision/resnet101", "torchvision/resnet152", "torchvision/resnet18"),
    ],
    "reproduce opticam-table5": ["opticam-table5", "opticam-table5-published"],
    "choose --method legr": ["legrad"],
}
"""What is typed, and the values that a shell offers."""

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


COMPLETING = """
import os, sys
from torchsaliency.cli.main import app
for typed in {typed}:
    words = ["torchsaliency", *typed.split()]
    os.environ |= {{
        "_TORCHSALIENCY_COMPLETE": "complete_bash",
        "COMP_WORDS": " ".join(words),
        "COMP_CWORD": str(len(words) - 1),
    }}
    try:
        app(prog_name="torchsaliency")
    except SystemExit:
        print("--")
    slow = {{"torch", "numpy", "pandas", "timm", "torchvision"}} & sys.modules.keys()
    assert not slow, (typed, slow)
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


def test_shells_complete_names_without_torch():
    ended = subprocess.run(
        [sys.executable, "-c", COMPLETING.format(typed=list(COMPLETED))],
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    offered = [answer.split() for answer in ended.stdout.split("--\n")[:-1]]
    assert dict(zip(COMPLETED, offered, strict=True)) == COMPLETED


def test_the_networks_that_are_completed_are_those_that_are_listed():
    listed = {model.name for model in models()}
    assert {name for name, _ in completing.FINDERS["networks"]()} == listed


def test_every_option_that_completes_names_a_kind():
    kinds = {
        info.json_schema_extra["values"]
        for command in COMMANDS_OF_MAIN
        for _, info in fields_of(options_of(command))
    }
    assert kinds == {"", *completing.FINDERS}
