"""Two processes, each with its share of the images, that compute metrics together.

A module of its own: spawned processes import it by name, without pytest.
"""

from __future__ import annotations

import datetime
import os
import sys
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import distributed, multiprocessing

from synthetic import Inputs
from torchsaliency.metrics import SaliencyMetric, collection, create_metric

Name = str | tuple[str, Mapping[str, Any]]
"""A metric, or a metric and its options."""


@dataclass(frozen=True)
class Case:
    """Metrics, and the batches of each process in turn."""

    names: Sequence[Name]
    shares: Sequence[Sequence[Inputs]]


@dataclass(frozen=True)
class Found:
    """What one process found.

    Attributes:
        computed: by metric, what `compute` returned.
        summaries: by metric, the summary's fields.
        kept: by metric, the values of the process' own images, asked after the computation.
    """

    computed: dict[str, float]
    summaries: dict[str, dict[str, Any]]
    kept: dict[str, list[float]]


def find(names: Sequence[Name], batches: Sequence[Inputs]) -> Found:
    """Compute metrics of the batches: with the other processes if there are any, else alone."""
    made = collection([one if isinstance(one, str) else create_metric(*one) for one in names])
    for batch in batches:
        made.update(**batch)
    with warnings.catch_warnings():  # a process without images is warned, and that is right
        warnings.simplefilter("ignore", UserWarning)
        computed = {key: float(value) for key, value in made.compute().items()}
    each: dict[str, SaliencyMetric] = dict(made.items())  # type: ignore[arg-type]
    return Found(
        computed,
        {key: one.summary().to_dict() for key, one in each.items()},
        {key: one.per_image.tolist() for key, one in each.items()},
    )


def find_together(cases: Sequence[Case], folder: Path) -> list[list[Found]]:
    """Run every case in as many processes as it has shares; return [case][process].

    Args:
        cases: all with the same number of shares.
        folder: where the processes meet; it must be empty. No port is opened to the outside.
    """
    processes = len(cases[0].shares)
    # both are forked from a fresh process that imports the library once, which takes longest
    forked = "forkserver" in multiprocessing.get_all_start_methods()
    if forked:
        multiprocessing.get_context("forkserver").set_forkserver_preload(["torchsaliency.metrics"])
    # by a file: as arguments, every tensor would take a file descriptor
    torch.save(list(cases), folder / "cases.pt")
    multiprocessing.start_processes(
        _work,
        (processes, str(folder)),
        nprocs=processes,
        start_method="forkserver" if forked else "spawn",
    )
    per_process = [
        torch.load(folder / f"found{rank}.pt", weights_only=False) for rank in range(processes)
    ]
    return [list(found) for found in zip(*per_process, strict=True)]


def _work(rank: int, processes: int, folder: str) -> None:
    torch.set_num_threads(1)
    cases: list[Case] = torch.load(Path(folder) / "cases.pt", weights_only=False)
    if sys.platform == "linux":  # else gloo looks up the machine's name, which may not resolve
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    distributed.init_process_group(
        "gloo",
        init_method=(Path(folder) / "meet").as_uri(),
        rank=rank,
        world_size=processes,
        timeout=datetime.timedelta(seconds=120),
    )
    try:
        found = [find(case.names, case.shares[rank]) for case in cases]
        torch.save(found, Path(folder) / f"found{rank}.pt")
    finally:
        distributed.destroy_process_group()
