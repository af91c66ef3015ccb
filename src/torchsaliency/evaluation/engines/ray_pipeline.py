"""The pipeline of Ray Data that computes units, its actors, and the count of their deaths."""

from __future__ import annotations

import contextlib
import logging
import pickle
import threading
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, final

import numpy as np
import ray
import ray.data
import ray.util.client
import torch

from torchsaliency.core.isolation import describe_failure
from torchsaliency.errors import OptionError, TorchSaliencyError
from torchsaliency.evaluation.batches import batches
from torchsaliency.evaluation.engines.processes import (
    ATTEMPTS,
    make_request_error,
    retry,
)
from torchsaliency.evaluation.work import Outcome, Recipe, Unit, Worker

_AHEAD = 2
"""Units that an actor has begun: the one it computes, and the one whose images it reads."""

_QUEUED = 2
"""Units that wait at an actor, so that it need not wait for the driver."""

_TOGETHER = 4
"""Units of a task at most: a task costs milliseconds, and what it holds is lost together."""

_TASKS = 64
"""Tasks of each actor, before units share one."""


@final
@dataclass(frozen=True)
class Request:
    """What the pipeline computes with.

    Attributes:
        recipe: pickled.
        actors: how many there are.
        threads: of each actor.
        gpus: of each actor.
    """

    recipe: bytes
    actors: int
    threads: int
    gpus: float


def run_units(request: Request, units: Sequence[bytes]) -> Generator[bytes, None, None]:
    """Yield the pickled outcomes of pickled units, or the error that ends the run.

    Raises:
        TorchSaliencyError: Ray ends the run.
    """
    try:
        if ray.util.client.ray.is_connected():
            relay = ray.remote(Relay).options(num_cpus=0).remote(request, units)
            while (answer := ray.get(relay.next.remote())) is not None:
                yield answer
        else:
            yield from run_pipeline(request, units)
    except ray.exceptions.RayError as error:
        raise TorchSaliencyError(
            f"engine: Ray ended the run ({describe_failure(error).rstrip('.')}); look after the "
            "cluster, and start the same command again to go on."
        ) from error


@final
class Relay:
    """An actor that runs the pipeline for a driver outside the cluster (ray://…).

    What such a driver calls cannot be streamed to it.
    """

    def __init__(self, request: Request, units: Sequence[bytes]) -> None:
        self._answers = run_pipeline(request, units)

    def next(self) -> bytes | None:
        """Return the next answer; None after the last one."""
        return next(self._answers, None)


def run_pipeline(request: Request, units: Sequence[bytes]) -> Generator[bytes, None, None]:
    """Yield what `run_units` does, in a process of the cluster.

    Ray begins a unit again for ever; the ledger counts its deaths.
    """
    ledger = ray.remote(Ledger).options(num_cpus=0, max_restarts=-1, max_task_retries=-1).remote()
    context = ray.data.DataContext.get_current().copy()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.execution_no_progress_timeout_s = -1  # a unit may take hours
    context.memory_usage_poll_interval_s = None
    with ray.data.DataContext.current(context):
        rows = ray.data.from_items(
            [{"unit": unit} for unit in units],
            override_num_blocks=count_tasks(len(units), request.actors),
        )
        found = rows.map_batches(
            UnitActor,
            fn_constructor_args=(ray.put(request.recipe), request.threads, request.gpus, ledger),
            batch_size=1,
            batch_format="numpy",
            num_cpus=request.threads,
            num_gpus=request.gpus,
            compute=ray.data.ActorPoolStrategy(
                size=request.actors,
                max_tasks_in_flight_per_actor=_AHEAD + _QUEUED,
                max_concurrent_calls_per_actor=_AHEAD,
                enable_true_multi_threading=True,
            ),
        )
        with _silent(logging.getLogger("ray.data")):
            answers = iter(found.iter_batches(batch_size=None, batch_format="numpy"))
            with contextlib.closing(answers):
                for answer in answers:
                    yield from answer["answer"]


