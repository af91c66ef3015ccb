"""The images that a network is given."""

import pytest
import torch

from nets import convnet, images
from torchsaliency import InputError
from torchsaliency.core.network import prepare_images


def spoilt(value):
    x = images(2)
    x[1, 2, 3, 4] = value
    return x


@pytest.mark.parametrize(
    ("x", "said"),
    [
        (spoilt(torch.nan), "NaN or infinite"),
        (spoilt(-torch.inf), "NaN or infinite"),
        (images(2).to(torch.uint8), "preprocessed floats"),
        (images(1)[0], r"x\[None\]"),
        (images(2)[:0], "not empty"),
    ],
)
def test_images_that_cannot_be_explained_are_refused(x, said):
    with pytest.raises(InputError, match=said):
        prepare_images(convnet(), x)


def test_large_numbers_are_numbers():
    x = torch.full((1, 3, 4, 4), 3e38)
    assert x.sum().isinf()
    assert torch.equal(prepare_images(convnet(), x), x)


def test_images_get_the_networks_precision_and_leave_their_graph():
    x = images(2).requires_grad_()
    found = prepare_images(convnet().double(), 2 * x)
    assert found.dtype == torch.float64
    assert not found.requires_grad
    torch.testing.assert_close(found.float(), 2 * x.detach())
