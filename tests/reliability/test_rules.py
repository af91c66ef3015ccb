"""A method that saw nothing says so: every spelling of a network gets the same shares."""

import math

import numpy as np
import pytest
import timm
import torch
import torchvision
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from nets import assert_good_map, convnet, images, quick, settle, tiny_vit
from torchsaliency import LayerError, create, explain
from torchsaliency.core.rules import Recording, backward

CLASSES = 5
RULED = ["deeplift", "lrp", "guided-backprop", "deconvnet", "deepshap"]
LRP = [create("lrp", {"rule": rule}) for rule in ("composite", "epsilon", "alpha-beta")]


def raw(net, method, x, layer="input"):
    return next(iter(explain(net, x, method, 1, layer).values())).raw


def assert_same(found, expected, what):
    near = 1e-5 * float(expected.abs().max())
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=near, msg=lambda m: f"{what}: {m}")


# --- the same linear map, spelled otherwise -------------------------------------------------------


class Spelled(nn.Module):
    """A convolution, then a hidden and a last layer in one of torch's spellings."""

    def __init__(self, linear):
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3)
        self.first, self.second = nn.Linear(6, 7), nn.Linear(7, CLASSES)
        self.linear = linear

    def forward(self, x):
        y = self.conv(x).relu().mean((2, 3))
        y = self.linear(y, self.first.weight, self.first.bias).relu()
        return self.linear(y, self.second.weight, self.second.bias)


SPELLINGS = {
    "linear": F.linear,
    "matmul": lambda x, w, b: x @ w.T + b,
    "matmul, bias first": lambda x, w, b: b + torch.matmul(x, w.t()),
    "mm": lambda x, w, b: torch.mm(x, w.mT).add(b),
    "addmm": lambda x, w, b: torch.addmm(b, x, w.T),
    "addmm, scaled": lambda x, w, b: torch.addmm(2 * b, x, w.T / 4, beta=0.5, alpha=4),
    "baddbmm": lambda x, w, b: torch.baddbmm(b, x[None], w.T[None])[0],
    "addbmm": lambda x, w, b: torch.addbmm(b, x[None], w.T[None]),
    "bmm": lambda x, w, b: torch.bmm(x[None], w.T[None])[0] + b,
    "bmm, one image each": lambda x, w, b: (
        torch.bmm(x[:, None], w.T.expand(len(x), -1, -1))[:, 0] + b
    ),
    "from the left": lambda x, w, b: (w @ x.T).T + b,
    "einsum": lambda x, w, b: torch.einsum("nc,kc->nk", x, w) + b,
    "einsum, turned": lambda x, w, b: torch.einsum("kc,nc->kn", w, x).T + b,
    "einsum of three": lambda x, w, b: (
        torch.einsum("nc,kc,k->nk", x, w, torch.ones(len(w), dtype=w.dtype)) + b
    ),
    "tensordot": lambda x, w, b: torch.tensordot(x, w, ([1], [1])) + b,
    "inner": lambda x, w, b: torch.inner(x, w) + b,
    "mv": lambda x, w, b: torch.stack([torch.mv(w, one) + b for one in x]),
    "addmv": lambda x, w, b: torch.stack([torch.addmv(b, w, one) for one in x]),
    "dot": lambda x, w, b: torch.stack(
        [torch.stack([torch.dot(row, one) for row in w]) + b for one in x]
    ),
    "vdot": lambda x, w, b: torch.stack(
        [torch.stack([torch.vdot(row, one) for row in w]) + b for one in x]
    ),
    "vecdot": lambda x, w, b: torch.linalg.vecdot(x[:, None], w) + b,
    "multi_dot": lambda x, w, b: (
        torch.linalg.multi_dot([x, w.T, torch.eye(len(w), dtype=w.dtype)]) + b
    ),
    "chain_matmul": lambda x, w, b: x.matmul(w.T).add_(b),
    "products summed": lambda x, w, b: (x[:, None] * w).sum(2) + b,
    "out of halves": lambda x, w, b: x[:, :3] @ w[:, :3].T + x[:, 3:] @ w[:, 3:].T + b,
    "custom function": lambda x, w, b: LinearFunction.apply(x, w, b),  # noqa: PLW0108 (below)
    "bilinear": lambda x, w, b: F.bilinear(x, x.new_ones(len(x), 1), w[..., None], b),
    "conv1d": lambda x, w, b: F.conv1d(x[..., None], w[..., None], b)[..., 0],
    "conv2d": lambda x, w, b: F.conv2d(x[..., None, None], w[..., None, None], b).flatten(1),
    "conv3d": lambda x, w, b: F.conv3d(
        x[..., None, None, None], w[..., None, None, None], b
    ).flatten(1),
    "conv_transpose2d": lambda x, w, b: F.conv_transpose2d(
        x[..., None, None], w.T[..., None, None], b
    ).flatten(1),
    "embedding of weights": lambda x, w, b: x @ F.embedding(torch.arange(len(w)), w).T + b,
}


