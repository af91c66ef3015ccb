"""Curves, sensitivity, the pointing game and complexity against Quantus 0.6.

Quantus divides every map by its largest value (`normalise=True`), takes absolute values where told,
and works on numpy arrays; our maps already lie in [0, 1], so both are switched off here.
"""

import warnings

import numpy as np
import pytest
import torch

from nets import convnet, images, quick
from torchsaliency import GivenImage, MeanColour, explain
from torchsaliency.measures import (
    group_removals,
    group_resamplings,
    noisy_maps,
    perturbation_curve,
    region_curve,
    segment_curve,
    subset_removals,
)
from torchsaliency.metrics import functional

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import quantus

N, H, W = 3, 12, 16
X = images(N, H, W, seed=1)
LABELS = torch.tensor([3, 1, 4])
# no ties: their order is numpy's own in Quantus, the reading order in ours
MAPS = torch.rand(N, H, W, generator=torch.Generator().manual_seed(0))
QUIET = {"disable_warnings": True, "display_progressbar": False}
PLAIN = {"normalise": False, "abs": False, **QUIET}


def theirs(metric, net, maps=MAPS, **options):
    """Quantus's numbers, one row an image. It writes into the maps that it is given."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return np.asarray(
            metric(
                model=net,
                x_batch=X.numpy().copy(),
                y_batch=LABELS.numpy().copy(),
                a_batch=maps[:, None].double().numpy().copy(),
                **options,
            )
        )


def close(found, expected, **options):
    expected = torch.from_numpy(np.asarray(expected, dtype=np.float64))
    torch.testing.assert_close(found.double(), expected, **{"atol": 1e-5, "rtol": 1e-4, **options})


@pytest.mark.parametrize(("patch", "regions"), [(4, 12), (2, 10), (1, 5)])
@pytest.mark.parametrize("normalise", [False, True])
def test_regions_on_a_grid(patch, regions, normalise):
    """Quantus gives the drops p_0 - p_k for k = 1…L, ours are the probabilities with k = 0.

    The patch divides the image: where it does not, Quantus pads with zeros and also perturbs the
    rest, ours leaves out blocks that do not fit.
    """
    net = convnet(seed=3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        metric = quantus.RegionPerturbation(
            patch_size=patch,
            regions_evaluation=regions,
            order="morf",
            perturb_baseline="black",
            abs=False,
            normalise=normalise,  # divides the map by its maximum: no other order
            **QUIET,
        )
    expected = theirs(metric, net, softmax=True)
    found = region_curve(
        net, X, MAPS, LABELS, patch=patch, regions=regions, placement="grid"
    ).probabilities
    close(found[:, :1] - found[:, 1:], expected)
    # Samek's mean over L + 1 terms, the first of which is 0; Quantus's own summary is another one
    aopc = functional.aopc(found)
    close(aopc, 100 * expected.sum(1) / (regions + 1), atol=1e-3)


def test_region_curve_does_not_follow_another_order():
    """The comparison above can fail: with the least relevant regions first the drops differ."""
    net = convnet(seed=3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        metric = quantus.RegionPerturbation(
            patch_size=4, regions_evaluation=8, order="lerf", perturb_baseline="black", **PLAIN
        )
    expected = theirs(metric, net, softmax=True)
    found = region_curve(net, X, MAPS, LABELS, patch=4, regions=8, placement="grid").probabilities
    assert not np.allclose((found[:, :1] - found[:, 1:]).numpy(), expected, atol=1e-4)


@pytest.mark.parametrize(
    ("baseline", "masking"),
    [(0.0, MeanColour()), (0.7, GivenImage(torch.full((3, 1, 1), 0.7)))],
    ids=["mean", "colour"],
)
def test_pixel_flipping_is_deletion(baseline, masking):
    """Quantus flips values of single channels, three steps of its list a pixel.

    A map given three times over (one a channel) orders the values of one pixel by numpy's argsort,
    so the channels are told apart by less than the pixels are, and a step holds whole pixels: W
    pixels, 3 W values. Quantus gives no probability of the clean image, ours begins with it.
    """
    net = convnet(seed=3)
    ranks = MAPS.flatten(1).argsort(1).argsort(1).view(N, 1, H, W).double()
    each = (3 * ranks + torch.arange(3).view(1, 3, 1, 1)).numpy()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        metric = quantus.PixelFlipping(features_in_step=3 * W, perturb_baseline=baseline, **PLAIN)
        expected = metric(
            model=net,
            x_batch=X.numpy().copy(),
            y_batch=LABELS.numpy().copy(),
            a_batch=each,
            softmax=True,
        )
    found = perturbation_curve(net, X, MAPS, LABELS, order="deletion", masking=masking)
    close(found.probabilities[:, 1:], expected)


@pytest.mark.parametrize("name", ["gradcam", "opticam"])
def test_max_and_average_sensitivity(name):
    """The same noise in both: ours is the same for every image, theirs drawn for each.

    Quantus also calls its explanation function for the class it is given, so the class is kept.
    """
    net, samples = convnet(seed=3), 4
    made = explain(net, X, quick(name), LABELS, "relu3")[name]
    again = noisy_maps(net, made, radius=0.3, samples=samples, seed=5)
    draw = torch.Generator().manual_seed(5)
    noise = ((torch.rand((samples, 3, H, W), generator=draw) * 2 - 1) * 0.3).flatten(1).numpy()

    def explain_inputs(model, inputs, targets, **_):
        found = explain(
            model, torch.as_tensor(inputs), quick(name), torch.as_tensor(targets), "relu3"
        )
        return found[name].map[:, None].double().numpy()

    ratios = functional.sensitivities(again.maps, again.noisy_maps)
    for metric, found in (
        (quantus.MaxSensitivity, ratios.amax(1)),
        (quantus.AvgSensitivity, ratios.mean(1)),
    ):
        replay = iter(noise)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            one = metric(
                nr_samples=samples,
                perturb_func=lambda arr, indices, replay=replay, **_: arr + next(replay),
                **PLAIN,
            )
        expected = theirs(one, net, made.map, explain_func=explain_inputs)
        assert expected.min() > 0
        close(found, expected, atol=1e-3, rtol=1e-2)


BOXES = torch.tensor([[2, 3, 7, 9], [0, 0, 16, 12], [5, 10, 6, 11]])


def test_pointing_game():
    """Quantus knows masks of pixels, ours boxes; both count a hit of any of several maxima.

    Theirs is true or false, ours 100 or 0. No tolerance: Quantus has none.
    """
    masks = torch.zeros(N, 1, H, W)
    for mask, (x0, y0, x1, y1) in zip(masks, BOXES.tolist(), strict=True):
        mask[:, y0:y1, x0:x1] = 1
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        metric = quantus.PointingGame(**PLAIN)
    hits = []
    for seed in range(20):
        maps = torch.rand(N, H, W, generator=torch.Generator().manual_seed(seed))
        maps = (maps * 6).round() / 6 if seed % 2 else maps  # with and without ties
        expected = theirs(metric, convnet(), maps, s_batch=masks.numpy())
        found = functional.pointing_game(maps, [box[None] for box in BOXES])
        close(found, 100 * expected)
        hits += found.tolist()
    assert 0 < sum(hits) < 100 * len(hits)


SPARSE = torch.where(MAPS > 0.8, MAPS, 0)
"""Maps with many zeros, as of CAMs."""


@pytest.mark.parametrize("maps", [MAPS, SPARSE], ids=["dense", "sparse"])
def test_sparseness(maps):
    """Quantus adds 1e-7 to every pixel, ours nothing."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        metric = quantus.Sparseness(**PLAIN)
    close(functional.sparseness(maps), theirs(metric, convnet(), maps), atol=1e-5, rtol=0)


