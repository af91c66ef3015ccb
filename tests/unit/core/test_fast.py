"""The engine that measures speed and error, and picks."""

import logging

import pytest
import torch
from torch import nn

import torchsaliency
from nets import convnet, images, run_accelerated
from torchsaliency import explain
from torchsaliency.core.acceleration import cache, fast
from torchsaliency.core.acceleration.engine import Engine, register_engine
from torchsaliency.core.freeze import frozen_eval

X = images(3, 16, 16)


class Clock:
    """Goes on when something says that it takes time."""

    now = 0.0


class Slow(nn.Module):
    """Its outputs for an image are 0 and 1, times a weight; a pass takes its time."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))

    def forward(self, x):
        Clock.now += 0.03
        return self.weight * torch.stack([torch.zeros(len(x)), torch.ones(len(x))], 1)


def make_engine(name, seconds, off):
    class Fake(Engine):
        """Takes so long, and is so far off."""

        exact, tolerance = False, 0.5

        def run_copy(self, given):
            Clock.now += seconds
            return self.copy.weight * torch.tensor([[0.0, 1.0 + off]]).repeat(len(given), 1)

    register_engine(name)(Fake)


@pytest.fixture
def candidates(registries, monkeypatch):  # noqa: ARG001
    monkeypatch.setattr(fast, "seconds_now", lambda _: Clock.now)

    def offer(**found):
        for name, (seconds, off) in found.items():
            make_engine(name, seconds, off)
        monkeypatch.setattr(fast, "_CANDIDATES", tuple(found))

    return offer


def run(net, x=X, count=2):
    with torchsaliency.accelerated("fast"), frozen_eval(net, x.device), torch.no_grad():
        found = [run_accelerated(net, x) for _ in range(count)]
    (made,) = [kept for key, kept in cache._kept[net].items() if key[0] == "fast"]
    return found, made


def test_the_fastest_within_the_limit_is_picked(candidates, caplog):
    candidates(wrong=(0.0, 0.02), near=(0.005, 0.008), exact=(0.02, 0.0))
    with caplog.at_level(logging.INFO, "torchsaliency"):
        (first, later), made = run(Slow())
    assert made.chosen.name == "near"
    assert first[0].tolist() == [0, 1]  # the network's own, as it had to be run
    assert later[0].tolist() == pytest.approx([0, 1.008])
    errors = {found.engine: found.error for found in made.calibrations}
    assert errors == pytest.approx({"off": 0, "wrong": 0.02, "near": 0.008, "exact": 0}, abs=1e-6)
    assert "Slow by near, with an error of 0.008" in caplog.text


def test_the_network_itself_runs_where_nothing_is_faster(candidates, caplog):
    candidates(slower=(0.1, 0.0), wrong=(0.0, 0.3))
    with caplog.at_level(logging.INFO, "torchsaliency"):
        found, made = run(Slow())
    assert made.chosen is None
    assert found[1][0].tolist() == [0, 1]
    assert "by off, with an error of 0" in caplog.text


def test_it_is_measured_once_a_network_and_again_for_new_weights(candidates):
    candidates(near=(0.0, 0.001))
    net = Slow()
    _, made = run(net)
    assert run(net)[1] is made
    net.weight.data.mul_(2)  # counted by nobody
    found, again = run(net)
    assert again is not made
    assert found[1][0].tolist() == pytest.approx([0, 2.002])


def test_an_output_that_is_no_tensor_runs_the_network():
    class Several(nn.Module):
        def forward(self, x):
            return {"boxes": x.mean((2, 3)), "other": x}

    net = fast.Fast(lambda run, x: run(x), Several())
    assert set(net(Several(), X)) == {"boxes", "other"}
    assert not net.calibrations


def test_maps_of_a_real_calibration_are_near(monkeypatch):
    monkeypatch.setattr(fast, "_CANDIDATES", ("channels-last", "bf16"))  # an export takes long
    net = convnet()
    plain = explain(net, X, ["scorecam", "gradcam"], 1)
    quick = explain(net, X, ["scorecam", "gradcam"], 1, accelerate="fast")
    torch.testing.assert_close(quick["gradcam"].map, plain["gradcam"].map, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(quick["scorecam"].map, plain["scorecam"].map, atol=0.05, rtol=0)


@pytest.mark.parametrize(
    ("own", "other", "error"),
    [
        ([0.0, 2.0], [0.0, 2.0], 0.0),
        ([0.0, 2.0], [0.1, 2.0], 0.05),
        ([0.0, 2.0], [torch.nan, 2.0], torch.inf),  # what is not a number is never near
        ([0.0, 2.0], [torch.inf, 2.0], torch.inf),
        ([torch.nan, 2.0], [torch.nan, 2.0], 0.0),
        ([-torch.inf, 0.0, 2.0], [-torch.inf, 0.1, 2.0], 0.05),  # a class that cannot be
        ([-torch.inf, 0.0, 2.0], [-9.0, 0.0, 2.0], torch.inf),
    ],
)
def test_outputs_are_compared_number_by_number(own, other, error):
    own, other = (torch.tensor([row, row]).double() for row in (own, other))
    assert fast._compare(other, own) == pytest.approx(error)
