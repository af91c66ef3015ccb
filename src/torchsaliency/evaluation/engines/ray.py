"""The engine that computes on a Ray cluster, of this machine or of many."""

from __future__ import annotations

import pickle
from collections.abc import Generator, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import final

import torch

from torchsaliency.errors import OptionError, TorchSaliencyError, require_extra
from torchsaliency.evaluation.engines.engine import Job, RunEngine, register_run_engine
from torchsaliency.evaluation.engines.processes import pickle_recipe
from torchsaliency.evaluation.work import Outcome, Unit


@final
@register_run_engine("ray")
@dataclass(frozen=True)
class RayEngine(RunEngine):
    """In actors of a Ray cluster, of this machine or of many; the extra ray has it.

    The units are the rows of a Ray Data pipeline, and each is sent to an actor that is free. An
    actor reads the images of the next unit while it computes one. Ray begins a unit again if its
    actor or its node is lost. A unit of which three actors died is halved, until the image at fault
    is alone; that image is skipped, and the reason says so.

    Without an address a cluster is started on this machine, and ends with the run.

    Args:
        actors: each has its own networks; None for as many as the GPUs have room for, or two on
            each node where no GPU is used.
        gpus_per_actor: 0.5 lets two actors share a GPU; 1 on a GPU.
        address: of a running cluster: auto, HOST:6379 or ray://HOST:10001; that of the environment
            variable RAY_ADDRESS, which a Ray job has, if None.
    """

    actors: int | None = None
    gpus_per_actor: float | None = None
    address: str | None = None

    def __post_init__(self) -> None:
        """Refuse a machine without Ray."""
        require_extra("ray", "ray")

    def run(self, job: Job, units: Sequence[Unit]) -> Generator[Outcome, None, None]:
        """Compute all units, each in the actor that is free first."""
        gpus = self._gpus(job.setting.plan.device)
        recipe = pickle_recipe(job.recipe)
        if not units:
            return
        # Ray is imported where it is used: that takes seconds
        from torchsaliency.evaluation.engines.ray_cluster import connect
        from torchsaliency.evaluation.engines.ray_pipeline import Request, run_units

        with connect(self.address, self.actors) as cluster:
            actors, threads = cluster.place(self.actors, gpus, torch.get_num_threads())
            request = Request(recipe, min(actors, len(units)), threads, gpus)
            with closing(run_units(request, [pickle.dumps(unit) for unit in units])) as answers:
                for answer in answers:
                    found = pickle.loads(answer)
                    if isinstance(found, TorchSaliencyError):
                        raise found
                    yield found

    def _gpus(self, device: str) -> float:
        """Return the GPUs of an actor."""
        if torch.device(device).type == "cuda":
            if self.gpus_per_actor == 0:
                raise OptionError(
                    f"gpus_per_actor: 0 was given and the device is {device}; give a part of a "
                    "GPU, such as 0.5, or --device cpu."
                )
            return self.gpus_per_actor or 1.0
        if self.gpus_per_actor:
            raise OptionError(
                f"gpus_per_actor: {self.gpus_per_actor} was given and the device is {device}; give "
                "--device cuda, or leave it out."
            )
        return 0.0