def count_tasks(units: int, actors: int) -> int:
    """Return how many tasks the units are shared among."""
    return min(units, max(_TASKS * actors, -(-units // _TOGETHER)))


@contextlib.contextmanager
def _silent(logger: logging.Logger) -> Iterator[None]:
    """Let a logger write to its files only."""
    levels = {handler: handler.level for handler in logger.handlers if hasattr(handler, "stream")}
    for handler in levels:
        handler.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        for handler, level in levels.items():
            handler.setLevel(level)


@final
class Ledger:
    """An actor that counts what was begun and never finished."""

    def __init__(self) -> None:
        self._begun: dict[Any, int] = {}

    def begin(self, key: Any) -> int:
        """Count one beginning; return how many there were before."""
        before = self._begun.get(key, 0)
        self._begun[key] = before + 1
        return before

    def finish(self, key: Any) -> None:
        """Forget what is finished."""
        self._begun.pop(key, None)


@final
class Turns:
    """Lets several units of an actor be at work at once, or one alone."""

    def __init__(self, count: int) -> None:
        self._count, self._places = count, threading.Semaphore(count)
        self._entrance = threading.Lock()  # two that want to be alone would wait for each other

    @contextlib.contextmanager
    def take(self, *, alone: bool) -> Iterator[None]:
        """Wait until there is a place, or until all places are free."""
        count = self._count if alone else 1
        with self._entrance:
            for _ in range(count):
                self._places.acquire()
        try:
            yield
        finally:
            self._places.release(count)


@final
class UnitActor:
    """Computes units; Ray calls it from `_AHEAD` threads."""

    def __init__(self, recipe: Any, threads: int, gpus: float, ledger: Any) -> None:
        self._ledger = ledger
        self._turns, self._computing = Turns(_AHEAD), threading.Lock()
        self._worker: Worker | None = None
        self._error: TorchSaliencyError | None = None
        torch.set_num_threads(threads)
        try:
            self._worker = self._load(recipe, "cuda" if gpus else None)
        except Exception as error:  # told with the first unit: Ray would wrap it into its own error
            self._error = make_request_error(error)

    def _load(self, recipe: Any, device: str | None) -> Worker:
        me = ray.get_runtime_context().get_actor_id()
        if ray.get(self._ledger.begin.remote(me)) >= ATTEMPTS:
            raise OptionError(
                f"engine: An actor ended {ATTEMPTS} times before it had loaded the networks; look "
                "whether memory suffices for as many --actors."
            )
        made: Recipe = pickle.loads(ray.get(recipe))
        worker = Worker(made.make_setting(device))
        self._ledger.finish.remote(me)
        return worker

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Return the answers to the one unit of a batch, or the error that ends the run."""
        try:
            answers: list[Any] = [self._error or TorchSaliencyError("")]
            if self._worker is not None:
                answers = self._work(self._worker, pickle.loads(batch["unit"][0]))
        except Exception as error:
            answers = [make_request_error(error)]
        column = np.empty(len(answers), dtype=object)
        column[:] = [pickle.dumps(answer) for answer in answers]
        return {"answer": column}

    def _work(self, worker: Worker, unit: Unit, *, part: bool = False) -> list[Outcome]:
        """Return the outcomes of a unit; of which `ATTEMPTS` actors died, of its halves."""
        key = (unit.methods, unit.places)
        deaths = ray.get(self._ledger.begin.remote(key))
        if deaths >= ATTEMPTS:
            names = [sample.id for sample in worker.setting.data.samples]
            halves, lost = retry(replace(unit, attempts=deaths - 1), names)
            found = [one for half in halves for one in self._work(worker, half, part=True)]
            found += [] if lost is None else [lost]
        else:
            with self._turns.take(alone=part or deaths > 0):
                ((read, failed),) = batches(worker.setting, [unit.places], 0)
                with self._computing:
                    found = [worker.compute(unit, read, failed)]
        self._ledger.finish.remote(key)
        return found
