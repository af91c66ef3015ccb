"""Attention methods against matrices worked out by hand on two blocks."""

import pytest
import torch
from torch import nn

import torchsaliency
from nets import images, tiny_vit
from torchsaliency import LayerError, OptionError
from torchsaliency.core.method import create
from torchsaliency.core.rules import Recording, backward
from torchsaliency.methods.propagation.tibav import attention_rules

X = images(1, 32, 32)
CLASS = 3


@pytest.fixture(scope="module")
def blocks():
    """Attention and gradients of both blocks, computed by running timm's own modules unfused."""
    net = tiny_vit()
    kept = []
    for block in net.blocks:
        block.attn.fused_attn = False
        block.attn.attn_drop.register_forward_hook(lambda m, i, o: kept.append(o))
    logits = net(X)
    gradients = torch.autograd.grad(logits[0, CLASS], kept)
    return [one[0].detach() for one in kept], [one[0] for one in gradients]


def raw(name, **options):
    made = torchsaliency.explain(tiny_vit(), X, create(name, options), target=CLASS)
    return made[name].raw[0]


def grid(row):
    return row[1:].view(4, 4)


def close(found, expected):
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-4)


def test_raw_attention(blocks):
    close(raw("raw-attention"), grid(blocks[0][-1].mean(0)[0]))


def test_the_class_reads_no_registers():
    net, kept = tiny_vit(reg_tokens=4), []
    net.blocks[-1].attn.fused_attn = False
    net.blocks[-1].attn.attn_drop.register_forward_hook(lambda m, i, o: kept.append(o))
    net(X)
    found = torchsaliency.explain(tiny_vit(reg_tokens=4), X, "raw-attention", CLASS)
    close(found["raw-attention"].raw[0], kept[0][0].mean(0)[0, 5:].view(4, 4).detach())


def test_rollout(blocks):
    first, second = (one.mean(0) + torch.eye(17) for one in blocks[0])
    first, second = (one / one.sum(1, keepdim=True) for one in (first, second))
    flow = second @ first
    close(flow.sum(1), torch.ones(17))
    close(raw("attention-rollout"), grid(flow[0]))
    close(raw("attention-rollout", start=1), grid(second[0]))


@pytest.mark.parametrize("heads", ["max", "min"])
def test_rollout_fuses_heads(blocks, heads):
    fused = [getattr(torch, f"a{heads}")(one, 0) + torch.eye(17) for one in blocks[0]]
    first, second = (one / one.sum(1, keepdim=True) for one in fused)
    close(raw("attention-rollout", heads=heads), grid((second @ first)[0]))


def test_rollout_discards_the_lowest(blocks):
    mixed = []
    for one in blocks[0]:
        flat = one.mean(0).flatten().clone()
        lowest = flat.argsort()[: int(0.5 * len(flat))]
        flat[[i for i in lowest.tolist() if i]] = 0
        mixed.append(flat.view(17, 17) + torch.eye(17))
    first, second = (one / one.sum(1, keepdim=True) for one in mixed)
    close(raw("attention-rollout", discard=0.5), grid((second @ first)[0]))
    with pytest.raises(OptionError, match="discard"):
        create("attention-rollout", {"discard": 1.0})


def test_attention_gradcam(blocks):
    rows, slopes = blocks[0][-1][:, 0, 1:], blocks[1][-1][:, 0, 1:]
    expected = (slopes.mean(1, keepdim=True) * rows).mean(0).relu()
    close(raw("attention-gradcam"), expected.view(4, 4))


def test_generic_attention(blocks):
    first, second = (
        (gradient * attention).relu().mean(0) for attention, gradient in zip(*blocks, strict=True)
    )
    relevance = torch.eye(17) + first
    relevance = relevance + second @ relevance
    close(raw("generic-attention"), grid(relevance[0]))


def test_a_trace_without_attention_says_so():
    with (
        torchsaliency.tracing(tiny_vit(), X, 0, ["blocks.0"]) as trace,
        pytest.raises(torchsaliency.LayerError, match="attentions=True"),
    ):
        _ = trace["blocks.0"].attentions


