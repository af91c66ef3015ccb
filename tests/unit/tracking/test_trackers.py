"""Evaluations and training runs, read back by the real libraries, offline."""

import json
import struct
from pathlib import Path

import mlflow
import numpy as np
import pytest
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from typer.testing import CliRunner
from wandb.proto import wandb_internal_pb2

from torchsaliency.cli.main import app
from torchsaliency.errors import OptionError
from torchsaliency.evaluation import evaluate, load_results, make_plan
from torchsaliency.tracking import EvaluationLog, Tracker, create_tracker

PLAN = {
    "data": "shapes:6?seed=5",
    "model": "builtin/shapes_cnn",
    "methods": "gradcam,gradcam++",
    "metrics": "ad,sm",
    "batch_size": 4,
    "workers": 0,
}


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    """What every tracker must hold: numbers by name."""
    results = evaluate(make_plan(PLAN), tmp_path_factory.mktemp("plain") / "run")
    found = {}
    for metric in ("ad", "sm"):
        for method in ("gradcam", "gradcam++"):
            summary, name = results.summary(method, metric), f"{metric}/{method}"
            found |= {name: summary.value, f"{name}_low": summary.low, f"{name}_high": summary.high}
            found[f"{name}_images"] = 6
    return found


def run(folder, tracker, **options):
    evaluate(make_plan(PLAN), folder / "run", callbacks=[EvaluationLog(tracker, **options)])
    assert len(load_results(folder / "run").samples) == 6


# MLflow means to leave the store of files for a data base, and says so
@pytest.mark.filterwarnings("ignore:.*(file|filesystem).*:FutureWarning")
def test_mlflow(tmp_path, monkeypatch, expected):
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    mlflow.set_tracking_uri((tmp_path / "store").as_uri())
    try:
        run(tmp_path, "mlflow", samples=2)
        assert mlflow.active_run() is None
        client = mlflow.MlflowClient()
        (found,) = client.search_runs(["0"])
        table = mlflow.load_table("results.json", run_ids=[found.info.run_id])
    finally:
        mlflow.set_tracking_uri(None)
    assert (found.info.status, found.info.run_name) == ("FINISHED", "run")
    for name, value in expected.items():
        assert found.data.metrics[name.replace("+", "p")] == pytest.approx(value, abs=1e-6)
    assert found.data.metrics["progress/images"] == 6
    files = [*Path(client.download_artifacts(found.info.run_id, "maps")).rglob("*.png")]
    assert len(files) == 2
    with Image.open(files[0]) as picture:
        assert picture.width > 3 * 192
    row = table[(table["column"] == "sm") & (table["row"] == "gradcam++")].iloc[0]
    assert row["value"] == pytest.approx(expected["sm/gradcam++"])


def test_tensorboard(tmp_path, expected):
    run(tmp_path, "tensorboard", samples=2)
    found = EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    found.Reload()
    tags = found.Tags()
    for name, value in expected.items():
        (event,) = found.Scalars(name)
        assert (event.step, event.value) == (6, pytest.approx(value, abs=1e-5))
    assert [event.step for event in found.Scalars("progress/images")] == [0, 4, 6]
    assert len(tags["images"]) == 2
    (event,) = found.Images(tags["images"][0])
    assert event.width > 3 * 192
    text = found.Tensors("results/text_summary")[0].tensor_proto.string_val[0].decode()
    assert "gradcam++" in text
    assert "SM" in text or "sm" in text


def read_log(content):
    """Yield the records of a W&B run file: LevelDB's log, blocks of 32 KiB after 7 bytes."""
    place, parts = 7, []
    while place + 7 <= len(content):
        if 32768 - place % 32768 < 7:
            place += 32768 - place % 32768
        length, kind = struct.unpack_from("<HB", content, place + 4)
        parts.append(content[place + 7 : place + 7 + length])
        place += 7 + length
        if kind in (1, 4):  # whole, or the last part
            yield b"".join(parts)
            parts = []


def test_wandb(tmp_path, monkeypatch, expected):
    settings = {
        "MODE": "offline",
        "DIR": tmp_path,
        "SILENT": "true",
        "CONSOLE": "off",
    }
    for name, value in settings.items():
        monkeypatch.setenv(f"WANDB_{name}", str(value))
    run(tmp_path, "wandb", samples=2)
    (file,) = tmp_path.glob("wandb/offline-run-*/*.wandb")
    history, exits = {}, []
    for content in read_log(file.read_bytes()):
        record = wandb_internal_pb2.Record.FromString(content)
        for item in record.history.item:
            key = item.key or "/".join(item.nested_key)
            history[key] = json.loads(item.value_json)
        if record.HasField("exit"):
            exits.append(record.exit.exit_code)
    for name, value in expected.items():
        assert history[name] == pytest.approx(value, abs=1e-6)
    assert history["results/nrows"] >= 4
    pictures = [*tmp_path.glob("wandb/offline-run-*/files/media/images/maps/**/*.png")]
    assert len(pictures) == 2
    assert exits == [0]


