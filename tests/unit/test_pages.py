"""Every code block of every page runs, in order, in an empty folder, or has a reason not to."""

from __future__ import annotations

import re
import shlex
import sys
import types
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
import typer
import yaml
from typer.testing import CliRunner

from standins import PREPARE
from torchsaliency.cli.main import app
from torchsaliency.evaluation import make_plan

DOCS = Path(__file__).parents[2] / "docs"
BLOCK = re.compile(r"^```(python|py|console|bash|yaml)\n(.*?)^```", re.MULTILINE | re.DOTALL)
COMMANDS_RUN = {"start.md", "how-to.md"}
"""Pages whose commands run here. On the others they are read by the command line, but not run:
they name data, networks or machines that are the reader's, and tests/cli runs their like."""

ELSEWHERE = {
    "own-networks.md": "tests/cli/test_how_to.py runs its sections, each with the files it names",
    "skill/SKILL.md": "tests/unit/test_skill.py runs it in a repository made for it",
    "volumes.md": "tests/cli/test_volumes.py runs it, with a scan and a video",
}
EXEMPT = {
    ("looking.md", 0): "asks a running app; tests/browser/test_app.py runs it",
}
"""Blocks of Python that do not run, by page and number; may only become fewer."""


@dataclass(frozen=True)
class Block:
    kind: str
    text: str


def list_pages() -> list[str]:
    return sorted(path.relative_to(DOCS).as_posix() for path in DOCS.glob("**/*.md"))


def read_blocks(page: str) -> list[Block]:
    text = (DOCS / page).read_text(encoding="utf-8")
    return [Block(kind, body) for kind, body in BLOCK.findall(text)]


def read_commands(block: Block) -> list[list[str]]:
    lines = block.text.replace("\\\n", " ").splitlines()
    words = [shlex.split(line.removeprefix("$ "), comments=True) for line in lines]
    return [line for line in words if line[:1] == ["torchsaliency"]]


def run_command(words: list[str]) -> None:
    result = CliRunner().invoke(app, words[1:])
    assert result.exit_code == 0, f"{' '.join(words)}\n{result.output}"


def parse_command(words: list[str]) -> None:
    """Let the command line read the words, without running what they ask for."""
    group = typer.main.get_command(app)
    with group.make_context("torchsaliency", words[1:2]) as context:
        command = group.get_command(context, words[1])
        assert command is not None, words
        command.make_context(words[1], [word for word in words[2:] if word != "…"], parent=context)


PAGES = [page for page in list_pages() if read_blocks(page)]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    before = set(sys.modules)
    torch.manual_seed(0)
    yield tmp_path
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(tmp_path)):
            del sys.modules[name]


@pytest.mark.usefixtures("folder")
@pytest.mark.filterwarnings("ignore:invalid escape sequence")  # Quantus 0.6
@pytest.mark.parametrize("page", [page for page in PAGES if page not in ELSEWHERE])
def test_the_blocks_of_a_page_run(page, monkeypatch):
    module = types.ModuleType("page")
    monkeypatch.setitem(sys.modules, "page", module)  # where dataclasses look for their names
    if page in PREPARE:
        PREPARE[page](monkeypatch, module)
    place = 0
    for block in read_blocks(page):
        if block.kind in ("python", "py"):
            if name := re.match(r"# (\S+\.py)\n", block.text):
                Path(name[1]).write_text(block.text, encoding="utf-8")
            elif (page, place) not in EXEMPT:
                exec(compile(block.text, f"{page}, block {place}", "exec"), vars(module))
            place += 1
        elif block.kind != "yaml" and page in COMMANDS_RUN:
            for words in read_commands(block):
                run_command(words)


@pytest.mark.parametrize("page", PAGES)
def test_the_commands_of_a_page_are_understood(page):
    for block in read_blocks(page):
        if block.kind in ("console", "bash"):
            for words in read_commands(block):
                parse_command(words)
        elif block.kind == "yaml" and "methods:" in block.text:
            make_plan(yaml.safe_load(block.text))


def test_what_is_exempt_is_there():
    for page, place in EXEMPT:
        assert place < sum(block.kind in ("python", "py") for block in read_blocks(page))
    assert set(ELSEWHERE) <= set(PAGES)
