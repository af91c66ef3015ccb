"""Which part of an evaluation is this process's, of those that share one store.

torchrun, srun and job arrays of SLURM start the same command many times, and say in the environment
which of them a process is.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import final

import torch

from torchsaliency.errors import OptionError


@final
@dataclass(frozen=True)
class Share:
    """The part of one process.

    Attributes:
        rank: its number, from 0.
        world: how many processes there are, or will be.
        local: its number on its machine.
        launch: the same for all processes that one command started.
    """

    rank: int
    world: int
    local: int = 0
    launch: str = ""

    def choose_device(self, device: str) -> str:
        """Return this process's device: of several GPUs the one with its number."""
        if device != "cuda" or not torch.cuda.is_available():
            return device
        return f"cuda:{self.local % torch.cuda.device_count()}"


def find_share(environment: Mapping[str, str] = os.environ) -> Share:
    """Return the part that the environment gives this process.

    `RANK`, `WORLD_SIZE` and `LOCAL_RANK`, as torchrun sets them, come first. SLURM says both the
    task of a job array and the process of `srun` in it; every process of every task has a part.

    Raises:
        OptionError: the environment does not say it.
    """
    if "RANK" in environment:
        rank, world = _number(environment, "RANK"), _number(environment, "WORLD_SIZE")
        share = Share(rank, world, _number(environment, "LOCAL_RANK", 0), _launch(environment))
    elif {"SLURM_PROCID", "SLURM_ARRAY_TASK_ID"} & environment.keys():
        share = _find_slurm_share(environment)
    else:
        raise OptionError(
            "engine: torchrun was given, and the environment does not say which part of the work "
            "is this process's (RANK and WORLD_SIZE of torchrun, SLURM_PROCID of srun, or "
            "SLURM_ARRAY_TASK_ID of a job array); start it with `torchrun --nproc-per-node 8 -m "
            "torchsaliency evaluate …`, or give --engine processes."
        )
    if not 0 <= share.rank < share.world:
        raise OptionError(
            f"engine: the environment says that this is process {share.rank} of {share.world}; "
            "they are counted from 0."
        )
    return share


def _find_slurm_share(environment: Mapping[str, str]) -> Share:
    process, processes = (
        _number(environment, "SLURM_PROCID", 0),
        _number(environment, "SLURM_NTASKS", 1),
    )
    local = _number(environment, "SLURM_LOCALID", 0)
    if "SLURM_ARRAY_TASK_ID" not in environment:
        return Share(process, processes, local, _launch(environment))
    first, step = (
        _number(environment, "SLURM_ARRAY_TASK_MIN", 0),
        max(1, _number(environment, "SLURM_ARRAY_TASK_STEP", 1)),
    )
    tasks = max(1, _number(environment, "SLURM_ARRAY_TASK_COUNT"))
    # of a list such as 3,5,9 two may get the same part: then one of them gives way
    task = (_number(environment, "SLURM_ARRAY_TASK_ID") - first) // step % tasks
    return Share(task * processes + process, tasks * processes, local, _launch(environment))


def _number(environment: Mapping[str, str], name: str, default: int | None = None) -> int:
    value = environment.get(name, default)
    with suppress(TypeError, ValueError):
        return int(value)  # type: ignore[arg-type]  # None is an error, too
    given = "is not set" if value is None else f"is {value!r}"
    raise OptionError(
        f"engine: torchrun was given, and {name} {given} in the environment; start the processes "
        "with torchrun, srun or a job array of SLURM, or give --engine processes."
    )


def _launch(environment: Mapping[str, str]) -> str:
    """Return what the processes of one command have in common, and no others."""
    run = environment.get("TORCHELASTIC_RUN_ID", "none")
    if run != "none":  # what torchrun says where nobody gave --rdzv-id
        return run
    job = environment.get("SLURM_ARRAY_JOB_ID") or environment.get("SLURM_JOB_ID")
    if job and "RANK" not in environment:
        return f"{job}.{'' if 'SLURM_ARRAY_JOB_ID' in environment else _step(environment)}"
    # torchrun on this machine: of several machines, each has a name of its own
    return f"{job or platform.node()}.{os.getppid()}.{find_birth(os.getppid())}"


def _step(environment: Mapping[str, str]) -> str:
    return environment.get("SLURM_STEP_ID", "")


def find_birth(process: int) -> str:
    """Return when a process began, in ticks since its machine did; "" if it is not there.

    A number is given again, but not at the same time. Only Linux says it.
    """
    with suppress(OSError, IndexError):
        facts = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
        return "" if facts[0] in "ZX" else facts[19]  # who has ended and is not buried
    return ""
