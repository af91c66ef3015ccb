"""The options of every command are the fields of its model."""

from __future__ import annotations

import subprocess
import sys

import pytest

from torchsaliency.cli.main import COMMANDS
from torchsaliency.cli.options import options_of, spelling
from torchsaliency.evaluation import Plan
from torchsaliency.options import FinetuneOptions, PlanOptions
from torchsaliency.training import Finetuning


@pytest.mark.parametrize("function", COMMANDS, ids=lambda function: function.__name__)
def test_help_lists_every_field(function, command, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    ran = command(function.__name__.replace("_", "-"), "--help")
    assert ran.code == 0
    assert "Exit codes" in ran.out
    model = options_of(function)
    for name, info in model.model_fields.items():
        assert info.description, name
        assert spelling(model, name) in ran.out
        assert info.json_schema_extra["group"] in ran.out


def test_models_add_no_option_to_what_commands_read():
    assert Plan.model_fields.keys() == PlanOptions.model_fields.keys()
    assert Finetuning.model_fields.keys() == FinetuneOptions.model_fields.keys()


def test_options_replace_only_the_fields_that_are_given(command, place):
    words = ("--data", "shapes:4", "--model", "builtin/shapes_cnn", "--workers", 0)
    ran = command("evaluate", *words, "--methods", "tsm", "--metrics", "ad", "--seed", 0,
                  "--masking", "black", "--output", "first")  # fmt: skip
    assert ran.code == 0, ran.err
    plan = (place / "first" / "plan.yaml").read_text()
    assert "masking: black" in plan
    ran = command("evaluate", "first/plan.yaml", "--count", 2, "--no-maps", "--output", "second")
    assert ran.code == 0, ran.err
    changed = (place / "second" / "plan.yaml").read_text()
    assert set(changed.splitlines()) - set(plan.splitlines()) == {"count: 2"}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--count", 0), "--count: Input should be greater than or equal to 1."),
        (("--workers", 1000), "--workers: Input should be less than or equal to 512."),
        (("--study", "box"), "--study"),
        (("--accelerate", "warp"), "accelerate: 'warp' was given; choose one of auto"),
    ],
)
def test_a_value_that_does_not_fit_is_named_as_it_is_spelled(words, said, command):
    ran = command("evaluate", "--methods", "tsm", "--metrics", "ad", *words)
    assert ran.code == 2
    assert said in ran.err
    assert ran.err.count("\n") == 1


def test_help_does_not_import_torch():
    code = (
        "import sys; sys.argv = ['torchsaliency', 'evaluate', '--help']\n"
        "from torchsaliency.cli.main import main\n"
        "try: main()\n"
        "except SystemExit: print({'torch', 'pandas', 'numpy'} & set(sys.modules))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False, text=True)
    assert (done.returncode, done.stdout.strip()[-5:], done.stderr) == (0, "set()", "")
