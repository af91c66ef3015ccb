"""Whose file is it? Nothing is deleted, written over or written through that we did not write."""

import json
import multiprocessing
import os
import random
import signal
import time

import numpy as np
import pytest
import torch
from filelock import FileLock

from commands import COMMANDS, Evaluating, Finetuning, leftovers, photographs
from nets import convnet, images, quick
from torchsaliency import DataError, OptionError, explain
from torchsaliency.core import files
from torchsaliency.core.files import OutputFolder, file_name, file_names
from torchsaliency.data import open_data
from torchsaliency.evaluation import Store, evaluate, load_results, make_plan

PRECIOUS = b"precious"


def content_of(folder):
    return {
        str(one.relative_to(folder)): one.read_bytes()
        for one in sorted(folder.rglob("*"))
        if one.is_file() and not one.is_symlink()
    }


# --- the files of others --------------------------------------------------------------------------


@pytest.mark.parametrize("name", COMMANDS)
def test_every_name_that_a_command_writes_may_be_somebody_elses(name, tmp_path, tally):
    """Run once to learn the names; then each of them is there before, as a file or as a link."""
    work = COMMANDS[name](tmp_path)
    work(tmp_path / "plain")
    names = [one for one in content_of(tmp_path / "plain") if ".torchsaliency" not in one]
    tops = [one for one in names if "/" not in one] + [one for one in names if "/" in one][:3]
    outside = tmp_path / "outside"
    held = 0
    for number, one in enumerate(tops):
        for kind in ("file", "link"):
            folder = tmp_path / f"{number}-{kind}"
            (folder / one).parent.mkdir(parents=True)
            outside.write_bytes(PRECIOUS)
            if kind == "file":
                (folder / one).write_bytes(PRECIOUS)
            else:
                (folder / one).symlink_to(outside)
            try:
                work(folder)
            except (OptionError, DataError) as error:
                assert "\n" not in str(error)
            assert outside.read_bytes() == PRECIOUS
            assert (folder / one).read_bytes() == PRECIOUS, one
            assert (folder / one).is_symlink() == (kind == "link")
            assert not leftovers(folder)
            held += 1
    tally("files", f"names that `{name}` writes and that are there before", held, held, "untouched")


@pytest.mark.parametrize("name", COMMANDS)
def test_files_beside_ours_stay(name, tmp_path):
    work = COMMANDS[name](tmp_path)
    work(tmp_path / "run")
    for one in ("film.mkv.part", "notes.txt", "rows/mine.parquet.part", "maps/other.part"):
        (tmp_path / "run" / one).parent.mkdir(exist_ok=True)
        (tmp_path / "run" / one).write_bytes(PRECIOUS)
    work(tmp_path / "run")
    kept = [value for key, value in content_of(tmp_path / "run").items() if value == PRECIOUS]
    assert len(kept) == 4


def test_a_run_inside_its_own_data_is_none_of_the_data(tmp_path):
    """Else its folder would be a class, and the second session would find other images."""
    for label in ("cat", "dog"):
        photographs(tmp_path / "data" / label, 2)
    plan = make_plan(
        {"data": str(tmp_path / "data"), "model": "builtin/shapes_cnn", "methods": "gradcam",
         "metrics": "ad", "workers": 0}
    )  # fmt: skip
    with pytest.warns(UserWarning, match="'cat', 'dog'"):
        first = evaluate(plan, tmp_path / "data" / "out")
    with pytest.warns(UserWarning, match="'cat', 'dog'"):
        again = evaluate(plan, tmp_path / "data" / "out")
    assert first.samples == again.samples
    assert open_data(tmp_path / "data").classes == ("cat", "dog")


def test_a_file_of_ours_that_was_changed_is_the_users(tmp_path):
    made = explain(convnet(), images(1), quick("gradcam"), 1, "relu3")["gradcam"]
    made.save(tmp_path)
    (tmp_path / "image-0.gradcam.png").write_bytes(PRECIOUS)
    with pytest.raises(OptionError, match="no earlier run wrote it as it is now"):
        made.save(tmp_path)
    assert (tmp_path / "image-0.gradcam.png").read_bytes() == PRECIOUS


