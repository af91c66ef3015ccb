"""The engine that computes in processes of this machine, on all of its GPUs."""

from __future__ import annotations

import os
import pickle
import threading
from collections import deque
from collections.abc import Generator, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection, wait
from queue import Queue
from typing import Any, final

import torch
from torch import multiprocessing

from torchsaliency.core.isolation import describe_failure
from torchsaliency.errors import OptionError, TorchSaliencyError
from torchsaliency.evaluation.batches import batches
from torchsaliency.evaluation.engines.engine import Job, RunEngine, register_run_engine
from torchsaliency.evaluation.work import Outcome, Recipe, Unit, Worker

ATTEMPTS = 3
"""So many processes may die of a unit before it is halved."""

_AHEAD = 2
"""Units that a process holds: the one it computes, and the one whose images it reads."""


@final
@register_run_engine("processes")
@dataclass(frozen=True)
class ProcessesEngine(RunEngine):
    """In several processes of this machine, which share the images among them.

    A process that dies is replaced. A batch of which three died is halved, until the image at fault
    is alone; that image is skipped, and the reason says so.

    Args:
        actors: processes, each with its own networks; None for `workers_per_gpu` on each GPU, or
            two on a machine without.
        workers_per_gpu: processes that share a GPU.
    """

    actors: int | None = None
    workers_per_gpu: int = 1

    def run(self, job: Job, units: Sequence[Unit]) -> Generator[Outcome, None, None]:
        """Compute all units, each in the process that is free first."""
        names = [sample.id for sample in job.setting.data.samples]
        devices = self._devices(job.setting.plan.device)[: max(1, len(units))]
        start = _Start(pickle_recipe(job.recipe), _threads(len(devices)))
        left, pool = deque(units), [_Process(start, device) for device in devices]
        try:
            while left or any(process.units for process in pool):
                for process in pool:
                    while left and process.takes(left[0]):
                        process.send(left.popleft())
                ready = wait([process.connection for process in pool if process.units])
                for place, process in enumerate(pool):
                    if process.connection not in ready:
                        continue
                    answer = process.receive()
                    if isinstance(answer, TorchSaliencyError):
                        raise answer
                    if answer is not None:
                        yield answer
                        continue
                    process.stop()
                    pool[place] = _Process(start, process.device)
                    for unit in reversed(process.units):
                        again, lost = retry(unit, names)
                        left.extendleft(reversed(again))
                        if lost is not None:
                            yield lost
        finally:
            for process in pool:
                process.stop()

    def _devices(self, device: str) -> list[str]:
        """Return the device of each process."""
        if torch.device(device).type != "cuda":
            return [device] * (self.actors or 2)
        every = [f"cuda:{number}" for number in range(torch.cuda.device_count())]
        gpus = every if device == "cuda" else [device]
        count = self.actors or len(gpus) * self.workers_per_gpu
        return [gpus[number % len(gpus)] for number in range(count)]


def retry(unit: Unit, names: Sequence[str]) -> tuple[tuple[Unit, ...], Outcome | None]:
    """Return what comes after a process died with a unit.

    Args:
        unit: what it computed or read; with others, as long as it is new.
        names: ids of all images.

    Returns:
        The unit, or its halves after `ATTEMPTS` deaths; or, of a single image, the outcome that
        says that it is skipped.
    """
    unit = replace(unit, attempts=unit.attempts + 1)
    if unit.attempts < ATTEMPTS:
        return (unit,), None
    if len(unit) > 1:
        return unit.halve(), None
    name = names[unit.places[0]]
    reason = f"The process that explains {name} is killed, {ATTEMPTS} times out of {ATTEMPTS}."
    return (), Outcome(1, skipped={name: reason})


def pickle_recipe(recipe: Recipe) -> bytes:
    """Return a recipe as bytes for other processes.

    Raises:
        OptionError: a network or data set from Python cannot be sent.
    """
    try:
        return pickle.dumps(recipe)
    except Exception as error:  # pickling calls the user's code
        raise OptionError(
            "engine: the network or the data cannot be sent to other processes "
            f"({describe_failure(error).rstrip('.')}); name them in the plan, or give "
            "--engine local."
        ) from error


