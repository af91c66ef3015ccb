"""LRP: relevance is conserved, equals captum's where captum can, and rules worked by hand."""

import pytest
import torch
import torchvision
from captum import attr
from captum.attr._utils.lrp_rules import Alpha1_Beta0_Rule, EpsilonRule
from torch import Tensor, nn
from torch.nn import functional as F

from nets import (
    CLASSES,
    assert_good_map,
    assert_same_state,
    convnet,
    images,
    settle,
    state_of,
    tiny_vit,
)
from torchsaliency import (
    LayerError,
    LogProbability,
    OptionError,
    Probability,
    create,
    explain,
    tracing,
)
from torchsaliency.core.network import NetworkWrapper

pytestmark = pytest.mark.filterwarnings("ignore:Setting")

RULES = ["composite", "epsilon", "alpha-beta"]
WIDE = {"atol": 1e-6, "rtol": 1e-5}


def relevance(net, x, labels=None, chunk=32, **options):
    with tracing(net, x, labels, ["input"], chunk=chunk) as trace:
        return create("lrp", options).attributions(trace[["input"]]).raw, trace.score


def sequential(*, bias: bool = False) -> nn.Sequential:
    return settle(
        nn.Sequential(
            nn.Conv2d(3, 6, 3, padding=1, bias=bias),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(6, 8, 3, stride=2, bias=bias),
            nn.ReLU(),
            nn.AvgPool2d(2, 1),
            nn.Flatten(),
            nn.Linear(8 * 4, 12, bias=bias),
            nn.ReLU(),
            nn.Linear(12, CLASSES, bias=bias),
        )
    ).double()


def without_biases(net: nn.Module) -> nn.Module:
    """Settle a network, biases and running means at zero."""
    settle(net)
    with torch.no_grad():
        for module in net.modules():
            if getattr(module, "bias", None) is not None:
                module.bias.zero_()
            if getattr(module, "running_mean", None) is not None:
                module.running_mean.zero_()
    return net.double()


class Residual(nn.Module):
    """A stem and two of torchvision's residual blocks: ReLU used twice and in place."""

    def __init__(self) -> None:
        super().__init__()
        down = nn.Sequential(nn.Conv2d(6, 8, 1, 2, bias=False), nn.BatchNorm2d(8))
        self.stem = nn.Sequential(
            nn.Conv2d(3, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6), nn.ReLU(inplace=True)
        )
        self.first = torchvision.models.resnet.BasicBlock(6, 6)
        self.second = torchvision.models.resnet.BasicBlock(6, 8, 2, down)
        self.fc = nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        y = self.second(self.first(self.stem(x)))
        return self.fc(F.adaptive_avg_pool2d(y, 1).flatten(1))


