"""Options of sampling: opposite draws, control variates, standard errors, and where they end."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor, nn

import torchsaliency
from torchsaliency.core.masking import MeanColour
from torchsaliency.core.method import create, methods
from torchsaliency.errors import OptionError
from torchsaliency.methods.attribution.coalitions import (
    coalitions,
    lime_samples,
    ridge,
    ridge_error,
    shapley,
    shapley_error,
)
from torchsaliency.methods.masking.control import CoarseMasks
from torchsaliency.methods.masking.rise import RISE, RandomMasks
from torchsaliency.methods.sampling import plan_looks

CPU = torch.device("cpu")


class LinearInCells(nn.Module):
    """Scores that are linear in the mean of each eighth of both sides."""

    scores = "regression"

    def __init__(self) -> None:
        super().__init__()
        self.pool, self.flat = nn.AdaptiveAvgPool2d(8), nn.Flatten()
        self.head = nn.Linear(64, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.flat(self.pool(x)))


class Curved(nn.Module):
    """A small network with a ReLU, its first number explained."""

    scores = "regression"

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(1, 6, 5, 4), nn.ReLU(), nn.Flatten(), nn.Linear(54, 2)
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


def explain_first(net: nn.Module, x: Tensor, method: RISE, chunk: int | None = None):
    return torchsaliency.explain(
        net, x, method, lambda numbers: numbers[:, 0], masking=MeanColour(), chunk=chunk
    )[method.name]


def blocks(count: int) -> Tensor:
    """Images whose eighths have one value each."""
    return torch.rand(count, 1, 8, 8).repeat_interleave(4, -1).repeat_interleave(4, -2)


def off(maps: Tensor, expected: Tensor) -> Tensor:
    """How far maps are off up to a constant, relative to the deviation of what is expected."""
    centred = [each.flatten(1) - each.flatten(1).mean(1, keepdim=True) for each in (maps, expected)]
    return (centred[0] - centred[1]).norm(dim=1) / centred[1].norm(dim=1)


@pytest.mark.parametrize("keep", [0.5, 0.3])
@pytest.mark.parametrize("size", [(21, 16), (12,), (6, 7, 8)])
def test_what_masks_have_in_common_is_known_in_closed_form(size: tuple[int, ...], keep: float):
    masks = RandomMasks(RISE(samples=40000, cells=3, keep=keep), size, CPU)
    coarse = CoarseMasks(masks.grids, masks.shifts, masks.stretch, size, keep)
    made = masks(torch.arange(40000)).double() - keep
    for place in [(0,) * len(size), tuple(side // 2 for side in coarse.masks.shape[1:])]:
        weights = torch.zeros(1, *coarse.masks.shape[1:], dtype=torch.float64)
        weights[0][place] = 1
        z = (coarse.masks * weights).flatten(1).sum(1)
        seen = (z @ made.flatten(1) / len(z)).view(size)
        torch.testing.assert_close(coarse.reach_of(weights)[0], seen, atol=5e-3, rtol=0)
        within = (z @ coarse.masks.flatten(1) / len(z)).view(coarse.masks.shape[1:])
        torch.testing.assert_close(coarse.spread_of(weights)[0], within, atol=5e-3, rtol=0)


@pytest.mark.parametrize("sampler", ["independent", "antithetic"])
def test_of_a_linear_network_the_control_variate_leaves_nothing_to_chance(sampler: str):
    torch.manual_seed(0)
    net, x = LinearInCells().double(), blocks(2).double()
    found = [
        explain_first(
            net, x, RISE(samples=4000, until=1e-4, sampler=sampler, control="linear", seed=seed)
        )
        for seed in (0, 1)
    ]
    torch.testing.assert_close(found[0].raw, found[1].raw, rtol=1e-6, atol=1e-9)
    assert found[0].details["samples"].tolist() == [256, 256]
    assert (found[0].details["standard_error"] < 1e-6 * found[0].raw.abs().amax()).all()
    plain = explain_first(net, x, RISE(samples=4000))
    assert (off(plain.raw, found[0].raw) < 0.3).all()


def test_every_estimate_has_the_same_expectation_and_says_how_far_it_is_off():
    torch.manual_seed(1)
    net, x = Curved(), torch.rand(1, 1, 16, 16)
    expected = explain_first(net, x, RISE(samples=20000, cells=3)).raw
    shares = {}
    for sampler, control in itertools.product(("independent", "antithetic"), ("none", "linear")):
        found = [
            explain_first(
                net, x, RISE(100, 3, seed=seed, sampler=sampler, control=control, until=1e-9)
            )
            for seed in range(24)
        ]
        maps = torch.cat([each.raw for each in found])
        spread = torch.cat([each.details["standard_error"] for each in found])
        measured = (maps - expected).square().mean(0).sqrt()
        shares[sampler, control] = float(measured.mean())
        off_by = (maps.mean(0) - expected).abs() / (measured / 24**0.5)
        assert off_by.mean() < 2.5
        assert 0.8 < float(measured.mean() / spread.mean()) < 1.25
    assert shares["independent", "linear"] < 0.6 * shares["independent", "none"]


@pytest.mark.parametrize(("control", "until"), [("none", 0.2), ("linear", 0.02)])
def test_an_image_ends_by_itself_whatever_its_batch_and_chunk(control: str, until: float):
    torch.manual_seed(2)
    net, x = Curved(), torch.rand(3, 1, 16, 16)
    x[1] *= torch.linspace(0, 1, 16)
    method = RISE(2000, 3, until=until, control=control, sampler="antithetic")
    whole = explain_first(net, x, method)
    assert len(set(whole.details["samples"].tolist())) > 1
    assert (whole.details["samples"] < 2000).all()
    assert (whole.details["relative_error"] <= until).all()
    for i in range(3):
        alone = explain_first(net, x[i : i + 1], method, chunk=5)
        assert alone.details["samples"] == whole.details["samples"][i]
        torch.testing.assert_close(alone.raw[0], whole.raw[i], rtol=1e-4, atol=1e-5)
        assert alone.passes == 1 + alone.details["samples"]


def test_samples_are_the_most_and_a_steady_map_takes_the_fewest():
    net, x = Curved(), torch.rand(1, 1, 16, 16)
    most = explain_first(net, x, RISE(150, 3, until=1e-6, control="linear"))
    assert most.passes == 151
    nn.init.zeros_(net.layers[-1].weight)
    nn.init.ones_(net.layers[-1].bias)
    same = explain_first(net, x, RISE(1000, 3, until=1e-6))
    assert (same.passes, same.status) == (257, ("constant map",))


def test_the_options_by_default_change_nothing():
    net, x = Curved(), torch.rand(2, 1, 16, 16)
    plain, looked = (explain_first(net, x, RISE(300, 3, until=until)) for until in (None, 1e-9))
    assert not plain.details
    torch.testing.assert_close(plain.raw, looked.raw)


def test_opposite_masks_are_complements():
    masks = RandomMasks(RISE(samples=7, sampler="antithetic"), (20, 20), CPU)
    made = masks(torch.arange(7))
    torch.testing.assert_close(made[0::2][:3] + made[1::2], torch.ones(3, 20, 20))
    rare = RandomMasks(RISE(samples=4000, keep=0.2, sampler="antithetic"), (20, 20), CPU)
    assert rare.grids[::2].mean() == pytest.approx(0.2, abs=0.01)
    assert rare.grids[1::2].mean() == pytest.approx(0.2, abs=0.01)
    assert not (rare.grids[::2] * rare.grids[1::2]).any()


def test_looks_are_at_whole_units_and_end_with_all_samples():
    assert plan_looks(333, None, 128) == [333]
    assert plan_looks(333, 0.1, 128) == [128, 160, 200, 250, 312, 333]
    assert plan_looks(100, 0.1, 128) == [100]
    assert plan_looks(61, 0.1, 16, 8) == [16, 24, 32, 40, 48, 61]


@pytest.mark.parametrize(
    "options", [{"until": 0}, {"until": float("nan")}, {"sampler": "sobol"}, {"control": "cubic"}]
)
def test_options_that_do_not_fit(options: dict):
    with pytest.raises(OptionError, match=next(iter(options))):
        create("rise", options)


class Squares(nn.Module):
    """Scores with a gradient that is linear in the image: SmoothGrad's is known."""

    scores = "regression"

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(16))

    def forward(self, x: Tensor) -> Tensor:
        values = x.flatten(1)
        return torch.stack([values.square() @ self.weight / 2 + 5 * values.sum(1), values[:, 0]], 1)