@pytest.mark.parametrize("maps", [MAPS, SPARSE], ids=["dense", "sparse"])
def test_complexity_is_entropy(maps):
    """Quantus takes ln(s + 1e-12) where ours takes 0 ln 0 = 0."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        metric = quantus.Complexity(**PLAIN)
    close(functional.entropy(maps), theirs(metric, convnet(), maps), atol=1e-6, rtol=0)


def test_maps_of_zeros():
    """Quantus refuses them, ours have no sparseness or entropy: NaN, counted and left out."""
    zeros = torch.zeros(N, H, W)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        metric = quantus.Sparseness(**PLAIN)
    with pytest.raises(AssertionError, match="equal to zero"):
        theirs(metric, convnet(), zeros)
    assert functional.sparseness(zeros).isnan().all()
    assert functional.entropy(zeros).isnan().all()


# --- faithfulness -------------------------------------------------------------------------------
# one grey channel: a feature of Quantus is then a pixel, as ours are


class Grey(torch.nn.Module):
    """A convolutional network of grey images."""

    def __init__(self):
        super().__init__()
        self.net = convnet(seed=3)

    def forward(self, x):
        return self.net(x.expand(-1, 3, -1, -1))


class Sum(torch.nn.Module):
    """Two numbers an image: the sum of its numbers, and its negative."""

    def __init__(self):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.ones(1))

    def forward(self, x):
        own = self.scale * x.flatten(1).sum(1)
        return torch.stack([own, -own], 1)


GREY = X[:, :1].contiguous()


def grey(metric, maps=MAPS, **options):
    """Quantus's numbers of grey images, by the class probability."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made = metric(perturb_baseline=0.0, **{**PLAIN, "abs": False, **options})
        return np.asarray(
            made(
                model=Grey().eval(),
                x_batch=GREY.numpy().copy(),
                y_batch=LABELS.numpy().copy(),
                a_batch=maps[:, None].double().numpy().copy(),
                softmax=True,
            )
        )


