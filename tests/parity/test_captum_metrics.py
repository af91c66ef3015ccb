"""Infidelity against captum's, whose perturbations are replayed from our squares."""

import pytest
import torch
from captum.metrics import infidelity as theirs

from nets import convnet, images, quick, two_layer_head
from torchsaliency import BlackPixel, MeanColour, explain
from torchsaliency.measures import square_removals
from torchsaliency.metrics import functional

N, SAMPLES = 3, 20
X = images(N, seed=1)
LABELS = torch.tensor([3, 1, 4])


@pytest.mark.parametrize("normalise", [True, False])
@pytest.mark.parametrize("masking", [MeanColour(), BlackPixel()], ids=["mean", "black"])
@pytest.mark.parametrize("net", [convnet(seed=3), two_layer_head(seed=3)], ids=["cnn", "mlp"])
def test_infidelity_is_captums(normalise, masking, net):
    """A map has one number a pixel, captum's attributions one a pixel and channel: a third each.

    Captum multiplies attributions by the perturbation I; ours is the square's 0 and 1, whatever
    baseline replaces the pixels, so a map without a unit is not multiplied by the pixels' values.
    """
    layer = "relu3" if hasattr(net, "relu3") else "relu"
    maps = explain(net, X, quick("gradcam"), LABELS, layer)["gradcam"].map
    removed = square_removals(net, X, LABELS, samples=SAMPLES, side=0.4, masking=masking, seed=2)
    baseline = masking.baseline(X).expand_as(X)

    def replayed(inputs):
        """Captum gives each image SAMPLES times, one image after another."""
        kept = torch.ones(SAMPLES, 1, 16, 16)
        for s, (x0, y0, x1, y1) in enumerate(removed.squares.tolist()):
            kept[s, :, y0:y1, x0:x1] = 0
        kept = kept.repeat(len(inputs) // SAMPLES, 1, 1, 1)
        over = baseline.repeat_interleave(SAMPLES, 0)
        return (1 - kept).expand_as(inputs), inputs * kept + over * (1 - kept)

    expected = theirs(
        lambda x: net(x.clone()),
        replayed,
        X,
        (maps / 3)[:, None].expand_as(X).contiguous(),
        target=LABELS,
        n_perturb_samples=SAMPLES,
        normalize=normalise,
    )
    found = functional.infidelity(maps, removed.squares, removed.drops, normalise=normalise)
    torch.testing.assert_close(found, expected.double(), rtol=1e-3, atol=1e-5)
    assert found.min() > 0


def test_the_best_scale_is_never_worse_than_none():
    net = convnet(seed=3)
    maps = explain(net, X, quick("gradcam"), LABELS, "relu3")["gradcam"].map
    removed = square_removals(net, X, LABELS, samples=SAMPLES, side=0.4)
    one, other = (
        functional.infidelity(maps, removed.squares, removed.drops, normalise=n)
        for n in (True, False)
    )
    assert (one <= other + 1e-12).all()
    doubled = functional.infidelity(maps / 2, removed.squares, removed.drops)
    torch.testing.assert_close(one, doubled)
