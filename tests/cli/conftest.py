"""A tiny network in a user's file, photographs of every kind, and a way to run commands."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from torchsaliency.cli import progress
from torchsaliency.cli.main import app

FACTORY = """
import torch
from torch import nn
from torchsaliency import Preprocessing

def factory():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, 2, 1), nn.BatchNorm2d(6), nn.ReLU(),
        nn.Conv2d(6, 8, 3, 2, 1), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5),
    )

def deep():
    return nn.Sequential(*factory()[:-1], nn.Linear(8, 8), nn.GELU(), nn.Linear(8, 5))

def broken():
    return nn.Sequential(*factory()[:-1], nn.Linear(9, 5))

factory.preprocessing = Preprocessing(size=(32, 32), resize=(36, 36))
factory.classes = ["cat", "dog", "tabby, tabby cat", "tripod", "rocket"]
deep.preprocessing = broken.preprocessing = factory.preprocessing
"""


@dataclass(frozen=True)
class Ran:
    """What a command did."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Threads cost more than they bring on such small networks."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(autouse=True)
def no_progress(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a slow machine a command says how far it is; tests read what else it says."""
    if request.path.name != "test_progress.py":
        monkeypatch.setattr(progress, "_SOONEST", threading.TIMEOUT_MAX)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to work in, with the tiny network in net.py."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.py").write_text(FACTORY)
    return tmp_path


@pytest.fixture
def command(place: Path) -> Callable[..., Ran]:  # noqa: ARG001 (commands run inside it)
    def run(*words: object) -> Ran:
        result = CliRunner().invoke(app, [str(word) for word in words])
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return Ran(result.exit_code, result.stdout, result.stderr)

    return run


@pytest.fixture
def explain(command: Callable[..., Ran]) -> Callable[..., Ran]:
    """Run `explain` with the tiny network and a quick method, unless told otherwise."""

    def run(*words: object) -> Ran:
        defaults = [] if "--model" in words else ["--model", "net.py:factory"]
        defaults += [] if "--method" in words else ["--method", "gradcam"]
        return command("explain", *words, *defaults)

    return run


@pytest.fixture
def photo(place: Path) -> Callable[..., Path]:
    """Save a photograph with a bright blob, and return its path."""

    def save(
        name: str, size: tuple[int, int] = (60, 40), mode: str = "RGB", **options: Any
    ) -> Path:
        path = place / name
        path.parent.mkdir(parents=True, exist_ok=True)
        across, down = np.meshgrid(np.linspace(-1, 1, size[0]), np.linspace(-1, 1, size[1]))
        blob = np.exp(-4 * ((across - 0.3) ** 2 + (down + 0.2) ** 2))
        grey = (255 * blob).astype(np.uint8)
        if mode == "I;16":
            image = Image.fromarray((65535 * blob).astype(np.uint16))
        else:
            colours = np.stack([grey, grey[::-1], np.full_like(grey, 90)], axis=-1)
            image = Image.fromarray(colours).convert(mode)
        image.save(path, **options)
        return path

    return save


def manifest(folder: Path) -> dict[str, Any]:
    """Return the newest run that a folder's manifest tells of."""
    content = json.loads((folder / "manifest.json").read_text())
    assert content["program"] == "torchsaliency"
    run: dict[str, Any] = content["runs"][-1]
    return run
