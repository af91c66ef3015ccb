"""Concepts against closed forms: known parts, exact Sobol indices, gradients along a CAV."""

import numpy as np
import pytest
import torch
from scipy.optimize import nnls
from torch import nn

import torchsaliency
from nets import known_apart
from torchsaliency.concepts import (
    compare_with_chance,
    factorise_features,
    find_shares,
    total_indices,
)
from torchsaliency.errors import InputError, LayerError, OptionError

PARTS = torch.tensor([[2.0, 0, 1, 0, 0], [0, 3, 0, 0, 1], [0, 0, 0, 4, 1]])
"""Known non-negative parts; each has a channel of its own, so that no others explain as much."""


class Parts(nn.Module):
    """Features made of PARTS in the shares that the image's channels say; then a linear head."""

    def __init__(self):
        super().__init__()
        self.features = nn.Conv2d(3, 5, 1, bias=False)
        self.after = nn.Identity()
        self.head = nn.Linear(5, 4)
        draw = torch.Generator().manual_seed(0)
        with torch.no_grad():
            self.features.weight.copy_(PARTS.mT[..., None, None])
            self.head.weight.copy_(torch.randn(4, 5, generator=draw))

    def forward(self, x):
        return self.head(self.after(self.features(x)).flatten(2).mean(2))


def shares(count=2, side=6, seed=0):
    """Images whose three channels are shares; every part is alone somewhere."""
    draw = torch.Generator().manual_seed(seed)
    x = torch.rand(count, 3, side, side, generator=draw)
    alone = torch.rand(count, 1, side, side, generator=draw) < 0.6
    which = torch.randint(3, (count, side, side), generator=draw)
    one = nn.functional.one_hot(which, 3).movedim(-1, 1)
    return torch.where(alone, x * one, x)


def net():
    return known_apart(Parts().eval())


def match(found, wanted):
    """Return the place in `found` of every row of `wanted`, by cosine."""
    cosine = nn.functional.normalize(found, dim=1) @ nn.functional.normalize(wanted, dim=1).mT
    return cosine.argmax(0), cosine.amax(0)


def test_known_parts_are_recovered_with_their_maps_and_the_heads_scores():
    model, x = net(), shares()
    found = torchsaliency.dff(model, x, 3, "after")
    place, cosine = match(found.concepts, PARTS)
    assert sorted(place.tolist()) == [0, 1, 2]
    assert cosine.min() > 0.9999
    assert found.error < 1e-3
    strongest = x.transpose(0, 1).flatten(1).amax(1)
    torch.testing.assert_close(found.raw[:, place], x / strongest[:, None, None], atol=5e-3, rtol=0)
    torch.testing.assert_close(found.maps.amax((0, 2, 3)), torch.ones(3))
    # a head behind a global pooling reads the concept's vector, and nothing else
    torch.testing.assert_close(found.outputs, model.head(found.concepts), atol=1e-5, rtol=1e-5)
    assert (found.dominant[x.amax(1) > 0] >= 0).all()
    assert found.describe(["a", "b, c", "d", "e"], top=1)[0].startswith("concept 1: ")


def test_the_concepts_do_not_depend_on_the_features_scale_or_a_seed():
    x = shares()
    features = Parts().features(x).detach()
    parts, maps = factorise_features(features, 3)
    large, same = factorise_features(features * 1e6, 3)
    torch.testing.assert_close(match(large, parts)[1], torch.ones(3))
    drawn, _ = factorise_features(features, 3, seed=1)
    assert match(drawn, parts)[1].min() > 0.99
    torch.testing.assert_close(maps.shape, same.shape)


def test_features_below_zero_are_lifted_by_their_least_value():
    model = net()
    model.after = nn.Softplus()  # positive: no offset
    assert (torchsaliency.dff(model, shares(), 2, "after").offset == 0).all()
    model.features.weight.data.neg_()
    found = torchsaliency.dff(model, shares(), 3, "features")
    assert (found.offset < 0).all()
    rebuilt = torch.einsum("nrhw,rk->nkhw", found.raw, found.concepts - found.offset)
    wanted = model.features(shares()).detach()
    off = (rebuilt + found.offset[:, None, None] - wanted).norm()
    lifted = (wanted - found.offset[:, None, None]).norm()
    assert off / lifted == pytest.approx(found.error, abs=1e-4)


def test_a_head_that_does_not_read_the_cells_says_nothing_of_concepts():
    class Elsewhere(Parts):
        def forward(self, x):
            self.after(self.features(x))
            return self.head(self.features(x).flatten(2).mean(2))

    model = known_apart(Elsewhere().eval())
    found = torchsaliency.dff(model, shares(), 2, "after")
    assert found.outputs is None
    assert found.describe() == ["concept 1", "concept 2"]
    with pytest.raises(LayerError, match="choose an earlier layer"):
        torchsaliency.craft(model, shares(), 2, 0, "after", samples=4)


def test_shares_are_those_of_scipy_and_have_the_gradient_of_differences():
    draw = torch.Generator().manual_seed(3)
    parts = torch.rand(4, 7, generator=draw, dtype=torch.float64)
    rows = torch.randn(20, 7, generator=draw, dtype=torch.float64) + 0.5
    wanted = np.stack([nnls(parts.numpy().T, row)[0] for row in rows.numpy()])
    found = find_shares(rows.requires_grad_(), parts)
    assert 0 < (found == 0).double().mean() < 1  # both kinds occur
    np.testing.assert_allclose(found.detach(), wanted, atol=1e-7)
    assert torch.autograd.gradcheck(lambda one: find_shares(one, parts), rows[:4])


