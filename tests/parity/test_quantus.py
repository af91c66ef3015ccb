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
from torchsaliency.measures import noisy_maps, perturbation_curve, region_curve
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

    def explained(model, inputs, targets, **_):
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
        expected = theirs(one, net, made.map, explain_func=explained)
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
