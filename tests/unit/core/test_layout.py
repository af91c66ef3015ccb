"""An output of as many channels as cells: which axes are which?"""

import pytest
import torch
from torch import nn

from torchsaliency.core.layer import ChannelsLast, Grid, infer_reshape
from torchsaliency.core.layout import decide_layout, find_grids

SIDE = 8
IMAGE = torch.rand(1, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))


class Turned(nn.Module):
    """Gives (N, h, w, C), and says so by nothing but its numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, SIDE, 3, padding=1)

    def forward(self, x):
        return self.conv(x).movedim(1, 3).contiguous()


def decide(*parts: nn.Module, at: int = -1):
    net = nn.Sequential(*parts).eval()  # not settled: the library then asks no more
    name = str(at % len(parts))
    with torch.no_grad():
        output = net[: int(name) + 1](IMAGE)
    assert output.shape == (1, SIDE, SIDE, SIDE)
    return decide_layout(net, name, output, IMAGE)


def test_a_wider_image_has_more_cells_across():
    assert decide(nn.Conv2d(3, SIDE, 3, padding=1)) == Grid()
    assert decide(Turned()) == ChannelsLast()


def test_where_the_grid_has_one_size_the_modules_tell():
    fixed = nn.AdaptiveAvgPool2d(SIDE)
    assert decide(nn.Conv2d(3, SIDE, 1), fixed, nn.BatchNorm2d(SIDE)) == Grid()
    assert decide(fixed, Turned(), nn.LayerNorm(SIDE)) == ChannelsLast()


def test_else_the_order_in_memory_tells_or_nothing():
    fixed = nn.AdaptiveAvgPool2d(SIDE)

    class Permuted(nn.Module):
        def forward(self, x):
            return x.movedim(1, 3)

    assert decide(nn.Conv2d(3, SIDE, 1), fixed, Permuted()) == ChannelsLast()
    with pytest.warns(UserWarning, match="can be read as"):
        assert decide(nn.Conv2d(3, SIDE, 1), fixed, nn.Identity()) == Grid()


def test_what_can_be_read_in_one_way_is_not_decided():
    net = nn.Sequential(nn.Conv2d(3, 5, 3, padding=1)).eval()
    assert decide_layout(net, "0", torch.zeros(1, 5, SIDE, SIDE), IMAGE) is None
    assert decide_layout(net, "input", torch.zeros(1, SIDE, SIDE, SIDE), IMAGE) is None


def test_a_convolutions_grid_is_taken_where_the_other_reading_is_squarer():
    """(N, 6, 5, 4) of 9 x 8 pixels: 6 x 5 cells of 4 channels would be squarer by chance."""
    net = nn.Sequential(nn.Conv2d(3, 6, 3, stride=2, padding=1), nn.ReLU()).eval()
    image = torch.rand(1, 3, 9, 8)
    output = net(image)
    assert output.shape == (1, 6, 5, 4)
    grids = find_grids(net, output, image)
    assert infer_reshape(tuple(output.shape), (9, 8), grids) == Grid()
