"""Attention methods on transformers of every make, and what they say to other networks."""

import copy

import pytest
import timm
import torch
import torchvision
from torch.overrides import TorchFunctionMode
from transformers import Dinov2Config, Dinov2ForImageClassification, ViTConfig
from transformers import ViTForImageClassification as HuggingFaceViT

import torchsaliency
from nets import ATTENTION_NAMES, assert_good_map, assert_same_state, convnet, images, state_of
from nets import tiny_vit as own_vit
from torchsaliency import LayerError
from torchsaliency.core.attention import record_attention
from torchsaliency.core.method import create

X = images(3, 32, 32)


def hugging_face(kind: str) -> torch.nn.Module:
    config = ViTConfig(
        image_size=32,
        patch_size=8,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        num_labels=5,
        attn_implementation=kind,
    )
    return HuggingFaceViT(config)


def dinov2() -> torch.nn.Module:
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    return Dinov2ForImageClassification(
        Dinov2Config(image_size=32, patch_size=8, num_labels=5, **sizes)
    )


def torchvision_vit() -> torch.nn.Module:
    net = torchvision.models.VisionTransformer(32, 8, 2, 2, 32, 32, num_classes=5)
    torch.nn.init.normal_(net.heads.head.weight)  # zeros at first, and then nothing has a gradient
    return net


MAKES = {
    "timm": own_vit,
    "timm, not fused": lambda: _unfused(own_vit()),
    "timm, registers": lambda: own_vit(reg_tokens=4),
    "timm, average pooling": lambda: own_vit(global_pool="avg", class_token=False),
    "timm, distilled": lambda: timm.create_model(
        "deit_tiny_distilled_patch16_224", img_size=32, patch_size=8, num_classes=5, depth=2
    ),
    "torchvision": torchvision_vit,
    "Hugging Face, fused": lambda: hugging_face("sdpa"),
    "Hugging Face, eager": lambda: hugging_face("eager"),
    "Hugging Face, DINOv2": dinov2,
}


def _unfused(net: torch.nn.Module) -> torch.nn.Module:
    for module in net.modules():
        if hasattr(module, "fused_attn"):
            module.fused_attn = False
    return net


@pytest.fixture(params=MAKES, scope="module")
def net(request):
    torch.manual_seed(0)
    return MAKES[request.param]().eval()


@pytest.mark.parametrize("name", ATTENTION_NAMES)
def test_a_map_on_the_grid_of_patches(net, name):
    made = torchsaliency.explain(net, X, name)[name]
    assert_good_map(made, 3, (32, 32))
    assert made.raw.shape == (3, 4, 4)


@pytest.mark.parametrize("name", ATTENTION_NAMES)
def test_alone_as_in_a_batch(net, name):
    net, x = copy.deepcopy(net).double(), X.double()
    together = torchsaliency.explain(net, x, name, target=1)[name].map
    for row in range(3):
        alone = torchsaliency.explain(net, x[row : row + 1], name, target=1)[name].map
        torch.testing.assert_close(alone[0], together[row], atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("name", ATTENTION_NAMES)
def test_the_network_is_left_as_it_was(net, name):
    before = state_of(net)
    torchsaliency.explain(net, X, name)
    assert_same_state(before, state_of(net))


def test_recording_changes_no_output_and_finds_every_block(net):
    plain = net(X)
    with record_attention(len(X)) as blocks:
        recorded = net(X)
    plain, recorded = (getattr(one, "logits", one) for one in (plain, recorded))
    torch.testing.assert_close(plain, recorded, atol=1e-5, rtol=1e-5)
    assert len(blocks) == 2
    for block in (one.weights for one in blocks):
        assert block.shape[:2] == (3, blocks[0].weights.shape[1])
        torch.testing.assert_close(block.sum(-1), torch.ones(block.shape[:-1]))


@pytest.mark.parametrize("name", ATTENTION_NAMES)
def test_half_precision_is_close(name):
    net = own_vit()
    exact = torchsaliency.explain(net, X, name, target=1)[name].map
    half = torchsaliency.explain(net.bfloat16(), X, name, target=1)[name].map
    assert (exact - half).abs().mean() < 0.1


@pytest.mark.parametrize(
    "make",
    [convnet, lambda: torchvision.models.swin_t(num_classes=5).eval()],
    ids=["convolutions", "windows"],
)
def test_other_networks_get_a_sentence(make):
    net, x = make(), images(1, 64, 64)
    for name in ATTENTION_NAMES:
        with pytest.raises(LayerError, match="attend over the whole image"):
            torchsaliency.explain(net, x, name)


@pytest.mark.parametrize("name", ATTENTION_NAMES)
def test_beside_other_methods_in_one_pass(name):
    net = own_vit()
    both = torchsaliency.explain(net, X, [name, "gradcam"], target=2)
    for one in (name, "gradcam"):
        alone = torchsaliency.explain(net, X, one, target=2)[one].map
        torch.testing.assert_close(both[one].map, alone, atol=1e-4, rtol=1e-4)


def test_gradients_through_the_recorded_attention_are_the_networks_own():
    """The score's slope along a small change of one block's attention, by finite differences."""
    net = own_vit().double()
    x = X.double()
    with torchsaliency.tracing(net, x, 1, ["blocks.0"], attentions=True) as trace:
        view = trace["blocks.0"]
        attentions, gradients = view.attentions, view.attention_gradients
    draw = torch.Generator().manual_seed(0)
    for place, gradient in enumerate(gradients):
        change = 1e-6 * torch.randn(gradient.shape, generator=draw, dtype=torch.float64)
        moved = _score(net, x, place, change) - _score(net, x, place, -change)
        expected = 2 * (gradient * change).sum((1, 2, 3))
        torch.testing.assert_close(moved, expected, rtol=1e-4, atol=1e-11)
    assert len(attentions) == 2


def _score(net, x, place, change):
    class Moving(TorchFunctionMode):
        def __init__(self):
            super().__init__()
            self.seen = 0

        def __torch_function__(self, func, types, args=(), kwargs=None):
            if func is torch.nn.functional.scaled_dot_product_attention:
                query, key, value = args[:3]
                scores = (query @ key.mT) * query.shape[-1] ** -0.5
                attention = scores.softmax(-1) + (change if self.seen == place else 0)
                self.seen += 1
                return attention @ value
            return func(*args, **(kwargs or {}))

    with torch.no_grad(), Moving():
        return net(x)[:, 1]


@pytest.mark.parametrize("name", ["attention-rollout", "generic-attention"])
def test_a_block_that_is_not_there(name):
    with pytest.raises(torchsaliency.OptionError, match="from 0 to 1"):
        torchsaliency.explain(own_vit(), X, create(name, {"start": 2}))


def test_class_specific_methods_depend_on_the_class():
    net = own_vit()
    for name in ("attention-gradcam", "generic-attention"):
        first, second = (torchsaliency.explain(net, X, name, target=c)[name].raw for c in (0, 1))
        assert not torch.allclose(first, second)