def test_faithfulness_estimate():
    expected = grey(quantus.FaithfulnessEstimate, features_in_step=W)
    found = group_removals(Grey(), GREY, MAPS, LABELS, groups=H)
    close(functional.faithfulness_estimate(found.sums, found.drops), expected, atol=1e-4)


def test_faithfulness_correlation(monkeypatch):
    """Quantus draws subsets of each image; given ours, its numbers are ours."""
    found = subset_removals(Grey(), GREY, MAPS, LABELS, shares=(0.25,), samples=7, seed=4)
    draw = torch.Generator().manual_seed(4)
    orders = [torch.randperm(H * W, generator=draw) for _ in range(7)]
    subsets = iter([one[: H * W // 4].numpy() for one in orders for _ in range(N)])
    monkeypatch.setattr(np.random, "choice", lambda *_, **__: next(subsets))
    expected = grey(
        quantus.FaithfulnessCorrelation, nr_runs=7, subset_size=H * W // 4, return_aggregate=False
    )
    close(functional.sensitivity_n(found.sums, found.drops), expected, atol=1e-4)


def test_monotonicity_of_quantus_is_true_of_every_map():
    """Erratum Q16: it replaces baseline pixels by the baseline, so that no score ever changes.

    Ours are the scores as the image's pixels come back, which rise on no map here.
    """
    for reverse in (False, True):
        maps = 1 - MAPS if reverse else MAPS
        assert grey(quantus.Monotonicity, maps=maps, features_in_step=W).all()
        found = perturbation_curve(
            Grey(), GREY, maps, LABELS, order="deletion", masking=MeanColour()
        )
        rises = [bool((curve[:-1].flip(0).diff() >= 0).all()) for curve in found.probabilities]
        assert not all(rises)
        close(functional.monotonicity(found.probabilities), 100.0 * np.asarray(rises))


def test_monotonicity_correlation():
    """Quantus draws one number an image and sample; ours are replayed in its perturbation."""
    samples, groups = 3, H
    found = group_resamplings(Grey(), GREY, MAPS, LABELS, groups=groups, samples=samples, seed=4)
    draws = torch.rand(samples, 1, generator=torch.Generator().manual_seed(4)).numpy()
    low, high = (GREY.flatten(1).aminmax(dim=1)[place].numpy() for place in (0, 1))
    calls = iter(range(groups * samples))

    def replace_pixels(arr, indices, **_):
        value = low + (high - low) * draws[next(calls) % samples]
        changed = arr.copy()
        np.put_along_axis(changed, indices, value[:, None].astype(arr.dtype), axis=1)
        return changed

    expected = grey(
        quantus.MonotonicityCorrelation,
        features_in_step=W,
        nr_samples=samples,
        perturb_func=replace_pixels,
    )
    close(functional.monotonicity_correlation(found.sums, found.changes), expected)


def test_selectivity_is_our_curve_and_sums_it_from_the_second_point(monkeypatch):
    """Erratum Q14: steps of 1, without the clean image."""
    monkeypatch.setattr(np, "trapz", np.trapezoid, raising=False)  # NumPy 2.4 has it no more
    net = convnet(seed=3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        metric = quantus.Selectivity(patch_size=4, perturb_baseline="black", **PLAIN)
    expected = theirs(metric, net, softmax=True)
    found = region_curve(net, X, MAPS, LABELS, patch=4, regions=None, placement="grid")
    close(found.probabilities[:, 1:], expected)
    area = torch.trapezoid(found.probabilities[:, 1:], dim=1).mean()
    assert float(metric.get_auc_score) == pytest.approx(float(area), rel=1e-4)


@pytest.mark.parametrize("order", ["least", "most"])
def test_region_perturbation_in_both_orders(order):
    net = convnet(seed=3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        metric = quantus.RegionPerturbation(
            patch_size=4,
            regions_evaluation=6,
            order={"least": "lerf", "most": "morf"}[order],
            perturb_baseline="black",
            **PLAIN,
        )
    expected = theirs(metric, net, softmax=True)
    found = region_curve(
        net, X, MAPS, LABELS, patch=4, regions=6, placement="grid", order=order
    ).probabilities
    close(found[:, :1] - found[:, 1:], expected)


def test_sensitivity_n_of_quantus_is_another_quantity():
    """Erratum Q11: of an additive score, whose contributions must score 1, it gives less.

    The drop after k groups is Σ_{j<=k} s_j, and Quantus correlates it, over the images of a batch,
    with s_k alone; ours correlates a subset's drop with its own sum.
    """

    labels = torch.zeros(N, dtype=torch.long)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        metric = quantus.SensitivityN(
            features_in_step=W, perturb_baseline=0.0, return_aggregate=False, **PLAIN
        )
        made = metric(
            model=Sum().eval(),
            x_batch=MAPS[:, None].numpy().copy(),
            y_batch=labels.numpy(),
            a_batch=MAPS[:, None].double().numpy().copy(),
            softmax=False,
        )
    falling = MAPS.double().flatten(1).sort(dim=1, descending=True).values
    groups = falling.unflatten(1, (H, W)).sum(2)
    series = zip(groups.cumsum(1).T, groups.T, strict=True)
    rows = [np.corrcoef(drop, last)[0, 1] for drop, last in series][: int(0.8 * H)]
    np.testing.assert_allclose(np.asarray(made).ravel(), rows, rtol=1e-3, atol=1e-4)
    assert min(rows) < 0.9
    found = subset_removals(Sum(), MAPS[:, None], MAPS, 0, samples=9, shares=(0.2, 0.7), by="logit")
    close(functional.sensitivity_n(found.sums, found.drops), np.ones(N))


def test_irof_of_quantus_depends_on_the_number_of_segments_and_the_batch(monkeypatch):
    """Erratum Q12: M - Σ trapezoids from the second point, and half a step of the batch."""
    monkeypatch.setattr(np, "trapz", np.trapezoid, raising=False)
    segments = torch.arange(H * W).view(H, W).div(32, rounding_mode="floor")
    fewer = segments.clamp_max(3)
    each = {0: segments, 1: fewer, 2: segments}
    calls = iter([0, 1, 2, 1])
    monkeypatch.setattr(
        quantus.helpers.utils, "get_superpixel_segments", lambda **_: each[next(calls)].numpy()
    )
    net = Grey()
    parts = torch.stack([segments, fewer, segments])
    curve = segment_curve(net, GREY, MAPS, parts, LABELS).scores
    ratio = (curve / curve[:, :1]).numpy()
    together = grey(quantus.IROF, return_aggregate=False)
    counts = [6, 4, 6]
    areas = [
        count - np.trapezoid(row[1 : count + 1]) for count, row in zip(counts, ratio, strict=True)
    ]
    areas[1] -= ratio[1, 4] / 2  # the padding of the batch
    np.testing.assert_allclose(together, areas, rtol=1e-4)
    ours = [
        100 * (1 - np.trapezoid(row[: count + 1]) / count)
        for count, row in zip(counts, ratio, strict=True)
    ]
    close(functional.irof(curve), ours)


def test_sufficiency():
    """Quantus leaves an image out of its neighbours, and gives 0 where there is no other."""
    share = torch.rand(12, 1, 1, generator=torch.Generator().manual_seed(2))
    maps = torch.lerp(MAPS[:1], MAPS[1:2], share)  # on a line, so that some are near
    x = images(12, 12, 16, seed=5)
    predicted = (x.flatten(1).sum(1) < 0).long()
    assert 0 < predicted.sum() < 12
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        metric = quantus.Sufficiency(threshold=0.7, return_aggregate=False, **PLAIN)
        expected = metric(
            model=Sum().eval(),
            x_batch=x.numpy().copy(),
            y_batch=predicted.numpy(),
            a_batch=maps[:, None].double().numpy().copy(),
        )
    found = functional.sufficiency(maps, predicted, threshold=0.7, itself=False)
    close(found.nan_to_num(0.0), 100 * np.asarray(expected))
    assert 0 < float(found.nanmean()) < 100