class Gated(nn.Module):
    """Squeeze and excitation, concatenation, a manual SiLU and plain functions."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3, padding=1, bias=False)
        self.squeeze = nn.Conv2d(6, 6, 1)
        self.weight = nn.Parameter(torch.ones(4, 12, 3, 3))
        self.fc = nn.Parameter(torch.ones(CLASSES, 4))

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        y = y * torch.sigmoid(y)
        y = y * self.squeeze(y.mean((2, 3), keepdim=True)).sigmoid_()
        y = torch.cat([y, F.relu(y)], 1)
        y = F.conv2d(input=y, weight=self.weight, padding=1)
        return F.linear(torch.relu_(y).mean((-2, -1)), self.fc)


NETS = {
    "sequential": sequential,
    "batch norm": lambda: without_biases(convnet()),
    "residual": lambda: without_biases(Residual()),
    "gated": lambda: without_biases(Gated()),
}


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("kind", NETS)
def test_relevance_is_conserved(kind, rule):
    net, x = NETS[kind](), images(3).double()
    found, score = relevance(net, x, [0, 3, 2], rule=rule, epsilon=1e-12)
    assert found.shape == x.shape
    torch.testing.assert_close(found.sum((1, 2, 3)), score, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("net", [convnet(), settle(Residual())], ids=["convnet", "residual"])
def test_biases_may_be_left_out(net, rule):
    x = images(3).double()
    options = {"rule": rule, "epsilon": 1e-12, "bias": "excluded"}
    found, score = relevance(net.double(), x, [0, 3, 2], **options)
    torch.testing.assert_close(found.sum((1, 2, 3)), score, atol=1e-5, rtol=1e-5)


def test_a_unit_that_its_bias_alone_made_active_by_hand():
    net, x = two_layers(), torch.ones(1, 1, 1, 2)
    with torch.no_grad():
        net[1].weight[0] = torch.tensor([-1.0, -3.0])
        net[1].bias[0] = 6  # hidden 2, 0, 2
        net[3].weight[0, 2] = 0
    found, score = relevance(net, x, [0], rule="alpha-beta")
    assert score.tolist() == [2]
    assert found.count_nonzero() == 0
    found, _ = relevance(net, x, [0], rule="alpha-beta", bias="excluded")
    torch.testing.assert_close(found.flatten(), torch.tensor([0.5, 1.5]))


def test_an_overflow_is_no_map():
    net = nn.Sequential(nn.Flatten(), *[nn.Linear(2, 2, bias=False) for _ in range(8)])
    with torch.no_grad():
        for layer in net[1:]:
            layer.weight.copy_(torch.tensor([[1e10, -1e10], [1.0, 1.0]]))
    with pytest.raises(LayerError, match="overflowed"):
        relevance(net, torch.ones(1, 1, 1, 2), [0], rule="epsilon", epsilon=1e-30)


@pytest.mark.parametrize("rule", RULES)
def test_a_difference_of_scores_is_conserved(rule):
    found, score = relevance(
        sequential(), images(2).double(), lambda y: y[:, 1] - 2 * y[:, 3], rule=rule, epsilon=1e-12
    )
    torch.testing.assert_close(found.sum((1, 2, 3)), score, **WIDE)


def test_the_epsilon_rule_of_a_rectifier_network_is_gradient_times_input():
    net, x = settle(Residual()).double(), images(2).double()
    found, _ = relevance(net, x, [1, 4], rule="epsilon", epsilon=1e-14)
    leaf = x.clone().requires_grad_()
    net(leaf)[range(2), [1, 4]].sum().backward()
    torch.testing.assert_close(found, leaf.grad * x, atol=1e-8, rtol=1e-5)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("epsilon", [1e-9, 0.1])
def test_equal_to_captums_epsilon_rule(bias, epsilon):
    net, x = sequential(bias=bias), images(3).double()
    net[2] = nn.Identity() if epsilon > 1e-3 else net[2]  # captum has an ε at max-pooling, too
    net[7] = nn.Linear(8 * 36, 12).double() if epsilon > 1e-3 else net[7]
    found, _ = relevance(net, x, [0, 3, 2], rule="epsilon", epsilon=epsilon)
    for module in net:
        if not isinstance(module, nn.ReLU | nn.Flatten | nn.Identity):
            module.rule = EpsilonRule(epsilon)
    net = nn.Sequential(*[m for m in net if not isinstance(m, nn.Flatten | nn.Identity)])
    theirs = captums(net, x, [0, 3, 2])
    torch.testing.assert_close(found, theirs, atol=1e-7, rtol=1e-4)


def captums(net: nn.Sequential, x: Tensor, labels: list[int]) -> Tensor:
    """Run captum's LRP; it knows no Flatten, so that comes as a function."""

    class Flattens(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = net

        def forward(self, y: Tensor) -> Tensor:
            for module in self.body:
                y = module(y.flatten(1) if isinstance(module, nn.Linear) else y)
            return y

    return attr.LRP(Flattens()).attribute(x.requires_grad_(), target=torch.tensor(labels)).detach()


def test_equal_to_captums_alpha1_beta0_on_inputs_above_zero():
    net, x = sequential(), images(2).double().abs()
    net[5] = nn.Identity()
    net[7] = settle(nn.Linear(8 * 9, 12, bias=False), 1).double()
    with torch.no_grad():
        net[9].weight.abs_()  # a score above zero
    found, _ = relevance(net, x, [0, 3], rule="alpha-beta")
    body = nn.Sequential(*[m for m in net if not isinstance(m, nn.Flatten | nn.Identity)])
    for module in body:
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.rule = Alpha1_Beta0_Rule()
    theirs = captums(body, x, [0, 3])
    # captum runs the network on the recorded inputs, but divides by the positive parts alone
    torch.testing.assert_close(found, theirs, atol=1e-7, rtol=1e-4)


def two_layers(*, inplace: bool = False) -> nn.Sequential:
    net = nn.Sequential(nn.Flatten(), nn.Linear(2, 3), nn.ReLU(inplace), nn.Linear(3, 1))
    with torch.no_grad():
        net[1].weight.copy_(torch.tensor([[1.0, 2.0], [-1.0, -1.0], [3.0, -1.0]]))
        net[3].weight.copy_(torch.tensor([[1.0, 5.0, -1.0]]))
        net[1].bias.copy_(torch.tensor([1.0, 0.0, 0.0]))
        net[3].bias.zero_()
    net.scores = "regression"
    return net


@pytest.mark.parametrize("inplace", [False, True])
def test_by_hand(inplace):
    """x = (1, 1): hidden 3 + 1, -2, 2; score 4 - 2 = 2, hidden relevance 4, 0, -2."""
    net, x = two_layers(inplace=inplace), torch.ones(1, 1, 1, 2)
    found, score = relevance(net, x, [0], rule="epsilon")
    assert score.tolist() == [2]
    # shares of the bias stay with it: 1/4 and 2/4 of 4; 3/2 and -1/2 of -2
    torch.testing.assert_close(found.flatten(), torch.tensor([1.0 - 3, 2.0 + 1]))
    found, _ = relevance(net, x, [0], rule="epsilon", bias="excluded")
    torch.testing.assert_close(found.flatten(), torch.tensor([4 / 3 - 3, 8 / 3 + 1]))
    # all of the score goes to the first hidden unit, whose shares are 1/3 and 2/3
    found, _ = relevance(net, x, [0], rule="alpha-beta")
    torch.testing.assert_close(found.flatten(), torch.tensor([2 / 3, 4 / 3]))
    found, _ = relevance(net, x, [0], rule="epsilon", epsilon=1)
    expected = torch.tensor([4 * 2 / 3 * 1 / 5 - 2 * 2 / 3 * 3 / 3, 4 * 2 / 3 * 2 / 5 + 4 / 3 / 3])
    torch.testing.assert_close(found.flatten(), expected)


def test_negative_inputs_of_alpha_beta_by_hand():
    net, x = two_layers(), torch.tensor([1.0, -1.0]).view(1, 1, 1, 2)  # hidden 0, 0, 4; score -4
    found, score = relevance(net, x, [0], rule="epsilon")
    assert score.tolist() == [-4]
    torch.testing.assert_close(found.flatten(), torch.tensor([-3.0, -1.0]))
    with torch.no_grad():
        net[3].weight.abs_()
    found, _ = relevance(net, x, [0], rule="alpha-beta")
    torch.testing.assert_close(found.flatten(), torch.tensor([3.0, 1.0]))


def test_the_first_convolution_by_hand():
    net = nn.Sequential(nn.Conv2d(1, 1, (1, 2), bias=False), nn.Flatten())
    with torch.no_grad():
        net[0].weight.copy_(torch.tensor([2.0, -1.0]).view(1, 1, 1, 2))
    x = torch.tensor([3.0, 1.0, 0.0, 5.0]).view(1, 1, 1, 4)
    found, score = relevance(net, x, [0])  # score 5; (3 - 0) · 2 = 6 and (1 - 5) · (-1) = 4
    assert score.tolist() == [5]
    torch.testing.assert_close(found.flatten(), torch.tensor([3.0, 2.0, 0.0, 0.0]))


def test_a_batch_norm_that_turns_the_sign_belongs_to_its_convolution():
    net = convnet().double()
    with torch.no_grad():
        net.bn2.weight[::2] *= -1
        for module in (net.bn1, net.bn2, net.bn3):
            module.running_mean.zero_()
            module.bias.zero_()
    folded = convnet().double()
    folded.load_state_dict(net.state_dict())
    for i in (1, 2, 3):
        conv, norm = folded.get_submodule(f"conv{i}"), folded.get_submodule(f"bn{i}")
        scale = norm.weight / (norm.running_var + norm.eps).sqrt()
        with torch.no_grad():
            conv.weight.mul_(scale[:, None, None, None])
            conv.bias.mul_(scale)
        setattr(folded, f"bn{i}", nn.Identity())
    x = images(2).double()
    for rule in RULES:
        found, _ = relevance(net, x, [1, 2], rule=rule)
        expected, _ = relevance(folded, x, [1, 2], rule=rule)
        torch.testing.assert_close(found, expected, atol=1e-8, rtol=1e-5)


class Reused(nn.Module):
    """One ReLU for two places, and a sum whose term is then changed in place."""

    def __init__(self, *, inplace: bool) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 6, 3, padding=1)
        self.second = nn.Conv2d(6, 6, 3, padding=1)
        self.act = nn.ReLU(inplace=inplace)
        self.fc = nn.Linear(6, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        y = self.act(self.first(x))
        part = self.second(y) * 2
        z = part + y
        if self.act.inplace:
            part.zero_()
            z += y
        else:
            z = z + y
        z = F.hardtanh(z, -1, 1, self.act.inplace)
        return self.fc(z.mean((2, 3)))


@pytest.mark.parametrize("rule", RULES)
def test_in_place_and_reused_functions_change_nothing(rule):
    x, nets = images(2), [settle(Reused(inplace=inplace)).double() for inplace in (False, True)]
    made = [relevance(net, x, [1, 3], rule=rule)[0] for net in nets]
    torch.testing.assert_close(made[0], made[1], **WIDE)
    assert made[0].abs().amax() > 0


@pytest.mark.parametrize("rule", RULES)
def test_attention_hands_relevance_to_its_values(rule):
    net, x = tiny_vit(), images(2, 32, 32)
    fused, _ = relevance(net, x, [1, 2], rule=rule)
    for block in net.blocks:
        block.attn.fused_attn = False
    apart, _ = relevance(net, x, [1, 2], rule=rule)
    assert fused.isfinite().all()
    torch.testing.assert_close(fused, apart, atol=1e-3 * float(fused.abs().max()), rtol=1e-3)


def test_multi_head_attention_of_torch_conserves():
    class Attends(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.patch = nn.Conv2d(3, 64, 4, 4, bias=False)
            self.block = nn.TransformerEncoderLayer(64, 2, 64, 0.0, batch_first=True)
            self.fc = nn.Linear(64, CLASSES, bias=False)

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(self.block(self.patch(x).flatten(2).mT).mean(1))

    net, x = settle(Attends()).double(), images(2).double()
    found, score = relevance(net, x, [1, 2])
    torch.testing.assert_close(found.sum((1, 2, 3)), score, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("chunk", [1, 2])
def test_the_network_is_untouched(rule, chunk):
    net, x = settle(Residual()).double(), images(3).double()
    before, pixels = state_of(net), x.clone()
    whole = explain(net, x, create("lrp", {"rule": rule}), [0, 1, 2], "second")["lrp"]
    made = explain(net, x, create("lrp", {"rule": rule}), [0, 1, 2], "second", chunk=chunk)["lrp"]
    assert_same_state(before, state_of(net))
    assert torch.equal(x, pixels)
    assert_good_map(made, 3, (16, 16))
    torch.testing.assert_close(made.map, whole.map, atol=1e-5, rtol=0)


def test_options():
    with pytest.raises(OptionError, match="epsilon"):
        create("lrp", {"epsilon": 0})
    with pytest.raises(OptionError, match="rule"):
        create("lrp", {"rule": "gamma"})


@pytest.mark.parametrize("rule", RULES)
def test_a_gate_takes_nothing_whichever_factor_it_is(rule):
    class Gate(nn.Module):
        def __init__(self, multiply):
            super().__init__()
            self.conv, self.multiply = nn.Conv2d(3, 4, 3), multiply
            self.fc = nn.Linear(4, CLASSES)

        def forward(self, x):
            y = self.conv(x)
            return self.fc(self.multiply(y, y.sigmoid()).mean((2, 3)))

    def found(multiply):
        return relevance(settle(Gate(multiply)).double(), images(1).double(), rule=rule)[0]

    expected = found(lambda y, gate: y * gate.detach())
    torch.testing.assert_close(found(lambda y, gate: y * gate), expected)
    torch.testing.assert_close(found(lambda y, gate: gate * y), expected)


@pytest.mark.parametrize("target", [Probability, LogProbability])
@pytest.mark.parametrize("inside", [False, True], ids=["logits", "probabilities"])
@pytest.mark.parametrize("label", [0, 1])
def test_a_probability_has_the_relevance_of_its_logit(target, inside, label):
    """One of the logits is below zero, and its contributions keep their signs."""
    net = nn.Sequential(nn.Flatten(), nn.Linear(4, 2, bias=False))
    net[1].weight.data = torch.tensor([[1.0, -2.0, 3.0, -1.0], [1.0, 2.0, -3.0, -1.0]])
    x = torch.tensor([1.0, 2.0, 1.0, 0.5]).view(1, 1, 2, 2)
    expected = net[1].weight.data[label] * x.flatten()
    net = nn.Sequential(*net, *([nn.Sigmoid()] if inside else []))
    kind = "probabilities" if inside else "sigmoid"
    wrapped = NetworkWrapper(net.eval(), scores=kind)
    found, _ = relevance(wrapped, x, target(label), rule="epsilon")
    torch.testing.assert_close(found.flatten(), expected)
