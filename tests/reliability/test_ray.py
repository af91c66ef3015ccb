"""The engine ray: actors, the driver and Ray's own daemon are killed, and nothing is lost."""

import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import psutil
import torch

from torchsaliency.evaluation import evaluate, load_results, make_plan
from torchsaliency.evaluation.store import KEY

_PLAN = {
    "data": "shapes:24?seed=5",
    "model": "builtin/shapes_cnn",
    "methods": "gradcam,opticam",
    "metrics": "ad,deletion",
    "batch_size": 2,
    "workers": 0,
}
_LONG = 300.0
"""Seconds that a process may take; it takes 15 on a quiet machine."""


def table(folder):
    frame = load_results(folder).frame.drop(columns=["seconds"])
    return frame.assign(row=[tuple(row) for row in frame["row"]])


class Driver:
    """A command with a cluster of its own, in a session of its own."""

    def __init__(self, folder):
        options = {**_PLAN, "engine": "ray", "actors": 2, "output": folder}
        words = [f"--{name.replace('_', '-')}={value}" for name, value in options.items()]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "torchsaliency", "evaluate", *words],
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self.temporary = None

    def find(self, name):
        """Wait for a process of the cluster."""
        end = time.monotonic() + _LONG
        while time.monotonic() < end and self.process.poll() is None:
            for one in self.session():
                words = " ".join(one.cmdline())
                if found := re.search(r"/tmp/torchsaliency-ray-\w+", words):
                    self.temporary = Path(found[0])
                if name in words:
                    return one
            time.sleep(0.05)
        raise AssertionError(f"there is no {name}: {self.process.communicate()}")

    def session(self):
        """Return all processes that came of the command."""
        found = []
        for one in psutil.process_iter():
            try:
                if os.getsid(one.pid) == self.process.pid and one.cmdline():
                    found.append(one)
            except (ProcessLookupError, psutil.Error):
                continue
        return found

    def end(self):
        """Return code and stderr, when nothing of the cluster is left."""
        _, errors = self.process.communicate(timeout=_LONG)
        end = time.monotonic() + _LONG
        while (self.session() or self.temporary.exists()) and time.monotonic() < end:
            time.sleep(0.1)
        assert not self.session()
        assert not self.temporary.exists()
        return self.process.returncode, errors


def hit(driver, victim):
    """Kill, or interrupt as Ctrl-C does; return what must come of it: the code, and words."""
    if victim == "actor":
        os.kill(driver.find("MapWorker").pid, signal.SIGKILL)
        return 0, ""
    raylet = driver.find("/raylet/raylet")
    if victim == "raylet":
        os.kill(raylet.pid, signal.SIGKILL)
        return 1, "start the same command again to go on"
    if victim == "driver":
        driver.process.kill()
        return -signal.SIGKILL, "start the same command again to go on"
    os.killpg(driver.process.pid, signal.SIGINT)
    return 130, ""


VICTIMS = {
    "raylet": (1, "a sentence says how to go on, and the same command does"),
    "actor": (0, "its batches are computed again, and the table is the same"),
    "driver": (0, "the cluster ends, and the same command goes on"),
    "Ctrl-C": (0, "the cluster ends, and the same command goes on"),
}
"""How often each is hit in an ordinary run, and what happens."""


def test_killed_at_random_moments(tmp_path, trials, tally):
    torch.set_num_threads(1)
    # a run of tests in the background does not hear Ctrl-C, and what it starts neither
    signal.signal(signal.SIGINT, signal.default_int_handler)
    evaluate(make_plan(_PLAN), tmp_path / "alone")
    for victim, (few, happens) in VICTIMS.items():
        times, draw = trials(few, 10), random.Random(0)
        for trial in range(times):
            folder = tmp_path / f"{victim}-{trial}"
            driver = Driver(folder)
            driver.find("MapWorker")
            time.sleep(draw.uniform(0, 10))
            code, said = hit(driver, victim)
            ended, errors = driver.end()
            assert ended in {code, 0}, errors
            assert said in errors or ended == 0
            evaluate(make_plan(_PLAN), folder)
            pd.testing.assert_frame_equal(
                table(folder), table(tmp_path / "alone"), check_exact=True
            )
            shards = [pd.read_parquet(one, columns=KEY) for one in folder.glob("rows/*.parquet")]
            assert not pd.concat(shards).duplicated().any()
        if times:
            tally("engines", f"Ray: {victim} at a random moment", times, times, happens)
