"""A process may be killed at any moment: the same command goes on, and ends the same."""

import pytest

from commands import COMMANDS, leftovers
from killing import kill_at_random


@pytest.mark.parametrize("name", COMMANDS)
def test_killed_at_random_moments(name, tmp_path, trials, tally):
    work, times = COMMANDS[name](tmp_path), trials(2, 15)
    mine = tmp_path / "mine"
    mine.mkdir()
    strangers = {}

    def seen(folder):
        work.whole(folder)
        if folder.exists() and not strangers.get(folder):
            # somebody puts a file of their own into it, called as we never would
            strangers[folder] = folder / "film.mkv.part"
            strangers[folder].write_bytes(b"precious")

    folder = kill_at_random(work, tmp_path, times=times, seen=seen)
    work(folder)
    assert work.found(folder) == work.found(tmp_path / "timed")
    assert not leftovers(folder)
    assert all(one.read_bytes() == b"precious" for one in strangers.values())
    tally("files", f"`{name}` killed at a random moment", times, times, "goes on and ends the same")
