"""Settings shared by all tests."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
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

TINY = ("properties", "parity", "unit/core", "unit/methods")


@pytest.fixture(scope="module", autouse=True)
def one_thread_for_tiny_networks(request: pytest.FixtureRequest) -> Iterator[None]:
    """Threads cost more than they bring on networks of a few thousand weights (30 times, once)."""
    threads = torch.get_num_threads()
    here = request.path.relative_to(Path(__file__).parent).as_posix()
    if here.startswith(TINY):
        torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
