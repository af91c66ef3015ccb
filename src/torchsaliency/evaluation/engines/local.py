"""The engine that computes in this process."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import final

import torch

from torchsaliency.errors import OptionError
from torchsaliency.evaluation.engines.engine import Job, RunEngine, register_run_engine
from torchsaliency.evaluation.engines.processes import ProcessesEngine
from torchsaliency.evaluation.work import Outcome, Unit, Worker


@final
@register_run_engine("local")
@dataclass(frozen=True)
class LocalEngine(RunEngine):
    """In this process, one batch after the other, while other processes read the next images.

    Args:
        workers_per_gpu: processes on each GPU of this machine, in place of this one.
    """

    workers_per_gpu: int | None = None

    def run(self, job: Job, units: Sequence[Unit]) -> Generator[Outcome, None, None]:
        """Compute all units in their order."""
        if self.workers_per_gpu is None:
            yield from Worker(job.setting).work(units)
            return
        device = job.setting.plan.device
        if torch.device(device).type != "cuda":
            raise OptionError(
                f"workers_per_gpu: {self.workers_per_gpu} was given and the device is {device}; "
                "give --device cuda, or --engine processes with --actors."
            )
        yield from ProcessesEngine(workers_per_gpu=self.workers_per_gpu).run(job, units)
