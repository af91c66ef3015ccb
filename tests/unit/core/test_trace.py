"""The shared pass: its activations, gradients, tail and masked passes, against plain torch."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from nets import (
    ChannelsLastNet,
    Counter,
    Joins,
    convnet,
    images,
    settle,
    tiny_vit,
    two_layer_head,
)
from torchsaliency import BlackPixel, LayerError, tracing
from torchsaliency.core.maps import minmax, upsample


def by_hand(net, layer, x, labels):
    """Activations and gradients from hooks and one ordinary backward pass."""
    kept = []

    def keep(module, inputs, output):
        del module, inputs
        kept.append(output)
        output.retain_grad()
        return output.clone()

    handle = net.get_submodule(layer).register_forward_hook(keep)
    net(x).gather(1, torch.tensor(labels)[:, None]).sum().backward()
    handle.remove()
    return kept[0].detach(), kept[0].grad


@pytest.mark.parametrize("layer", ["conv1", "bn2", "relu2", "relu3"])
def test_activations_and_gradients(layer):
    net, x, labels = convnet(), images(3), [0, 4, 2]
    activations, gradients = by_hand(net, layer, x, labels)
    with tracing(net, x, labels, [layer, "conv2"]) as trace:
        torch.testing.assert_close(trace[layer].activations, activations)
        torch.testing.assert_close(trace[layer].gradients, gradients)
        assert trace["conv2"].gradients.shape == (3, 8, 8, 8)
        torch.testing.assert_close(trace.score, net(x)[range(3), labels])
        torch.testing.assert_close(trace.output, net(x))
        assert trace.passes == 3


def test_tokens_and_channels_last_are_seen_as_maps():
    net, x = tiny_vit(), images(2, 32, 32)
    activations, gradients = by_hand(net, "blocks.1.norm1", x, [1, 2])
    with tracing(net, x, [1, 2], ["blocks.1.norm1"]) as trace:
        view = trace["blocks.1.norm1"]
        folded = activations[:, 1:].transpose(1, 2).reshape(2, 32, 4, 4)
        torch.testing.assert_close(view.activations, folded)
        torch.testing.assert_close(
            view.gradients, gradients[:, 1:].transpose(1, 2).reshape(2, 32, 4, 4)
        )


def test_the_graph_begins_at_the_layer():
    net, x = convnet(), images(2)
    grown = []
    net.relu2.register_forward_hook(lambda *call: grown.append(call[2].requires_grad))
    with tracing(net, x, 0, ["relu3"]) as trace:
        assert trace["relu3"].gradients.isfinite().all()
        assert not trace["relu3"].activations.requires_grad
    assert grown == [False]


TAILS = {
    "convnet": (convnet(), "relu2", (16, 16)),
    "last layer": (convnet(), "relu3", (16, 16)),
    "flattened": (two_layer_head(), "relu", (16, 16)),
    "vit": (tiny_vit(), "blocks.1.norm1", (32, 32)),
    "first block": (tiny_vit(), "blocks.0", (32, 32)),
    "channels last": (settle(ChannelsLastNet()), "norm", (12, 16)),
    "joins": (settle(Joins()), "late", (16, 16)),
    "input": (convnet(), "input", (16, 16)),
}


@pytest.mark.parametrize("kind", TAILS)
@pytest.mark.parametrize("chunk", [1, 4, 32])
def test_the_tail_equals_full_passes(kind, chunk):
    """Where the batch can grow at the layer and where it cannot: the same numbers."""
    net, layer, size = TAILS[kind]
    x, labels = images(2, *size), [1, 3]
    with tracing(net, x, labels, [layer], gradients=False, chunk=chunk) as trace:
        view = trace[layer]
        for image in range(2):
            features = view.activations[image]
            edited = torch.stack([features * share for share in (1.0, 0.5, 0.0, -1.0, 2.0)])
            found = view.tail(image, lambda step, edited=edited: edited[step], len(edited))
            expected = [full_pass(net, view.layer, x[image], one)[labels[image]] for one in edited]
            assert found.tolist() == pytest.approx([float(one) for one in expected], abs=1e-4)
            assert found[0].item() == pytest.approx(view.score[image].item(), abs=1e-4)
        assert trace.traced.grows[layer] == (kind != "joins")


def full_pass(net, layer, image, features):
    """Replace the layer's output for one image, by a hook of our own."""
    if layer.name == "input":
        return net(features[None])[0]

    def hook(module, inputs, output):
        del module, inputs
        maps = features[None]
        if output.ndim == 3:
            patches = maps.flatten(2).transpose(1, 2)
            return torch.cat([output[:, : output.shape[1] - patches.shape[1]], patches], 1)
        return maps if output.shape[1:] == maps.shape[1:] else maps.permute(0, 2, 3, 1)

    handle = net.get_submodule(layer.name).register_forward_hook(hook)
    with torch.no_grad():
        made = net(image[None])[0]
    handle.remove()
    return made


