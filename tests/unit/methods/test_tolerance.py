"""Score-CAM and Ablation-CAM up to a tolerance, against the exact ones."""

import pytest
import torch
from torch import nn

from nets import images
from torchsaliency import AblationCAM, OptionError, ScoreCAM, explain, tracing

TOLERANCE = 0.05


class Net(nn.Module):
    """A layer of many channels that sees patches of the image, and a head.

    Args:
        channels: of the layer.
        distinct: of them; the others are copies by other scales.
        hidden: whether the head has a layer of its own.
    """

    def __init__(self, channels, distinct=None, *, hidden=False, seed=0):
        super().__init__()
        torch.manual_seed(seed)
        self.layer = nn.Sequential(nn.Conv2d(3, channels, 6, 6), nn.ReLU())
        if distinct:
            with torch.no_grad():
                place = torch.arange(channels) % distinct
                scale = 1 + torch.arange(channels) // distinct
                weight, bias = self.layer[0].weight, self.layer[0].bias
                weight.copy_(weight[place] * scale[:, None, None, None])
                bias.copy_(bias[place] * scale)
        wide = nn.Sequential(nn.Linear(channels, 16), nn.GELU(), nn.Linear(16, 5))
        self.head = wide if hidden else nn.Linear(channels, 5)

    def forward(self, x):
        return 20 * self.head(self.layer(x).mean((2, 3)))


@pytest.mark.parametrize("method", [ScoreCAM, AblationCAM])
def test_no_tolerance_is_the_exact_map_bit_for_bit(method):
    net, x = Net(48), images(2, 30, 30)
    plain, exact = (explain(net, x, m, 1, "layer") for m in (method(), method(tolerance=0)))
    (one,), (other,) = plain.values(), exact.values()
    assert torch.equal(one.map, other.map)
    assert not other.details


def test_copies_of_a_channel_are_asked_once():
    net, x = Net(64, distinct=8), images(2, 30, 30)
    found = ScoreCAM(tolerance=TOLERANCE)(net, x, 1, "layer")
    exact = ScoreCAM()(net, x, 1, "layer")
    assert (found.details["asked"] <= 8).all()
    assert found.details["error"].tolist() == [0, 0]
    torch.testing.assert_close(found.map, exact.map, atol=1e-4, rtol=1e-4)
    assert found.passes - 2 == found.details["asked"].sum()


def test_dead_channels_share_one_pass():
    net, x = Net(40), images(1, 30, 30)
    with torch.no_grad():
        net.layer[0].weight[:30], net.layer[0].bias[:30] = 0, -1
    found = ScoreCAM(tolerance=TOLERANCE)(net, x, 1, "layer")
    assert found.details["asked"].item() <= 11
    torch.testing.assert_close(found.map, ScoreCAM()(net, x, 1, "layer").map, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("method", [ScoreCAM, AblationCAM])
@pytest.mark.parametrize("seed", range(4))
def test_the_map_is_within_the_tolerance(method, seed):
    net, x = Net(160, hidden=True, seed=seed), images(2, 30, 30, seed=seed)
    found = method(tolerance=TOLERANCE)(net, x, 1, "layer")
    exact = method()(net, x, 1, "layer")
    assert (found.map - exact.map).abs().max() <= TOLERANCE
    assert (found.details["error"] <= TOLERANCE).all()
    assert (found.details["asked"] <= 160).all()


def test_score_cam_asks_fewer():
    net, x = Net(256), images(2, 30, 30)
    loose, tight = (ScoreCAM(tolerance=t)(net, x, 1, "layer").details["asked"] for t in (0.2, 1e-6))
    assert (loose < 200).all()
    assert (tight > loose).all()


def test_a_linear_head_is_known_after_the_first_round():
    net, x = Net(200), images(2, 30, 30)
    for replacement in ("zero", "min"):
        found = AblationCAM(replacement, tolerance=0.01)(net, x, 1, "layer")
        assert found.details["asked"].tolist() == [32, 32]
        exact = AblationCAM(replacement)(net, x, 1, "layer")
        torch.testing.assert_close(found.raw, exact.raw, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("method", [ScoreCAM, AblationCAM])
def test_neither_batch_mates_nor_chunks_count(method):
    net, x = Net(160, hidden=True), images(3, 30, 30)
    three = method(tolerance=TOLERANCE)(net, x, 1, "layer", chunk=7)
    alone = method(tolerance=TOLERANCE)(net, x[1:2], 1, "layer")
    assert alone.details["asked"].item() == three.details["asked"][1].item()
    torch.testing.assert_close(three.map[1], alone.map[0], atol=1e-4, rtol=1e-4)


def test_scores_that_are_no_numbers_are_all_asked():
    net, x = Net(64), images(1, 30, 30)

    def some(y):
        return torch.where(y[:, 1] > y[:, 1].median(), y[:, 1], -torch.inf)

    found = ScoreCAM(tolerance=TOLERANCE)(net, x, some, "layer")
    assert found.details["asked"].item() == 64 - _dead(net, x)


def _dead(net, x):
    with tracing(net, x, 0, ["layer"], gradients=False) as trace:
        maps = trace["layer"].activations[0].flatten(1)
    return max(0, int((maps.amax(1) == maps.amin(1)).sum()) - 1)


@pytest.mark.parametrize("method", [ScoreCAM, AblationCAM])
@pytest.mark.parametrize("tolerance", [-0.1, 1, float("nan")])
def test_a_tolerance_is_a_share_of_the_map(method, tolerance):
    with pytest.raises(OptionError, match=r"tolerance must be at least 0 .* and below 1"):
        method(tolerance=tolerance)
