"""One image never ends a run: it is left out with its reason, and the others are done."""

import json
import os
import signal
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from typer.testing import CliRunner

from commands import photographs
from torchsaliency import InputError, OptionError
from torchsaliency.cli.main import app
from torchsaliency.core.isolation import Isolation, describe_failure
from torchsaliency.data.dataset import DataSet, Sample
from torchsaliency.data.photosets import PhotoSet
from torchsaliency.errors import out_of_memory
from torchsaliency.evaluation import evaluate, load_results, make_plan, setting
from torchsaliency.evaluation.batches import Unreadable, load_groups
from torchsaliency.training import finetune, make_finetuning

NET = """
import torch
from torch import nn
from torchsaliency import Preprocessing

class Net(nn.Module):
    def __init__(self, fault):
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Conv2d(3, 6, 3, 2, 1), nn.ReLU())
        self.fc, self.fault = nn.Linear(6, 4), fault

    def forward(self, x):
        y = self.fc(self.body(x).mean((2, 3)))
        sick = (x.flatten(1).amin(1) > 0.99)
        if not sick.any():
            return y
        if self.fault == "raises":
            raise ZeroDivisionError("a white image")
        if self.fault == "memory":
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried")
        if self.fault == "exits":
            raise SystemExit(7)
        return torch.where(sick[:, None], y * 0 + float(self.fault), y)

def _make(fault):
    def factory():
        return Net(fault)
    factory.preprocessing = Preprocessing(size=(32, 32), resize=(32, 32), mean=(0.0, 0.0, 0.0),
                                          std=(1.0, 1.0, 1.0))
    return factory

raises, memory, nan, inf, exits = map(_make, ("raises", "memory", "nan", "inf", "exits"))
"""
FAULTS = {
    "raises": "ZeroDivisionError: a white image",
    "memory": "memory",
    "exits": "tried to end the program (exit code 7)",
    "nan": "gives NaN or infinite numbers",
    "inf": "gives NaN or infinite numbers",
}
WHITE = "004"
_DONE = "left out with its reason, the others are done, exit code 1"


@pytest.fixture
def place(tmp_path, monkeypatch):
    """Ten photographs, of which one is white, and networks that cannot bear it."""
    monkeypatch.chdir(tmp_path)
    torch.set_num_threads(1)
    (tmp_path / "net.py").write_text(NET)
    photographs(tmp_path / "photos", 10)
    Image.new("RGB", (48, 40), "white").save(tmp_path / "photos" / f"{WHITE}.png")
    return tmp_path


def run(*words):
    result = CliRunner().invoke(app, [str(word) for word in words])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


@pytest.mark.parametrize("batch", [1, 4, 16])
@pytest.mark.parametrize("fault", FAULTS)
def test_evaluate_leaves_it_out(fault, batch, place, tally):
    ran = run("evaluate", "--data", "photos", "--model", f"net.py:{fault}", "--methods",
              "gradcam,mtsm", "--metrics", "ad", "--batch-size", batch,
              "--output", "run")  # fmt: skip
    assert ran.exit_code == 1, ran.output
    facts = json.loads((place / "run" / "run.json").read_text())
    (name,) = facts["skipped"]
    assert name == f"{WHITE}.png"
    assert FAULTS[fault] in facts["skipped"][name]
    frame = load_results(place / "run").frame
    assert sorted(frame["sample"].unique()) == [f"00{n}.png" for n in range(10) if n != 4]
    assert "1 image could not be used" in ran.stderr
    tally(
        "images", f"network on one of ten images: {fault}, `evaluate`", 1, 1, "the others are done"
    )


@pytest.mark.usefixtures("place")
def test_going_on_does_what_was_left_out(monkeypatch):
    plan = make_plan(
        {"data": "photos", "model": "builtin/shapes_cnn", "methods": "gradcam", "metrics": "ad",
         "workers": 0, "batch_size": 4}
    )  # fmt: skip
    explain, seen = setting.explain, []

    def fail_on(model, x, *words, **named):
        seen.append(len(x))
        if (x.flatten(1).amin(1) == x.amin()).any() and x.flatten(1).std(1).min() < 1e-3:
            raise ValueError("it is white")
        return explain(model, x, *words, **named)

    with monkeypatch.context() as patch:
        patch.setattr(setting, "explain", fail_on)
        evaluate(plan, "run")
    assert len(load_results("run").samples) == 9
    evaluate(plan, "run")
    assert len(load_results("run").samples) == 10


