"""Ranks of the engine torchrun as forked processes, with networks that only wait.

What is tried is who computes which unit, and what is written; the numbers come from the names.
"""

from __future__ import annotations

import errno
import functools
import math
import multiprocessing
import os
import sys
import tempfile
import time
import zlib
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import pandas as pd

from torchsaliency.core import files
from torchsaliency.evaluation import Store, load_results, make_plan
from torchsaliency.evaluation.engines import board, local, make_run_engine, torchrun
from torchsaliency.evaluation.runner import Run
from torchsaliency.evaluation.setting import make_setting
from torchsaliency.evaluation.work import Outcome, Recipe

PLAN = make_plan(
    {
        "data": "shapes:40?seed=5",
        "model": "builtin/shapes_cnn",
        "methods": "gradcam,opticam",
        "metrics": "ad,ag",
        "batch_size": 2,
        "workers": 0,
    }
)

ROWS = 40 * 2 * 2


class Waiting:
    """A worker whose networks wait, and whose numbers are made of the names."""

    seconds = 0.001  # an image
    fails: tuple[str, ...] = ()
    silent: tuple[str, ...] = ()  # methods without rows

    def __init__(self, setting):
        self.setting = setting

    def work(self, units):
        return map(self.compute, units)

    def compute(self, unit, batch=None, failed=()):
        del batch, failed
        time.sleep(self.seconds * len(unit))
        names = [self.setting.data.samples[place].id for place in unit.places]
        rows = [
            {
                "sample": name,
                "method": method,
                "metric": metric,
                "value": zlib.crc32(f"{name} {method} {metric}".encode()) / 2**32,
                "row": [1.0],
                "seconds": time.monotonic(),
                "passes": 1.0,
                "judge_passes": 1.0,
            }
            for name in names
            if name not in self.fails
            for method in unit.methods
            if method not in self.silent
            for metric in ("ad", "ag")
        ]
        bad = {name: f"{name} is bad." for name in names if name in self.fails}
        return Outcome(len(unit), rows, bad)


def read_nothing(setting, groups):
    del setting
    yield from ((None, []) for _ in groups)


FAST = {"BEAT": 0.05, "PATIENCE": 0.6, "SETTLE": 0.15}


@dataclass
class Rank:
    """A process of a launch."""

    rank: int
    world: int
    launch: str = "one"
    seconds: float = 0.001
    fails: tuple[str, ...] = ()
    silent: tuple[str, ...] = ()
    skew: float = 0.0  # of the wall clock
    commit: float = 0.1  # seconds
    room: float = math.inf  # rows in the store after which its disk is full

    def environment(self):
        keys = ("RANK", "WORLD_SIZE", "TORCHELASTIC_RUN_ID")
        values = (self.rank, self.world, self.launch)
        return dict(zip(keys, map(str, values), strict=True))

    def work(self, folder):
        """Do the part of this rank; to be called in a process of its own."""
        os.environ.update(self.environment())
        setting = load_setting()
        Waiting.seconds, Waiting.fails, Waiting.silent = self.seconds, self.fails, self.silent
        torchrun.Worker, torchrun.batches = Waiting, read_nothing
        torchrun.LOOK, torchrun.COMMIT, torchrun.WINDOW = 0.1, self.commit, 0.1
        torchrun.DEADLY = sys.maxsize  # a process apart would have networks that do not wait
        for name, value in FAST.items():
            setattr(board, name, value)
        clock, sync, seen = time.time, files._sync, []
        time.time = lambda: clock() + self.skew
        files._sync = lambda path: sync(path) if count_rows(folder) < self.room else fill()
        store = Store(folder, shared=True)
        with store.lock():
            engine = make_run_engine(setting.plan.model_copy(update={"engine": "torchrun"}))
            Run(setting, store, Recipe(setting.plan), engine).finish(seen.append)
        last = seen[-1]
        assert last.done == last.total
        assert last.skipped == len(self.fails)


def fill():
    """Be a full disk."""
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def start(folder, ranks):
    """Return the processes of ranks, started."""
    load_setting()  # once, and not in each
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=rank.work, args=(folder,)) for rank in ranks]
    for process in processes:
        process.start()
    return processes


def finish(processes):
    """Wait for processes, and return their exit codes."""
    for process in processes:
        process.join(60)
        if process.exitcode is None:
            process.kill()
            process.join()
    return [process.exitcode for process in processes]


@functools.cache
def load_setting():
    """Return the setting of all ranks."""
    return make_setting(PLAN)


def evaluate_alone(folder, watch=None):
    """Evaluate in this process."""
    setting = load_setting()
    with mock.patch.object(local, "Worker", Waiting):
        store = Store(folder)
        with store.lock():
            Run(setting, store, Recipe(setting.plan), local.LocalEngine()).finish(watch)


@functools.cache
def find_alone():
    """Return what one undisturbed process finds."""
    with tempfile.TemporaryDirectory() as folder:
        evaluate_alone(Path(folder) / "run")
        return table(Path(folder) / "run")


def check_same(folder):
    """Require that ranks found what one process finds."""
    pd.testing.assert_frame_equal(table(folder), find_alone(), check_exact=True)


def table(folder: Path) -> pd.DataFrame:
    """Return what a run found, without times."""
    return load_results(folder).frame.drop(columns=["seconds", "row"])


def count_rows(folder: Path) -> int:
    """Return the rows in all shards; what was computed twice is there twice."""
    return sum(len(pd.read_parquet(shard)) for shard in folder.glob("rows/*.parquet"))


def notes(folder: Path) -> list[str]:
    """Return the files that ranks leave each other."""
    places = (folder / ".torchsaliency").glob("batches-of-*/**/*")
    return [str(place) for place in places if place.is_file()]
