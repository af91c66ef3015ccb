"""Groups, subsets and segments of pixels, replaced alone or in turn, against plain loops."""

import inspect

import pytest
import torch
from torch import nn

from nets import convnet, images, tiny_detector
from torchsaliency import Box, EmbeddingSimilarity, InputError, Margin, MeanColour, OptionError
from torchsaliency.measures import (
    Judge,
    crop_scores,
    group_removals,
    group_resamplings,
    judging,
    masked_scores,
    perturbation_curve,
    region_curve,
    removal_curves,
    segment_curve,
    square_removals,
    subset_removals,
)
from torchsaliency.metrics import functional

N, H, W = 3, 8, 10
X = images(N, H, W, seed=1)
MAPS = torch.rand(N, H, W, generator=torch.Generator().manual_seed(0))
LABELS = torch.tensor([3, 1, 4])
SEGMENTS = torch.arange(H * W).view(H, W).div(16, rounding_mode="floor").expand(N, -1, -1)


class Linear(nn.Module):
    """Two numbers an image: Σ w x and its negative; every pixel adds by itself."""

    def __init__(self) -> None:
        super().__init__()
        draw = torch.Generator().manual_seed(5)
        self.weight = nn.Parameter(torch.rand(3, H, W, generator=draw).double() / 20)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        own = (x.double() * self.weight).flatten(1).sum(1)
        return torch.stack([own, -own], 1)

    def contributions(self, x: torch.Tensor) -> torch.Tensor:
        """What each pixel adds to the first number, brought to [0, 1] by a factor."""
        each = (x.double() * self.weight).sum(1)
        return each / each.amax((1, 2), keepdim=True)


POSITIVE = X.abs() + 0.1


def scores(net, x, labels=LABELS, by="probability"):
    with torch.no_grad():
        numbers = net(x).double()
    found = numbers.softmax(1) if by == "probability" else numbers
    return found[torch.arange(len(x)), labels]


def close(found, expected, **how):
    torch.testing.assert_close(
        found.double(), expected.double(), **{"atol": 1e-6, "rtol": 1e-5, **how}
    )


