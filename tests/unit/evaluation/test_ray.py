"""The engine ray: its digits, its deaths, and how actors are placed on machines."""

from __future__ import annotations

import os
import pickle
import signal
import threading
import time

import pandas as pd
import psutil
import pytest
import ray

from torchsaliency.errors import OptionError, TargetError
from torchsaliency.evaluation import evaluate, load_results, make_plan
from torchsaliency.evaluation.engines import make_run_engine, ray_cluster, ray_pipeline
from torchsaliency.evaluation.engines.processes import ATTEMPTS
from torchsaliency.evaluation.engines.ray_cluster import Cluster, Node, connect
from torchsaliency.evaluation.engines.ray_pipeline import Ledger, Turns, UnitActor
from torchsaliency.evaluation.work import Recipe, Unit


def plan(**changes):
    return make_plan(
        {
            "data": "shapes:12?seed=5",
            "model": "builtin/shapes_cnn",
            "methods": "gradcam,opticam",
            "metrics": "ad,deletion",
            "batch_size": 2,
            "workers": 0,
            **changes,
        }
    )


def table(folder):
    frame = load_results(folder).frame.drop(columns=["seconds"])
    return frame.assign(row=[tuple(row) for row in frame["row"]])


@pytest.fixture(scope="module")
def cluster():
    """A cluster of this machine for all tests, which the engine finds connected."""
    with connect(None, 2) as found:
        yield found


class StoppedError(Exception):
    """A session that ends before its work."""


def stop_after(images):
    def watch(progress):
        if progress.done >= images:
            raise StoppedError

    return watch


@pytest.mark.usefixtures("cluster")
def test_engines_continue_each_other_and_find_the_same_digits(tmp_path):
    """Local, then Ray, of which an actor is killed, then processes."""
    evaluate(plan(), tmp_path / "local")
    with pytest.raises(StoppedError):
        evaluate(plan(engine="local"), tmp_path / "run", watch=stop_after(2))
    killed = []

    def kill_one(progress):
        if progress.done and not killed:
            killed.append(find_actors()[0])
            os.kill(killed[0].pid, signal.SIGKILL)
        stop_after(8)(progress)

    with pytest.raises(StoppedError):
        evaluate(plan(engine="ray", actors=2), tmp_path / "run", watch=kill_one)
    assert killed
    evaluate(plan(engine="processes", actors=1), tmp_path / "run")
    pd.testing.assert_frame_equal(
        table(tmp_path / "run"), table(tmp_path / "local"), check_exact=True
    )
    assert ray.is_initialized()  # a cluster of the user's stays


def find_actors():
    return [
        one
        for one in psutil.Process().children(recursive=True)
        if "MapWorker" in " ".join(one.cmdline())
    ]


@pytest.fixture
def actor(cluster):  # noqa: ARG001
    """The class that the pipeline's actors are of, in this process, and its ledger."""
    ledger = ray.remote(Ledger).options(num_cpus=0).remote()
    recipe = pickle.dumps(Recipe(plan(methods="gradcam", metrics="ad")))
    return UnitActor(ray.put(recipe), 1, 0.0, ledger), ledger


def answer(actor, unit):
    return [pickle.loads(one) for one in actor({"unit": [pickle.dumps(unit)]})["answer"]]


def test_a_unit_that_kills_is_halved_until_the_image_is_alone(actor):
    actor, ledger = actor
    for places in ((0, 1, 2, 3), (2, 3), (2,)):
        for death in range(ATTEMPTS):
            assert ray.get(ledger.begin.remote((("gradcam",), places))) == death
    found = answer(actor, Unit(0, ("gradcam",), (0, 1, 2, 3)))
    assert [outcome.images for outcome in found] == [2, 1, 1]
    rows = [row["sample"] for outcome in found for row in outcome.rows]
    assert rows == ["shapes/0", "shapes/1", "shapes/3"]
    assert [*found[1].skipped] == ["shapes/2"]
    assert "is killed, 3 times" in found[1].skipped["shapes/2"]
    for places in ((0, 1, 2, 3), (2, 3), (2,)):  # what is finished is forgotten
        assert ray.get(ledger.begin.remote((("gradcam",), places))) == 0


