"""Processes that share a store: each row is computed, whoever comes late, dies or is slow."""

from __future__ import annotations

import os
import signal
import threading
import time

import pytest

from ranks import (
    FAST,
    ROWS,
    Rank,
    check_same,
    count_rows,
    evaluate_alone,
    finish,
    load_setting,
    notes,
    start,
)
from torchsaliency.core.files import OutputFolder
from torchsaliency.errors import OptionError
from torchsaliency.evaluation import Store
from torchsaliency.evaluation.engines import board as board_module
from torchsaliency.evaluation.engines.board import Board
from torchsaliency.evaluation.engines.share import Share, find_share
from torchsaliency.evaluation.places import FolderPlace


def check_few_twice(folder):
    """Of a machine so busy that a write takes longer than others wait, a few units are."""
    assert ROWS <= count_rows(folder) <= 1.2 * ROWS


def test_ranks_find_what_one_process_finds(tmp_path):
    folder = tmp_path / "run"
    assert finish(start(folder, [Rank(rank, 3) for rank in range(3)])) == [0, 0, 0]
    check_same(folder)
    facts = Store(folder).facts
    assert sum(session["images"] for session in facts["sessions"]) >= 40
    check_few_twice(folder)
    assert notes(folder) == []


def test_a_rank_that_never_appears_is_replaced(tmp_path):
    folder = tmp_path / "run"
    assert finish(start(folder, [Rank(1, 3)])) == [0]
    check_same(folder)


def test_the_last_units_of_a_slow_rank_are_taken_over(tmp_path):
    folder = tmp_path / "run"
    ranks = [Rank(0, 2, seconds=0.005), Rank(1, 2, seconds=0.05)]
    assert finish(start(folder, ranks)) == [0, 0]
    check_same(folder)
    images = sorted(session["images"] for session in Store(folder).facts["sessions"])
    assert images[0] < 20 < images[1]
    check_few_twice(folder)


def test_a_killed_rank_loses_nothing(tmp_path):
    folder = tmp_path / "run"
    processes = start(folder, [Rank(rank, 2, seconds=0.01) for rank in range(2)])
    wait_for(lambda: len([*folder.glob("sessions/*")]) == 2)
    os.kill(processes[1].pid, signal.SIGKILL)
    assert finish(processes) == [0, -signal.SIGKILL]
    check_same(folder)


def test_ranks_go_on_where_one_process_stopped_and_it_where_they_did(tmp_path):
    folder = tmp_path / "run"

    def stop(progress):
        if progress.done >= 10:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        evaluate_alone(folder, stop)
    processes = start(folder, [Rank(rank, 2, seconds=0.05) for rank in range(2)])
    wait_for(lambda: len([*folder.glob("sessions/*")]) == 2)
    time.sleep(0.1)
    for process in processes:
        process.kill()
    assert finish(processes) == [-signal.SIGKILL] * 2
    before = count_rows(folder)
    assert 10 * 4 <= before < ROWS
    evaluate_alone(folder)
    check_same(folder)
    assert count_rows(folder) == ROWS
    assert not [*folder.glob("sessions/*")]
    assert len(Store(folder).facts["sessions"]) == 4


def test_an_image_that_fails_is_told_once_and_forgotten_when_it_is_mended(tmp_path):
    folder = tmp_path / "run"
    bad = load_setting().data.samples[2].id  # of the second batch, which is rank 1's
    ranks = [Rank(rank, 2, fails=(bad,)) for rank in range(2)]
    assert finish(start(folder, ranks)) == [0, 0]
    assert Store(folder).facts["skipped"] == {bad: f"{bad} is bad."}
    assert count_rows(folder) == ROWS - 4
    assert finish(start(folder, [Rank(0, 1, "two")])) == [0]
    assert Store(folder).facts["skipped"] == {}
    assert count_rows(folder) == ROWS


def test_a_unit_that_leaves_no_rows_is_not_begun_for_ever(tmp_path):
    folder = tmp_path / "run"
    ranks = [Rank(rank, 2, silent=("opticam",)) for rank in range(2)]
    assert finish(start(folder, ranks)) == [0, 0]
    assert ROWS / 2 <= count_rows(folder) <= ROWS


def test_two_launches_on_one_store_share_the_work(tmp_path):
    folder = tmp_path / "run"
    ranks = [
        Rank(rank, world, launch, seconds=0.01)
        for launch, world in (("one", 2), ("two", 1))
        for rank in range(world)
    ]
    assert finish(start(folder, ranks)) == [0, 0, 0]
    check_same(folder)
    assert count_rows(folder) <= ROWS * 1.5