@pytest.mark.parametrize("fault", FAULTS)
def test_explain_leaves_it_out(fault, place, tally):
    ran = run("explain", "photos", "--model", f"net.py:{fault}", "--method", "gradcam,mtsm",
              "--batch-size", 4, "--output", "out", "--grid", "--score", "ad")  # fmt: skip
    assert ran.exit_code == 1, ran.output
    (told,) = json.loads((place / "out" / "manifest.json").read_text())["runs"]
    assert [one["name"] for one in told["photos"]] == [f"00{n}" for n in range(10) if n != 4]
    (skipped,) = told["skipped_photos"]
    assert skipped["path"].endswith(f"{WHITE}.png")
    assert FAULTS[fault] in skipped["reason"]
    assert {one["count"] for one in told["scores"]} == {9}
    tally(
        "images", f"network on one of ten images: {fault}, `explain`", 1, 1, "the others are done"
    )


@pytest.mark.parametrize("fault", FAULTS)
def test_alone_it_is_one_sentence(fault, place):
    photo = place / "photos" / f"{WHITE}.png"
    for words in (
        ("explain", photo, "--model", f"net.py:{fault}", "--method", "gradcam"),
        ("evaluate", "--data", photo.parent, "--count", 1, "--subset-seed", 0, "--model",
         f"net.py:{fault}", "--methods", "gradcam", "--metrics", "ad", "--output", "one"),
    ):  # fmt: skip
        if words[0] == "evaluate":
            for other in photo.parent.glob("*.png"):
                if other != photo:
                    other.unlink()
        ran = run(*words)
        assert ran.exit_code == 2, ran.output
        assert len(ran.stderr.strip().splitlines()) == 1
        assert "Traceback" not in ran.stderr


def test_a_network_that_never_works_ends_the_run_soon(place):
    (place / "net.py").write_text(
        NET.replace("x.flatten(1).amin(1) > 0.99", "x.sum((1, 2, 3)) > -1")
    )
    photographs(place / "photos", 200)
    ran = run("evaluate", "--data", "photos", "--model", "net.py:raises", "--methods", "gradcam",
              "--metrics", "ad", "--output", "run")  # fmt: skip
    assert ran.exit_code == 2
    assert "8 images failed one after another" in ran.stderr
    assert "a white image" in ran.stderr


def test_what_was_asked_wrongly_ends_the_run_at_once():
    calls = []

    def work(rows):
        calls.append(rows)
        raise OptionError("no such option")

    with pytest.raises(OptionError):
        list(Isolation().run(work, 16))
    assert len(calls) == 1


@pytest.mark.parametrize("bad", [{0}, {3}, {15}, {0, 15}, {4, 5, 6}, {1, 3, 5, 7, 9, 11}])
def test_halving_finds_them_all_and_runs_few(bad):
    calls = []

    def work(rows):
        calls.append(rows)
        found = range(rows.start, rows.stop)
        if bad & {*found}:
            raise RuntimeError(f"{min(bad & {*found})} is odd")
        return [*found]

    isolation = Isolation()
    list(isolation.run(lambda rows: rows, 1))
    good, failed = [], []
    for rows, found in isolation.run(work, 16):
        if isinstance(found, Exception):
            failed.append(rows.start)
            assert describe_failure(found) == f"RuntimeError: {rows.start} is odd."
        else:
            good += found
    assert sorted(failed) == sorted(bad)
    assert good == [one for one in range(16) if one not in bad]
    assert len(calls) <= 2 * len(bad) * 4 + 1


def test_a_series_of_failures_ends_the_run():
    def work(_):
        raise RuntimeError("the device is gone")

    def until_it_ends(isolation):
        for count in range(100):
            try:
                list(isolation.run(work, 1))
            except InputError as error:
                assert "the device is gone" in str(error)
                return count
        raise AssertionError

    assert until_it_ends(Isolation()) == 7
    isolation = Isolation()
    list(isolation.run(lambda rows: rows, 4))
    assert until_it_ends(isolation) == 63


