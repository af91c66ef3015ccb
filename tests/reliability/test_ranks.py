"""Processes that share a store: killed, on a full disk, and with an image that kills them."""

import itertools
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
from multiprocessing import forkserver
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from deadly import deadly_shapes
from ranks import ROWS, Rank, check_same, count_rows, finish, notes, start, table
from torchsaliency.cli.main import PARTIAL
from torchsaliency.evaluation import Store, evaluate, load_results, make_plan
from torchsaliency.evaluation.engines import board

_MOST = 200  # starts


def test_ranks_killed_at_random_moments(tmp_path, trials, tally):
    times, draw, killed = trials(2, 10), random.Random(0), 0
    for attempt in range(_MOST):
        folder = tmp_path / f"run-{attempt}"
        processes = start(folder, [Rank(rank, 3, seconds=0.01) for rank in range(3)])
        time.sleep(draw.uniform(0.02, 0.6))
        victim = draw.choice(processes)
        os.kill(victim.pid, signal.SIGKILL)
        codes = finish(processes)
        killed += -signal.SIGKILL in codes
        assert {*codes} <= {0, -signal.SIGKILL}
        check_same(folder)
        assert count_rows(folder) <= ROWS * 1.5
        if killed == times:
            break
    assert killed == times
    happens = "the others do its part, and end with the same table"
    tally("engines", "A rank of torchrun killed at a random moment", times, times, happens)


def test_all_ranks_killed_at_random_moments(tmp_path, trials, tally):
    times, draw, folder = trials(2, 10), random.Random(1), tmp_path / "run"
    for launch in itertools.count():
        ranks = [Rank(rank, 2, str(launch), seconds=0.1) for rank in range(2)]
        processes = start(folder, ranks)
        time.sleep(draw.uniform(0.1, 0.5))
        if launch == times:
            assert finish(processes) == [0, 0]
            break
        for process in processes:
            os.kill(process.pid, signal.SIGKILL)
        assert finish(processes) == [-signal.SIGKILL] * 2
    check_same(folder)
    assert not [*folder.glob(".torchsaliency/new-*")]
    happens = "the same command goes on, and ends with the same table"
    tally("engines", "All ranks of torchrun killed at a random moment", times, times, happens)


def test_two_launches_on_one_store(tmp_path, trials, tally):
    times, rows = trials(1, 10), 0
    for trial in range(times):
        folder = tmp_path / f"run-{trial}"
        ranks = [
            Rank(rank, world, launch, seconds=0.01)
            for launch, world in (("one", 2), ("two", 1 + trial % 3))
            for rank in range(world)
        ]
        assert {*finish(start(folder, ranks))} == {0}
        check_same(folder)
        assert notes(folder) == []
        rows += count_rows(folder)
    assert rows <= 1.5 * times * ROWS
    happens = "they share the work; what both computed is read once"
    tally("engines", "Two launches of torchrun on one store", times, times, happens)


def test_a_wrong_clock(tmp_path, trials, tally):
    skews = [3600.0, -3600.0, 86400.0][: trials(1, 3)]
    for number, skew in enumerate(skews):
        folder = tmp_path / f"run-{number}"
        ranks = [Rank(0, 3, seconds=0.01), Rank(1, 3, seconds=0.01, skew=skew), Rank(2, 3)]
        assert finish(start(folder, ranks)) == [0, 0, 0]
        check_same(folder)
    happens = "nobody compares clocks: nothing is computed twice for it"
    tally("engines", "A rank whose clock is wrong by an hour", len(skews), len(skews), happens)


def test_a_full_disk(tmp_path, trials, tally):
    rooms = [0, 16, 40, 100][: trials(1, 4)]
    for room in rooms:
        folder = tmp_path / f"run-{room}"
        ranks = [Rank(rank, 2, seconds=0.02, room=room) for rank in range(2)]
        assert finish(start(folder, ranks)) == [1, 1]  # both end in a sentence
        assert room == 0 or count_rows(folder) >= room
        assert finish(start(folder, [Rank(rank, 2, "two") for rank in range(2)])) == [0, 0]
        check_same(folder)
    happens = "each rank ends with one sentence; with room, the same command goes on"
    tally("engines", "A disk that is full while ranks write", len(rooms), len(rooms), happens)


def evaluate_anew(plan, folder):
    forkserver._forkserver.__init__()  # that of the tests is no child of this process
    evaluate(plan, folder)


def test_an_image_that_kills_its_process(tmp_path, tally, monkeypatch):
    monkeypatch.setattr(board, "PATIENCE", 1.0)
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "1")
    data = deadly_shapes(6, kills=(3,))
    names = [sample.id for sample in data.samples]
    plan = make_plan(
        {
            "data": data,
            "model": "builtin/shapes_cnn",
            "methods": "gradcam",
            "metrics": "ad",
            "batch_size": 2,
            "workers": 0,
            "engine": "torchrun",
        }
    )
    context, codes = multiprocessing.get_context("fork"), []
    for _ in range(3):  # as --max-restarts does
        process = context.Process(target=evaluate_anew, args=(plan, tmp_path / "run"))
        process.start()
        codes += finish([process])
    assert codes == [-signal.SIGKILL, -signal.SIGKILL, 0]
    assert [*load_results(tmp_path / "run").samples] == [*names[:3], *names[4:]]
    assert "is killed" in Store(tmp_path / "run").facts["skipped"][names[3]]
    happens = "after two deaths it gets a process of its own, and is skipped alone"
    tally("engines", "An image that kills the rank that reads it", 1, 1, happens)


def test_torchrun_itself(tmp_path, tally):
    photos = tmp_path / "photos"
    photos.mkdir()
    for number in range(6):
        values = np.random.default_rng(number).integers(0, 255, (32, 32, 3), dtype=np.uint8)
        Image.fromarray(values).save(photos / f"{number}.png")
    (photos / "7.png").write_bytes(b"no image")
    command = ["-m", "torchsaliency", "evaluate", "--data", str(photos), "--target", "predicted"]
    command += ["--model", "builtin/shapes_cnn", "--methods", "gradcam", "--metrics", "ad"]
    command += ["--batch-size", "2", "--workers", "0", "--json", "--output"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    torchrun = [str(Path(sys.executable).parent / "torchrun"), "--nproc-per-node", "3"]
    ranks, one = tmp_path / "ranks", tmp_path / "one"
    ended = [
        subprocess.run(
            [*start, *command, str(folder)], env=environment, capture_output=True, check=False
        )
        for start, folder in ((torchrun, ranks), ([sys.executable], one))
    ]
    assert [run.returncode for run in ended] == [1, PARTIAL]  # an image cannot be read
    assert len(Store(ranks).facts["sessions"]) == 3
    pd.testing.assert_frame_equal(table(ranks), table(one), check_exact=True)
    assert Store(ranks).facts["skipped"] == Store(one).facts["skipped"]
    printed = [run.stdout.decode() for run in ended]
    assert printed[0].count('"gradcam"') == printed[1].count('"gradcam"') > 0  # by one rank
    happens = "the same table as one process, printed once"
    tally("engines", "`torchrun` with three processes", 1, 1, happens)