def make_request_error(error: Exception) -> TorchSaliencyError:
    """Return what another process tells of a request that another image would not mend."""
    known = error if isinstance(error, TorchSaliencyError) else None
    return (known or TorchSaliencyError(describe_failure(error))).with_traceback(None)


def _context() -> Any:
    """Return how processes are started: neither CUDA nor threads of this one survive a fork."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    # a fresh process imports all once, and those that compute are forked from it at once
    context.set_forkserver_preload(["__main__", "torchsaliency.evaluation"])
    return context


def _threads(processes: int) -> int:
    """Return the threads of each process; those that the user set are kept."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return max(1, min(torch.get_num_threads(), (cores or 1) // processes))


@final
@dataclass(frozen=True)
class _Start:
    """What every process is told first."""

    recipe: bytes
    threads: int


@final
class _Process:
    """A process that computes units, and the units that it holds."""

    def __init__(self, start: _Start, device: str) -> None:
        self.device = device
        self.units: deque[Unit] = deque()
        self._loaded = False
        context = _context()
        self.connection, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs,))
        self._process.start()
        theirs.close()
        with suppress(OSError):  # it has died: the next answer says so
            self._send(start)
            self._send(device)

    def takes(self, unit: Unit) -> bool:
        """Whether it takes one more; one of which a process may have died is computed alone."""
        if unit.attempts or any(held.attempts for held in self.units):
            return not self.units
        return len(self.units) < _AHEAD

    def send(self, unit: Unit) -> None:
        """Give it a unit."""
        self.units.append(unit)
        with suppress(OSError):
            self._send(unit)

    def receive(self) -> Outcome | TorchSaliencyError | None:
        """Return the outcome of its first unit, or its error; None if it has died.

        Raises:
            OptionError: it died before it had loaded the networks.
        """
        try:
            answer = pickle.loads(self.connection.recv_bytes())
            if not self._loaded:  # said once, before all outcomes
                self._loaded = True
                return answer if answer is not None else self.receive()
        except (EOFError, OSError):
            if not self._loaded:
                raise OptionError(
                    "engine: A process ended before it had loaded the networks; in a script of "
                    'yours, call evaluate below `if __name__ == "__main__":`, and look whether '
                    "memory suffices for as many processes."
                ) from None
            return None
        if isinstance(answer, Outcome):
            self.units.popleft()
        found: Outcome | TorchSaliencyError = answer
        return found

    def stop(self) -> None:
        """End it, whatever it does."""
        self.connection.close()
        self._process.kill()
        self._process.join()

    def _send(self, value: Any) -> None:
        # plain bytes: as objects, tensors would be put into memory that dies with the process
        self.connection.send_bytes(pickle.dumps(value))


def _serve(connection: Connection) -> None:
    """Compute units until the other end is closed; in a process of its own."""
    try:
        start: _Start = pickle.loads(connection.recv_bytes())
        torch.set_num_threads(start.threads)
        recipe: Recipe = pickle.loads(start.recipe)
        worker = Worker(recipe.make_setting(pickle.loads(connection.recv_bytes())))
        connection.send_bytes(pickle.dumps(None))
        ahead: Queue[Future[Any]] = Queue(1)
        threading.Thread(target=_read, args=(connection, worker, ahead), daemon=True).start()
        while True:
            connection.send_bytes(pickle.dumps(worker.compute(*ahead.get().result())))
    except (EOFError, OSError):
        return
    except Exception as error:
        connection.send_bytes(pickle.dumps(make_request_error(error)))


def _read(connection: Connection, worker: Worker, ahead: Queue[Future[Any]]) -> None:
    """Read the images of the next unit while one is computed."""
    try:
        while True:
            unit: Unit = pickle.loads(connection.recv_bytes())
            read: Future[Any] = Future()
            try:
                ((batch, failed),) = batches(worker.setting, [unit.places], 0)
                read.set_result((unit, batch, failed))
            except Exception as error:
                read.set_exception(error)
            ahead.put(read)
    except (EOFError, OSError):  # the other end is closed, or its process is killed
        os._exit(0)
