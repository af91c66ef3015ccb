"""Stores at addresses: a real S3 server on loopback, memory, files; errors that say what to do."""

from __future__ import annotations

import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from buckets import serve_bucket
from runs import SAMPLES, begin, draw_rows, fill
from torchsaliency.cli.main import _exit_code, app
from torchsaliency.errors import DataError, OutputError
from torchsaliency.evaluation import Store, compact, evaluate, filesystems, load_results, make_plan
from torchsaliency.evaluation.places import FolderPlace, open_place


@pytest.fixture(scope="module")
def wire(tmp_path_factory):
    with serve_bucket("bucket", tmp_path_factory.mktemp("moto")) as wire:
        yield wire


@pytest.fixture(params=["s3", "memory"])
def address(request, wire, tmp_path):
    return {"s3": wire.bucket, "memory": "memory:/"}[request.param] + f"{tmp_path}/run"


@pytest.fixture
def bucket(wire, tmp_path):
    return f"{wire.bucket}{tmp_path}/run"


def plan(**changes):
    facts = {"data": "shapes:8?seed=5", "model": "builtin/shapes_cnn", "workers": 0}
    return make_plan({**facts, "methods": "gradcam,tsm", "metrics": "ad,ep", **changes})


def frames(folder):
    frame = load_results(folder).frame.drop(columns="seconds")
    return frame.assign(row=[str([*row]) for row in frame["row"]])


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("folder") / "run"
    evaluate(plan(), folder)
    return frames(folder)


# --- places ---------------------------------------------------------------------------------------


def test_objects_are_written_read_listed_and_removed(address):
    place = open_place(address)
    assert (place.list("rows"), place.is_foreign(), place.read("rows/a")) == ([], False, None)
    place.write("rows/b", b"2")
    place.write("rows/a", b"1")
    place.write("rows/a", b"3" * 20_000_000)
    assert place.list("rows") == ["a", "b"]
    assert place.read("rows/a") == b"3" * 20_000_000
    assert place.is_foreign()
    assert place.owns("rows/b")
    moved = place.set_aside("rows/b")
    assert (place.read(moved), place.read("rows/b")) == (b"2", None)
    place.delete("rows/a")
    place.delete("rows/a")
    assert place.list("rows") == []


def test_a_file_address_is_a_folder(tmp_path):
    place = open_place(f"file://{tmp_path}/run")
    assert isinstance(place, FolderPlace)
    assert place.path == tmp_path / "run"


def test_an_address_as_a_path_is_refused():
    with pytest.raises(DataError, match="is an address and was given as a Path; give it as text"):
        open_place(Path("s3://bucket/run"))


def test_an_address_of_no_file_system_is_refused_without_its_keys():
    with pytest.raises(DataError, match=r"^bogus://bucket/run cannot be opened") as caught:
        open_place("bogus://key:secret@bucket/run?token=secret")
    assert "secret" not in str(caught.value)


def test_keys_in_an_address_are_in_no_name(wire):
    port = wire.url.rpartition(":")[2]
    query = f"scheme=http&endpoint_override=127.0.0.1:{port}&region=us-east-1"
    place = open_place(f"s3://key:secret@bucket/keys/run?{query}")
    place.write("a", b"1")
    assert place.read("a") == b"1"
    assert place.name == "s3://bucket/keys/run"


# --- errors ---------------------------------------------------------------------------------------


@pytest.mark.usefixtures("wire")
def test_no_bucket():
    with pytest.raises(OutputError, match="there is no such bucket; make it, or give another"):
        open_place("s3://nowhere/run").write("a", b"")


def test_refused_credentials(wire, monkeypatch):
    place = open_place(f"{wire.bucket}/run")

    class Refusing:
        def open_input_file(self, path):
            assert path == "bucket/run/a"
            raise OSError("AWS Error ACCESS_DENIED during HeadObject operation: Access Denied")

    monkeypatch.setattr(place, "_files", Refusing())
    begun = time.monotonic()
    with pytest.raises(OutputError, match="credentials are missing, wrong or not enough"):
        place.read("a")
    assert time.monotonic() - begun < 1


@pytest.mark.parametrize("fault", ["refused", "silent"])
@pytest.mark.usefixtures("wire")
def test_a_dead_server_is_told_soon(monkeypatch, fault, dead_server):
    monkeypatch.setenv("AWS_ENDPOINT_URL", dead_server(fault))
    monkeypatch.setattr(filesystems, "FIRST_PATIENCE", 0.5)
    monkeypatch.setattr(filesystems, "_ANSWER", 1.0)
    begun = time.monotonic()
    with pytest.raises(OutputError, match=r"for 0\.5 s it did not work .*start the same command"):
        open_place("s3://bucket/run").read("run.json")
    assert time.monotonic() - begun < 20


