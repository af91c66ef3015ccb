"""XRAI: regions in the order of their mean attribution."""

import numpy as np
import torch
from scipy import sparse
from torch import nn

import torchsaliency
from nets import settle
from torchsaliency import XRAI
from torchsaliency.methods.attribution.xrai import gather, widen


def test_regions_give_their_pixels_the_mean_of_what_they_add():
    plane = torch.tensor([[4.0, 2.0, 1.0, -1.0, 7.0]])
    regions = np.array([[1, 1, 0, 0], [1, 0, 0, 0], [0, 1, 1, 0], [0, 1, 1, 1], [0, 0, 0, 0]])
    # region 0 adds 4 and 2; then region 1 adds -1 and 1 less than region 2 does; nothing adds 7
    regions = sparse.csr_array(regions.astype(float))
    expected = torch.tensor([[3.0, 3.0, 0.0, 0.0, 7.0]])
    found = gather(plane, regions)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(found.sum(), plane.sum())


def test_regions_are_widened_by_a_disc():
    labels = np.zeros((5, 5), int)
    labels[2, 2] = 1
    inside = widen(labels, 1).toarray().reshape(5, 5, 2)
    cross = np.abs(np.indices((5, 5)) - 2).sum(0) <= 1
    assert (inside[..., 1] == cross).all()
    assert inside[..., 0].all()


def test_regions_follow_the_colours():
    net = settle(nn.Sequential(nn.Flatten(), nn.Linear(3 * 256, 5)))
    x = torch.full((1, 3, 16, 16), -1.0)
    x[..., 8:] = 2.0
    made = torchsaliency.explain(net, x, XRAI(dilation=0, steps=2), target=3, layer="input")["xrai"]
    assert made.raw.max() > 0
    assert torch.equal(made.raw[0], made.raw[0, :1].expand(16, 16)), "stripes, as the image"