@pytest.mark.parametrize("name", ["smoothgrad", "smoothgrad-squared", "vargrad", "gradientshap"])
def test_gradients_end_at_their_standard_error(name: str):
    torch.manual_seed(3)
    net, x = Squares(), torch.rand(3, 1, 4, 4)
    x[1] *= 0.1
    most = {"samples": 3000, "seed": 1}
    plain = explain_first(net, x, create(name, {**most, "samples": 200}))
    same = explain_first(net, x, create(name, {**most, "samples": 200, "until": 1e-9}))
    torch.testing.assert_close(plain.attributions, same.attributions, rtol=1e-4, atol=1e-5)
    assert (same.details["samples"] == 200).all()
    method = create(name, {**most, "until": 0.1})
    found = explain_first(net, x, method)
    assert (found.details["relative_error"] <= 0.1).all()
    assert (found.details["samples"] < 3000).all()
    assert found.details["standard_error"].shape == found.attributions.shape
    for i in range(3):
        alone = explain_first(net, x[i : i + 1], method, chunk=7)
        assert alone.details["samples"] == found.details["samples"][i]
        torch.testing.assert_close(
            alone.attributions[0], found.attributions[i], rtol=1e-4, atol=1e-5
        )


def test_the_standard_error_of_smoothgrad_is_that_of_its_mean():
    torch.manual_seed(4)
    net, x = Squares(), torch.rand(1, 1, 4, 4)
    found = explain_first(net, x, create("smoothgrad", {"samples": 400, "until": 1e-9}))
    sigma = 0.15 * (x.max() - x.min())
    expected = net.weight.detach().abs() * sigma / 400**0.5
    error = found.details["standard_error"].flatten()
    torch.testing.assert_close(error, expected, rtol=0.15, atol=0)
    exact = net.weight.detach() * x.flatten() + 5
    assert ((found.attributions.flatten() - exact).abs() < 5 * expected).all()