@pytest.mark.usefixtures("cluster")
def test_an_actor_that_cannot_load_says_why():
    ledger = ray.remote(Ledger).options(num_cpus=0).remote()
    recipe = pickle.dumps(Recipe(plan(data="no/such/folder")))
    (error,) = answer(UnitActor(ray.put(recipe), 1, 0.0, ledger), Unit(0, ("gradcam",), (0,)))
    with pytest.raises(type(error), match="no/such/folder"):
        plan(data="no/such/folder").open_data()
    for _ in range(ATTEMPTS):  # as if it had died
        ray.get(ledger.begin.remote(None))
    (error,) = answer(UnitActor(ray.put(recipe), 1, 0.0, ledger), Unit(0, ("gradcam",), (0,)))
    assert "ended 3 times before it had loaded" in str(error)


@pytest.mark.usefixtures("cluster")
def test_an_error_of_the_request_reaches_the_user_as_it_is(tmp_path, monkeypatch):
    def run_units(*_):
        yield pickle.dumps(TargetError("The label cannot be the target."))

    monkeypatch.setattr(ray_pipeline, "run_units", run_units)
    with pytest.raises(TargetError, match=r"^The label cannot be the target\.$"):
        evaluate(plan(engine="ray"), tmp_path / "run")


def test_one_alone_waits_for_all_others():
    turns, seen = Turns(2), []
    inside, leave = threading.Event(), threading.Event()

    def work(name, *, alone):
        with turns.take(alone=alone):
            seen.append(name)
            inside.set()
            leave.wait(5)
            seen.append(name)

    first = threading.Thread(target=work, args=("first",), kwargs={"alone": False})
    first.start()
    assert inside.wait(5)
    others = [threading.Thread(target=work, args=(name,), kwargs={"alone": True}) for name in "ab"]
    for other in others:
        other.start()
    time.sleep(0.05)
    assert seen == ["first"]
    leave.set()
    for thread in (first, *others):
        thread.join(5)
    assert seen[:2] == ["first", "first"]
    assert seen[2] == seen[3]
    assert seen[4] == seen[5]


@pytest.mark.parametrize(
    ("nodes", "asked", "placed"),
    [
        ([Node(8.0)], (None, 0.0, 8), (2, 4)),
        ([Node(8.0)], (4, 0.0, 1), (4, 1)),
        ([Node(3.0), Node(5.0)], (2, 0.0, 8), (2, 3)),  # not 4: the first node has no room for it
        ([Node(16.0, 4.0), Node(64.0)], (None, 1.0, 8), (4, 4)),  # GPUs are on one of the nodes
        ([Node(16.0, 2.0)], (None, 0.5, 1), (4, 1)),
        ([Node(16.0, 2.0)], (None, 0.4, 1), (4, 1)),  # two on each GPU, and 0.2 of it are left
        ([Node(16.0, 4.0)], (None, 2.0, 1), (2, 1)),
        ([Node(16.0, 1.0)], (None, 1 / 3, 1), (3, 1)),
    ],
)
def test_actors_are_placed_where_there_is_room(nodes, asked, placed):
    assert Cluster(tuple(nodes), started=True).place(*asked) == placed


@pytest.mark.parametrize(
    ("units", "actors", "tasks"),
    [(1, 1, 1), (64, 1, 64), (100, 1, 64), (1000, 1, 250), (1001, 1, 251), (782, 8, 512)],
)
def test_units_share_tasks_where_there_are_many(units, actors, tasks):
    assert ray_pipeline.count_tasks(units, actors) == tasks


def test_too_many_actors_are_refused_here_and_waited_for_elsewhere():
    with pytest.raises(OptionError, match=r"room for 1 actors .* 0\.6 GPUs each, and 2 are needed"):
        Cluster((Node(4.0, 1.0),), started=True).place(2, 0.6, 1)
    with pytest.warns(UserWarning, match="the others wait for nodes"):
        assert Cluster((Node(0.0),), started=False).place(2, 0.0, 4) == (2, 1)


def test_gpus_need_the_device_that_has_them(tmp_path):
    with pytest.raises(OptionError, match=r"gpus_per_actor: 0\.5 was given and the device is cpu"):
        evaluate(plan(engine="ray", gpus_per_actor=0.5), tmp_path / "run")
    engine = make_run_engine(plan(engine="ray", gpus_per_actor=0))
    with pytest.raises(OptionError, match="gpus_per_actor: 0 was given and the device is cuda:1"):
        engine._gpus("cuda:1")


def test_a_cluster_that_does_not_start_is_told_in_a_sentence(tmp_path, monkeypatch):
    def fail(*_, **__):
        raise Exception("The current node timed out during startup.")  # noqa: TRY002 (Ray's own)

    monkeypatch.setattr(ray_cluster.ray, "init", fail)
    with pytest.raises(OptionError, match=r"Ray did not start on this machine \(.*timed out"):
        ray_cluster._init("local", 2, str(tmp_path))
