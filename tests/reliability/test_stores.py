"""Stores: the wire to them is cut, their objects are damaged, compaction is killed."""

from __future__ import annotations

import multiprocessing
import os
import random
import shutil
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pandas as pd
import pytest

from buckets import serve_bucket
from runs import SAMPLES, begin, draw_rows, fill
from torchsaliency.errors import DataError
from torchsaliency.evaluation import Store, compact, filesystems, load_results


@pytest.fixture(scope="module")
def wire(tmp_path_factory):
    with serve_bucket("bucket", tmp_path_factory.mktemp("moto")) as wire:
        yield wire


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run in a folder, and its rows."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    fill(begin(folder), shards=10)
    return folder, frames(folder)


def frames(folder):
    frame = load_results(folder).frame
    return frame.assign(row=[str([*row]) for row in frame["row"]])


def require_same(folder, whole):
    pd.testing.assert_frame_equal(frames(folder), whole[1], check_exact=True)


def test_the_wire_is_cut_again_and_again(wire, whole, trials, tally, tmp_path, monkeypatch):
    monkeypatch.setattr(filesystems, "_LONGEST", 0.2)
    rng, times = random.Random(0), trials(2, 10)
    for trial in range(times):
        address = f"{wire.bucket}{tmp_path}/{trial}"
        store, ended = begin(address), threading.Event()

        def cut_and_mend(ended=ended):
            while not ended.wait(rng.uniform(0.1, 0.5)):
                wire.cut()
                time.sleep(rng.uniform(0, 0.3))
                wire.mend()

        partition = threading.Thread(target=cut_and_mend)
        partition.start()
        try:
            fill(store, shards=10)
        finally:
            ended.set()
            partition.join()
        assert len(store.list_shards()) == 10
        require_same(address, whole)
    what = "the connection to an S3 server cut and mended at random moments, ten shards"
    tally("stores", what, times, times, "requests are repeated; nothing is lost, nothing is twice")


def test_damaged_objects(wire, whole, trials, tally, tmp_path):
    rng, times = random.Random(0), trials(3, 30)
    store = begin(f"{wire.bucket}{tmp_path}/run")
    fill(store, shards=10)
    for _ in range(times):
        name = rng.choice(store.list_shards())
        content = bytearray(store.place.read(f"rows/{name}"))
        match rng.randrange(3):
            case 0:
                content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
            case 1:
                del content[rng.randrange(len(content)) :]
            case _:
                content += b"\0"
        store.place.write(f"rows/{name}", bytes(content))
        with pytest.raises(DataError, match=f"{name} is damaged"):
            load_results(store.folder)
        with pytest.warns(UserWarning, match=f"{name} is damaged and was moved"):
            begin(store.folder)
        done = Store(store.folder).done()
        lost = [sample for sample in SAMPLES if (sample, "tsm") not in done]
        assert len(lost) == 3
        store.add(draw_rows(lost))
        require_same(store.folder, whole)
    what = "objects of a run in a bucket: bits flipped, cut short, made longer"
    tally("stores", what, times, times, "noticed, set aside, and computed again")


def _compact(folder):
    store = Store(folder)
    write, delete = store.place.write, store.place.delete

    def slowly(function):
        def call(*arguments):
            time.sleep(0.01)
            function(*arguments)
            time.sleep(0.01)

        return call

    store.place.write, store.place.delete = slowly(write), slowly(delete)
    compact(store)


def test_compaction_is_killed_at_random_moments(whole, trials, tally, tmp_path):
    rng, times = random.Random(0), trials(3, 10)
    context = multiprocessing.get_context("fork")
    folder, done = tmp_path / "run", Store(whole[0]).done()
    shutil.copytree(whole[0], folder)
    begun = time.monotonic()
    undisturbed = context.Process(target=_compact, args=(folder,))
    undisturbed.start()
    undisturbed.join()
    assert undisturbed.exitcode == 0
    length, killed = time.monotonic() - begun, 0
    for _ in range(100):
        shutil.rmtree(folder)
        shutil.copytree(whole[0], folder)
        process = context.Process(target=_compact, args=(folder,))
        process.start()
        process.join(rng.uniform(0.1, 1.0) * length)
        if process.exitcode is None:
            os.kill(process.pid, signal.SIGKILL)
            process.join()
        killed += process.exitcode == -signal.SIGKILL
        require_same(folder, whole)
        assert Store(folder).done() == done
        _compact(folder)
        require_same(folder, whole)
        assert len(Store(folder).list_shards()) == 1
        if killed == times:
            break
    assert killed == times
    what = "`compact` killed at a random moment"
    tally(
        "stores", what, times, times, "nothing is lost, nothing is twice; the same command goes on"
    )


def test_sessions_write_while_compactions_run(wire, whole, trials, tally, tmp_path):
    times = trials(1, 10)
    for trial in range(times):
        address = f"{wire.bucket}{tmp_path}/{trial}"
        begin(address)

        def write(number, address=address):
            store = begin(address)
            for sample in SAMPLES[number::2]:
                store.add(draw_rows([sample]))

        def merge(_, address=address):
            for _ in range(4):
                compact(Store(address))

        with ThreadPoolExecutor() as pool:
            writing = [pool.submit(write, number) for number in range(2)]
            merging = [pool.submit(merge, number) for number in range(2)]
            for future in writing + merging:
                future.result()
        require_same(address, whole)
        compact(Store(address))
        require_same(address, whole)
    what = "two sessions and two compactions on one run in a bucket at once"
    tally("stores", what, times, times, "nothing is lost, nothing is twice")
