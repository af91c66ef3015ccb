"""Settings shared by all tests."""

import ctypes
import os
import sys
from collections.abc import Iterator
from pathlib import Path

# A machine that forbids bytecode beside the sources gets it in a folder of our own: else each
# process that a test starts compiles torch and its friends anew, for 20 seconds.
if sys.dont_write_bytecode:
    sys.dont_write_bytecode = False
    sys.pycache_prefix = str(Path(__file__).parents[1] / ".pytest_cache" / "bytecode")
    os.environ["PYTHONPYCACHEPREFIX"] = sys.pycache_prefix
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

# Before torch is imported: threads that wait must sleep. Spinning, they take the processor from
# each other wherever anything else runs, and a second's work takes ten.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
# And freed memory must stay: glibc would map and zero it anew for each layer (as cli/main.py).
if hasattr(ctypes.CDLL(None), "mallopt"):
    ctypes.CDLL(None).mallopt(-3, 2**30)
    ctypes.CDLL(None).mallopt(-1, 2**31 - 1)

import jaxtyping
import pytest
import torch

if "PYTEST_XDIST_WORKER" in os.environ:
    # as many threads as cores in all processes together
    processes = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // processes))

from hypothesis import HealthCheck, settings

# Derandomised: a red run is red again on the next machine. No deadline: the machines are shared.
settings.register_profile(
    "torchsaliency",
    deadline=None,
    derandomize=True,
    max_examples=6,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.differing_executors],
)
settings.load_profile("torchsaliency")

TINY = (
    "properties",
    "parity",
    "unit/core",
    "unit/methods",
    "unit/metrics",
    "unit/measures",
    "unit/evaluation",
    "unit/report",
    "unit/papers",
)


LONGEST = (
    "behaviour/test_real_network.py",
    "architecture/test_default_layers.py",
    "behaviour/test_shapes.py",
    "reliability/test_batches.py",
    "properties/test_modes.py",
    "reliability/test_environment.py",
    "unit/evaluation/test_runner.py",
    "unit/test_contributing.py",
    "cli/test_explain.py",
    "browser/test_app.py",
    "cli/test_process.py",
    "reliability/test_copies.py",
    "reliability/test_terminals.py",
    "properties/test_metrics.py",
    "cli/test_reproduce.py",
    "unit/test_memory.py",
)
"""Files that take a minute and more, the longest first: begun last, one alone would hold up all."""


def pytest_configure(config: pytest.Config) -> None:
    # xdist would begin with the file of most tests; the order is that of `LONGEST`
    config.option.loadscopereorder = False


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    place = {here / name: number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: place.get(item.path, len(place)))


@pytest.fixture
def registries(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a test register things; afterwards every registry is as it was."""
    from torchsaliency import registry  # noqa: PLC0415 (after jaxtyping's hook is installed)

    registry.load_all()
    for known in registry._registries:
        monkeypatch.setattr(known, "_table", dict(known._table))


@pytest.fixture(scope="module", autouse=True)
def types_are_checked_in_unit_tests(request: pytest.FixtureRequest) -> Iterator[None]:
    """Checking all shapes and types of all calls takes three quarters of a test's time.

    Unit tests call everything that has types; elsewhere the same calls are made again and again.
    """
    here = request.path.relative_to(Path(__file__).parent).as_posix()
    jaxtyping.config.update("jaxtyping_disable", not here.startswith("unit"))
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture(scope="module", autouse=True)
def one_thread_for_tiny_networks(request: pytest.FixtureRequest) -> Iterator[None]:
    """Threads cost more than they bring on networks of a few thousand weights (30 times, once)."""
    threads = torch.get_num_threads()
    here = request.path.relative_to(Path(__file__).parent).as_posix()
    if here.startswith(TINY):
        torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
