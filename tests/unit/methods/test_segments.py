"""What LIME explains: a class's probability where its logit is the target, else the target."""

import pytest
import torch

from nets import convnet, images
from torchsaliency import LIME, Logit, Margin, Probability
from torchsaliency.methods.attribution.segments import superpixels


def coefficients(target, explains="probability"):
    method = LIME(passes=30, explains=explains)
    return method(convnet(seed=3), images(1, 32, 32), target, "relu3").raw


def test_a_logit_is_explained_as_its_probability_unless_the_target_is_asked_for():
    logit, probability = Logit(torch.tensor([1])), Probability(torch.tensor([1]))
    assert torch.equal(coefficients(logit), coefficients(probability))
    assert torch.equal(coefficients(probability, "target"), coefficients(probability))
    apart = coefficients(logit, "target")
    assert not torch.allclose(apart, coefficients(logit), rtol=1e-2, atol=0)


def test_other_targets_are_explained_themselves():
    margin = Margin(torch.tensor([1]))
    assert torch.equal(coefficients(margin), coefficients(margin, "target"))


def test_the_mean_colour_hides_nothing_of_an_image_of_one_colour():
    x = torch.full((1, 3, 32, 32), 0.7)

    def drops(hidden):
        return LIME(passes=30, hidden=hidden, channels="abs-sum")(
            convnet(seed=3), x, 1, "relu3"
        ).raw

    assert drops("segment-mean").count_nonzero() == 0
    assert drops("masking").count_nonzero() > 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_superpixels_of_a_half_precision_image_are_those_of_its_numbers(dtype):
    """Stretched to [0, 1] in half precision, colours are rounded twice, and others are joined."""
    image = torch.randn(3, 48, 48, generator=torch.Generator().manual_seed(0)).cumsum(2).to(dtype)
    found = superpixels(image, "slic", 20)
    assert torch.equal(found, superpixels(image.float(), "slic", 20))
    assert found.max() > 0