def test_total_indices_of_known_functions():
    slopes = torch.tensor([4.0, 2, 1, 0], dtype=torch.float64)
    found = total_indices(lambda rows: rows @ slopes + 7, 4, 256)
    torch.testing.assert_close(found, slopes**2 / (slopes**2).sum(), atol=0.01, rtol=0)
    # x·y of uniform x, y: the variance 7/144, of which 1/144 is shared, and 4/7 is each one's total
    product = total_indices(lambda rows: rows[:, 0] * rows[:, 1], 2, 1024)
    torch.testing.assert_close(product, torch.full((2,), 4 / 7).double(), atol=0.01, rtol=0)
    assert total_indices(lambda rows: rows[:, 0] * 0 + 3, 2, 8).isnan().all()


def test_craft_ranks_concepts_as_the_linear_head_does():
    model, x = net(), shares(3)
    bank = torchsaliency.craft(model, x, 3, 1, "after", crop=0.34, samples=256)
    place, cosine = match(bank.concepts, PARTS)
    assert sorted(place.tolist()) == [0, 1, 2]
    assert cosine.min() > 0.99
    # the score is Σ_r m_r s_r with s_r = mean share x the head's weight: exact total indices
    pooled = bank.raw.flatten(2).mean(2) * (bank.concepts @ model.head.weight[1])
    exact = pooled**2 / (pooled**2).sum(1, keepdim=True)
    torch.testing.assert_close(bank.importances, exact.detach(), atol=0.02, rtol=0)
    assert bank.importance.tolist() == sorted(bank.importance.tolist(), reverse=True)
    torch.testing.assert_close(bank.rebuilt_score, bank.score, atol=0.05, rtol=0.02)


def test_any_method_shows_what_a_concept_stands_on():
    model, x = net(), shares(2)
    bank = torchsaliency.craft(model, x, 3, 1, "after", crop=0.34, samples=8)
    reader = bank.network(model)
    torch.testing.assert_close(reader(x), bank.raw.flatten(2).mean(2), atol=1e-4, rtol=1e-3)
    made = torchsaliency.explain(
        reader, x, "input-x-gradient", torchsaliency.Regression(index=0), "input"
    )["input-x-gradient"]
    # every cell's share is linear in its own pixel: the attribution is the map, up to its scale
    signed, wanted = made.signed.flatten(1), bank.raw[:, 0].flatten(1)
    assert torch.corrcoef(torch.stack([signed[0], wanted[0]]))[0, 1] > 0.99


def linear(channels=24):
    """A network whose score of class 0 grows in the same direction in every image."""
    layers = nn.Conv2d(channels, 4, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    torch.manual_seed(0)
    return known_apart(nn.Sequential(*layers).eval())


def noise(count, seed):
    return torch.randn(count, 24, 3, 3, generator=torch.Generator().manual_seed(seed))


def test_a_concept_along_the_gradient_has_score_one_and_against_it_zero():
    model = linear()
    step = nn.functional.normalize(model[0].weight[0].detach().flatten(), dim=0)[:, None, None]
    concepts = {"along": noise(8, 1) + 5 * step, "against": noise(8, 2) - 5 * step}
    tests = torchsaliency.tcav(model, noise(5, 3), concepts, noise(40, 4), 0, layer="input", runs=5)
    along, against = tests["along"], tests["against"]
    assert along.scores == (1.0,) * 5
    assert against.scores == (0.0,) * 5
    assert along.strength > 0.9
    assert max(along.strength_p_value, against.strength_p_value) < 0.05
    assert along.accuracy > 0.9
    # whatever the direction, all images agree behind a linear head: no evidence in signs
    assert min(along.p_value, against.p_value) > 0.05
    torch.testing.assert_close(along.vector @ step.flatten(), torch.tensor(1.0), atol=0.1, rtol=0)


def test_random_concepts_are_rarely_significant():
    pool = noise(54, 5)
    concepts = {str(number): pool[4 * number : 4 * number + 4] for number in range(6)}
    tests = torchsaliency.tcav(linear(), noise(5, 3), concepts, pool[24:], 0, layer="input", runs=5)
    assert sum(test.strength_p_value < 0.05 for test in tests.values()) <= 1
    assert sum(test.p_value < 0.05 for test in tests.values()) <= 1
    assert all(abs(test.accuracy - 0.5) < 0.35 for test in tests.values())


def test_the_p_value_is_that_of_a_prediction():
    draw = np.random.default_rng(0)
    values = [compare_with_chance(row[0], row[1:]) for row in draw.normal(size=(400, 9))]
    assert np.mean(np.array(values) < 0.05) == pytest.approx(0.05, abs=0.03)
    assert compare_with_chance(0.5, [0.5] * 9) == 1
    assert compare_with_chance(0.9, [0.5] * 9) == pytest.approx(0.2)


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda m, x: torchsaliency.dff(m, x, 6, "after"), OptionError, "at most 5"),
        (lambda m, x: torchsaliency.dff(m, x * 0, 2, "after"), InputError, "not all zero"),
        (lambda m, x: torchsaliency.dff(m, x / 0, 2, "after"), InputError, "finite"),
        (lambda m, x: torchsaliency.craft(m, x, 2, crop=2.0), OptionError, "at most 1"),
        (lambda m, x: torchsaliency.tcav(m, x, {}, x), OptionError, "at least"),
        (lambda m, x: torchsaliency.tcav(m, x, {"a": x}, x, runs=2), OptionError, "at least 3"),
        (lambda m, x: torchsaliency.tcav(m, x, {"a": x}, x, 0, layer="after"), InputError, "'a'"),
    ],
)
def test_mistakes_are_told(call, error, words):
    with pytest.raises(error, match=words):
        call(net(), shares())
