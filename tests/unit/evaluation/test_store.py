"""The store: schemas, what is done, compaction, results that are read when they are asked for."""

from __future__ import annotations

import itertools
import json
import multiprocessing

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from runs import PLAN, SAMPLES, begin, draw_rows, fill
from torchsaliency.errors import DataError, InputError, OptionError
from torchsaliency.evaluation import (
    Store,
    compact,
    compaction,
    load_results,
    runner,
    shards,
    streaming,
)
from torchsaliency.evaluation.pairs import Pairs
from torchsaliency.evaluation.shards import KEY, SCHEMA
from torchsaliency.report import comparison, render, table


def frames(folder):
    frame = load_results(folder).frame
    return frame.assign(row=[str([*row]) for row in frame["row"]])


def same(a, b):
    pd.testing.assert_frame_equal(a, b, check_exact=True)


# --- done -----------------------------------------------------------------------------------------


def test_done_is_a_set_of_pairs(tmp_path):
    store = begin(tmp_path)
    assert store.done() == set()
    store.add(draw_rows(SAMPLES[:2]))
    first = store.done()
    store.add(draw_rows(SAMPLES[2:9], ["tsm"]))
    second = store.done()
    methods = [*PLAN.create_methods()]
    assert first == set(itertools.product(SAMPLES[:2], methods))
    assert second - first == {(name, "tsm") for name in SAMPLES[2:9]}
    assert (SAMPLES[8], "tsm") in second
    assert (SAMPLES[8], "gradcam") not in second
    assert ("elsewhere", "tsm") not in second
    assert 3 not in second


def test_what_is_done_takes_a_byte_a_pair(tmp_path):
    store = begin(tmp_path)
    store.add(
        {"sample": f"{n}", "method": f"m{m}", "metric": "ad", "row": [0.0]}
        for n in range(500)
        for m in range(20)
    )
    pairs = store.done()
    assert len(pairs) == 10_000
    assert pairs._there.nbytes <= 20_000


# --- schemas --------------------------------------------------------------------------------------


def test_run_and_shards_tell_their_schema(tmp_path):
    fill(begin(tmp_path))
    assert json.loads((tmp_path / "run.json").read_text())["schema"] == shards.SCHEMA_VERSION
    for path in tmp_path.glob("rows/*.parquet"):
        assert pq.read_schema(path).metadata[b"torchsaliency.schema"] == b"1"
        assert pq.read_schema(path).names == SCHEMA.names