@pytest.mark.parametrize("name", COMMANDS)
def test_links_in_place_of_folders(name, tmp_path):
    """The private folder, or one for rows, that leads elsewhere is refused."""
    work = COMMANDS[name](tmp_path)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / ".torchsaliency").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OptionError, match="is a link"):
        work(tmp_path / "run")
    assert not list((tmp_path / "elsewhere").iterdir())


def test_rows_are_not_written_through_a_link(tmp_path):
    work = Evaluating(tmp_path)
    work(tmp_path / "run")
    (tmp_path / "elsewhere").mkdir()
    for one in (tmp_path / "run" / "rows").iterdir():
        one.unlink()
    (tmp_path / "run" / "rows").rmdir()
    (tmp_path / "run" / "rows").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OptionError, match="is a link"):
        work(tmp_path / "run")
    assert not list((tmp_path / "elsewhere").iterdir())


def test_a_folder_that_cannot_be_written_to(tmp_path):
    (tmp_path / "file").write_bytes(PRECIOUS)
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(OptionError, match="cannot be written to"), OutputFolder(path).lock():
            pass
    assert (tmp_path / "file").read_bytes() == PRECIOUS


def test_a_full_disk(tmp_path, monkeypatch):
    folder = OutputFolder(tmp_path / "run")
    with folder.lock():
        folder.write("a", b"1")

        def full(_):
            raise OSError(28, "No space left on device")

        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", full)
            with pytest.raises(OptionError, match=r"No space left.*free some space") as told:
                folder.write("a", b"2")
        assert isinstance(told.value, OSError)
        assert (tmp_path / "run" / "a").read_bytes() == b"1"
        folder.write("a", b"2")
    assert (tmp_path / "run" / "a").read_bytes() == b"2"
    assert not leftovers(tmp_path / "run")


def test_file_systems_without_hard_links(tmp_path, monkeypatch):
    def none(*_, **__):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(os, "link", none)
    folder = OutputFolder(tmp_path / "run")
    with folder.lock():
        folder.write("sub/a", b"1")
        folder.write("sub/a", b"2")
    assert (tmp_path / "run" / "sub" / "a").read_bytes() == b"2"


def test_names_that_lead_outside_are_refused(tmp_path):
    folder = OutputFolder(tmp_path / "run")
    with folder.lock():
        for name in (
            "../a",
            "a/../../b",
            "/etc/a",
            "",
            ".torchsaliency/lock",
            "x/.torchsaliency/y",
        ):
            with pytest.raises(OptionError, match="no name of a file below"):
                folder.write(name, b"")
    assert not (tmp_path / "a").exists()


# --- names ----------------------------------------------------------------------------------------

ODD = (
    "..", "../x", "a/../b", "/etc/passwd", ".", "a/./b", "a//b", "", "a", "A", "a/b", "a/B",
    "a.npy", "a.npy/b", "CON", "con.png", "nul", "x.", "x ", " x", "x", "x/", "~", "-rf", "=1+1",
    "é", "e\u0301", "\udc80", "\udcff", "\x1b[31m", "line\nbreak", "tab\there", "*?<>|:\"\\",
    "%2E%2E", "%", "a" * 300, "a" * 300 + "b", "é" * 200, "日本語/写真", "🙂", "a\u202eb", "a:b",
    "a\\b",
)  # fmt: skip