def test_a_map_that_is_not_finite_is_undefined_and_told(place, monkeypatch):
    """Only this method's numbers are lost, and they are not zeros."""
    plan = make_plan(
        {"data": "photos", "model": "builtin/shapes_cnn", "methods": "gradcam,mtsm",
         "metrics": "ad,ai", "workers": 0, "batch_size": 4}
    )  # fmt: skip
    explain = setting.explain

    def poison(*words, **named):
        made = explain(*words, **named)
        one = made["mtsm"]
        object.__setattr__(one, "status", ("not finite", *one.status[1:]))
        return made

    monkeypatch.setattr(setting, "explain", poison)
    told = []
    results = evaluate(plan, place / "run", watch=told.append)
    assert told[-1].odd == 3
    facts = json.loads((place / "run" / "run.json").read_text())
    assert facts["not finite"] == {f"00{n}.png": ["mtsm"] for n in (0, 4, 8)}
    assert results.summary("mtsm", "ad").undefined == 3
    assert results.summary("gradcam", "ad").undefined == 0


# --- reading --------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False, kw_only=True)
class Killing(DataSet):
    """Numbers; some kill the process that reads them, some raise."""

    kills: tuple
    raises: tuple
    parent: int

    def mark(self, sample):
        return sample.id

    def picture(self, key):
        if key in self.kills and os.getpid() != self.parent:
            os.kill(os.getpid(), signal.SIGKILL)
        if key in self.raises:
            raise OverflowError("absurd")
        return key


@pytest.mark.parametrize("kills", [(), (0,), (7,), (29,), (3, 4, 17)])
def test_a_worker_that_is_killed(kills, tally):
    samples = tuple(Sample(f"sample {key}", key) for key in range(30))
    data = Killing(name="n", samples=samples, kills=kills, raises=(11,), parent=os.getpid())
    groups = [list(range(at, at + 3)) for at in range(0, 30, 3)]
    found = list(load_groups(data, int, groups, workers=2))
    for group, (read, failed) in zip(groups, found, strict=True):
        assert read == [key for key in group if key not in (*kills, 11)]
        expected = {key: f"sample {key} cannot be read: the process that reads it is killed."
                    for key in group if key in kills}  # fmt: skip
        expected |= {key: "OverflowError: absurd." for key in group if key == 11}
        assert failed == [Unreadable(f"sample {key}", why) for key, why in sorted(expected.items())]
    tally("images", "files that kill the process that reads them", max(1, len(kills)),
          max(1, len(kills)), "left out, the others are read")  # fmt: skip


def test_a_killed_worker_in_an_evaluation(place, monkeypatch):
    picture = PhotoSet.picture
    parent = os.getpid()

    def deadly(self, index):
        if self.samples[index].id.startswith("007") and os.getpid() != parent:
            os.kill(os.getpid(), signal.SIGKILL)
        return picture(self, index)

    monkeypatch.setattr(PhotoSet, "picture", deadly)
    plan = make_plan(
        {"data": "photos", "model": "builtin/shapes_cnn", "methods": "gradcam", "metrics": "ad",
         "workers": 2, "batch_size": 3}
    )  # fmt: skip
    results = evaluate(plan, place / "run")
    assert len(results.samples) == 9
    assert "is killed" in json.loads((place / "run" / "run.json").read_text())["skipped"]["007.png"]


@pytest.mark.parametrize("error", [ValueError("odd"), MemoryError(), RecursionError(), KeyError(3)])
def test_whatever_a_decoder_raises(error, place, monkeypatch):
    picture = PhotoSet.picture

    def fail_on(self, index):
        if self.samples[index].id.startswith("007"):
            raise error
        return picture(self, index)

    monkeypatch.setattr(PhotoSet, "picture", fail_on)
    plan = make_plan(
        {"data": "photos", "model": "builtin/shapes_cnn", "methods": "gradcam", "metrics": "ad",
         "workers": 0}
    )  # fmt: skip
    assert len(evaluate(plan, place / "run").samples) == 9


def test_fine_tuning_leaves_out_what_it_cannot_read(place, monkeypatch):
    for part in ("train", "test"):
        for label in "ab":
            photographs(place / "data" / part / label, 4)
    (place / "tune.py").write_text(NET.replace("def factory():", "def factory(num_classes=4):"))
    picture = PhotoSet.picture

    def fail_on(self, index):
        if self.samples[index].id.endswith("003.png"):
            raise OverflowError("absurd")
        return picture(self, index)

    monkeypatch.setattr(PhotoSet, "picture", fail_on)
    settings = make_finetuning(
        {"data": "data", "arch": "builtin/shapes_cnn", "head_epochs": 1, "head_rate": 0.1,
         "epochs": 1, "workers": 0}
    )  # fmt: skip
    report = finetune(settings, place / "run")
    assert {part: len(found) for part, found in report.skipped.items()} == {"train": 2, "test": 2}