@pytest.mark.parametrize("by", ["probability", "logit"])
@pytest.mark.parametrize("groups", [4, 7])
def test_groups_are_replaced_alone(groups, by):
    net = convnet(seed=3)
    found = group_removals(net, X, MAPS, LABELS, groups=groups, by=by)
    ranks = (-MAPS.flatten(1)).argsort(1).argsort(1).view(N, H, W)
    for place in range(groups):
        hidden = (ranks * groups // (H * W)) == place
        after = scores(net, X * ~hidden[:, None], by=by)
        close(found.drops[:, place], scores(net, X, by=by) - after)
        close(found.sums[:, place], (MAPS.double() * hidden).sum((1, 2)))
    assert found.passes == N * (groups + 1)
    assert (found.sums.diff(dim=1) < 0).all()  # the most salient first


def test_random_colours_lie_within_the_image():
    """Colours between the channel's extremes, the same draws for every group."""
    net = Linear()
    found = group_resamplings(net, X, MAPS, 0, groups=4, samples=3, seed=2, by="logit")
    draws = torch.rand(3, 3, generator=torch.Generator().manual_seed(2))
    ranks = (-MAPS.flatten(1)).argsort(1).argsort(1).view(N, H, W)
    low, high = X.amin((2, 3)), X.amax((2, 3))
    clean = net(X)[:, 0].detach()
    for place in range(4):
        hidden = (ranks * 4 // (H * W) == place)[:, None]
        changes = []
        for one in draws:
            colour = (low + (high - low) * one)[:, :, None, None]
            changes.append((net(torch.where(hidden, colour, X))[:, 0].detach() - clean) ** 2)
        close(found.changes[:, place], torch.stack(changes).mean(0))
    assert found.passes == N * (4 * 3 + 1)


def test_subsets_do_not_depend_on_the_other_shares():
    net = convnet(seed=3)
    both = subset_removals(net, X, MAPS, LABELS, shares=(0.1, 0.5), samples=4, seed=7)
    alone = subset_removals(net, X, MAPS, LABELS, shares=(0.5,), samples=4, seed=7)
    close(both.drops[:, 1:], alone.drops)
    close(both.sums[:, 1:], alone.sums)
    draw = torch.Generator().manual_seed(7)
    order = torch.randperm(H * W, generator=draw)
    shown = torch.ones(H * W)
    shown[order[: H * W // 2]] = 0
    after = scores(net, X * shown.view(H, W))
    close(alone.drops[:, 0, 0], scores(net, X) - after)
    assert alone.passes == N * (4 + 1)


def test_segments_go_by_their_mean_and_images_may_have_fewer():
    net = convnet(seed=3)
    segments = SEGMENTS.clone()
    segments[1] = segments[1].clamp_max(2)
    found = segment_curve(net, X, MAPS, segments, LABELS).scores
    assert found.isnan().sum(1).tolist() == [0, 2, 0]
    for image in range(N):
        count = int(segments[image].max()) + 1
        means = [float(MAPS[image][segments[image] == part].mean()) for part in range(count)]
        shown = torch.ones(H, W)
        for step, part in enumerate(sorted(range(count), key=lambda part: -means[part])):
            shown[segments[image] == part] = 0
            one = scores(net, X[image : image + 1] * shown, LABELS[image : image + 1])
            close(found[image, step + 1], one[0])


def test_wrong_options_and_segments():
    net = convnet()
    for groups in (1, H * W + 1):
        with pytest.raises(OptionError, match="groups"):
            group_removals(net, X, MAPS, groups=groups)
    for wrong in ({"shares": (1.0,)}, {"shares": ()}, {"samples": 1}):
        with pytest.raises(OptionError, match="shares"):
            subset_removals(net, X, MAPS, **wrong)
    with pytest.raises(OptionError, match="colour"):
        group_resamplings(net, X, MAPS, samples=0)
    for wrong in (SEGMENTS + 1, SEGMENTS - 1):
        with pytest.raises(InputError, match="numbered"):
            segment_curve(net, X, MAPS, wrong)
    with pytest.raises(OptionError, match="grid"):
        region_curve(net, X, MAPS, patch=2, order="least")


# --- perfect scores by construction ---------------------------------------------------------------


def test_the_contributions_of_a_linear_score_are_perfect():
    net = Linear()
    maps = net.contributions(POSITIVE).detach()
    groups = group_removals(net, POSITIVE, maps, 0, groups=8, by="logit")
    subsets = subset_removals(net, POSITIVE, maps, 0, shares=(0.1, 0.5), samples=9, by="logit")
    one = torch.ones(N).double()
    close(functional.faithfulness_estimate(groups.sums, groups.drops), one)
    close(functional.saco(groups.sums, groups.drops), one)
    close(functional.sensitivity_n(subsets.sums, subsets.drops), one)
    curve = perturbation_curve(net, POSITIVE, maps, 0, order="deletion", masking=MeanColour())
    close(functional.monotonicity(curve.probabilities), 100 * one)
    backwards = group_removals(net, POSITIVE, 1 - maps, 0, groups=8, by="logit")
    close(functional.saco(backwards.sums, backwards.drops), -one)
    wrong = perturbation_curve(net, -POSITIVE, maps, 0, order="deletion", masking=MeanColour())
    close(functional.monotonicity(wrong.probabilities), 0 * one)


def test_pixels_that_are_not_read_cannot_be_ordered_better():
    """Only the left half counts: a map of it deletes everything in the first half of the steps."""
    net = Linear()
    with torch.no_grad():
        net.weight[:, :, W // 2 :] = 0
    left = torch.zeros(N, H, W)
    left[:, :, : W // 2] = 1
    halves = torch.arange(W).ge(W // 2).long().expand(N, H, W)
    curve = segment_curve(net, POSITIVE, left, halves, 0, by="logit").scores
    close(functional.irof(curve), torch.full((N,), 75.0))  # gone at ½: ∫ = ½ · (1 + 0) / 2
    worst = segment_curve(net, POSITIVE, 1 - left, halves, 0, by="logit").scores
    close(functional.irof(worst), torch.full((N,), 25.0))
    most, least = (
        region_curve(net, POSITIVE, left, 0, patch=2, regions=None, placement="grid", order=order)
        for order in ("most", "least")
    )
    assert most.probabilities.shape == (N, 1 + 20)
    assert (functional.abpc(most.probabilities, least.probabilities) > 0).all()
    close(most.probabilities[:, -1], least.probabilities[:, -1])
    assert (
        functional.selectivity(most.probabilities) < functional.selectivity(least.probabilities)
    ).all()


def test_louder_pixels_move_the_score_further():
    net = Linear()
    with torch.no_grad():
        net.weight.copy_(torch.linspace(1, 0, H * W).view(H, W).expand(3, H, W))
    order = torch.linspace(1, 0, H * W).view(H, W).expand(N, H, W)
    flat = torch.rand(N, 3, 1, 1).expand_as(X) + torch.linspace(0, 0.01, W)
    found = group_resamplings(net, flat, order, 0, groups=5, samples=6, by="logit")
    one = torch.ones(N).double()
    close(functional.monotonicity_correlation(found.sums, found.changes), one)


def test_numbers_by_hand():
    sums, drops = torch.tensor([[4.0, 2.0, 1.0]]), torch.tensor([[0.5, 0.1, 0.2]])
    # pairs: 4-2 = 2 right, 4-1 = 3 right, 2-1 = 1 wrong
    assert float(functional.saco(sums, drops)) == pytest.approx((2 + 3 - 1) / 6)
    assert functional.saco(torch.ones(1, 3), drops).isnan().all()
    assert functional.monotonicity(torch.tensor([[0.9, 0.5, 0.5, 0.7]])).tolist() == [100]
    assert functional.monotonicity(torch.tensor([[0.9, 0.5, 0.6, 0.1]])).tolist() == [0]
    assert functional.selectivity(torch.tensor([[1.0, 0.5, 0.0]])).tolist() == [50]
    assert functional.abpc(*torch.tensor([[[1.0, 0.0]], [[1.0, 1.0]]])).tolist() == [50]
    curve = torch.tensor([[0.8, 0.4, 0.0], [0.5, 0.25, torch.nan], [0.0, 0.1, 0.2]])
    assert functional.irof(curve)[:2].tolist() == [50, 25]
    assert functional.irof(curve)[2].isnan()


# --- any target judges ----------------------------------------------------------------------------

CALLS = {
    "insertion": lambda *a, **k: perturbation_curve(*a, **k).probabilities[:, -1],
    "regions": lambda *a, **k: region_curve(*a, patch=2, regions=3, **k).probabilities[:, 0],
    "groups": lambda *a, **k: group_removals(*a, groups=4, **k).drops.amax(1),
    "colours": lambda *a, **k: group_resamplings(*a, groups=2, samples=2, **k).changes.amax(1),
    "subsets": lambda *a, **k: subset_removals(*a, shares=(0.5,), samples=3, **k).drops.amax(
        (1, 2)
    ),
    "segments": lambda *a, **k: segment_curve(*a[:3], SEGMENTS[: len(a[1])], *a[3:], **k).scores[
        :, 0
    ],
    "road": lambda *a, **k: removal_curves(*a, percentages=(50,), **k).most[:, 0],
    "squares": lambda *a, **k: square_removals(*a[:2], *a[3:], samples=3, **k).drops.amax(1),
    "masked": lambda *a, **k: masked_scores(*a, **k).clean,
    "crops": lambda *a, **k: (
        crop_scores(*a[:2], torch.tensor([[0.0, 0.0, W, H]] * len(a[1])), *a[3:], **k).crop
    ),
}
CLEAN = ("insertion", "regions", "segments", "masked", "crops")
"""Those whose number here is the score of the clean image."""


@pytest.mark.parametrize("name", CALLS)
def test_any_score_judges(name):
    """An embedding's similarity, a callable, and a class margin read as the target reads it."""
    net = convnet(seed=3)
    call = CALLS[name]
    reference = torch.rand(N, 5, generator=torch.Generator().manual_seed(1))
    targets = [EmbeddingSimilarity(reference, kind="cosine"), lambda output: output[:, 2] * 10]
    with torch.no_grad():
        logits = net(X)
    for target in targets:
        found = call(net, X, MAPS, target)
        assert found.shape == (N,)
        if name in CLEAN:
            close(found, target(logits), atol=1e-5)
        else:
            assert not torch.allclose(found, call(net, X, MAPS, LABELS))
    if name not in ("masked", "crops"):
        margin = call(net, X, MAPS, Margin(LABELS), by="target")
        if name in CLEAN:
            close(margin, Margin(LABELS)(logits), atol=1e-5)
        assert not torch.allclose(margin, call(net, X, MAPS, LABELS, by="probability"))


def test_a_detection_is_judged_by_its_own_score():
    net = tiny_detector()
    x = images(1, 32, 32)
    maps = torch.rand(1, 32, 32)
    found = group_removals(net, x, maps, Box(), groups=2)
    assert found.labels is None
    assert found.drops.isfinite().all()
    assert found.drops.abs().amax() > 0


def test_an_unknown_score_is_refused():
    """The type says so, but types are not checked for a user."""
    with judging(convnet(), X) as judge, pytest.raises(OptionError, match="logits"):
        inspect.unwrap(Judge.read_clean)(judge, None, None, "logits")


def test_known_logits_cost_no_pass():
    net = convnet(seed=3)
    with torch.no_grad():
        known = net(X)
    assert group_removals(net, X, MAPS, groups=4, clean=known).passes == 4 * N
