"""What signals, pictures and volumes share: windows, cells, products side by side, fast copies."""

import pytest
import torch
from torch import nn

from nets import convnet_of, quick, volumes
from torchsaliency import explain
from torchsaliency.core.space import cells_off, is_square, multiply_sides, window_of

SIZES = [(40,), (12, 10), (6, 12, 10)]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("engine", ["channels-last", "auto", "onnx"])
def test_fast_copies_run_images_of_any_size(size, engine):
    net, x = convnet_of(len(size)), volumes(*size)
    for name in ("gradcam", "rise", "scorecam"):
        plain = quick(name)(net, x, [0, 1]).map
        fast = explain(net, x, {"m": quick(name)}, [0, 1], accelerate=engine)["m"].map
        torch.testing.assert_close(fast, plain, atol=1e-4, rtol=0)


def test_sides_are_multiplied_one_by_one():
    planes = torch.rand(2, 3, 4, 5, dtype=torch.float64)
    a, b, c = (torch.rand(2 + side, side, dtype=torch.float64) for side in (3, 4, 5))
    expected = torch.einsum("ai,bj,ck,nijk->nabc", a, b, c, planes)
    torch.testing.assert_close(multiply_sides(planes, [a, b, c]), expected)
    own = [torch.stack([matrix, 2 * matrix]) for matrix in (a, b, c)]
    scaled = expected * torch.tensor([1, 8.0])[:, None, None, None]
    torch.testing.assert_close(multiply_sides(planes, own), scaled)
    torch.testing.assert_close(multiply_sides(planes[:, 0, 0], [c]), planes[:, 0, 0] @ c.T)


def test_a_window_is_a_square_in_a_picture_and_a_share_of_each_side_elsewhere():
    assert window_of(0.25, (224, 160)) == (40, 40)
    assert window_of(0.25, (16, 224, 160)) == (4, 56, 40)
    assert window_of(0.25, (100,)) == (25,)
    assert window_of(0.01, (6, 12, 10)) == (1, 1, 1)


def test_two_sides_of_three_have_square_cells():
    assert cells_off((2, 7, 7), (16, 112, 112)) == 0
    assert is_square((8, 4, 6), (8, 32, 48)), "the frames have a stride of their own"
    assert is_square((12, 12, 32), (96, 96, 32)), "and slices, wherever they are"
    assert not is_square((512, 2, 7), (16, 112, 112)), "finer than the image"
    assert not is_square((16, 14, 9), (16, 112, 112))
    assert is_square((9,), (64,))


@pytest.mark.parametrize(("size", "strides"), [((8, 64), (1, 2)), ((64, 64), (2, 1))])
def test_maps_need_no_square_cells(size, strides):
    """As of spectrograms and lines of text, whose networks stride along one side."""
    body = nn.Sequential(nn.Conv2d(1, 8, 3, strides, 1), nn.BatchNorm2d(8), nn.ReLU())
    net = nn.Sequential(body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3)).eval()
    grid = tuple(side // stride for side, stride in zip(size, strides, strict=True))
    for layer in (None, "0.1"):
        made = explain(net, torch.rand(1, 1, *size), "gradcam", 0, layer)["gradcam"]
        assert tuple(made.raw.shape[1:]) == grid