def test_ids_neither_leave_their_folder_nor_collide(tmp_path, tally):
    draw = random.Random(0)
    letters = "aA./\\%~ \u00e9e\u0301\n:é"
    drawn = ["".join(draw.choices(letters, k=draw.randint(0, 9))) for _ in range(3000)]
    ids = [*dict.fromkeys([*ODD, *drawn])]
    found = file_names(ids, ".npy")
    base = tmp_path / "maps"
    folded = set()
    for one in ids:
        path = base / found[one]
        assert os.path.normpath(path).startswith(str(base) + os.sep)
        assert all(len(os.fsencode(part)) <= 255 for part in path.parts)
        assert ".." not in path.parts
        folded.add(found[one].casefold())
    assert len(folded) == len(ids)
    small = [one for one in ids if len(one) < 200]
    for one in small:  # and they can be there at once: no file where another needs a folder
        (base / found[one]).parent.mkdir(parents=True, exist_ok=True)
        (base / found[one]).write_text(found[one])
    assert all((base / found[one]).read_text() == found[one] for one in small)
    tally(
        "files", "ids of samples that no file may have", len(ids), len(ids), "a name of their own"
    )


def test_plain_names_stay_as_they_are():
    plain = ["ILSVRC2012_val_00000001.JPEG", "n01440764/n01440764_1.JPEG", "cat (1)", "über/größe"]
    assert file_names(plain) == {one: one for one in plain}
    assert file_name("gradcam++") == "gradcam++"


def test_maps_of_odd_ids_are_each_there(tmp_path):
    photographs(tmp_path / "photos", 2)
    (tmp_path / "lists" / "deep").mkdir(parents=True)
    (tmp_path / "lists" / "deep" / "labels.csv").write_text(
        "file,label\n../../photos/000.png,a\n../../photos/001.png,b\n"
    )
    plan = make_plan(
        {
            "data": f"folder:{tmp_path / 'lists' / 'deep' / 'labels.csv'}",
            "model": "builtin/shapes_cnn",
            "methods": "gradcam,mtsm",
            "metrics": "ad",
            "maps": True,
            "workers": 0,
        }
    )
    before = content_of(tmp_path)
    with pytest.warns(UserWarning, match="are not those of"):
        evaluate(plan, tmp_path / "run")
    assert {k: v for k, v in content_of(tmp_path).items() if not k.startswith("run")} == before
    store = Store(tmp_path / "run")
    paths = {
        store.map_path(f"../../photos/00{number}.png", method)
        for number in (0, 1)
        for method in ("gradcam", "mtsm")
    }
    assert len(paths) == 4
    assert all(np.load(one).shape == (64, 64) for one in paths)


# --- saving explanations --------------------------------------------------------------------------


def test_saving_keeps_every_method_label_class_and_option(tmp_path):
    net, x = convnet(), images(2)
    kinds = [
        *explain(net, x, {"a": quick("gradcam"), "b": quick("gradcam")}, 1, "relu3").values(),
        *explain(net, x, [quick("gradcam"), quick("mtsm")], 2, "relu3").values(),
        *explain(net, x, [quick("gradcam")], 2, "relu2").values(),
    ]
    written = [name for made in kinds for name in made.save(tmp_path, ["x", "dir/y"])[:-1]]
    files = sum(2 + (made.signed is not None) for made in kinds)  # signed values, too
    assert len({*written}) == len(written) == 2 * files
    told = json.loads((tmp_path / "manifest.json").read_text())
    assert [one["label"] for one in told["explanations"]] == [
        "a",
        "b",
        "gradcam",
        "mtsm",
        "gradcam",
    ]
    assert told["method"] == "gradcam"
    assert told["layers"] == ["relu2"]
    for made, facts in zip(kinds, told["explanations"], strict=True):
        for row, stem in enumerate(("x", "dir/y")):
            raw = np.load(tmp_path / facts["files"][stem][0])
            np.testing.assert_array_equal(raw, made.raw[row].numpy())
    again = [name for made in kinds for name in made.save(tmp_path, ["x", "dir/y"])[:-1]]
    assert again == written
    assert len(json.loads((tmp_path / "manifest.json").read_text())["explanations"]) == len(kinds)
    assert not (tmp_path / ".torchsaliency").exists()


def _save(folder, number):
    torch.set_num_threads(1)
    made = explain(convnet(), images(1), quick("gradcam"), number % 5, "relu3")["gradcam"]
    made.save(folder, [f"image-{number}"])