class LinearFunction(torch.autograd.Function):
    """A linear layer as a function of one's own."""

    @staticmethod
    def forward(ctx, x, weight, bias):
        ctx.save_for_backward(weight)
        return x @ weight.T + bias

    @staticmethod
    def backward(ctx, grad):
        (weight,) = ctx.saved_tensors
        return grad @ weight, None, None


WITH_POSITIONS = {"conv1d", "conv2d", "conv3d", "conv_transpose2d", "products summed"}
"""Convolutions have positions by LRP's definition; a sum of products of two dimensions, too."""


def test_all_spellings_of_a_linear_layer_have_the_same_shares(tally):
    x = images(3).double()
    expected = {}
    tried = held = 0
    for name, linear in SPELLINGS.items():
        net = settle(Spelled(linear)).double()
        for method in ("saliency", "deeplift", "guided-backprop", *LRP):
            key = method if isinstance(method, str) else method.rule
            if key in ("composite", "alpha-beta") and name in WITH_POSITIONS | {
                "out of halves",  # a sum of two layers, with a rule of its own
                "einsum of three",
                "mv", "addmv", "dot", "vdot", "vecdot", "multi_dot", "bilinear",
            }:  # fmt: skip
                assert raw(net, method, x).isfinite().all()
                continue
            tried += 1
            try:
                found = raw(net, method, x)
            except LayerError as error:
                assert "has no rule for" in str(error)
                continue
            assert_same(found, expected.setdefault(key, found), (name, key))
            held += 1
    assert held == tried
    tally("rules", "spellings of a linear layer × methods with rules", tried, held, "the same map")


# --- activations ----------------------------------------------------------------------------------


class Acts(nn.Module):
    def __init__(self, act):
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 6, 3), nn.Conv2d(6, 6, 3)
        self.act = act
        self.fc = nn.Linear(6, CLASSES)

    def forward(self, x):
        y = self.act(self.second(self.act(3 * self.first(x))))
        return self.fc(y.mean((2, 3)))