@pytest.fixture
def dead_server():
    listener = socket.create_server(("127.0.0.1", 0))
    port = listener.getsockname()[1]

    def serve(fault):
        if fault == "refused":
            listener.close()
        return f"http://127.0.0.1:{port}"

    yield serve
    listener.close()


# --- runs -----------------------------------------------------------------------------------------


def test_a_run_at_an_address_is_that_in_a_folder(address, undisturbed):
    evaluate(plan(count=None), address)
    pd.testing.assert_frame_equal(frames(address), undisturbed, check_exact=True)
    facts = Store(address).facts
    assert len(facts["sessions"]) == 1
    found = compact(Store(address))
    assert (found.before, found.after) == (1, 1)
    pd.testing.assert_frame_equal(frames(address), undisturbed, check_exact=True)


def test_the_command_line_takes_addresses(bucket, capsys, tmp_path):
    words = ["evaluate", "--data", "shapes:4?seed=5", "--model", "builtin/shapes_cnn"]
    words += ["--methods", "gradcam,tsm", "--metrics", "ad", "--workers", "0", "--output", bucket]
    assert run(words) == 0
    shown = capsys.readouterr().out
    assert f"torchsaliency table {bucket}" in shown
    for more in (["table", bucket], ["compare", bucket, "gradcam", "tsm"], ["compact", bucket]):
        assert run(more) == 0
    assert "gradcam" in capsys.readouterr().out
    assert run(["report", bucket, "--images", "1", "--output", str(tmp_path / "run.html")]) == 0
    assert "gradcam" in (tmp_path / "run.html").read_text()


def run(words):
    return _exit_code(lambda: app(words, standalone_mode=False))


def test_maps_are_kept_at_an_address(bucket):
    evaluate(plan(data="shapes:2?seed=5", maps=True), bucket)
    saliency = Store(bucket).read_map("shapes/1", "tsm")
    assert saliency.ndim == 2
    assert np.isfinite(saliency).all()


def test_a_damaged_object_is_set_aside_and_computed_again(bucket, undisturbed):
    evaluate(plan(), bucket)
    store = Store(bucket)
    (name,) = store.list_shards()
    content = store.place.read(f"rows/{name}")
    store.place.write(f"rows/{name}", content[:-5])
    with pytest.raises(DataError, match="is damaged; start `torchsaliency evaluate` again"):
        load_results(bucket)
    with pytest.warns(UserWarning, match="is damaged and was moved to damaged/"):
        evaluate(plan(), bucket)
    pd.testing.assert_frame_equal(frames(bucket), undisturbed, check_exact=True)


def _write(address, number):
    store = begin(address)
    for sample in SAMPLES[number::2] + SAMPLES[:4]:
        store.add(draw_rows([sample]))


def test_two_sessions_at_once_lose_nothing_and_count_nothing_twice(bucket, tmp_path):
    fill(begin(tmp_path / "folder"))
    with ThreadPoolExecutor() as pool:  # two sessions share nothing but the address
        list(pool.map(_write, [bucket, bucket], [0, 1]))
    pd.testing.assert_frame_equal(frames(bucket), frames(tmp_path / "folder"), check_exact=True)
    assert len(Store(bucket).facts["sessions"]) == 2


@pytest.mark.parametrize("new", [b"b" * 5000, b"b"], ids=["longer", "shorter"])
def test_an_object_replaced_while_it_is_read_is_read_whole(bucket, monkeypatch, new):
    place, other = open_place(bucket), open_place(bucket)
    place.write("run.json", b"a" * 1000)

    def open_and_replace(path):
        file = other._files.open_input_file(path)  # which knows its size from now on
        if other.read("run.json") != new:
            other.write("run.json", new)
        return file

    monkeypatch.setattr(place, "_files", SimpleNamespace(open_input_file=open_and_replace))
    assert place.read("run.json") == new


def test_a_cut_wire_that_is_mended_loses_nothing(bucket, wire, tmp_path):
    fill(begin(tmp_path / "folder"))
    store = begin(bucket)
    store.add(draw_rows(SAMPLES[:10]))
    wire.cut()
    mending = threading.Timer(1.5, wire.mend)
    mending.start()
    store.add(draw_rows(SAMPLES[10:]))
    mending.join()
    pd.testing.assert_frame_equal(frames(bucket), frames(tmp_path / "folder"), check_exact=True)


def test_a_wire_that_stays_cut_ends_the_run_in_a_sentence(bucket, wire, monkeypatch):
    monkeypatch.setattr(filesystems, "PATIENCE", 0.5)
    store = begin(bucket)
    wire.cut()
    try:
        with pytest.raises(OutputError, match=r"run cannot be read: for 0\.5 s it did not work"):
            store.add(draw_rows(SAMPLES[:10]))
    finally:
        wire.mend()
    store.add(draw_rows(SAMPLES[:10]))
    assert len(load_results(bucket).samples) == 10
