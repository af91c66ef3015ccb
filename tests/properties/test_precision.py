"""Networks in other precisions give finite maps close to float32's."""

import pytest
import torch

from nets import (
    NAMES,
    NEEDS_CONVOLUTIONS,
    NEEDS_RELU,
    OTHER_DTYPES,
    assert_good_map,
    convnet,
    images,
    quick,
    tiny_vit,
)

SMALL = {torch.float64: 1e-4, torch.bfloat16: 0.06, torch.float16: 0.02}
"""Largest mean difference to float32's map."""


@pytest.mark.parametrize("name", NAMES)
def test_precisions(name):
    x = images(2, seed=1)
    expected = quick(name)(convnet(seed=3), x, [1, 3], "relu3").map
    for dtype in OTHER_DTYPES:
        # Images stay float32: they are brought to the network's precision.
        made = quick(name)(convnet(seed=3).to(dtype), x, [1, 3], "relu3")
        assert_good_map(made, 2, (16, 16))
        assert made.images.dtype == dtype
        wide = torch.float64 if dtype == torch.float64 else torch.float32
        assert made.raw.dtype == made.score.dtype == wide or name == "fakecam"
        assert (made.map - expected).abs().mean() < SMALL[dtype]


@pytest.mark.parametrize("name", sorted({*NAMES} - {"cam"} - NEEDS_RELU - NEEDS_CONVOLUTIONS))
@pytest.mark.parametrize("dtype", OTHER_DTYPES)
def test_a_transformer(name, dtype):
    made = quick(name)(tiny_vit().to(dtype), images(1, 32, 32), 1)
    if name == "shapleycam" and dtype == torch.float16:  # second derivatives may leave its range
        assert made.map.isfinite().all() or set(made.status) == {"not finite"}
        return
    assert_good_map(made, 1, (32, 32))


def test_tiny_gradients_survive_float16():
    """A gradient of 1e-6 spread over 64 positions rounds to zero in float16 without scaling."""
    net = convnet(seed=3)
    with torch.no_grad():
        net.fc.weight.mul_(1e-4)
    made = quick("gradcam")(net.half(), images(1, seed=1), 1, "relu3")
    with torch.no_grad():
        net.float().fc.weight.mul_(1e4)
    expected = quick("gradcam")(net, images(1, seed=1), 1, "relu3")
    assert (made.map - expected.map).abs().mean() < 0.05


def test_a_network_of_two_precisions():
    net = convnet(seed=3)
    net.fc.double()
    net.flatten = torch.nn.Sequential(net.flatten, ToDouble())
    made = quick("gradcam")(net, images(1, seed=1), 1, "relu3")
    assert_good_map(made, 1, (16, 16))


class ToDouble(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.double()