def test_processes_that_save_at_once_lose_nothing(tmp_path):
    context = multiprocessing.get_context("fork")
    all_ = [context.Process(target=_save, args=(tmp_path / "out", one)) for one in range(8)]
    for one in all_:
        one.start()
    for one in all_:
        one.join()
        assert one.exitcode == 0
    told = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert sorted(one["images"][0] for one in told["explanations"]) == [
        f"image-{number}" for number in range(8)
    ]
    assert len(list((tmp_path / "out").glob("*.signed.npy"))) == 8
    assert len(list((tmp_path / "out").glob("*.npy"))) == 16


def test_the_folder_of_explain_is_not_that_of_save(tmp_path):
    made = explain(convnet(), images(1), quick("gradcam"), 1, "relu3")["gradcam"]
    work = COMMANDS["explain"](tmp_path)
    work(tmp_path / "run")
    with pytest.raises(OptionError, match="no earlier run wrote it"):
        made.save(tmp_path / "run")
    made.save(tmp_path / "saved")
    with pytest.raises(OptionError, match="no earlier run wrote it"):
        work(tmp_path / "saved")


# --- two at once ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", COMMANDS)
def test_a_second_runner_is_refused_in_a_sentence(name, tmp_path, tally):
    work = COMMANDS[name](tmp_path)
    folder = OutputFolder(tmp_path / "run")
    started = multiprocessing.get_context("fork").Event()
    ended = multiprocessing.get_context("fork").Event()

    def hold():
        with folder.lock():
            started.set()
            ended.wait(60)

    other = multiprocessing.get_context("fork").Process(target=hold)
    other.start()
    started.wait(60)
    with pytest.raises(OptionError, match="is being written to by") as told:
        work(tmp_path / "run")
    assert f"process {other.pid} on {os.uname().nodename}, since 20" in str(told.value)
    ended.set()
    other.join()
    work(tmp_path / "run")
    tally("files", f"two processes at once: `{name}`", 1, 1, "the second is refused, and told why")


def test_the_lock_of_a_dead_process_is_stale(tmp_path):
    folder = OutputFolder(tmp_path / "run")

    def hold():
        with folder.lock():
            os.kill(os.getpid(), signal.SIGKILL)

    other = multiprocessing.get_context("fork").Process(target=hold)
    other.start()
    other.join()
    holder = json.loads((tmp_path / "run" / ".torchsaliency" / "holder.json").read_text())
    assert holder["pid"] == other.pid
    with OutputFolder(tmp_path / "run").lock():
        pass


def test_orphans_of_a_dead_process_are_waited_for(tmp_path, monkeypatch):
    """Worker processes of one that was killed live on for some seconds, with its lock."""
    private = tmp_path / "run" / ".torchsaliency"
    private.mkdir(parents=True)
    dead = multiprocessing.get_context("fork").Process(target=int)
    dead.start()
    dead.join()
    told = {"pid": dead.pid, "host": os.uname().nodename, "since": "then", "command": "x"}
    (private / "holder.json").write_text(json.dumps(told))
    lock = FileLock(private / "lock")
    lock.acquire()
    asleep = []

    def nap(seconds):
        asleep.append(seconds)
        if len(asleep) == 3:
            lock.release()

    monkeypatch.setattr(files.time, "sleep", nap)
    with OutputFolder(tmp_path / "run").lock():
        assert len(asleep) == 3


def test_another_hosts_lock_is_believed(tmp_path):
    private = tmp_path / "run" / ".torchsaliency"
    private.mkdir(parents=True)
    told = {"pid": 1, "host": "node17", "since": "2026-01-01 00:00:00+0000", "command": "evaluate"}
    (private / "holder.json").write_text(json.dumps(told))
    lock = FileLock(private / "lock")
    with lock, pytest.raises(OptionError, match="process 1 on node17, since 2026-01-01"):
        OutputFolder(tmp_path / "run").lock().__enter__()