def test_a_clock_that_is_wrong_by_an_hour_changes_nothing(tmp_path):
    folder = tmp_path / "run"
    ranks = [Rank(0, 2, seconds=0.01, skew=3600), Rank(1, 2, seconds=0.01)]
    assert finish(start(folder, ranks)) == [0, 0]
    check_same(folder)
    check_few_twice(folder)


def test_ranks_wait_for_one_that_lives_and_never_blame_it(tmp_path):
    folder = tmp_path / "run"
    # the last unit takes longer than a dead session is waited for
    ranks = [Rank(0, 20, seconds=0.0), Rank(1, 20, seconds=0.5)]
    assert finish(start(folder, ranks)) == [0, 0]
    check_same(folder)
    check_few_twice(folder)


def test_a_rank_without_room_ends_in_a_sentence_and_the_others_do_its_part(tmp_path, capfd):
    folder = tmp_path / "run"
    ranks = [Rank(0, 2, seconds=0.01), Rank(1, 2, seconds=0.01, room=40)]
    assert finish(start(folder, ranks)) == [0, 1]
    assert (
        "cannot be written to (No space left on device); free some space" in capfd.readouterr().err
    )
    check_same(folder)


# --- what sessions know of each other -------------------------------------------------------------


@pytest.fixture
def boards(tmp_path, monkeypatch):
    """Make boards of one store, as on machines of their own."""
    monkeypatch.setattr(board_module, "_machine", str)
    for name, value in FAST.items():
        monkeypatch.setattr(board_module, name, value)
    (tmp_path / "run").mkdir()
    place = FolderPlace(tmp_path / "run").signals
    return lambda rank, world=2: Board(place, "batches-of-2", Share(rank, world))