def test_a_newer_run_is_refused(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr("torchsaliency.evaluation.store.SCHEMA_VERSION", 7)
        fill(begin(tmp_path))
    with pytest.raises(DataError, match=r"newer torchsaliency \(schema 7, and this version reads"):
        load_results(tmp_path)


def test_a_newer_shard_is_refused(tmp_path):
    store = begin(tmp_path)
    rows = pa.Table.from_pylist([*draw_rows()], schema=SCHEMA)
    sink = pa.BufferOutputStream()
    pq.write_table(rows.replace_schema_metadata({"torchsaliency.schema": "2"}), sink)
    store.add_shard(sink.getvalue().to_pybytes())
    with pytest.raises(DataError, match="newer torchsaliency"):
        load_results(tmp_path)
    with pytest.raises(DataError, match="newer torchsaliency"):
        store.done()
    begin(tmp_path)  # it is not damaged
    assert len(store.list_shards()) == 1


def test_an_old_shard_without_version_and_columns_is_read(tmp_path):
    store, whole = begin(tmp_path / "old"), begin(tmp_path / "new")
    old = pa.Table.from_pylist([*draw_rows()]).select(SCHEMA.names[:-1])
    sink = pa.BufferOutputStream()
    pq.write_table(old, sink)
    store.add_shard(sink.getvalue().to_pybytes())
    fill(whole)
    found = frames(tmp_path / "old")
    assert found["judge_passes"].isna().all()
    expected = frames(tmp_path / "new")
    same(found.drop(columns="judge_passes"), expected.drop(columns="judge_passes"))


# --- compaction -----------------------------------------------------------------------------------


@pytest.mark.parametrize("rows", [10**6, 60, 100])
@pytest.mark.parametrize("listed", [True, False])
def test_compaction_changes_no_digit(tmp_path, monkeypatch, rows, listed):
    monkeypatch.setattr(compaction, "PART_ROWS", rows)
    store = begin(tmp_path, samples=SAMPLES if listed else None)
    fill(store)
    before, done = frames(tmp_path), store.done()
    if not listed:  # the order of images is that of the rows, which are sorted by method now
        before = before.sort_values(KEY, ignore_index=True)
    found = compact(store)
    assert (found.before, found.rows) == (5, len(before))
    assert found.after == len(store.list_shards()) == {10**6: 1, 60: 6, 100: 3}[rows]
    assert Store(tmp_path).done() == done
    after = frames(tmp_path)
    same(after if listed else after.sort_values(KEY, ignore_index=True), before)


def test_compacted_shards_are_sorted_and_prune(tmp_path, monkeypatch):
    monkeypatch.setattr(shards, "_GROUP_BYTES", 2_000)
    store = begin(tmp_path)
    fill(store)
    compact(store)
    (path,) = tmp_path.glob("rows/*.parquet")
    order = {name: list(PLAN.create_methods()).index(name) for name in PLAN.create_methods()}
    methods = pq.read_table(path)["method"].to_pylist()
    assert methods == sorted(methods, key=order.get)
    every = sum(map(len, store.scan()))
    some = sum(map(len, store.scan(methods={"tsm"}, metrics={"ad"})))
    assert every == 30 * 3 * 3
    assert 30 <= some < every / 3
    assert sum(map(len, store.scan(methods={"none"}))) == 0


def test_compaction_drops_what_two_sessions_wrote(tmp_path):
    store = begin(tmp_path)
    fill(store)
    before = frames(tmp_path)
    store.add(draw_rows(SAMPLES[:7]))
    store.add(draw_rows(SAMPLES[3:9], ["tsm"]))
    assert compact(store).rows == len(before)
    same(frames(tmp_path), before)
    assert compact(store).rows == len(before)  # and again
    same(frames(tmp_path), before)


def test_a_session_goes_on_after_compaction(tmp_path):
    store = begin(tmp_path)
    fill(store, samples=SAMPLES[:20])
    compact(store)
    fill(begin(tmp_path), samples=SAMPLES[20:])
    whole = begin(tmp_path / "whole")
    fill(whole)
    same(frames(tmp_path), frames(tmp_path / "whole"))


def test_shards_that_are_merged_while_they_are_read_lose_nothing(tmp_path):
    store = begin(tmp_path)
    fill(store)
    reading = store.scan()
    seen = [next(reading)]
    compact(Store(tmp_path, shared=True))
    seen += reading
    found = pa.concat_tables(t.cast(SCHEMA) for t in seen).to_pandas().drop_duplicates(KEY)
    assert len(found) == len(frames(tmp_path)) == 30 * 3 * 3


def _hold(folder, held, let_go):
    with Store(folder).lock():
        held.set()
        let_go.wait(60)


def test_compaction_is_refused_while_a_session_writes(tmp_path):
    fill(begin(tmp_path))
    context = multiprocessing.get_context("fork")
    held, let_go = context.Event(), context.Event()
    session = context.Process(target=_hold, args=(tmp_path, held, let_go))
    session.start()
    assert held.wait(60)
    with pytest.raises(OptionError, match="is being written to by"):
        compact(Store(tmp_path))
    let_go.set()
    session.join()
    assert compact(Store(tmp_path)).after == 1


def test_a_damaged_shard_is_not_compacted(tmp_path):
    store = begin(tmp_path)
    fill(store)
    path = min(tmp_path.glob("rows/*.parquet"))
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(DataError, match="is damaged; start `torchsaliency evaluate` again"):
        compact(store)
    assert len(store.list_shards()) == 5


def test_what_is_no_run_is_not_compacted(tmp_path):
    with pytest.raises(DataError, match="holds no evaluation"):
        compact(Store(tmp_path / "none"))


# --- results that are read when they are asked for ------------------------------------------------


@pytest.fixture(params=["as written", "compacted", "twice"])
def both(request, tmp_path, monkeypatch):
    """The results of one store in memory, and streamed in small pieces."""
    store = begin(tmp_path)
    fill(store, samples=SAMPLES[:25])
    store.add(draw_rows(SAMPLES[25:28], ["tsm"]))
    if request.param == "twice":
        store.add(draw_rows(SAMPLES[5:12], ["opticam"]))
    if request.param == "compacted":
        compact(store)
    held = load_results(tmp_path)
    monkeypatch.setattr(runner, "FEW_LINES", 10)
    monkeypatch.setattr(streaming, "BUDGET", 1_500)
    return held, load_results(tmp_path)


def test_streamed_results_are_those_in_memory(both):
    held, streamed = both
    assert isinstance(streamed._lines, streaming.StoreLines)
    assert streamed.samples == held.samples == (*SAMPLES[:28],)
    assert streamed.methods == held.methods
    for method, metric in itertools.product(held.methods, held.metrics):
        for name in ("rows", "per_image"):
            a, b = (getattr(one, name)(method, metric).numpy() for one in both)
            np.testing.assert_array_equal(a, b)
        assert held.summary(method, metric) == streamed.summary(method, metric)
    for method in held.methods:
        assert held.images(method) == streamed.images(method)
        np.testing.assert_array_equal(*(one.seconds(method).numpy() for one in both))
    pd.testing.assert_frame_equal(streamed.frame, held.frame, check_exact=True)


def test_streamed_tables_are_those_in_memory(both):
    tables = [render(table(one), "json") for one in both]
    assert tables[0] == tables[1]
    pairs = [render(comparison(one, "tsm", "opticam"), "json") for one in both]
    assert pairs[0] == pairs[1]


def test_streamed_results_hold_their_budget(tmp_path, monkeypatch):
    fill(begin(tmp_path))
    monkeypatch.setattr(runner, "FEW_LINES", 10)
    monkeypatch.setattr(streaming, "BUDGET", 30 * 9 * 2)
    found = load_results(tmp_path)
    passes, scan = [], Store.scan
    monkeypatch.setattr(Store, "scan", lambda *a, **k: passes.append(k) or scan(*a, **k))
    for metric in found.metrics:
        for method in found.methods:
            found.rows(method, metric)
            blocks = found._lines._blocks.values()
            size = sum(block.rows.nbytes + block.there.nbytes for block in blocks)
            assert size <= streaming.BUDGET or len(blocks) == 1
    assert 3 <= len(passes) < 9


def test_what_a_session_adds_is_left_out_of_streamed_results(tmp_path, monkeypatch):
    store = begin(tmp_path)
    fill(store, samples=SAMPLES[:10])
    monkeypatch.setattr(runner, "FEW_LINES", 10)
    found = load_results(tmp_path)
    store.add(draw_rows(SAMPLES[10:]))
    assert len(found.rows("tsm", "ad")) == len(found.samples) == 10
    assert len(load_results(tmp_path).rows("tsm", "ad")) == 30


def test_a_streamed_run_without_samples_has_those_of_its_rows(tmp_path, monkeypatch):
    fill(begin(tmp_path, samples=None))
    held = load_results(tmp_path)
    monkeypatch.setattr(runner, "FEW_LINES", 10)
    streamed = load_results(tmp_path)
    assert streamed.samples == held.samples
    np.testing.assert_array_equal(*(one.rows("tsm", "ad").numpy() for one in (held, streamed)))


def test_a_streamed_row_of_another_width_is_named(tmp_path, monkeypatch):
    store = begin(tmp_path)
    rows = [*draw_rows(SAMPLES[:9])]
    wrong = next(row for row in rows[40:] if row["metric"] == "ad" and row["method"] == "tsm")
    wrong["row"] = [1.0, 2.0]
    store.add(rows)
    for few in (10**6, 10):
        monkeypatch.setattr(runner, "FEW_LINES", few)
        found = load_results(tmp_path)
        with pytest.raises(InputError, match=rf"ad of tsm on {wrong['sample']} has a row of 2 num"):
            found.rows("tsm", "ad")
        found.rows("tsm", "ag")


def test_methods_that_come_one_by_one_take_no_more_memory():
    pairs = Pairs()
    for method in range(40):  # as a compacted run gives them, which is sorted by method
        rows = pa.table({"sample": ["a", "b", "c"], "method": [f"method {method}"] * 3})
        pairs.add(
            pa.table([column.dictionary_encode() for column in rows.columns], rows.schema.names)
        )
    assert len(pairs) == 3 * 40
    assert pairs._there.nbytes <= 2 * 3 * 40
