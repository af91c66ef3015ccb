"""Mosaics: who is in which cell, and a network whose maps lie on the right one."""

import pytest
import torch
from torch import nn

from nets import convnet, images, quick
from torchsaliency import OptionError, explain
from torchsaliency.measures import grid_maps
from torchsaliency.metrics import functional


class Colours(nn.Module):
    """The class is the colour that is there: each channel is a class."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(4, 4, 1, bias=False)
        self.head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
        with torch.no_grad():
            self.layer.weight.copy_(torch.eye(4)[:, :, None, None])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.layer(x))


def pure() -> torch.Tensor:
    return torch.eye(4)[:, :, None, None].expand(-1, -1, 8, 8).contiguous()


@pytest.mark.parametrize("shrink", [True, False])
def test_maps_of_pure_colours_are_perfect(shrink):
    made = explain(Colours(), pure(), quick("gradcam"), torch.arange(4), "layer")["gradcam"]
    found = grid_maps(Colours(), made, shrink=shrink)
    assert found.maps.shape == ((4, 8, 8) if shrink else (4, 16, 16))
    score = functional.grid_pointing_game(found.maps, found.cells)
    # upsampling a coarse map blurs it across borders; this layer is as fine as the image
    torch.testing.assert_close(score, torch.full((4,), 100.0).double())
    assert found.cells[1].tolist() == ([4, 0, 8, 4] if shrink else [8, 0, 16, 8])


@pytest.mark.parametrize("shrink", [True, False])
def test_focus_finds_both_images_of_the_class(shrink):
    x = pure().repeat(2, 1, 1, 1)
    made = explain(Colours(), x, quick("gradcam"), torch.arange(8) % 4, "layer")["gradcam"]
    found = grid_maps(Colours(), made, shrink=shrink, same=2)
    assert found.cells.shape == (8, 2, 4)
    score = functional.focus(found.maps, found.cells)
    torch.testing.assert_close(score, torch.full((8,), 100.0).double())
    one = functional.grid_pointing_game(found.maps, found.cells[:, 1])
    torch.testing.assert_close(one, torch.full((8,), 50.0).double())
    places = {tuple(one.flatten().tolist()) for one in found.cells}
    assert len(places) > 4  # the other image is not always in the same cell


def test_a_mosaic_of_two_needs_another_image_of_the_class():
    made = explain(Colours(), pure(), quick("gradcam"), torch.arange(4), "layer")["gradcam"]
    found = grid_maps(Colours(), made, same=2)
    assert functional.focus(found.maps, found.cells).isnan().all()


def test_focus_of_a_map_of_ones_is_half():
    cells = torch.tensor([[[0, 0, 4, 3], [4, 3, 8, 6]]])
    assert functional.focus(torch.ones(1, 6, 8), cells).item() == pytest.approx(50)


def test_too_few_classes_are_undefined():
    made = explain(Colours(), pure()[:3], quick("gradcam"), [0, 1, 2], "layer")["gradcam"]
    found = grid_maps(Colours(), made)
    assert functional.grid_pointing_game(found.maps, found.cells).isnan().all()


def test_wrong_grids_are_refused():
    net = convnet()
    made = explain(net, images(2), quick("gradcam"), [0, 1], "relu3")["gradcam"]
    with pytest.raises(OptionError, match="two cells"):
        grid_maps(net, made, grid=1)
    with pytest.raises(OptionError, match="1 to 3 of 4 cells"):
        grid_maps(net, made, same=4)
