"""x ⊙ m + b ⊙ (1 - m), for each baseline b."""

from dataclasses import FrozenInstanceError

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from nets import convnet, images
from torchsaliency import (
    BlackPixel,
    Blur,
    GivenImage,
    MeanColour,
    OptiCAM,
    OptionError,
    create,
    explain,
)
from torchsaliency.core.masking import Masking
from torchsaliency.measures import perturbation_curve

X = images(2, 12, 10)
M = torch.rand(2, 12, 10, generator=torch.Generator().manual_seed(0))
MASKINGS = [MeanColour(), BlackPixel(), Blur(2.0), GivenImage(torch.ones(3, 12, 10))]
IDS = ["mean", "black", "blur", "given"]


@pytest.mark.parametrize("masking", MASKINGS, ids=IDS)
def test_formula(masking):
    baseline = masking.baseline(X)
    expected = X * M[:, None] + baseline * (1 - M[:, None])
    torch.testing.assert_close(masking(X, M), expected)
    torch.testing.assert_close(masking(X, torch.ones_like(M)), X)
    torch.testing.assert_close(masking(X, torch.zeros_like(M)), baseline.expand_as(X))


@pytest.mark.parametrize("masking", MASKINGS, ids=IDS)
def test_half_precision_and_gradients(masking):
    assert masking(X.bfloat16(), M).dtype == torch.bfloat16
    mask = M.clone().requires_grad_()
    masking(X, mask).sum().backward()
    torch.testing.assert_close(mask.grad, (X - masking.baseline(X)).sum(1))


def test_black_is_black_before_normalisation():
    mean, std = torch.tensor(BlackPixel().mean), torch.tensor(BlackPixel().std)
    hidden = BlackPixel()(X, torch.zeros_like(M))
    pixels = hidden * std[:, None, None] + mean[:, None, None]
    torch.testing.assert_close(pixels, torch.zeros_like(X), atol=1e-6, rtol=0)


def test_mean_colour_is_zero():
    assert MeanColour()(X, torch.zeros_like(M)).count_nonzero() == 0


def test_blur_is_scipys():
    expected = gaussian_filter(X.numpy(), (0, 0, 2, 2), mode="nearest", truncate=3.0)
    np.testing.assert_allclose(Blur(2.0).baseline(X).numpy(), expected, atol=1e-5)


def test_blur_keeps_a_constant_and_reaches_beyond_a_small_image():
    constant = torch.full((1, 3, 5, 6), 0.7)
    torch.testing.assert_close(Blur(10.0).baseline(constant), constant)


def test_wrong_baselines_say_so():
    with pytest.raises(OptionError, match="sigma"):
        Blur(0.0)
    with pytest.raises(OptionError, match="3 colours"):
        BlackPixel()(X[:, :1], M)
    with pytest.raises(OptionError, match="baseline image"):
        GivenImage(torch.ones(3, 5, 5))(X, M)
    with pytest.raises(OptionError, match="baseline image"):
        GivenImage(torch.ones(len(X) + 1, 3, 12, 10))(X, M)


def test_one_colour_is_an_image_too():
    colour = GivenImage(torch.tensor([0.1, 0.2, 0.3])[:, None, None])
    hidden = colour(X, torch.zeros_like(M))
    torch.testing.assert_close(hidden[1, :, 3, 4], torch.tensor([0.1, 0.2, 0.3]))


@pytest.mark.parametrize("masking", MASKINGS, ids=IDS)
def test_a_masking_is_part_of_the_result(masking, request):
    from nets import convnet, quick  # noqa: PLC0415

    made = quick("opticam")(convnet(), images(1, 12, 10), 1, "relu3", masking=masking)
    expected = {"mean": "mean", "black": "black", "blur": "blur", "given": "image"}
    assert made.manifest()["masking"]["baseline"] == expected[request.node.callspec.id]
    assert create("scorecam")(convnet(), X, 1, "relu3", masking=masking).map.isfinite().all()


class OwnColour(Masking):
    """A baseline of another image each, and made how often."""

    def __init__(self):
        self.made = 0

    def baseline(self, images):
        self.made += 1
        return images.mean((2, 3), keepdim=True)

    def describe(self):
        return {"baseline": "own colour"}


@pytest.mark.parametrize("masking", [*MASKINGS, OwnColour()], ids=[*IDS, "own"])
def test_images_that_are_masked_often_are_masked_the_same(masking):
    index = torch.tensor([1, 0, 1, 1])
    masks = torch.rand(4, 12, 10)
    expected = masking(X[index], masks)
    torch.testing.assert_close(masking.over(X)(masks, index), expected)


def test_a_baseline_is_made_once_for_all_steps_of_a_curve_and_all_masks():
    net, x = convnet(), images(2, 16, 16)
    own = OwnColour()
    perturbation_curve(net, x, torch.rand(2, 16, 16), step=16, masking=own, chunk=3)
    assert own.made == 1
    explain(net, x, "scorecam", masking=own, chunk=3)
    assert own.made == 2
    explain(net, x, OptiCAM(iterations=5), masking=own)
    assert own.made == 3


@pytest.mark.parametrize("masking", MASKINGS, ids=IDS)
def test_a_masking_stays_as_the_manifest_says(masking):
    with pytest.raises(FrozenInstanceError):
        masking.image = None
