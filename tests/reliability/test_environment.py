"""Whatever a user sets of torch, or has on another device: the same maps, and nothing moved."""

import json
import os
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils import backend_registration
from torch.utils.checkpoint import checkpoint

from nets import (
    ATTENTION_NAMES,
    NAMES,
    NEEDS_A_LINEAR_HEAD,
    NEEDS_RELU,
    convnet,
    images,
    known_apart,
    quick,
    tiny_vit,
)
from torchsaliency import LayerError, TorchSaliencyError, embeddings, explain
from torchsaliency.evaluation import evaluate, make_plan

EVERY = [*NAMES, *ATTENTION_NAMES]


def case(name):
    """A network, its images, and the layer of a method's map."""
    if name in ATTENTION_NAMES:
        return tiny_vit(), images(2, 32, 32), "blocks.1"
    return convnet(), images(2), "relu3"


def made(name, net=None, **wanted):
    own, x, layer = case(name)
    return quick(name)(net or own, x, torch.tensor([1, 2]), layer, **wanted)


def assert_same(found, plain, what, near=2e-5):
    torch.testing.assert_close(
        found.map.cpu().float(), plain.map, rtol=1e-4, atol=near, msg=lambda told: f"{what}: {told}"
    )
    assert found.status == plain.status


# --- what may be set ------------------------------------------------------------------------------


@contextmanager
def default_device(name):
    torch.set_default_device(name)
    try:
        yield
    finally:
        torch.set_default_device(None)


