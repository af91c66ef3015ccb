"""The Ray cluster of a run: one that is there, or one that is started on this machine."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import tempfile
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, final

# Read when Ray is imported: what its daemons have to say of lost actors is not our output.
os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", ".")

import ray

from torchsaliency.core.isolation import describe_failure
from torchsaliency.errors import OptionError

_SETTINGS = {
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # else Ray warns that this will be its default
    "RAY_BACKEND_LOG_LEVEL": "fatal",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_worker_niceness": "0",  # actors do the work of this process
}

_FEW_ACTORS = 2
"""Actors on each node where no GPU is used."""


@final
@dataclass(frozen=True)
class Node:
    """What a machine of a cluster has for actors."""

    cpus: float
    gpus: float = 0.0

    def count_places(self, threads: int, gpus: float) -> int:
        """Return how many actors there is room for."""
        places = self.cpus // threads
        if 0 < gpus < 1:  # an actor has parts of one GPU only
            places = min(places, int(self.gpus) * int(1 / gpus + 1e-6))
        elif gpus:
            places = min(places, self.gpus // gpus)
        return int(places)


@final
@dataclass(frozen=True)
class Cluster:
    """The machines that are there when a run begins.

    Attributes:
        nodes: the machines.
        started: whether the cluster was started for the run, and will not grow.
    """

    nodes: tuple[Node, ...]
    started: bool

    def place(self, actors: int | None, gpus: float, threads: int) -> tuple[int, int]:
        """Return how many actors there are, and how many threads each has.

        Args:
            actors: how many are asked for; None for as many as suit the machines.
            gpus: of each actor.
            threads: of this process, the most that an actor has.

        Raises:
            OptionError: this machine has no room for them.
        """

        def count_places(threads: int) -> int:
            return sum(node.count_places(threads, gpus) for node in self.nodes)

        room = count_places(1)
        wanted = actors or max(1, room if gpus else min(room, _FEW_ACTORS * len(self.nodes)))
        if room < wanted:
            each = f"a CPU and {gpus:g} GPUs" if gpus else "a CPU"
            fact = f"there is room for {room} actors with {each} each, and {wanted} are needed"
            if self.started:
                raise OptionError(
                    f"engine: On this machine {fact}; give fewer --actors, a smaller "
                    "--gpus-per-actor, or the --address of a larger cluster."
                )
            warnings.warn(f"In the cluster {fact}; the others wait for nodes.", stacklevel=2)
        fitting = [n for n in range(threads, 1, -1) if count_places(n) >= wanted]
        return wanted, fitting[0] if fitting else 1


@contextmanager
def connect(address: str | None, actors: int | None) -> Iterator[Cluster]:
    """Connect to a cluster, or start one on this machine that ends with the context.

    Where this process is connected already and no address is given, that cluster is used and stays.

    Args:
        address: of a running cluster; None for the one of the environment, or of this machine.
        actors: for which a started cluster has room.

    Raises:
        OptionError: no cluster answers.
    """
    with warnings.catch_warnings():
        # pytest -W error would end Ray where it warns of its own plans
        warnings.filterwarnings("ignore", module=r"ray\b")
        if address is None and ray.is_initialized():
            yield Cluster(_list_nodes(), started=False)
            return
        handler = signal.getsignal(signal.SIGTERM)
        # Ray's sockets have names of 100 letters at most, and TMPDIR may be long
        folder = tempfile.mkdtemp(prefix="torchsaliency-ray-", dir=_short_folder())
        with _watch(folder):
            try:
                address = address or os.environ.get("RAY_ADDRESS") or "local"
                _init(address, actors or _FEW_ACTORS, folder)
                yield Cluster(_list_nodes(), started=address == "local")
            finally:
                ray.shutdown()
                if threading.current_thread() is threading.main_thread():
                    signal.signal(signal.SIGTERM, handler)


def _init(address: str, actors: int, folder: str) -> None:
    options: dict[str, Any] = {"logging_level": logging.CRITICAL, "log_to_driver": False}
    if address == "local":
        cpus = max(os.cpu_count() or 1, actors)
        options |= {"num_cpus": cpus, "include_dashboard": False, "_temp_dir": folder}
    try:
        with _environment(), _silent_stderr():
            ray.init(address, **options)
    except Exception as error:  # of Ray, whose errors of the start have no type of their own
        if address == "local":
            raise OptionError(
                f"engine: Ray did not start on this machine ({describe_failure(error).rstrip('.')})"
                "; start the command again when the machine is less loaded, or give --engine "
                "processes."
            ) from error
        raise OptionError(
            f"address: Ray cannot use {address} ({describe_failure(error).rstrip('.')}); look "
            "whether the cluster runs, with the same versions of Python and Ray, and set "
            "RAY_AUTH_MODE=token if it asks for a token."
        ) from error


_WATCHER = """
import os, shutil, sys, time
if sys.stdin.read() != "end":
    print(sys.argv[2], file=sys.stderr, flush=True)
    time.sleep(2)
for _ in range(120):  # what is left of the cluster still writes
    shutil.rmtree(sys.argv[1], ignore_errors=True)
    if not os.path.exists(sys.argv[1]):
        break
    time.sleep(1)
"""

_KILLED = (
    "The process that ran the evaluation was killed, or its Ray cluster was; what is in the output "
    "folder is whole: start the same command again to go on."
)


@contextmanager
def _watch(folder: str) -> Iterator[None]:
    """Let another process remove a folder, and say how to go on if this one is killed.

    Ray ends this process without a word where its own daemon is killed.
    """
    watcher = subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", _WATCHER, folder, _KILLED],
        stdin=subprocess.PIPE,
        start_new_session=True,  # Ctrl-C is not for it
    )
    try:
        yield
    finally:
        watcher.communicate(b"end")


def _list_nodes() -> tuple[Node, ...]:
    found = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return tuple(Node(have["CPU"], have.get("GPU", 0.0)) for have in found if "CPU" in have)


def _short_folder() -> str | None:
    return "/tmp" if os.name == "posix" else None


@contextmanager
def _silent_stderr() -> Iterator[None]:
    """Drop what C++ writes to stderr: that it writes less from now on."""
    sys.stderr.flush()
    kept = os.dup(2)
    with open(os.devnull, "w", encoding="ascii") as nothing:
        os.dup2(nothing.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


@contextmanager
def _environment() -> Iterator[None]:
    """Set what the processes that Ray starts inherit; what the user has set stays."""
    modules = {"PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path)}
    before = dict(os.environ)
    os.environ.update({**_SETTINGS, **before, **modules})
    try:
        yield
    finally:
        for name in os.environ.keys() - before.keys():
            del os.environ[name]
        os.environ.update(before)