def test_waiting_for_a_folder(tmp_path):
    private = tmp_path / "run" / ".torchsaliency"
    private.mkdir(parents=True)
    lock = FileLock(private / "lock")
    lock.acquire()
    begun = time.monotonic()
    with pytest.raises(OptionError, match="by another process"):
        OutputFolder(tmp_path / "run").lock(wait=0.3).__enter__()
    assert time.monotonic() - begun >= 0.3
    lock.release()


# --- damage ---------------------------------------------------------------------------------------


def flip(path, bit):
    content = bytearray(path.read_bytes())
    content[bit // 8] ^= 1 << bit % 8
    path.write_bytes(content)


def test_every_flipped_bit_of_a_shard_is_noticed(tmp_path, trials, tally):
    work = Evaluating(tmp_path)
    work(tmp_path / "run")
    shards = sorted((tmp_path / "run" / "rows").iterdir())
    draw, tried, noticed = random.Random(1), trials(40, 400), 0
    for _ in range(tried):
        shard = draw.choice(shards)
        bit = draw.randrange(8 * shard.stat().st_size)
        flip(shard, bit)
        with pytest.raises(DataError, match=shard.name):
            load_results(tmp_path / "run")
        noticed += 1
        flip(shard, bit)
    load_results(tmp_path / "run")
    tally("files", "flipped bits of a shard", tried, noticed, "noticed, and the shard named")


def test_a_damaged_shard_is_set_aside_and_computed_again(tmp_path, tally):
    work = Evaluating(tmp_path)
    work(tmp_path / "run")
    expected = work.found(tmp_path / "run")
    shards = sorted((tmp_path / "run" / "rows").iterdir())
    flip(shards[1], 1000)
    os.truncate(shards[2], 10)
    shards[3].write_bytes(b"")
    with pytest.warns(UserWarning, match="is damaged and was moved to") as told:
        work(tmp_path / "run")
    named = [str(one.message) for one in told if "is damaged" in str(one.message)]
    assert len(named) == 3
    assert all(any(one.name in name for name in named) for one in shards[1:4])
    assert work.found(tmp_path / "run") == expected
    assert len(list((tmp_path / "run" / ".torchsaliency").glob("damaged-*"))) == 3
    tally("files", "damaged shards in a continued run", 3, 3, "set aside, and computed again")


def test_flipped_bits_of_what_a_run_knows(tmp_path, trials, tally):
    evaluating, finetuning = Evaluating(tmp_path), Finetuning(tmp_path)
    evaluating(tmp_path / "rows")
    finetuning(tmp_path / "net")
    draw, tried = random.Random(2), trials(10, 100)
    for path, work in (
        (tmp_path / "rows" / "run.json", lambda: load_results(tmp_path / "rows")),
        (tmp_path / "net" / "checkpoint.pt", lambda: finetuning(tmp_path / "net")),
    ):
        for _ in range(tried):
            bit = draw.randrange(8 * path.stat().st_size)
            flip(path, bit)
            with pytest.raises(DataError, match=f"{path.name} is damaged"):
                work()
            flip(path, bit)
        tally("files", f"flipped bits of {path.name}", tried, tried, "noticed, and the file named")


@pytest.mark.parametrize(
    "content",
    ["", "{", "[]", "null", '{"sha256": 1}', '{"program": "other"}', "\x00", '"x"', "1e999"],
)
@pytest.mark.parametrize("name", ["evaluate", "explain", "reproduce"])
def test_json_of_another_kind(name, content, tmp_path):
    file = {"evaluate": "run.json", "explain": "manifest.json", "reproduce": "reproduction.json"}
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / file[name]).write_text(content)
    with pytest.raises((OptionError, DataError)) as told:
        COMMANDS[name](tmp_path)(tmp_path / "run")
    assert file[name] in str(told.value)
    assert "\n" not in str(told.value)
    assert (tmp_path / "run" / file[name]).read_text() == content