@pytest.mark.parametrize("until", [None, 1e-9])
def test_stratified_draws_integrate_better(until: float | None):
    torch.manual_seed(5)
    net, x = Squares(), torch.rand(1, 1, 4, 4)
    exact = (net.weight.detach() * x.flatten() / 2 + 5) * x.flatten()
    off_by = {}
    for sampler in ("independent", "stratified"):
        maps = [
            explain_first(
                net,
                x,
                create(
                    "gradientshap",
                    {"samples": 40, "seed": seed, "sampler": sampler, "until": until},
                ),
            ).attributions.flatten()
            for seed in range(6)
        ]
        off_by[sampler] = (torch.stack(maps) - exact).norm()
    assert off_by["stratified"] < off_by["independent"] / 4


def test_the_standard_errors_of_regressions_are_their_spread_over_seeds():
    torch.manual_seed(6)
    curve = torch.randn(12, 12, dtype=torch.float64)
    values, said = {"kernelshap": [], "lime": []}, {"kernelshap": [], "lime": []}
    for seed in range(60):
        z = coalitions(12, 100, seed)[0].double()
        gains = (z @ curve * z).sum(1) + torch.sin(9 * z @ curve[0])
        found = shapley(z, gains, curve.sum(), torch.ones(len(z), dtype=torch.float64))
        values["kernelshap"].append(found)
        said["kernelshap"].append(shapley_error(z, gains, found))
        z = lime_samples(100, 12, seed).double()
        y, weights = (z @ curve * z).sum(1), torch.ones(100, dtype=torch.float64)
        found = ridge(z, y, weights, 1.0)
        values["lime"].append(found)
        said["lime"].append(ridge_error(z, y, weights, 1.0, found))
    for name, each in values.items():
        ratio = torch.stack(each).std(0).mean() / torch.stack(said[name]).mean()
        assert 0.85 < float(ratio) < 1.2


class Patches(nn.Module):
    """A score of the mean of each quarter of the sides, with all products of two of them."""

    scores = "regression"

    def __init__(self) -> None:
        super().__init__()
        self.pool, self.weight = nn.AdaptiveAvgPool2d(4), nn.Parameter(torch.randn(16, 16))

    def forward(self, x: Tensor) -> Tensor:
        values = self.pool(x).mean(1).flatten(1)
        return torch.stack([(values @ self.weight * values).sum(1), values[:, 0]], 1)


@pytest.mark.parametrize("name", ["lime", "kernelshap"])
def test_coalitions_end_at_their_standard_error(name: str):
    torch.manual_seed(7)
    net, x = Patches(), 0.1 + torch.rand(2, 3, 4, 4)
    x = x.repeat_interleave(8, -1).repeat_interleave(8, -2)
    few = {"segments": 20, "passes": 400}
    plain, same = (
        explain_first(net, x, create(name, {**few, "until": until})) for until in (None, 1e-9)
    )
    torch.testing.assert_close(plain.signed, same.signed)
    assert not plain.details
    assert same.passes == plain.passes
    until = {"lime": 0.5, "kernelshap": 0.2}[name]
    method = create(name, {**few, "passes": 4000, "until": until})
    found = explain_first(net, x, method)
    assert found.passes - 2 == found.details["samples"].sum()  # both are seen once before
    assert (found.details["samples"] < 4000).all()
    assert (found.details["relative_error"] <= until).all()
    alone = explain_first(net, x[1:], method, chunk=3)
    assert alone.details["samples"] == found.details["samples"][1]
    torch.testing.assert_close(alone.signed[0], found.signed[1], rtol=1e-4, atol=1e-6)
    exact = explain_first(net, x, create("kernelshap", {"segments": 4, "passes": 20, "until": 0.1}))
    assert (exact.details["relative_error"] == 0).all()


def test_every_method_that_ends_early_is_tested_here():
    ends = {name for name, entry in methods().items() if "until" in entry.options}
    gradients = {"smoothgrad", "smoothgrad-squared", "vargrad", "gradientshap"}
    assert ends == {"rise", "d-rise", "lime", "kernelshap"} | gradients
