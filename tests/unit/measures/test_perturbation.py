"""Curves of class probabilities, against plain loops that replace pixels one step at a time."""

import inspect

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from torch import nn
from torch.nn import functional as F

from nets import CLASSES, Counter, convnet, images, two_layer_head
from torchsaliency import (
    BlackPixel,
    GivenImage,
    InputError,
    MeanColour,
    OptionError,
    TargetError,
)
from torchsaliency.core.masking import ImageMinimum, RISEBlur
from torchsaliency.measures import (
    crop_scores,
    masked_embeddings,
    masked_scores,
    perturbation_curve,
    region_curve,
    removal_curves,
    square_removals,
)
from torchsaliency.measures.imputation import impute_neighbours
from torchsaliency.metrics import functional

N, H, W = 2, 12, 10
X = images(N, H, W, seed=1)
MAPS = torch.rand(N, H, W, generator=torch.Generator().manual_seed(0))
COARSE = (MAPS * 4).round() / 4  # many ties
LABELS = [3, 1]


def unchecked(function):
    """The function without pytest's type checks, which would be quicker than its own answer."""
    return inspect.unwrap(function)


def close(one, other, **options):
    torch.testing.assert_close(
        one, other, **{"atol": 1e-6, "rtol": 1e-5, "check_dtype": False, **options}
    )


def probability(net: nn.Module, image: torch.Tensor, label: int) -> float:
    with torch.no_grad():
        return float(net(image[None].clone())[0].double().softmax(0)[label])


def by_hand(net, image, saliency, label, insert, baseline, step):
    """RISE's loop: sort the pixels, then replace `step` of them after another."""
    pixels = saliency.flatten().tolist()
    order = sorted(range(len(pixels)), key=lambda at: (-pixels[at], at))
    begin, finish = (baseline, image) if insert else (image, baseline)
    now, goal = begin.clone().flatten(1), finish.flatten(1)
    curve, fractions = [probability(net, begin, label)], [0.0]
    for start in range(0, len(order), step):
        for at in order[start : start + step]:
            now[:, at] = goal[:, at]
        curve.append(probability(net, now.view_as(image), label))
        fractions.append(min(start + step, len(order)) / len(order))
    return torch.tensor(curve), torch.tensor(fractions)


FILLS = {
    "default": None,
    "mean": MeanColour(),
    "black": BlackPixel(),
    "rise": RISEBlur(),
    "rise in pixels": RISEBlur(BlackPixel()),
    "given": GivenImage(torch.randn(3, H, W, generator=torch.Generator().manual_seed(2))),
}


@pytest.mark.parametrize("order", ["insertion", "deletion"])
@pytest.mark.parametrize("masking", FILLS.values(), ids=FILLS)
@pytest.mark.parametrize("maps", [MAPS, COARSE], ids=["no ties", "ties"])
@pytest.mark.parametrize("step", [None, 7, 1000])
def test_curve_is_that_of_a_plain_loop(order, masking, maps, step):
    net = convnet(seed=3)
    insert = order == "insertion"
    fill = masking or (RISEBlur() if insert else MeanColour())
    baselines = fill.baseline(X).expand_as(X)
    found = perturbation_curve(net, X, maps, LABELS, order=order, step=step, masking=masking)
    assert found.order == order
    assert found.labels.tolist() == LABELS
    assert found.probabilities.dtype == torch.float64
    for i in range(N):
        curve, fractions = by_hand(net, X[i], maps[i], LABELS[i], insert, baselines[i], step or W)
        close(found.probabilities[i], curve)
        close(found.fractions, fractions)
    assert found.inputs()[order] is found.probabilities
    assert found.inputs()["fractions"] is found.fractions


@pytest.mark.parametrize("masking", FILLS.values(), ids=FILLS)
def test_the_ends_are_the_image_and_the_baseline(masking):
    net = convnet(seed=3)
    insertion = perturbation_curve(net, X, MAPS, LABELS, masking=masking)
    deletion = perturbation_curve(net, X, MAPS, LABELS, order="deletion", masking=masking)
    for i, label in enumerate(LABELS):
        clean = probability(net, X[i], label)
        assert float(insertion.probabilities[i, -1]) == pytest.approx(clean, abs=1e-6)
        assert float(deletion.probabilities[i, 0]) == pytest.approx(clean, abs=1e-6)
        started = (masking or RISEBlur()).baseline(X).expand_as(X)[i]
        ended = (masking or MeanColour()).baseline(X).expand_as(X)[i]
        assert float(insertion.probabilities[i, 0]) == pytest.approx(
            probability(net, started, label), abs=1e-6
        )
        assert float(deletion.probabilities[i, -1]) == pytest.approx(
            probability(net, ended, label), abs=1e-6
        )