class ByHand:
    """Layer-wise relevance propagation through timm's two blocks, written out step by step."""

    def __init__(self):
        self.net = tiny_vit()

    def attention_relevances(self, x):
        net = self.net
        tokens = net._pos_embed(net.patch_embed(x))[0]
        steps = []
        for block in net.blocks:
            before = tokens
            normed = block.norm1(before)
            qkv = block.attn.qkv(normed).view(17, 3, 2, 16).permute(1, 2, 0, 3)
            attention = ((qkv[0] @ qkv[1].mT) / 4).softmax(-1)
            mixed = attention @ qkv[2]
            joined = mixed.transpose(0, 1).reshape(17, 32)
            first = block.attn.proj(joined)
            middle = before + first
            hidden = block.mlp.fc1(block.norm2(middle))
            active = block.mlp.act(hidden)
            second = block.mlp.fc2(active)
            tokens = middle + second
            steps.append((block, before, normed, qkv, attention, mixed, joined, first, middle))
            steps[-1] += (block.norm2(middle), active, second)
        last = net.norm(tokens)[:1]
        relevance = torch.zeros(17, 32)
        relevance[:1] = self.linear(last, net.head.weight, torch.eye(5)[CLASS][None])
        found = []
        for step in reversed(steps):
            block, before, normed, qkv, attention, mixed, joined, first, middle = step[:9]
            normed2, active, second = step[9:]
            stay, through = self.add(middle, second, relevance)
            through = self.linear(active, block.mlp.fc2.weight, through)
            through = self.linear(normed2, block.mlp.fc1.weight, through)
            stay, through = self.add(before, first, stay + through)
            through = self.linear(joined, block.attn.proj.weight, through)
            split = through.view(17, 2, 16).transpose(0, 1)
            share = split / mixed
            of_attention = attention * (share @ qkv[2].mT) / 2
            of_values = qkv[2] * (attention.mT @ share) / 2
            found.insert(0, of_attention)
            scores = qkv[0] @ qkv[1].mT
            share = of_attention / scores
            of_queries = qkv[0] * (share @ qkv[1]) / 2
            of_keys = qkv[1] * (share.mT @ qkv[0]) / 2
            stacked = torch.stack([of_queries, of_keys, of_values])
            through = stacked.permute(2, 0, 1, 3).reshape(17, 96)
            relevance = stay + self.linear(normed, block.attn.qkv.weight, through)
        return found

    @staticmethod
    def linear(x, weight, relevance):
        parts = [
            (sign * torch.relu(sign * x), sign * torch.relu(sign * weight)) for sign in (1, -1)
        ]
        total = sum(a @ w.T for a, w in parts)
        share = relevance / total
        return sum(a * (share @ w) for a, w in parts)

    @staticmethod
    def add(a, b, relevance):
        first, second = (one * relevance / (a + b) for one in (a, b))
        whole = first.sum().abs() + second.sum().abs()
        return tuple(
            one * (one.sum().abs() / whole * relevance.sum() / one.sum()) for one in (first, second)
        )


def test_tibav(blocks):
    with torch.no_grad():
        relevances = ByHand().attention_relevances(X)
    expected = torch.eye(17)
    for gradient, relevance in zip(blocks[1], relevances, strict=True):
        expected = (torch.eye(17) + (gradient * relevance).relu().mean(0)) @ expected
    torch.testing.assert_close(raw("tibav"), grid(expected[0]), atol=1e-6, rtol=1e-3)
    later = torch.eye(17) + (blocks[1][1] * relevances[1]).relu().mean(0)
    torch.testing.assert_close(raw("tibav", start=1), grid(later[0]), atol=1e-6, rtol=1e-3)


def test_relevance_is_conserved_by_sums_and_shared_by_linear_layers():
    a, b = torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(0))
    a, b = a.detach().requires_grad_(), b.detach().requires_grad_()
    relevance = torch.rand(3, 4, 5)
    first, second = shared((a, b), lambda: a + b, relevance)
    torch.testing.assert_close(
        first.sum((1, 2)).abs() + second.sum((1, 2)).abs(), relevance.sum((1, 2))
    )
    x, weight = torch.rand(3, 5).requires_grad_(), torch.rand(4, 5)
    (of_x,) = shared((x,), lambda: torch.nn.functional.linear(x, weight), torch.ones(3, 4))
    torch.testing.assert_close(of_x.sum(1), torch.full((3,), 4.0))


def test_a_product_of_two_signals_hands_half_to_each():
    a, b = torch.rand(2, 4, 4, generator=torch.Generator().manual_seed(0)) + 0.5
    a, b = a[:3].detach().requires_grad_(), b.detach().requires_grad_()
    relevance = torch.rand(3, 4)
    first, second = shared((a, b), lambda: a @ b, relevance)
    close(first.sum(1), relevance.sum(1) / 2)
    close(second.sum(0), relevance.sum(0) / 2)


def shared(sources, work, relevance):
    """Hand relevance back through a function by TIBAV's rules."""
    with Recording() as recording:
        made = work()
    rules = attention_rules({}.__setitem__)
    return backward(made, sources, recording, rules, weight=relevance)


def test_legrad_against_timms_own_modules():
    net, kept, tokens = tiny_vit().double(), [], []
    for block in net.blocks:
        block.attn.fused_attn = False
        block.attn.attn_drop.register_forward_hook(lambda m, i, o: kept.append(o))
        block.register_forward_hook(lambda m, i, o: tokens.append(o))
    net(X.double())
    expected = torch.zeros(4, 4).double()
    for attention, given in zip(kept, tokens, strict=True):
        score = net.head(net.norm(given.mean(1)))[0, CLASS]
        (gradient,) = torch.autograd.grad(score, attention, retain_graph=True)
        expected += gradient[0].relu().mean((0, 1))[1:].view(4, 4)
    made = torchsaliency.explain(tiny_vit().double(), X.double(), "legrad", CLASS)["legrad"]
    torch.testing.assert_close(made.raw[0], expected)
    assert made.passes == 1 + 1 + 2  # the shared one, one with a graph, and one a block


def test_legrad_wants_a_list_of_blocks():
    class Alone(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = tiny_vit(depth=1)
            self.block = self.net.blocks[0]
            self.net.blocks = nn.Identity()
            self.net.norm_pre = self.block

        def forward(self, x):
            return self.net(x)

    with pytest.raises(LayerError, match="no list of blocks with one attention each; use generic"):
        torchsaliency.explain(Alone(), X, "legrad")