class Swish(torch.autograd.Function):
    """SiLU, as EfficientNets have it that save memory."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x * x.sigmoid()

    @staticmethod
    def backward(ctx, grad):
        (x,) = ctx.saved_tensors
        s = x.sigmoid()
        return grad * s * (1 + x * (1 - s))


class InPlaceRelu(torch.autograd.Function):
    """ReLU that writes to its input."""

    @staticmethod
    def forward(ctx, x):
        ctx.mark_dirty(x)
        x.clamp_(min=0)
        ctx.save_for_backward(x)
        return x

    @staticmethod
    def backward(ctx, grad):
        (x,) = ctx.saved_tensors
        return grad * (x > 0)


class Outside(torch.autograd.Function):
    """A rectifier that torch does not see, as an extension in C++ would be."""

    @staticmethod
    def forward(ctx, x):
        found = torch.from_numpy(np.maximum(x.detach().numpy(), 0))
        ctx.save_for_backward(found)
        return found

    @staticmethod
    def backward(ctx, grad):
        (found,) = ctx.saved_tensors
        return grad * (found > 0)


ACTIVATIONS = {
    "relu": F.relu,
    "relu in place": lambda x: F.relu(x, inplace=True),
    "gelu": F.gelu,
    "gelu, tanh": lambda x: F.gelu(x, approximate="tanh"),
    "prelu": lambda x: F.prelu(x, torch.tensor(0.2, dtype=x.dtype)),
    "leaky_relu": lambda x: F.leaky_relu(x, 0.2),
    "rrelu": lambda x: F.rrelu(x, training=False),
    "clamp": lambda x: x.clamp(min=0),
    "clip": lambda x: torch.clip(x, -1, 1),
    "clamp_min_": lambda x: x.clamp_min_(0),
    "maximum": lambda x: torch.maximum(x, x.new_zeros(())),
    "minimum": lambda x: torch.minimum(x, x.new_ones(())),
    "where": lambda x: torch.where(x > 0, x, 0.1 * x),
    "threshold": lambda x: F.threshold(x, 0.1, 0),
    "hardshrink": F.hardshrink,
    "softshrink": F.softshrink,
    "tanhshrink": F.tanhshrink,
    "hardtanh": F.hardtanh,
    "relu6": F.relu6,
    "hardswish": F.hardswish,
    "hardsigmoid": F.hardsigmoid,
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "softplus": F.softplus,
    "softsign": F.softsign,
    "logsigmoid": F.logsigmoid,
    "elu": F.elu,
    "selu": torch.selu,
    "celu": torch.celu,
    "mish": F.mish,
    "silu": lambda x: F.silu(x, inplace=True),
    "swish by hand": lambda x: x * torch.sigmoid(x),
    "swish, a function of one's own": Swish.apply,
    "abs": torch.abs,
    "square": torch.square,
    "power": lambda x: x**2 + 0.1 * x**3,
    "exp": lambda x: torch.exp(x / 10),
    "log": lambda x: torch.log1p(x.relu()),
    "sqrt": lambda x: torch.sqrt(x.square() + 1),
    "product of two": lambda x: x * x.flip(1),
    "quotient of two": lambda x: x / (1 + x.flip(1).square()),
    "glu": lambda x: F.glu(torch.cat([x, x.flip(1)], 1), 1),
    "softmax": lambda x: 5 * x.softmax(1),
    "log_softmax": lambda x: x.log_softmax(1),
    "layer_norm": lambda x: F.layer_norm(x, x.shape[1:]),
    "group_norm": lambda x: F.group_norm(x, 2),
    "instance_norm": F.instance_norm,
    "rms_norm": lambda x: F.rms_norm(x, x.shape[1:]),
    "normalize": lambda x: F.normalize(x, dim=1),
    "norm by hand": lambda x: (
        (x - x.mean((1, 2, 3), keepdim=True))
        / (x.square().mean((1, 2, 3), keepdim=True) + 1).sqrt()
    ),
    "max_pool": lambda x: F.max_pool2d(x, 2, 1),
    "adaptive_max_pool": lambda x: F.adaptive_max_pool2d(x, 3),
    "avg_pool": lambda x: F.avg_pool2d(x, 2, 1),
    "sine": torch.sin,
}

NOT_NUMBER_BY_NUMBER = {"where"}
"""`where` with a condition on its input is seen as two paths, each with its own slope."""


def test_the_shares_of_deeplift_add_up_for_every_activation(tally):
    x = images(2).double()
    held = 0
    for name, act in ACTIVATIONS.items():
        made = explain(settle(Acts(act)).double(), x, "deeplift", 1, "input")["deeplift"]
        if name in NOT_NUMBER_BY_NUMBER:
            assert set(made.status) <= {"ok", "incomplete"}
            assert ("incomplete" in made.status) == bool((made.details["gap"].abs() > 0.01).any())
        else:
            assert made.details["gap"].abs().max() < 1e-6, name
            assert "incomplete" not in made.status
        held += 1
    tally(
        "rules",
        "activations, norms and pools under DeepLIFT",
        held,
        held,
        "shares add up, or the status says “incomplete”",
    )


def test_lrp_conserves_or_names_what_it_cannot(tally):
    x = images(2).double()
    held = 0
    for name, act in ACTIVATIONS.items():
        net = settle(Acts(act)).double()
        for one in ("conv", "fc"):
            for module in net.modules():
                if isinstance(module, nn.Conv2d | nn.Linear):
                    nn.init.zeros_(module.bias)
            del one
        for method in LRP:
            try:
                made = explain(net, x, {"lrp": method}, 1, "input")["lrp"]
            except LayerError as error:
                assert "lrp has no rule for" in str(error) or "overflowed" in str(error), name
            else:
                assert_good_map(made, 2, (16, 16))
            held += 1
    tally(
        "rules",
        "activations, norms and pools × rules of LRP",
        held,
        held,
        "a map, or the operation is named",
    )


@pytest.mark.parametrize("method", ["deeplift", *LRP], ids=str)
@pytest.mark.parametrize(
    ("custom", "plain"),
    [(Swish.apply, F.silu), (lambda x: InPlaceRelu.apply(x.clone()), F.relu)],
    ids=["swish", "relu in place"],
)
def test_custom_functions_are_looked_into(custom, plain, method):
    x = images(2).double()
    found, expected = (raw(settle(Acts(act)).double(), method, x) for act in (custom, plain))
    assert_same(found, expected, "custom")


def test_guided_backprop_sees_a_rectifier_of_ones_own():
    x = images(2).double()
    for name in ("guided-backprop", "deconvnet"):
        custom = settle(Acts(lambda y: InPlaceRelu.apply(y.clone()))).double()
        assert_same(raw(custom, name, x), raw(settle(Acts(F.relu)).double(), name, x), name)


@pytest.mark.parametrize("name", RULED)
def test_what_cannot_be_looked_into_is_named(name, tally):
    with pytest.raises(LayerError, match="the custom function Outside"):
        raw(settle(Acts(Outside.apply)), name, images(1))
    tally("rules", "functions outside of torch, by method with rules", 1, 1, "refused by name")


@pytest.mark.filterwarnings("ignore:Casting complex values")
@pytest.mark.parametrize(
    ("name", "act"),
    [
        ("special_i0e", torch.special.i0e),
        ("_fft_r2c|select|view_as_real", lambda x: torch.fft.rfft2(x).real),
        ("cumprod", lambda x: x.cumprod(1)),
        ("cdist|_cdist_forward", lambda x: torch.cdist(x, x.flip(1))),
    ],
)
def test_lrp_names_an_operation_without_a_rule(name, act):
    with pytest.raises(LayerError, match=f"lrp has no rule for ({name}).*integrated-gradients"):
        raw(settle(Acts(act)), "lrp", images(1))


def test_captums_choice_on_gelu_is_called_incomplete():
    net, x = settle(Acts(F.gelu)), images(2)
    made = explain(net, x, create("deeplift", {"rescaled": "captum"}), 1, "input")["deeplift"]
    assert made.status == ("incomplete", "incomplete")
    assert made.details["gap"].abs().min() > 0.01


# --- the same network, traced, exported, checkpointed ---------------------------------------------


def bottleneck():
    block = torchvision.models.resnet.BasicBlock(8, 8)
    return settle(
        nn.Sequential(
            nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(inplace=True), block,
            nn.MaxPool2d(2), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, CLASSES),
        )
    )  # fmt: skip


class Checkpointed(nn.Module):
    def __init__(self, net, *, reentrant):
        super().__init__()
        self.net, self.reentrant = net, reentrant

    def forward(self, x):
        return checkpoint(self.net, x, use_reentrant=self.reentrant)


FORMS = {
    "traced": torch.jit.trace,
    "scripted": lambda net, x: torch.jit.script(net),
    "exported": lambda net, x: torch.export.export(net, (x,)).module(),
    "symbolically traced": lambda net, x: torch.fx.symbolic_trace(net),
    "checkpointed": lambda net, x: Checkpointed(net, reentrant=False),
    "deep-copied": lambda net, x: torch.nn.Sequential(*net),
}


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:FutureWarning")
@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")
def test_other_forms_of_a_network_have_the_same_shares(tally):
    net, x = bottleneck(), images(1)
    held = 0
    for form, make in FORMS.items():
        other = make(net, x)
        for name in (*RULED, "saliency", "integrated-gradients"):
            assert_close = raw(other, quick(name), x), raw(net, quick(name), x)
            torch.testing.assert_close(
                *assert_close, rtol=1e-3, atol=1e-5, msg=lambda m, f=form, n=name: f"{f} {n} {m}"
            )
            held += 1
    tally(
        "rules",
        "traced, scripted, exported, checkpointed networks × methods",
        held,
        held,
        "the eager map",
    )


@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")
@pytest.mark.parametrize("name", ["gradcam", "saliency", "lrp", "deeplift", "guided-backprop"])
def test_reentrant_checkpointing_is_refused(name):
    net = Checkpointed(bottleneck(), reentrant=True)
    layer = "net.3" if name == "gradcam" else "input"
    with pytest.raises(LayerError, match=r"reentrant|does not depend differentiably"):
        raw(net, name, images(1), layer)


@pytest.mark.parametrize("arch", ["resnet18", "vit_tiny_patch16_224", "convnext_atto"])
def test_checkpointing_left_on_changes_nothing(arch):
    size = {"vit_tiny_patch16_224": {"img_size": 32, "depth": 2}}.get(arch, {})
    net, x = settle(timm.create_model(arch, num_classes=CLASSES, **size)), images(2, 32, 32)
    names = ["gradcam", "saliency", "lrp", "ablationcam"]
    names += ["generic-attention"] if "vit" in arch else []
    expected = {name: quick(name)(net, x, 1).raw for name in names}
    net.set_grad_checkpointing(True)
    for name in names:
        torch.testing.assert_close(quick(name)(net, x, 1).raw, expected[name])
    assert net.grad_checkpointing if hasattr(net, "grad_checkpointing") else True


# --- completeness on networks that others wrote ---------------------------------------------------


@pytest.mark.parametrize(
    "make",
    [
        lambda: torchvision.models.mobilenet_v3_small(num_classes=CLASSES),
        lambda: torchvision.models.swin_t(num_classes=CLASSES),
        lambda: torchvision.models.convnext_tiny(num_classes=CLASSES),
        lambda: timm.create_model("densenet121", num_classes=CLASSES),
        lambda: timm.create_model("mixer_s32_224", img_size=32, num_classes=CLASSES),
        tiny_vit,
    ],
    ids=["mobilenet", "swin", "convnext", "densenet", "mixer", "vit"],
)
def test_shares_add_up_on_whole_architectures(make, tally):
    net, x = settle(make()), images(1, 32, 32)
    made = explain(net, x, ["deeplift", "lrp"], 1, "input")
    assert made["deeplift"].details["gap"].abs().max() < 1e-3
    assert made["deeplift"].status == ("ok",)
    assert made["lrp"].raw.isfinite().all()
    tally("rules", "whole architectures under DeepLIFT and LRP", 1, 1, "shares add up")


# --- TIBAV on scaled branches ---------------------------------------------------------------------


def test_tibav_goes_through_layer_scale_to_the_branch():
    """γ ⊙ branch is the branch with γ inside its last linear layer: the same map."""
    scaled = settle(tiny_vit(init_values=0.5)).double()
    plain = settle(tiny_vit()).double()
    with torch.no_grad():
        for block, other in zip(scaled.blocks, plain.blocks, strict=True):
            block.ls1.gamma.uniform_(0.2, 2, generator=torch.Generator().manual_seed(0))
            block.ls2.gamma.uniform_(0.5, 3, generator=torch.Generator().manual_seed(1))
            for part in ("norm1", "norm2", "attn", "mlp"):
                getattr(other, part).load_state_dict(getattr(block, part).state_dict())
            for last, gamma in (
                (other.attn.proj, block.ls1.gamma),
                (other.mlp.fc2, block.ls2.gamma),
            ):
                last.weight.mul_(gamma[:, None])
                last.bias.mul_(gamma)
        rest = {k: v for k, v in scaled.state_dict().items() if not k.startswith("blocks.")}
        plain.load_state_dict(rest, strict=False)
    x = images(2, 32, 32).double()
    torch.testing.assert_close(scaled(x), plain(x))
    found, expected = (explain(net, x, "tibav", 1)["tibav"].raw for net in (scaled, plain))
    torch.testing.assert_close(found, expected)
    assert found.abs().sum() > 1e-3


@pytest.mark.parametrize("form", ["gamma first", "gamma last"])
def test_the_order_of_factors_makes_no_difference(form):
    class Scales(nn.Module):
        def __init__(self, inner):
            super().__init__()
            self.inner, self.gamma = inner, nn.Parameter(torch.full((32,), 0.5))

        def forward(self, x):
            y = self.inner(x)
            return self.gamma * y if form == "gamma first" else y * self.gamma

    made = {}
    net = tiny_vit()
    for block in net.blocks:
        block.attn.proj = Scales(block.attn.proj)
    made[form] = explain(net, images(1, 32, 32), "tibav", 1)["tibav"].raw
    assert made[form].abs().sum() > 0


# --- rules and work in place --------------------------------------------------------------------


def test_work_in_place_on_a_part_follows_the_rule():
    x = torch.tensor([[1.0, -2.0, 3.0, -4.0]], requires_grad=True)
    with Recording() as recording:
        y = x * 1
        y[:, 1:3].relu_()
        score = (y * torch.tensor([1.0, 2.0, 3.0, 4.0])).sum()
    rules = {"relu": lambda step: [10 * step.relevance]}
    (found,) = backward(score, [x], recording, rules)
    assert found.tolist() == [[1, 20, 30, 4]]


def test_the_networks_own_gradients_are_left_alone():
    net, x = convnet(), images(1)
    explain(net, x, ["lrp", "deeplift", "guided-backprop"], 1, "input")
    leaf = x.clone().requires_grad_()
    (plain,) = torch.autograd.grad(net(leaf)[0, 1], leaf)
    found = explain(net, x, "saliency", 1, "input")["saliency"].raw
    torch.testing.assert_close(found, plain.abs().amax(1))
    assert math.isfinite(float(found.sum()))


# --- rectifiers that are written out --------------------------------------------------------------


def _into_place(x):
    x = x.clone()
    x[x < 0] = 0
    return x


WRITTEN_OUT = {
    "where": lambda x: torch.where(x > 0, x, 0.0),
    "times a mask": lambda x: x * (x > 0),
    "masked_fill": lambda x: x.masked_fill(x < 0, 0),
    "index_put": _into_place,
    "maximum": lambda x: torch.maximum(x, torch.zeros(())),
    "heaviside": lambda x: x * torch.heaviside(x.detach() + 0 * x, torch.zeros(())),
}


class WrittenOut(torch.nn.Module):
    def __init__(self, relu):
        super().__init__()
        self.relu = relu

    def forward(self, x):
        return self.relu(x)


@pytest.mark.parametrize("kind", WRITTEN_OUT)
@pytest.mark.parametrize("name", ["guided-backprop", "deconvnet"])
def test_a_rectifier_that_is_written_out_beside_a_relu_is_refused(kind, name, tally):
    net = convnet()
    net.relu2 = WrittenOut(WRITTEN_OUT[kind])
    with pytest.raises(LayerError, match="decides by"):
        raw(net, name, images(2))
    tally("rules", "rectifiers written out beside a ReLU", 1, 1, "refused by name")


@pytest.mark.parametrize("name", [*RULED, "saliency"])
def test_work_in_place_on_a_part_of_a_tensor(name):
    class Part(torch.nn.Module):
        def __init__(self, inplace):
            super().__init__()
            self.inplace = inplace

        def forward(self, x):
            if self.inplace:
                x = x.clone()
                x[:, :4].relu_()
                return x
            return torch.cat([x[:, :4].relu(), x[:, 4:]], 1)

    found = []
    for inplace in (True, False):
        net = convnet()
        net.relu2 = Part(inplace)
        found.append(raw(net, name, images(2)))
    assert_same(*found, name)


def test_an_operation_with_a_backward_pass_of_its_own_is_not_repeated_without_end():
    class Crops(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            boxes = torch.tensor([[0.0, 0.0, 6.0, 6.0]])
            return torchvision.ops.roi_align(self.conv(x), [boxes] * len(x), 2).mean((2, 3))

    with pytest.raises(LayerError, match=r"no rule for the custom function .*roi_align"):
        quick("lrp")(Crops().eval(), images(1, 16, 16))