# --- memory ---------------------------------------------------------------------------------------

SAID = {
    "torch, processor": "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't "
    "allocate memory: you tried to allocate 2139103232 bytes. Error code 12",
    "torch, Windows": "[enforce fail at alloc_cpu.cpp:72] data. DefaultCPUAllocator: not enough "
    "memory: you tried to allocate 27487790694 bytes.",
    "CUDA": "CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has a total capacity of 16 GiB",
    "CUDA's runtime": "CUDA error: out of memory",
    "HIP": "HIP out of memory. Tried to allocate 2.00 GiB",
    "XPU": "level_zero backend failed with error: 39 (UR_RESULT_ERROR_OUT_OF_DEVICE_MEMORY)",
    "MPS": "MPS backend out of memory (MPS allocated: 5.56 GB, other allocations: 1.10 GB)",
    "MPS, one tensor": "Invalid buffer size: 19.45 GB",
    "oneDNN": "could not create a memory object",
    "oneDNN, primitive": "could not create a primitive",
    "oneDNN, status": "dnnl_out_of_memory",
    "cuBLAS": "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
    "cuDNN": "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
    "cuDNN 9, host": "cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_HOST_ALLOCATION_FAILED",
    "cuDNN 9, device": "cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED",
    "cuDNN, no algorithm": "Unable to find a valid cuDNN algorithm to run convolution",
    "cuDNN, no engine": "GET was unable to find an engine to execute this computation",
    "cuSOLVER": "cusolver error: CUSOLVER_STATUS_ALLOC_FAILED, when calling cusolverDnCreate",
    "cuFFT": "cuFFT error: CUFFT_ALLOC_FAILED",
    "ONNX Runtime": "[ONNXRuntimeError] : 6 : RUNTIME_EXCEPTION : Failed to allocate memory for "
    "requested buffer of size 33554432",
    "C++": "std::bad_alloc",
    "C++, Windows": "bad allocation",
    "the system": "[Errno 12] Cannot allocate memory",
}
OTHERS = (
    "mat1 and mat2 shapes cannot be multiplied (2x3 and 4x5)",
    "CUDA error: device-side assert triggered",
    "CUDNN_STATUS_NOT_SUPPORTED",
    "CUBLAS_STATUS_EXECUTION_FAILED",
    "Expected all tensors to be on the same device",
    "The size of tensor a (3) must match the size of tensor b (4)",
    "",
)


@pytest.mark.parametrize("who", SAID)
def test_every_way_to_say_that_memory_ended_is_known(who, tally):
    assert out_of_memory(RuntimeError(SAID[who]))
    tally("images", "messages of libraries whose memory ended", 1, 1, "smaller batches")


@pytest.mark.parametrize("said", OTHERS)
def test_other_errors_are_others(said):
    assert not out_of_memory(RuntimeError(said))


def test_errors_of_memory_by_their_class():
    assert out_of_memory(MemoryError())
    assert out_of_memory(torch.OutOfMemoryError())
    with pytest.raises(MemoryError) as told:
        np.empty(2**57)
    assert out_of_memory(told.value)


def test_the_chunk_is_halved_for_each_of_them(place, monkeypatch):
    """A network whose memory holds two images, as each library says it."""
    plan = make_plan(
        {"data": "photos", "model": "builtin/shapes_cnn", "methods": "gradcam", "metrics": "ad",
         "workers": 0, "batch_size": 10, "chunk": 8}
    )  # fmt: skip
    expected = evaluate(plan, place / "plain").frame["value"].tolist()
    forward = nn.Conv2d.forward
    for number, said in enumerate(SAID.values()):

        def small(self, x, said=said):
            if len(x) > 2:
                raise RuntimeError(said)
            return forward(self, x)

        with monkeypatch.context() as patch:
            patch.setattr(nn.Conv2d, "forward", small)
            found = evaluate(plan, place / f"run-{number}").frame["value"].tolist()
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