def wait_for(condition, seconds=10.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_a_session_is_dead_when_its_count_stands_still(boards):
    with boards(0) as mine:
        theirs = boards(1)
        theirs.post(working=(3,))
        theirs.post(held=(5,))

        def forgets():
            mine.look()
            return not mine.others

        mine.look()
        assert mine.taken() == {3, 5}
        assert mine.deaths(3) == 0
        wait_for(forgets)
        assert mine.taken() == set()
        assert (mine.deaths(3), mine.deaths(5)) == (1, 0)
        theirs.post()  # it was only away
        mine.look()
        assert mine.taken() == {3, 5}


def test_a_process_that_is_gone_is_dead_at_once(boards, monkeypatch):
    monkeypatch.setattr(board_module, "_machine", lambda: "here")
    with boards(0) as mine, boards(1) as theirs:
        mine.look()
        assert [lease.session for lease in mine.others] == [theirs.lease.session]
        theirs.post(birth="long ago")
        mine.look()
        assert mine.others == []


def test_one_of_many_claims_holds(boards, monkeypatch):
    monkeypatch.setattr(board_module, "SETTLE", 2.0)  # a loaded machine wakes a thread late
    won = []
    every = [boards(rank, 4) for rank in range(4)]
    for one in every:
        one.post()
    threads = [
        threading.Thread(target=lambda one=one: won.extend(one.claim([7, 8]))) for one in every
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(won) == [7, 8]
    assert all(len(sessions) == 1 for sessions in every[0].claims().values())


def test_of_two_sessions_with_the_same_part_one_gives_way(boards):
    with boards(1) as first, boards(1) as second, boards(0) as other:
        wait_for(
            lambda: (
                [one.look() for one in (first, second, other)]
                and first.gives_way() != second.gives_way()
            )
        )
        assert not other.gives_way()


def test_the_lease_of_who_died_of_a_unit_is_kept_until_it_is_finished(boards):
    dead = boards(1)
    dead.post(working=(4,))
    for finished in (False, True):
        with boards(0) as mine:
            wait_for(lambda: mine.look() or mine.deaths(4) == 1)
            mine.sweep(lambda number, finished=finished: finished)
        mine.look()
        assert mine.deaths(4) == (not finished)


# --- the store and the folder ---------------------------------------------------------------------


def test_those_who_share_a_folder_write_over_each_others_files(tmp_path):
    first, second = OutputFolder(tmp_path), OutputFolder(tmp_path)
    (tmp_path / "theirs.txt").write_text("precious")
    with first.share():
        thread = threading.Thread(target=_write_shared, args=(second, "maps/a.npy"))
        thread.start()
        thread.join()
        first.write("maps/a.npy", b"again")
        with pytest.raises(OptionError, match="no earlier run wrote it"):
            first.write("theirs.txt", b"lost")
        (tmp_path / ".torchsaliency" / "new-1").write_bytes(b"of one that was killed")
    assert (tmp_path / "maps" / "a.npy").read_bytes() == b"again"
    assert not [*tmp_path.glob(".torchsaliency/new-*")]
    assert OutputFolder(tmp_path).owns("maps/a.npy")


def _write_shared(folder, name):
    with folder.share():
        folder.write(name, b"first")


def test_a_folder_in_use_points_to_the_engine_that_shares(tmp_path):
    folder = tmp_path / "run"
    with OutputFolder(folder).lock():
        refused = []

        def enter():
            try:
                with Store(folder).lock():
                    pass
            except OptionError as error:
                refused.append(str(error))

        thread = threading.Thread(target=enter)
        thread.start()
        thread.join()
    assert "is being written to by" in refused[0]
    assert refused[0].endswith("share a folder with --engine torchrun.")


# --- who is who -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("environment", "share"),
    [
        ("RANK=3 WORLD_SIZE=8 LOCAL_RANK=1 TORCHELASTIC_RUN_ID=x", (3, 8, 1)),
        ("RANK=3 WORLD_SIZE=8 SLURM_PROCID=0 SLURM_NTASKS=1", (3, 8, 0)),
        ("SLURM_PROCID=2 SLURM_NTASKS=4 SLURM_LOCALID=2 SLURM_JOB_ID=5", (2, 4, 2)),
        ("SLURM_ARRAY_TASK_ID=7 SLURM_ARRAY_TASK_COUNT=4 SLURM_ARRAY_TASK_MIN=5", (2, 4, 0)),
        (
            "SLURM_ARRAY_TASK_ID=8 SLURM_ARRAY_TASK_COUNT=3 SLURM_ARRAY_TASK_MIN=4 "
            "SLURM_ARRAY_TASK_STEP=2 SLURM_PROCID=1 SLURM_NTASKS=2 SLURM_LOCALID=1",
            (5, 6, 1),
        ),
        # a list of tasks that failed, 3, 5 and 9: two have the same part, and one gives way
        ("SLURM_ARRAY_TASK_ID=9 SLURM_ARRAY_TASK_COUNT=3 SLURM_ARRAY_TASK_MIN=3", (0, 3, 0)),
    ],
)
def test_the_environment_says_which_part(environment, share):
    found = find_share(dict(one.split("=") for one in environment.split()))
    assert (found.rank, found.world, found.local) == share
    assert found.launch


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ({}, "torchrun --nproc-per-node 8"),
        ({"RANK": "0"}, "WORLD_SIZE is not set"),
        ({"RANK": "one", "WORLD_SIZE": "2"}, "RANK is 'one'"),
        ({"RANK": "2", "WORLD_SIZE": "2"}, "process 2 of 2"),
        ({"SLURM_ARRAY_TASK_ID": "0"}, "SLURM_ARRAY_TASK_COUNT is not set"),
    ],
)
def test_an_environment_that_does_not_say_it_is_refused(environment, said):
    with pytest.raises(OptionError, match=said):
        find_share(environment)


def test_launches_are_told_apart():
    slurm = {"SLURM_PROCID": "0", "SLURM_NTASKS": "2", "SLURM_JOB_ID": "5", "SLURM_STEP_ID": "0"}
    second = find_share({**slurm, "SLURM_PROCID": "1"})
    assert find_share(slurm).launch == second.launch
    assert find_share({**slurm, "SLURM_STEP_ID": "1"}).launch != second.launch
    task = {"SLURM_ARRAY_JOB_ID": "4", "SLURM_ARRAY_TASK_ID": "0", "SLURM_ARRAY_TASK_COUNT": "2"}
    assert find_share({**slurm, **task}).launch == find_share({**second_job(slurm), **task}).launch


def second_job(slurm):
    return {**slurm, "SLURM_JOB_ID": "6", "SLURM_STEP_ID": "3"}


def test_each_rank_has_a_gpu_of_its_machine(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 4)
    assert Share(9, 16, local=1).choose_device("cuda") == "cuda:1"
    assert Share(9, 16, local=5).choose_device("cuda") == "cuda:1"  # SLURM shows some of them
    assert Share(9, 16, local=1).choose_device("cuda:3") == "cuda:3"
    assert Share(9, 16, local=1).choose_device("cpu") == "cpu"