class Memory(Tracker):
    """Keeps everything in lists."""

    def __init__(self):
        self.scalars, self.pictures, self.tables, self.closed = {}, [], [], []

    def open(self, name, facts, folder):
        self.opened, self.facts = (name, folder.name), facts

    def log_scalars(self, values, step):
        self.scalars |= values
        self.step = step

    def log_picture(self, name, picture, step):
        self.pictures.append((name, picture, step))

    def log_table(self, name, frame, text):
        self.tables.append((name, frame, text))

    def close(self, *, failed=False):
        self.closed.append(failed)


def test_a_tracker_of_one_s_own_hears_everything_once(tmp_path, expected):
    memory = Memory()
    run(tmp_path, memory, samples=3)
    assert memory.facts["data"] == PLAN["data"]
    assert {key: value for key, value in memory.scalars.items() if "progress" not in key} == (
        pytest.approx(expected, abs=1e-6)
    )
    assert [name.partition("/")[0] for name, *_ in memory.pictures] == ["maps"] * 3
    assert len({name for name, *_ in memory.pictures}) == 3
    assert np.ptp(np.asarray(memory.pictures[0][1])) > 100
    ((name, frame, text),) = memory.tables
    assert name == "results"
    assert len(frame) >= 4
    assert "gradcam++" in text
    assert (memory.opened, memory.step) == (("run", "run"), 6)
    assert memory.closed == [False]


def test_a_stopped_evaluation_closes_its_runs_as_failed(tmp_path):
    memory = Memory()

    class Stop:
        samples = 0

        def begin(self, plan, folder): ...

        def advance(self, progress):
            if progress.done:
                raise KeyboardInterrupt

        def show(self, explained): ...

        def finish(self, results):
            assert results is None

    with pytest.raises(KeyboardInterrupt):
        evaluate(make_plan(PLAN), tmp_path / "run", callbacks=[EvaluationLog(memory), Stop()])
    assert memory.closed == [True]


def test_an_address_that_mlflow_does_not_know():
    mlflow.set_tracking_uri("pigeon://roof")
    try:
        with pytest.raises(OptionError, match=r"pigeon://roof.*set MLFLOW_TRACKING_URI"):
            create_tracker("mlflow")
    finally:
        mlflow.set_tracking_uri(None)


def test_unknown_trackers_are_answered_with_the_list():
    with pytest.raises(OptionError, match=r"no tracker 'mlfow'.*mlflow"):
        create_tracker("mlfow")


def test_the_command(tmp_path):
    words = ["evaluate", "--data", PLAN["data"], "--model", PLAN["model"], "--methods", "gradcam"]
    words += ["--metrics", "sm", "--output", str(tmp_path / "run"), "--log", "tensorboard"]
    ran = CliRunner().invoke(app, words)
    assert ran.exit_code == 0, ran.output
    assert [*(tmp_path / "run" / "tensorboard").iterdir()]
    refused = CliRunner().invoke(app, [*words, "--log", "mlfow"])
    assert refused.exit_code == 2
    assert "no tracker 'mlfow'" in " ".join(refused.output.split())


@pytest.mark.parametrize("broken", ["open", "log_scalars", "log_picture", "log_table", "close"])
def test_a_tracker_that_fails_is_named_and_all_are_told(tmp_path, monkeypatch, broken):
    def fail(*_, **__):
        raise ConnectionError("no server answers")

    first, second = create_tracker("tensorboard"), create_tracker("tensorboard")
    monkeypatch.setattr(first, broken, fail)
    told = []
    monkeypatch.setattr(second, "close", lambda **how: told.append(how))
    logs = [EvaluationLog(first), EvaluationLog(second)]
    with pytest.raises(OptionError, match=r"TensorBoard did not keep .*no server answers"):
        evaluate(make_plan({**PLAN, "data": "shapes:2?seed=5"}), tmp_path / "run", callbacks=logs)
    late = broken in ("log_table", "close")
    assert told == ([] if broken == "open" else [{"failed": not late}])
    if broken != "open":
        assert (tmp_path / "run" / "run.json").is_file()