def test_what_comes_before_the_layer_runs_once_a_chunk():
    net = convnet()
    head, tail = Counter(net.conv1), Counter(net.fc)
    with tracing(net, images(1), 1, ["relu2"], gradients=False, chunk=4) as trace:
        view = trace["relu2"]
        own = view.activations[0]
        view.tail(0, lambda step: own.expand(len(step), -1, -1, -1), 40)
        # 4 images of 3x16x16 may be 8 x 4 x 768 / 512 = 48 sets of features: one chunk.
        assert (head.calls, head.images) == (3, 3)
        assert tail.images == 1 + 2 + 40


@pytest.mark.parametrize("masking", [None, BlackPixel()])
@given(chunk=st.sampled_from([1, 3, 32]), align=st.booleans(), seed=st.integers(0, 9))
def test_rescoring_equals_a_loop_and_skips_constant_masks_exactly(masking, chunk, align, seed):
    net, x, labels = convnet(), images(2, seed=seed), [1, 3]
    masks = torch.rand(2, 6, 4, 4, generator=torch.Generator().manual_seed(seed))
    masks[0, 1], masks[0, 4], masks[1, 2] = 0, 5, -1
    counter = Counter(net)
    with tracing(net, x, labels, ["relu3"], masking=masking, chunk=chunk, gradients=False) as trace:
        found = trace["relu3"].rescore(masks, align_corners=align)
        # 12 masks, 3 of them constant; one blank pass for each of the two images.
        assert counter.images == trace.passes == 2 + 9 + 2
        expected = torch.empty(2, 6)
        for image in range(2):
            for row in range(6):
                grown = upsample(masks[image, row][None], (16, 16), align_corners=align)
                hidden = trace.masking(x[image][None], minmax(grown))
                expected[image, row] = net(hidden)[0, labels[image]]
    counter.remove()
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_several_layers_are_joined_at_the_finest_grid():
    with tracing(convnet(), images(2), 1, ["relu1", "relu3"], gradients=False) as trace:
        one, three = trace["relu1"].activations, trace["relu3"].activations
        both = trace[["relu1", "relu3"]]
        assert both.activations.shape == (2, 6 + 8, 16, 16)
        peak = one.abs().amax((1, 2, 3), keepdim=True)
        torch.testing.assert_close(both.activations[:, :6], one / peak)
        peak = three.abs().amax((1, 2, 3), keepdim=True)
        grown = F.interpolate(three / peak, (16, 16), mode="bilinear")
        torch.testing.assert_close(both.activations[:, 6:], grown)
        with pytest.raises(LayerError, match="one at a time"):
            _ = both.gradients


def test_a_layer_must_be_traced_to_be_read():
    with (
        tracing(convnet(), images(1), 1, ["relu3"]) as trace,
        pytest.raises(LayerError, match="traced: relu3"),
    ):
        trace["relu2"]


def test_one_cell_is_a_map_and_a_vector_is_none():
    with tracing(convnet(), images(2), 1, ["pool"]) as trace:
        assert trace["pool"].activations.shape == trace["pool"].gradients.shape == (2, 8, 1, 1)
    with (
        pytest.raises(LayerError, match="no spatial map"),
        tracing(convnet(), images(2), 1, ["flatten"]),
    ):
        pass


def test_no_gradient_says_why():
    with (
        tracing(convnet(), images(1), lambda y: y.detach()[:, 0], ["relu3"]) as trace,
        pytest.raises(LayerError, match="differentiably"),
    ):
        _ = trace["relu3"].gradients


def test_again_looks_at_variants_with_the_same_target():
    net, x = convnet(), images(2)
    with tracing(net, x, None, ["relu3"]) as trace:
        labels = trace.target.labels
        with trace["relu3"].trace_variants(x.flip(0)) as other:
            assert torch.equal(other.trace.target.labels, labels)
            torch.testing.assert_close(other.score, net(x.flip(0))[range(2), labels])
        with trace["relu3"].trace_variants(images(2, 24, 24)) as other:
            assert other.activations.shape == (2, 8, 12, 12)
        assert trace.passes == 6


def test_the_output_is_out_of_the_graph_whatever_its_shape():
    class Detector(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3)

        def forward(self, x):
            return [{"scores": row, "parts": (row, [row])} for row in self.conv(x).mean((2, 3))]

    net, x = settle(Detector()), images(2)
    with tracing(net, x, lambda out: torch.stack([one["scores"][0] for one in out]), ["conv"]) as t:
        found = t.output
    expected = net(x)
    for one, other in zip(found, expected, strict=True):
        for part in (one["scores"], one["parts"][0], one["parts"][1][0]):
            assert not part.requires_grad
            torch.testing.assert_close(part, other["scores"].detach())
