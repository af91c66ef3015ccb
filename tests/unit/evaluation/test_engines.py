"""Engines: where batches are computed changes no digit, and a process that dies loses nothing."""

from __future__ import annotations

import pandas as pd
import pytest
import torch

from deadly import deadly_shapes
from torchsaliency.errors import OptionError
from torchsaliency.evaluation import Store, evaluate, load_results, make_plan
from torchsaliency.evaluation.engines import RUN_ENGINES, make_run_engine
from torchsaliency.evaluation.engines.processes import ATTEMPTS, retry
from torchsaliency.evaluation.work import Unit
from torchsaliency.zoo import load_model


def plan(**changes):
    return make_plan(
        {
            "data": "shapes:12?seed=5",
            "model": "builtin/shapes_cnn",
            "methods": "gradcam,opticam",
            "metrics": "ad,deletion,ep",
            "batch_size": 4,
            "workers": 0,
            **changes,
        }
    )


def table(folder):
    frame = load_results(folder).frame.drop(columns=["seconds"])
    return frame.assign(row=[tuple(row) for row in frame["row"]])


@pytest.fixture(autouse=True)
def one_thread():
    """As many threads as each of two processes has, for the last digits depend on them."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("local") / "run"
    evaluate(plan(), folder)
    torch.set_num_threads(before)
    return table(folder)


def test_processes_find_the_same_digits(tmp_path, undisturbed):
    evaluate(plan(engine="processes", actors=2), tmp_path / "run")
    pd.testing.assert_frame_equal(table(tmp_path / "run"), undisturbed, check_exact=True)


def test_an_image_that_kills_its_process_is_skipped_alone(tmp_path):
    data = deadly_shapes(7, kills=(1, 6))
    ids = [sample.id for sample in data.samples]
    made = plan(engine="processes", actors=2, methods="gradcam", metrics="ad")
    results = evaluate(made, tmp_path / "run", data=data)
    assert [*results.samples] == [name for place, name in enumerate(ids) if place not in (1, 6)]
    skipped = Store(tmp_path / "run").facts["skipped"]
    assert skipped.keys() == {ids[1], ids[6]}
    assert "is killed" in skipped[ids[1]]


def test_what_cannot_be_sent_is_refused(tmp_path):
    network = load_model("builtin/shapes_cnn")
    network.module.register_forward_hook(lambda *_: None)  # functions without a name do not travel
    with pytest.raises(OptionError, match=r"engine: .* cannot be sent to other processes"):
        evaluate(plan(engine="processes"), tmp_path / "run", model=network)


def test_a_halved_unit_has_all_images():
    unit = Unit(3, ("m",), (4, 5, 6), shown=2, attempts=2)
    halves = unit.halve()
    assert [half.places for half in halves] == [(4,), (5, 6)]
    assert [half.shown for half in halves] == [1, 1]
    assert not any(half.attempts for half in halves)


def test_a_deadly_image_is_found_by_halving():
    names, deadly = [f"image {number}" for number in range(7)], 5
    left, deaths, skipped = [Unit(0, ("m",), tuple(range(7)))], 0, {}
    finished = set()
    while left:
        unit = left.pop()
        if deadly not in unit.places:
            finished |= {*unit.places}
            continue
        deaths += 1
        again, lost = retry(unit, names)
        left += again
        skipped |= lost.skipped if lost else {}
    assert finished == {*range(7)} - {deadly}
    assert [*skipped] == ["image 5"]
    assert deaths <= ATTEMPTS * 4  # 7, 4, 2 and 1 images


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"engine": "procesess"}, "processes"),
        ({"engine": "local", "actors": 2}, "actors: 2 was given.*processes"),
        ({"address": "auto"}, "address.*no such option"),
    ],
)
def test_an_engine_that_does_not_fit_is_refused(tmp_path, fields, said):
    with pytest.raises(OptionError, match=said):
        evaluate(plan(**fields), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_processes_on_each_gpu_need_a_gpu(tmp_path):
    with pytest.raises(OptionError, match="workers_per_gpu: 2 was given and the device is cpu"):
        evaluate(plan(engine="local", workers_per_gpu=2), tmp_path / "run")


def test_every_engine_takes_only_options_of_the_plan():
    for name in RUN_ENGINES:
        assert RUN_ENGINES.get(name).summary
        assert make_run_engine(plan(engine=name)) is not None