class FirstPixels(nn.Module):
    """Two logits: the first says which pixels are shown, coded by their place in reading order."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.linspace(-1, 1, H * W).square() - 0.3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        own = (x[:, 0].flatten(1) * self.weight).sum(1) / 10
        return torch.stack([own, torch.zeros_like(own)], 1)


@pytest.mark.parametrize("value", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("order", ["insertion", "deletion"])
def test_ties_are_taken_in_reading_order(value, order):
    """A constant map: the rows are taken from the top, one a step."""
    net, ones = FirstPixels(), torch.ones(1, 3, H, W)
    maps = torch.full((1, H, W), value)
    found = perturbation_curve(net, ones, maps, 0, order=order, masking=MeanColour())
    rows = net.weight.detach().view(H, W).sum(1).double()
    taken = torch.cat([torch.zeros(1).double(), rows.cumsum(0)])
    shown = taken if order == "insertion" else rows.sum() - taken
    close(found.probabilities[0], (shown / 10).sigmoid())
    assert found.probabilities[0].diff().sign().unique().numel() > 1  # neither order is trivial


def test_a_curve_of_one_image_costs_one_pass_a_row():
    net = convnet(seed=3)
    one, saliency = X[:1], MAPS[:1]
    perturbation_curve(net, one, saliency, budget=1)  # one image shows once what numbers mean
    counter = Counter(net)
    with torch.no_grad():
        known = net(one)
    assert counter.images == 1
    curves = [
        perturbation_curve(net, one, saliency, order=order, clean=known)
        for order in ("insertion", "deletion")
    ]
    assert [curve.passes for curve in curves] == [H, H]
    assert counter.images == 2 * H + 1
    assert counter.with_gradients == 0
    counter.images = 0
    both = perturbation_curve(net, X, MAPS)
    assert counter.images == both.passes == N * (H + 1)
    assert both.probabilities.shape == (N, H + 1)


@pytest.mark.parametrize("order", ["insertion", "deletion"])
def test_known_logits_change_nothing(order):
    net = convnet(seed=3)
    with torch.no_grad():
        known = net(X)
    one = perturbation_curve(net, X, MAPS, order=order, clean=known)
    other = perturbation_curve(net, X, MAPS, order=order)
    close(one.probabilities, other.probabilities)
    assert torch.equal(one.labels, other.labels)
    again = perturbation_curve(net, X, MAPS, order=order, clean=other.clean)
    assert again.passes == N * H
    assert torch.equal(again.probabilities, other.probabilities)


def test_classes_are_those_predicted_on_the_clean_image():
    net = convnet(seed=3)
    with torch.no_grad():
        predicted = net(X).argmax(1)
    assert torch.equal(perturbation_curve(net, X, MAPS).labels, predicted)
    assert torch.equal(region_curve(net, X, MAPS, patch=3, regions=2).labels, predicted)
    assert torch.equal(removal_curves(net, X, MAPS).labels, predicted)
    assert torch.equal(square_removals(net, X, samples=3).labels, predicted)


CALLS = {
    "insertion": lambda net, x, maps, **kw: perturbation_curve(net, x, maps, **kw).probabilities,
    "deletion": lambda net, x, maps, **kw: (
        perturbation_curve(net, x, maps, order="deletion", step=7, **kw).probabilities
    ),
    "sliding": lambda net, x, maps, **kw: (
        region_curve(net, x, maps, patch=3, regions=5, **kw).probabilities
    ),
    "grid": lambda net, x, maps, **kw: (
        region_curve(net, x, maps, patch=3, regions=5, placement="grid", **kw).probabilities
    ),
    "most": lambda net, x, maps, **kw: removal_curves(net, x, maps, **kw).most,
    "least": lambda net, x, maps, **kw: removal_curves(net, x, maps, **kw).least,
    "squares": lambda net, x, maps, **kw: square_removals(net, x, samples=9, side=0.4, **kw).drops,
    "masked": lambda net, x, maps, **kw: masked_scores(net, x, maps, **kw).masked,
    "several": lambda net, x, maps, **kw: (
        masked_scores(net, x, torch.stack([maps, 1 - maps, maps**2], 1), **kw).masked
    ),
    "crops": lambda net, x, maps, **kw: (
        crop_scores(net, x, torch.tensor([[2.0, 1.0, 7.0, 9.0]] * len(x)), **kw).crop
    ),
    "embeddings": lambda net, x, maps, **kw: masked_embeddings(net, x, maps, **kw).embeddings,
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
@pytest.mark.parametrize("chunk", [1, 3, 5])
def test_the_chunk_bounds_the_memory_and_changes_nothing(call, chunk):
    net = convnet(seed=3)
    x, maps = images(7, H, W, seed=4), torch.rand(7, H, W)
    expected = call(net, x, maps)
    batches = []
    net.register_forward_pre_hook(lambda module, inputs: batches.append(len(inputs[0])))
    close(call(net, x, maps, chunk=chunk), expected, atol=1e-5)
    assert max(batches) == chunk
    assert min(batches) >= 1


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_images_do_not_see_each_other(call):
    net = convnet(seed=3)
    batch = call(net, X, MAPS)
    for i in range(N):
        close(call(net, X[i : i + 1], MAPS[i : i + 1]), batch[i : i + 1], atol=1e-5)
    close(call(net, X.flip(0), MAPS.flip(0)), batch.flip(0), atol=1e-5)


def test_a_last_step_that_is_shorter():
    found = perturbation_curve(convnet(), X, MAPS, step=50)
    assert found.fractions.tolist() == [0, 50 / 120, 100 / 120, 1]
    assert found.passes == N * (3 + 1)
    assert perturbation_curve(convnet(), X, MAPS, step=121).fractions.tolist() == [0, 1]
    assert len(perturbation_curve(convnet(), X, MAPS, step=1).fractions) == H * W + 1


@pytest.mark.parametrize("order", ["insertion", "deletion"])
@pytest.mark.parametrize("budget", [1, 5, 11, 12, 100])
def test_a_budget_thins_the_curve(order, budget):
    net = convnet(seed=3)
    full = perturbation_curve(net, X, MAPS, LABELS, order=order)
    with torch.no_grad():
        known = net(X)
    few = perturbation_curve(net, X, MAPS, LABELS, order=order, budget=budget, clean=known)
    steps = min(budget, H)
    assert few.passes == N * steps
    assert len(few.fractions) == steps + 1
    assert few.fractions[0] == 0
    assert few.fractions[-1] == 1
    gaps = (few.fractions.diff() * H).round()
    assert gaps.min() >= 1
    assert gaps.max() - gaps.min() <= 1  # evenly
    places = (few.fractions * H).round().long()  # its points are points of the full curve
    close(few.probabilities, full.probabilities[:, places])


def test_steps_out_of_range():
    for wrong in ({"step": -1}, {"budget": 0}, {"budget": -3}):
        with pytest.raises(OptionError, match="at least one"):
            perturbation_curve(convnet(), X, MAPS, **wrong)


def test_a_step_of_no_pixels_is_refused():
    with pytest.raises(OptionError, match="at least one"):
        perturbation_curve(convnet(), X, MAPS, step=0)


def test_an_unknown_order_or_placement_is_refused():
    """The type says so, but types are not checked for a user."""
    with pytest.raises(OptionError, match="inserton"):
        unchecked(perturbation_curve)(convnet(), X, MAPS, order="inserton")
    with pytest.raises(OptionError, match="gird"):
        unchecked(region_curve)(convnet(), X, MAPS, patch=3, regions=2, placement="gird")


class Constant(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.tensor([0.3, 1.0, -2.0]))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.logits.expand(len(x), -1)


def test_a_network_of_constant_probability_has_flat_curves():
    net = Constant()
    expected = net.logits.detach().double().softmax(0)[2]
    for order in ("insertion", "deletion"):
        found = perturbation_curve(net, X, MAPS, 2, order=order)
        close(found.probabilities, expected.expand(N, H + 1), rtol=1e-12, atol=0)
        area = functional.area_under_curve(found.probabilities, found.fractions)
        close(area, (100 * expected).expand(N), rtol=1e-12, atol=0)
    regions = region_curve(net, X, MAPS, 2, patch=3, regions=4)
    close(functional.aopc(regions.probabilities), torch.zeros(N), rtol=0, atol=1e-12)
    assert square_removals(net, X, 2, samples=5).drops.count_nonzero() == 0
    removed = removal_curves(net, X, MAPS, 2)
    close(functional.road(removed.most, removed.least), torch.zeros(N), rtol=0, atol=1e-12)


# --- RISE's blur ---------------------------------------------------------------------------------


def kernel() -> torch.Tensor:
    delta = torch.zeros(1, 3, 31, 31)
    delta[:, :, 15, 15] = 1
    return RISEBlur().baseline(delta)[0, 0, 10:21, 10:21]


def test_rise_blur_is_the_published_kernel():
    found = kernel()
    assert float(found.sum()) == pytest.approx(1, abs=1e-6)
    assert float(found[5, 5]) == pytest.approx(0.00883, abs=5e-6)
    assert float(found[5, 0]) == float(found[0, 5]) == pytest.approx(0.00827, abs=5e-6)
    assert float(found[0, 0]) == float(found[10, 10]) == pytest.approx(0.00774, abs=5e-6)
    torch.testing.assert_close(found, found.flip(0))
    torch.testing.assert_close(found, found.mT)
    delta = np.zeros((11, 11))
    delta[5, 5] = 1
    np.testing.assert_allclose(found.numpy(), gaussian_filter(delta, 5), rtol=1e-5)


def test_rise_blur_ends_eleven_pixels_wide():
    delta = torch.zeros(1, 3, 31, 31)
    delta[:, :, 15, 15] = 1
    assert RISEBlur().baseline(delta).count_nonzero() == 3 * 11 * 11


def test_rise_blur_is_zero_padded_in_normalised_space():
    weight = torch.from_numpy(gaussian_filter(np.pad([[1.0]], 5), 5)).float()
    expected = F.conv2d(X, weight.expand(3, 1, 11, 11), padding=5, groups=3)
    close(RISEBlur().baseline(X), expected)


def test_rise_blur_is_zero_padded_in_pixel_space():
    """Blurring the image of [0, 1] over black, then normalising."""
    black = BlackPixel()
    mean, std = torch.tensor(black.mean)[:, None, None], torch.tensor(black.std)[:, None, None]
    pixels = torch.rand(N, 3, H, W, generator=torch.Generator().manual_seed(5))
    weight = torch.from_numpy(gaussian_filter(np.pad([[1.0]], 5), 5)).float()
    blurred = F.conv2d(pixels, weight.expand(3, 1, 11, 11), padding=5, groups=3)
    found = RISEBlur(black).baseline((pixels - mean) / std)
    close(found, (blurred - mean) / std, atol=1e-5)
    assert not torch.allclose(found, RISEBlur().baseline((pixels - mean) / std), atol=0.1)
    assert RISEBlur(black).describe()["outside"]["baseline"] == "black"


# --- regions -------------------------------------------------------------------------------------


def greedy(saliency, patch, regions):
    """Quantus before 0.6: every position that touches the image, best first, none over another."""
    height, width = saliency.shape
    values = saliency.double().numpy()
    sums = {}
    for top in range(-patch + 1, height):
        for left in range(-patch + 1, width):
            part = values[max(top, 0) : top + patch, max(left, 0) : left + patch]
            sums[top, left] = part.sum()
    chosen = []
    for top, left in sorted(sums, key=lambda at: (-round(sums[at], 9), at)):
        if all(abs(top - a) >= patch or abs(left - b) >= patch for a, b in chosen):
            chosen.append((top, left))
        if len(chosen) == regions:
            break
    return chosen


def blocks(saliency, patch, regions):
    height, width = saliency.shape
    corners = [
        (top, left)
        for top in range(0, height - patch + 1, patch)
        for left in range(0, width - patch + 1, patch)
    ]
    values = saliency.double()
    sums = {(a, b): float(values[a : a + patch, b : b + patch].sum()) for a, b in corners}
    return sorted(sums, key=lambda at: (-round(sums[at], 9), at))[:regions]


@pytest.mark.parametrize(("placement", "choose"), [("sliding", greedy), ("grid", blocks)])
@pytest.mark.parametrize("maps", [MAPS, (MAPS > 0.9).float()], ids=["dense", "sparse"])
@pytest.mark.parametrize(("patch", "regions"), [(3, 6), (1, 20), (4, 3), (2, 12)])
@pytest.mark.parametrize("masking", [None, BlackPixel()], ids=["minimum", "black"])
def test_regions_are_those_of_a_plain_loop(placement, choose, maps, patch, regions, masking):
    net = convnet(seed=3)
    found = region_curve(
        net,
        X,
        maps,
        LABELS,
        patch=patch,
        regions=regions,
        placement=placement,
        masking=masking,
        chunk=4,
    )
    assert found.passes == N * (regions + 1)
    assert found.inputs()["regions"] is found.probabilities
    for i, label in enumerate(LABELS):
        corners = choose(maps[i], patch, regions)
        assert [tuple(one) for one in found.corners[i].tolist()] == corners
        fill = X[i].min() if masking is None else masking.baseline(X[i : i + 1])
        now, curve = X[i].clone(), [probability(net, X[i], label)]
        for top, left in corners:
            spot = now[:, max(top, 0) : top + patch, max(left, 0) : left + patch]
            spot[:] = fill
            curve.append(probability(net, now, label))
        close(found.probabilities[i], torch.tensor(curve))


def test_regions_never_overlap():
    found = region_curve(convnet(), X, torch.ones(N, H, W), patch=3, regions=12)
    for corners in found.corners.tolist():
        covered = torch.zeros(H + 6, W + 6)
        for top, left in corners:
            covered[top + 3 : top + 6, left + 3 : left + 6] += 1
        assert covered.max() == 1


def test_too_many_regions():
    with pytest.raises(OptionError, match="do not fit"):
        region_curve(convnet(), X, MAPS, patch=6, regions=3, placement="grid")
    assert region_curve(convnet(), X, MAPS, patch=6, regions=2, placement="grid").passes
    with pytest.raises(OptionError, match="do not fit"):
        region_curve(convnet(), X, MAPS, patch=10, regions=10)
    for wrong in ({"patch": 11}, {"patch": 0}, {"regions": 0}, {"patch": -1}):
        with pytest.raises(OptionError, match="regions of"):
            region_curve(convnet(), X, MAPS, **{"patch": 2, "regions": 2, **wrong})


def test_image_minimum_is_one_number_an_image():
    found = ImageMinimum()(X, torch.zeros(N, H, W))
    for i in range(N):
        assert found[i].unique().tolist() == [float(X[i].min())]
    assert torch.equal(ImageMinimum()(X, torch.ones(N, H, W)), X)
    assert ImageMinimum().describe() == {"baseline": "image minimum"}


# --- removal and imputation ----------------------------------------------------------------------


def dense(image, removed):
    """All removed pixels are the weighted mean of their neighbours: one dense linear system."""
    channels, height, width = image.shape
    places = [(a, b) for a in range(height) for b in range(width) if removed[a, b]]
    number = {place: k for k, place in enumerate(places)}
    system, goal = np.zeros((len(places),) * 2), np.zeros((len(places), channels))
    for k, (a, b) in enumerate(places):
        near = [
            ((a + da, b + db), 1 / 6 if da == 0 or db == 0 else 1 / 12)
            for da in (-1, 0, 1)
            for db in (-1, 0, 1)
            if (da or db) and 0 <= a + da < height and 0 <= b + db < width
        ]
        whole = sum(weight for _, weight in near)
        system[k, k] = 1
        for place, weight in near:
            if place in number:
                system[k, number[place]] -= weight / whole
            else:
                goal[k] += weight / whole * image[:, place[0], place[1]].double().numpy()
    filled = image.double().clone()
    for place, colour in zip(places, np.linalg.solve(system, goal), strict=True):
        filled[:, place[0], place[1]] = torch.from_numpy(colour)
    return filled


@pytest.mark.parametrize("share", [0.02, 0.3, 0.6, 0.95])
def test_imputation_is_the_solution_of_the_dense_system(share):
    removed = torch.rand(N, H, W, generator=torch.Generator().manual_seed(3)) < share
    found = impute_neighbours(X, removed)
    assert found.dtype == X.dtype
    for i in range(N):
        close(found[i], dense(X[i], removed[i]), atol=1e-5)
        assert torch.equal(found[i][:, ~removed[i]], X[i][:, ~removed[i]])  # bit by bit


def test_imputation_at_its_ends():
    assert torch.equal(impute_neighbours(X, torch.zeros(N, H, W, dtype=torch.bool)), X)
    gone = impute_neighbours(X, torch.ones(N, H, W, dtype=torch.bool))
    close(gone, X.mean((2, 3), keepdim=True).expand_as(X))
    but_one = torch.ones(N, H, W, dtype=torch.bool)
    but_one[:, 5, 5] = False
    close(impute_neighbours(X, but_one), X[:, :, 5:6, 5:6].expand_as(X), atol=1e-4)
    grey = impute_neighbours(X[:, :1], torch.rand(N, H, W) < 0.4)
    assert grey.shape == (N, 1, H, W)


def test_imputation_keeps_a_constant_image():
    colour = torch.tensor([0.2, -1.0, 3.0])[None, :, None, None].expand(N, 3, H, W).clone()
    close(impute_neighbours(colour, torch.rand(N, H, W) < 0.7), colour, atol=1e-5)


@pytest.mark.parametrize("noise", [0.0, 0.3])
@pytest.mark.parametrize("maps", [MAPS, COARSE], ids=["no ties", "ties"])
def test_removal_is_that_of_a_plain_loop(noise, maps):
    net, percentages = convnet(seed=3), (10, 45.5, 90)
    found = removal_curves(
        net, X, maps, LABELS, percentages=percentages, noise=noise, seed=7, chunk=4
    )
    draw = torch.Generator().manual_seed(7)
    speckle = torch.randn(6, 3, H, W, generator=draw) * noise
    close(found.fractions, torch.tensor(percentages) / 100, atol=1e-7)
    for i, label in enumerate(LABELS):
        values = maps[i].flatten().tolist()
        order = sorted(range(H * W), key=lambda at: (-values[at], at))
        for place, percent in enumerate(percentages):
            count = round(percent / 100 * H * W)
            for curve, taken, grain in (
                (found.most, order[:count], speckle[place]),
                (found.least, order[H * W - count :], speckle[3 + place]),
            ):
                removed = torch.zeros(H * W, dtype=torch.bool)
                removed[taken] = True
                removed = removed.view(H, W)
                image = (dense(X[i], removed) + grain * removed).float()
                expected = probability(net, image, label)
                assert float(curve[i, place]) == pytest.approx(expected, abs=1e-5)
    assert found.passes == N * (1 + 6)
    assert found.inputs() == {"most": found.most, "least": found.least}


def test_noise_is_seeded():
    net = convnet(seed=3)
    torch.manual_seed(0)
    one = removal_curves(net, X, MAPS, noise=0.5, seed=1)
    torch.manual_seed(1)
    same = removal_curves(net, X, MAPS, noise=0.5, seed=1)
    other = removal_curves(net, X, MAPS, noise=0.5, seed=2)
    assert torch.equal(one.most, same.most)
    assert torch.equal(one.least, same.least)
    assert not torch.allclose(one.most, other.most, atol=1e-3)
    # the same image twice in a batch has the same noise
    twice = removal_curves(net, X[:1].repeat(2, 1, 1, 1), MAPS[:1].repeat(2, 1, 1), noise=0.5)
    close(twice.most[0], twice.most[1])


def test_all_pixels_removed_leave_the_mean_colour():
    net = convnet(seed=3)
    found = removal_curves(net, X, MAPS, LABELS, percentages=(99.9,), noise=0)
    for i, label in enumerate(LABELS):
        flat = X[i].mean((1, 2), keepdim=True).expand(3, H, W)
        for curve in (found.most, found.least):
            assert float(curve[i, 0]) == pytest.approx(probability(net, flat, label), abs=1e-5)


@pytest.mark.parametrize("wrong", [(), (0,), (100,), (10, 120), (-5,), (float("nan"),)])
def test_percentages_out_of_range(wrong):
    with pytest.raises(OptionError, match="between 0 and 100"):
        removal_curves(convnet(), X, MAPS, percentages=wrong)


def test_known_logits_save_passes_everywhere():
    net = convnet(seed=3)
    with torch.no_grad():
        known = net(X)
    removal_curves(net, X, MAPS, percentages=(50,))  # one image shows once what numbers mean
    counter = Counter(net)
    found = removal_curves(net, X, MAPS, percentages=(20, 60), clean=known)
    assert counter.images == found.passes == N * 4
    counter.images = 0
    assert region_curve(net, X, MAPS, patch=3, regions=4, clean=known).passes == N * 4
    assert square_removals(net, X, samples=6, clean=known).passes == N * 6
    assert counter.images == N * 10


# --- squares -------------------------------------------------------------------------------------


@pytest.mark.parametrize("masking", [None, BlackPixel(), RISEBlur()], ids=["mean", "black", "blur"])
@pytest.mark.parametrize("side", [0.15, 0.5, 1.0, 1])
def test_squares_are_those_of_a_plain_loop(masking, side):
    net = two_layer_head(seed=3)
    found = square_removals(net, X, LABELS, samples=7, side=side, masking=masking, chunk=3)
    edge = max(1, round(side * min(H, W)))
    baselines = (masking or MeanColour()).baseline(X).expand_as(X)
    assert found.squares.shape == (7, 4)
    assert ((found.squares[:, 2:] - found.squares[:, :2]) == edge).all()
    assert found.squares.min() >= 0
    assert (found.squares[:, 2] <= W).all()
    assert (found.squares[:, 3] <= H).all()
    with torch.no_grad():
        for i, label in enumerate(LABELS):
            clean = net(X[i : i + 1].clone())[0, label]
            for s, (x0, y0, x1, y1) in enumerate(found.squares.tolist()):
                image = X[i].clone()
                image[:, y0:y1, x0:x1] = baselines[i][:, y0:y1, x0:x1]
                close(found.drops[i, s], clean - net(image[None])[0, label], atol=1e-5)
    assert found.drops.dtype == torch.float64
    assert found.passes == N * 8
    assert set(found.inputs()) == {"squares", "drops"}


def test_squares_are_seeded_and_reach_every_border():
    one = square_removals(convnet(), X, samples=300, side=0.3, seed=1)
    torch.manual_seed(5)
    same = square_removals(convnet(), X, samples=300, side=0.3, seed=1)
    other = square_removals(convnet(), X, samples=300, side=0.3, seed=2)
    assert torch.equal(one.squares, same.squares)
    assert torch.equal(one.drops, same.drops)
    assert not torch.equal(one.squares, other.squares)
    assert one.squares.amin(0)[:2].tolist() == [0, 0]
    assert one.squares.amax(0)[2:].tolist() == [W, H]


@pytest.mark.parametrize("wrong", [{"samples": 0}, {"side": 0}, {"side": 1.1}, {"side": -0.2}])
def test_squares_out_of_range(wrong):
    with pytest.raises(OptionError, match="squares"):
        square_removals(convnet(), X, **wrong)


# --- what does not fit ---------------------------------------------------------------------------

MEASURES = {
    "curve": perturbation_curve,
    "regions": lambda net, x, maps, *a, **kw: unchecked(region_curve)(
        net, x, maps, *a, **{"patch": 3, "regions": 2, **kw}
    ),
    "removal": removal_curves,
    "squares": lambda net, x, maps, *a, **kw: unchecked(square_removals)(net, x, *a, **kw),
}


@pytest.mark.parametrize("name", ["curve", "regions", "removal"])
@pytest.mark.parametrize(
    ("maps", "words"),
    [
        (torch.rand(N, H, W - 1), "Maps of"),
        (torch.rand(N + 1, H, W), "Maps of"),
        (torch.rand(N, 2, H, W), "Maps of"),
        (MAPS * 2, "reach from"),
        (MAPS - 0.5, "reach from"),
        (torch.full((N, H, W), torch.nan), "NaN"),
    ],
    ids=["width", "number", "several", "above", "below", "nan"],
)
def test_maps_that_do_not_fit(name, maps, words):
    with pytest.raises(InputError, match=words):
        unchecked(MEASURES[name])(convnet(), X, maps)


@pytest.mark.parametrize("name", MEASURES)
def test_networks_and_classes_that_do_not_fit(name):
    measure = unchecked(MEASURES[name])
    with pytest.raises(TargetError, match="classes 0 to 4"):
        measure(convnet(), X, MAPS, CLASSES)
    with pytest.raises(TargetError, match="2 images"):
        measure(convnet(), X, MAPS, [0, 1, 2])
    with pytest.raises(TargetError, match="masked_embeddings"):
        measure(convnet()[:9], X, MAPS)
    with pytest.raises(InputError, match="1 images"):
        measure(convnet(), X, MAPS, clean=torch.zeros(1, CLASSES))
    with pytest.raises(InputError, match="chunk"):
        measure(convnet(), X, MAPS, chunk=0)
    with pytest.raises(InputError, match="NaN"):
        measure(convnet(), X * torch.nan, MAPS)