@contextmanager
def default_dtype(dtype):
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@contextmanager
def deterministic():
    torch.use_deterministic_algorithms(mode=True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(mode=False)


SETTINGS = {
    "default device": lambda: default_device("meta"),
    "default dtype float64": lambda: default_dtype(torch.float64),
    "default dtype bfloat16": lambda: default_dtype(torch.bfloat16),
    "no_grad": torch.no_grad,
    "inference_mode": torch.inference_mode,
    "deterministic algorithms": deterministic,
    "anomaly detection": lambda: torch.autograd.set_detect_anomaly(mode=True, check_nan=False),
    "numpy errors": lambda: np.errstate(all="raise"),
}


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.filterwarnings("ignore:Anomaly Detection")
def test_what_is_set_of_torch_changes_no_map(setting, tally):
    for name in EVERY:
        plain = made(name)
        net, x, layer = case(name)
        with SETTINGS[setting]():
            found = quick(name)(net, x, [1, 2], layer)
        assert found.map.dtype == torch.float32, name
        assert_same(found, plain, name)
    tally("environment", "settings of torch × methods", len(EVERY), len(EVERY), "the same map")


# --- networks that were changed in place ----------------------------------------------------------


class Saves(nn.Module):
    """Computes its first half again instead of keeping it."""

    def __init__(self, net, reentrant):
        super().__init__()
        cut = [*dict(net.named_children())].index("conv3")
        self.first, self.second, self.reentrant = net[:cut], net[cut:], reentrant

    def forward(self, x):
        return self.second(checkpoint(self.first, x, use_reentrant=self.reentrant))


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")
def test_gradient_checkpointing(reentrant, tally):
    """The plain map, or a sentence where torch hides the first half."""
    same = 0
    for name in NAMES:
        x = images(2)
        net = known_apart(Saves(convnet(), reentrant).eval())
        try:
            found = quick(name)(net, x, [1, 2], "second.relu3")
        except TorchSaliencyError as error:
            assert reentrant or name in NEEDS_RELU | NEEDS_A_LINEAR_HEAD, error
            assert "\n" not in str(error)
            continue
        assert_same(found, made(name), name)
        same += 1
    assert same >= len(NAMES) - (20 if reentrant else 1)
    tally("environment", "gradient checkpointing × methods", len(NAMES), len(NAMES),
          "the same map, or a sentence where torch hides layers")  # fmt: skip


class Inside(nn.Module):
    """Runs its first half where no layer can be read."""

    def __init__(self, how):
        super().__init__()
        net = convnet()
        cut = [*dict(net.named_children())].index("conv3")
        self.first, self.second, self.how = net[:cut], net[cut:], how

    def forward(self, x):
        return self.second(self.how(self.first, x))


INSIDE = {
    "checkpoint": lambda part, x: checkpoint(part, x, use_reentrant=False),
    "vmap": lambda part, x: torch.vmap(lambda one: part(one[None])[0])(x),
}


@pytest.mark.parametrize("kind", INSIDE)
def test_a_layer_where_none_can_be_read(kind, tally):
    """The plain map, or one sentence that says where the layer lies."""
    plain = explain(convnet(), images(2), "gradcam", [1, 2], "relu2")["gradcam"]
    net = known_apart(Inside(INSIDE[kind]).eval())
    try:
        found = explain(net, images(2), "gradcam", [1, 2], "first.relu2")["gradcam"]
    except LayerError as error:
        assert kind in str(error) or "checkpointing" in str(error)
    else:
        assert_same(found, plain, kind)
    tally("environment", "layers inside checkpoint and vmap", 1, 1, "the same map, or one sentence")


@pytest.mark.parametrize("whole", [True, False])
def test_networks_compiled_in_place(whole, tally):
    """`net.compile()` and a part inside `torch.compile`: the network itself runs."""
    for name in EVERY:
        net, x, layer = case(name)
        if whole:
            net.compile(backend="eager")
            before = net._compiled_call_impl
        elif name in ATTENTION_NAMES:
            net.blocks[0].compile(backend="eager")
        else:
            net.conv2.compile(backend="eager")
        assert_same(quick(name)(net, x, [1, 2], layer), made(name), name)
        if whole:
            assert net._compiled_call_impl is before
    tally("environment", "networks compiled in place × methods", len(EVERY), len(EVERY),
          "the same map")  # fmt: skip


# --- random numbers -------------------------------------------------------------------------------


@contextmanager
def check_unmoved(generator):
    torch.manual_seed(3), np.random.seed(4)  # noqa: NPY002 (whether it moves)
    states = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    own = generator.get_state()
    yield
    assert torch.equal(torch.get_rng_state(), states[0])
    assert (np.random.get_state()[1] == states[1]).all()  # noqa: NPY002
    assert torch.equal(generator.get_state(), own)


class Draws(nn.Module):
    """Draws numbers in its passes, from torch's generator and from its own."""

    def __init__(self, net):
        super().__init__()
        self.net, self.draw = net, torch.Generator().manual_seed(1)

    def forward(self, x):
        torch.rand(3)
        torch.rand(3, generator=self.draw)
        return self.net(x)


def test_nobodys_random_numbers_move(tally, tmp_path):
    generator = torch.Generator().manual_seed(9)
    for name in EVERY:
        net, x, layer = case(name)
        with check_unmoved(generator):
            quick(name)(net, x, [1, 2], layer)
        drawing = Draws(net).eval()
        with check_unmoved(drawing.draw):
            quick(name)(drawing, x, [1, 2], f"net.{layer}")
    net, x, layer = case("gradcam")
    with check_unmoved(generator):
        embeddings(net, x)
    plan = make_plan(
        {"data": "shapes:4", "model": "builtin/shapes_cnn", "metrics": "ad,max-sensitivity",
         "methods": [{"rise": {"samples": 3}}], "batch_size": 2, "workers": 0}
    )  # fmt: skip
    with check_unmoved(generator):
        evaluate(plan, tmp_path / "run")
    tally("environment", "random numbers × methods", 2 * len(EVERY) + 2, 2 * len(EVERY) + 2,
          "torch's, numpy's and a user's own stay where they were")  # fmt: skip


# --- a device that is not the processor -----------------------------------------------------------


def test_a_device_without_float64(tally):
    """Labels or images on the processor or there: over the registry, in `elsewhere`."""
    if not hasattr(backend_registration, "_setup_privateuseone_for_python_backend"):
        pytest.skip("before 2.10 torch lets nobody pretend a device")
    place = Path(__file__).parents[1]
    ended = subprocess.run(
        [sys.executable, place / "elsewhere.py"], cwd=place, capture_output=True, text=True,
        check=False, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr[-2000:]
    told = json.loads(ended.stdout.splitlines()[-1])
    assert len(told) == 5 * len(EVERY)
    assert {case: wrong for case, wrong in told.items() if wrong} == {}
    tally("environment", "a device without float64, labels and images on either × methods",
          len(told), len(told), "the same map")  # fmt: skip
