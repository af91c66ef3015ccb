"""Jobs in a line: the order of arrival, stopping while they wait, and time that runs in work."""

import threading
import time

import pytest

from torchsaliency.pages.jobs import Job, Line, Stopped


def start(line, job, log, name):
    """Wait for a turn in a thread, until it stands in the line."""
    before = len(line)

    def work():
        try:
            with line.turn(job):
                log.append(name)
        except Stopped:
            log.append(f"{name} stopped")

    thread = threading.Thread(target=work)
    thread.start()
    while len(line) == before and thread.is_alive():
        time.sleep(0.001)
    return thread


def test_jobs_have_their_turn_in_the_order_of_arrival():
    line, log = Line(), []
    with line.turn(Job(60.0)):
        threads = [start(line, Job(60.0), log, name) for name in "abc"]
        assert len(line) == 4
        assert log == []
    for thread in threads:
        thread.join(10)
    assert log == ["a", "b", "c"]
    assert len(line) == 0


def test_a_job_is_stopped_while_it_waits_and_the_next_one_has_its_turn():
    line, log = Line(), []
    job = Job(60.0)
    with line.turn(Job(60.0)):
        first, second = start(line, job, log, "a"), start(line, Job(60.0), log, "b")
        job.stop()
        first.join(10)
        assert log == ["a stopped"]
    second.join(10)
    assert log == ["a stopped", "b"]


def test_waiting_takes_none_of_a_jobs_time():
    line, job, log = Line(), Job(0.1), []
    with line.turn(Job(60.0)):
        thread = start(line, job, log, "a")
        time.sleep(0.3)
    thread.join(10)
    assert log == ["a"]
    with line.turn(job):
        time.sleep(0.15)
        with pytest.raises(Stopped):
            job.check()
    assert job.over


def test_time_is_that_of_all_turns():
    line, job = Line(), Job(0.1)
    for _ in range(2):
        with line.turn(job):
            time.sleep(0.06)
    with pytest.raises(Stopped), line.turn(job):
        pass
    assert job.over
    assert len(line) == 0
