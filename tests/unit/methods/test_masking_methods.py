"""RISE and occlusion against loops and captum; the optimised masks against their definitions."""

import captum.attr
import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch.nn import functional as F

from nets import Counter, convnet, images, two_layer_head
from torchsaliency import (
    BlackPixel,
    Blur,
    MeanColour,
    Probability,
    Regression,
    explain,
    tracing,
)
from torchsaliency.core.method import create
from torchsaliency.errors import OptionError, TargetError
from torchsaliency.methods.masking import (
    IBA,
    RISE,
    ExtremalPerturbation,
    MeaningfulPerturbation,
    Occlusion,
)
from torchsaliency.methods.masking.extremal import Canvas
from torchsaliency.methods.masking.rise import RandomMasks
from torchsaliency.methods.passes import blur

CLOSE = {"atol": 1e-5, "rtol": 1e-4}


# --- RISE ------------------------------------------------------------------------------------


def masks_loop(method: RISE, size: tuple[int, int]) -> torch.Tensor:
    """The masks one by one, as the paper says: draw, resize, cut."""
    made = RandomMasks(method, size, torch.device("cpu"))
    height, width = (-(-side // method.cells) for side in size)
    masks = []
    for grid, (down, across) in zip(made.grids, made.shifts.tolist(), strict=True):
        large = F.interpolate(
            grid[None, None],
            ((method.cells + 1) * height, (method.cells + 1) * width),
            mode="bilinear",
        )[0, 0]
        assert 0 <= down < height
        assert 0 <= across < width
        masks.append(large[down : down + size[0], across : across + size[1]])
    return torch.stack(masks)


@given(
    seed=st.integers(0, 20),
    cells=st.integers(1, 7),
    keep=st.sampled_from([0.1, 0.5]),
    size=st.sampled_from([(16, 16), (11, 18)]),
    chunk=st.sampled_from([1, 4, 32]),
)
def test_rise_is_the_weighted_mean_of_its_masks(seed, cells, keep, size, chunk):
    net, x = convnet(seed=seed), images(3, *size, seed)
    method = RISE(samples=9, cells=cells, keep=keep, seed=seed)
    expected = torch.zeros(3, *size)
    masks = masks_loop(method, size)
    assume(
        masks.any()
    )  # under masks that all hide everything the map is constant, as its status says
    for mask in masks:
        assert mask.shape == size
        with torch.no_grad():
            weight = net(x * mask).softmax(1)[range(3), [0, 1, 2]]
        expected += weight[:, None, None] * mask / (9 * keep)
    made = method(net, x, [0, 1, 2], "relu3", chunk=chunk)
    torch.testing.assert_close(made.raw, expected, **CLOSE)


@pytest.mark.parametrize("keep", [0.1, 0.5, 1.0])
def test_a_masks_expected_value_is_the_probability(keep):
    made = RandomMasks(RISE(samples=6000, keep=keep), (22, 30), torch.device("cpu"))
    masks = made(torch.arange(6000))
    assert 0 <= masks.min() <= masks.max() <= 1
    assert masks.mean().item() == pytest.approx(keep, abs=5e-3)
    assert (masks.mean(0) - keep).abs().max() < 0.03


def test_rises_masks_are_those_of_the_official_resize_inside_its_border():
    """skimage, which the official code resizes with, differs in the outer half cell only."""
    transform = pytest.importorskip("skimage.transform")
    method = RISE(samples=5)
    made = RandomMasks(method, (28, 28), torch.device("cpu"))
    grown = made.stretch[0] @ made.grids @ made.stretch[1].T
    for mask, grid in zip(grown, made.grids, strict=True):
        official = transform.resize(
            grid.numpy(), (32, 32), order=1, mode="reflect", anti_aliasing=False
        )
        torch.testing.assert_close(
            mask[2:-2, 2:-2], torch.from_numpy(official)[2:-2, 2:-2], **CLOSE
        )


def test_rise_finds_the_one_quadrant_that_counts():
    x = images(2, 24, 24)
    x[:, :, :12, :12] = 1.0

    class Corner(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = torch.nn.Conv2d(3, 2, 1)

        def forward(self, x):
            bright = (self.conv(x) * 0)[:, 0] + x.mean(1)
            return torch.stack([6 * bright[:, :12, :12].mean((1, 2)), 0 * bright[:, 0, 0]], 1)

    made = RISE(samples=2000)(Corner(), x, 0, "conv")
    quadrants = made.map.unflatten(1, (2, 12)).unflatten(3, (2, 12)).mean((2, 4))
    assert bool((quadrants[:, 0, 0] > quadrants.flatten(1)[:, 1:].amax(1) + 0.05).all())


def test_rise_weighs_by_probability_or_by_another_targets_score():
    net, x = convnet(), images(2)
    method = RISE(samples=6)
    logit, same = (method(net, x, t, "relu3").raw for t in (1, Probability(torch.tensor([1, 1]))))
    assert torch.equal(logit, same)
    other = method(net, x, Regression(1), "relu3").raw
    by_hand = torch.zeros(2, 16, 16)
    for mask in masks_loop(method, (16, 16)):
        with torch.no_grad():
            by_hand += net(x * mask)[:, 1, None, None] * mask / 3
    torch.testing.assert_close(other, by_hand, **CLOSE)


def test_rise_uses_the_masking():
    net, x = convnet(), images(2)
    grey, black = (RISE(samples=6)(net, x, 1, masking=m).raw for m in (MeanColour(), BlackPixel()))
    assert (grey - black).abs().max() > 1e-4


def test_rises_seed_repeats_and_tells_apart():
    net, x = convnet(), images(2)
    first, again, other = (RISE(samples=6, seed=seed)(net, x, 1).raw for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert (first - other).abs().max() > 1e-3


@pytest.mark.parametrize("options", [{"samples": 0}, {"cells": 0}, {"keep": 0}, {"keep": 1.5}])
def test_rise_refuses_options_out_of_range(options):
    with pytest.raises(OptionError, match="rise"):
        create("rise", options)


# --- occlusion -------------------------------------------------------------------------------


@given(
    seed=st.integers(0, 20),
    window=st.sampled_from([0.2, 0.5, 1.0]),
    stride=st.sampled_from([0.1, 0.5, 1.0]),
    size=st.sampled_from([(16, 16), (10, 13)]),
    chunk=st.sampled_from([1, 5, 32]),
)
def test_occlusion_is_the_mean_drop_of_the_windows_over_a_pixel(seed, window, stride, size, chunk):
    net, x = convnet(seed=seed), images(2, *size, seed)
    side = max(1, round(window * min(size)))
    step = max(1, round(stride * side))
    total, count = torch.zeros(2, *size), torch.zeros(size)
    with torch.no_grad():
        clean = net(x)[:, 2]
        for top in range(0, size[0] - side + step, step):
            for left in range(0, size[1] - side + step, step):
                hidden = x.clone()
                hidden[:, :, top : top + side, left : left + side] = 0
                drop = clean - net(hidden)[:, 2]
                total[:, top : top + side, left : left + side] += drop[:, None, None]
                count[top : top + side, left : left + side] += 1
    assert count.min() > 0
    made = Occlusion(window=window, stride=stride)(net, x, 2, "relu3", chunk=chunk)
    torch.testing.assert_close(made.raw, total / count, atol=1e-5, rtol=1e-3)


@pytest.mark.parametrize(
    ("size", "window", "stride"), [((16, 16), 4, 2), ((16, 16), 5, 3), ((12, 15), 6, 6)]
)
@pytest.mark.parametrize("masking", [MeanColour(), BlackPixel(), Blur(2.0)])
def test_occlusion_is_captums(size, window, stride, masking):
    net, x = two_layer_head(), images(2, *size)
    baseline = masking.baseline(x).expand_as(x)
    with torch.no_grad():
        expected = captum.attr.Occlusion(net).attribute(
            x, (3, window, window), (3, stride, stride), baseline, target=1
        )
    made = Occlusion(window=window / min(size), stride=stride / window)(
        net, x, 1, "relu", masking=masking
    )
    torch.testing.assert_close(made.raw, expected[:, 0], **CLOSE)


@pytest.mark.parametrize("options", [{"window": 0}, {"window": 1.2}, {"stride": 0}, {"stride": 2}])
def test_occlusion_refuses_options_out_of_range(options):
    with pytest.raises(OptionError, match="occlusion"):
        create("occlusion", options)


# --- what they cost --------------------------------------------------------------------------


@pytest.mark.parametrize("chunk", [2, 7, 32])
def test_masked_passes_are_as_many_as_they_must_and_no_larger_than_the_chunk(chunk):
    net = convnet()
    rows = []
    net.register_forward_pre_hook(lambda _, inputs: rows.append(len(inputs[0])))
    explain(net, images(3), RISE(samples=10), layer="relu3", chunk=chunk)
    assert sum(rows) == 3 + 3 * 10
    assert max(rows[1:]) <= chunk
    rows.clear()
    explain(net, images(3), Occlusion(window=0.25, stride=1.0), layer="relu3", chunk=chunk)
    assert sum(rows) == 3 + 3 * 16
    assert max(rows[1:]) <= chunk


def test_several_layers_cost_no_more_than_one():
    """No layer is read, so naming two of them must not double the masks."""
    net = convnet()
    whole = Counter(net)
    explain(net, images(1), RISE(samples=10), layer=["relu2", "relu3"])
    assert whole.images == 1 + 10


@pytest.mark.parametrize("sigma", [0.7, 3.0, 20.0])
@pytest.mark.parametrize("border", ["zero", "repeat", "mirror"])
def test_the_blur_is_a_convolution(sigma, border):
    planes = images(2, 9, 14)
    reach = -int(-4 * sigma // 1)
    offsets = torch.arange(-reach, reach + 1)
    kernel = torch.exp(-0.5 * (offsets / sigma) ** 2)
    kernel = torch.outer(kernel, kernel) / kernel.sum() ** 2
    mode = {"zero": "constant", "repeat": "edge", "mirror": "reflect"}[border]
    padded = torch.from_numpy(np.pad(planes.numpy(), ((0, 0),) * 2 + ((reach, reach),) * 2, mode))
    expected = F.conv2d(padded.flatten(0, 1)[:, None], kernel[None, None]).view_as(planes)
    torch.testing.assert_close(blur(planes, sigma, border), expected, **CLOSE)


# --- extremal perturbation -------------------------------------------------------------------


class Bright(torch.nn.Module):
    """Class 0 is the brightness of the top left corner, class 1 nothing."""

    def __init__(self):
        super().__init__()
        self.conv = torch.nn.Conv2d(3, 1, 1)

    def forward(self, x):
        spot = x[:, :, :8, :8].mean((1, 2, 3)) + 0 * self.conv(x).mean((1, 2, 3))
        return torch.stack([40 * spot, 0 * spot], 1)


def spots(count: int = 2) -> torch.Tensor:
    x = -0.2 * torch.ones(count, 3, 32, 32)
    x[:, :, :8, :8] = 2.0
    return x


def test_the_canvas_is_torchrays():
    canvas = Canvas((224, 224), 7, 21.0, torch.zeros(()))
    assert canvas.nodes == (32, 32)
    assert canvas.size == (260, 260)
    assert (canvas.padding, canvas.margin) == (7, 21)
    assert canvas.weights.shape == (81, 7, 7)
    assert canvas.cut(torch.zeros(1, 260, 260)).shape == (1, 224, 224)


@pytest.mark.parametrize(
    ("spacing", "sigma"), [(7, 21.0), (4, 6.0), (3, 5.0), (5, 6.0), (2, 3.0), (6, 9.5)]
)
@pytest.mark.parametrize("size", [(64, 64), (30, 41)])
def test_the_canvas_covers_the_image(spacing, sigma, size):
    """Also where the kernel is no multiple of the spacing, which TorchRay's padding is not for."""
    canvas = Canvas(size, spacing, sigma, torch.zeros(()))
    masks = canvas.masks(torch.ones(1, *canvas.nodes))
    assert masks.shape == (1, *canvas.size)
    assert canvas.cut(masks).shape == (1, *size)
    assert canvas.cut(masks).min() > 0.01, "a node lies near every pixel"


def test_the_weight_of_the_area_grows_to_4909():
    method = ExtremalPerturbation()
    assert method.weight(0) == 300
    assert method.weight(800) == pytest.approx(4909, abs=1)


@given(height=st.integers(8, 20), width=st.integers(8, 20), seed=st.integers(0, 99))
def test_masks_are_the_smooth_maximum_of_the_nodes_around(height, width, seed):
    """From the definition: every pixel and every node by its distance."""
    spacing, sigma = 3, 4.0
    canvas = Canvas((height, width), spacing, sigma, torch.zeros((), dtype=torch.float64))
    draw = torch.Generator().manual_seed(seed)
    nodes = torch.rand(1, *canvas.nodes, generator=draw, dtype=torch.float64)
    masks = canvas.masks(nodes)
    assert masks.shape == (1, *canvas.size)
    radius = 1 + 2
    for row, column in torch.randint(0, min(canvas.size), (6, 2), generator=draw).tolist():
        values = []
        for down in range(-radius, radius + 1):
            for across in range(-radius, radius + 1):
                # Node 0 lies at the margin; the window begins `padding` nodes before the pixel's.
                i = row // spacing + down + radius - canvas.padding
                j = column // spacing + across + radius - canvas.padding
                away = (
                    (row - sigma - spacing * i) ** 2 + (column - sigma - spacing * j) ** 2
                ) ** 0.5
                inside = 0 <= i < canvas.nodes[0] and 0 <= j < canvas.nodes[1]
                kernel = np.exp(-2 * max(0, away / sigma - 0.5) ** 2)
                values.append(kernel * float(nodes[0, i, j]) if inside else 0.0)
        v = torch.tensor(values, dtype=torch.float64)
        expected = (v * (20 * v).softmax(0)).sum()
        assert masks[0, row, column].item() == pytest.approx(expected.item(), abs=1e-9)


def test_slopes_reach_the_nodes():
    canvas = Canvas((10, 10), 3, 4.0, torch.zeros((), dtype=torch.float64))
    nodes = torch.rand(5, *canvas.nodes, dtype=torch.float64)
    given_slopes = torch.rand(5, *canvas.size, dtype=torch.float64)
    found = canvas.pull_back(nodes, given_slopes)
    nudged = nodes.clone()
    nudged[:, 1, 2] += 1e-6
    change = ((canvas.masks(nudged) - canvas.masks(nodes)) * given_slopes).sum((1, 2)) / 1e-6
    torch.testing.assert_close(found[:, 1, 2], change, atol=1e-4, rtol=1e-4)


SMALL = {"spacing": 2, "sigma": 3.0, "image_blur": 5.0}


@pytest.mark.parametrize("variant", ["preserve", "delete", "dual"])
@pytest.mark.parametrize("perturbation", ["blur", "masking"])
def test_extremal_masks_reach_their_area_and_find_the_spot(variant, perturbation):
    method = ExtremalPerturbation(
        areas=(0.1, 0.2), iterations=250, variant=variant, perturbation=perturbation, **SMALL
    )
    made = method(Bright(), spots(1), 0, "conv")
    assert made.details["area"].shape == (1, 2)
    torch.testing.assert_close(made.details["area"], torch.tensor([[0.1, 0.2]]), atol=0.05, rtol=0)
    inside = made.map[:, 1:7, 1:7].mean((1, 2))
    outside = made.map[:, 14:, 14:].mean((1, 2))
    assert bool((inside > outside + 0.4).all())
    objective = made.details["objective"]
    assert objective.shape == (1, 2, 250)
    # λ grows all the while, and the objective rises all the same once the area is met.
    assert bool((objective[..., -1] > objective[..., 0]).all())


def test_areas_by_name():
    """TorchRay's function takes one area, its benchmark four, which are summed."""
    assert ExtremalPerturbation().shares == (0.1,)
    for words, shares in {
        "torchray": (0.1,),
        "torchray-benchmark": (0.025, 0.05, 0.1, 0.2),
        "0.3": (0.3,),
        "0.1,0.3": (0.1, 0.3),
    }.items():
        made = create("extremal-perturbation", {"areas": words})
        assert made.shares == pytest.approx(shares)


def test_the_benchmarks_masks_have_its_areas_and_lie_in_each_other():
    options = {"iterations": 300, "area_weight": 3000.0, **SMALL}
    method = ExtremalPerturbation(areas="torchray-benchmark", **options)
    made = method(Bright(), spots(1), 0, "conv")
    stated = torch.tensor([[0.025, 0.05, 0.1, 0.2]])
    torch.testing.assert_close(made.details["area"], stated, atol=0.02, rtol=0)
    masks = made.details["masks"]
    assert masks.shape == (1, 4, 32, 32)
    assert bool((masks.mean((2, 3)).diff() > 0).all())
    total = masks.sum(1)
    torch.testing.assert_close(made.raw, total - total.amin((1, 2), keepdim=True))


def test_areas_are_summed_and_images_are_alone():
    net, x = convnet(), images(3)
    options = {"iterations": 6, **SMALL}
    both = ExtremalPerturbation(areas=(0.1, 0.3), **options)(net, x, [0, 1, 2], "relu3", chunk=4)
    single = [
        ExtremalPerturbation(areas=(area,), **options)(net, x, [0, 1, 2], "relu3")
        for area in (0.1, 0.3)
    ]
    total = single[0].raw + single[1].raw
    total = total - total.amin((1, 2), keepdim=True)
    torch.testing.assert_close(both.raw, total, atol=1e-5, rtol=0)
    alone = ExtremalPerturbation(areas=(0.1, 0.3), **options)(net, x[1:2], 1, "relu3")
    torch.testing.assert_close(both.raw[1], alone.raw[0], atol=1e-5, rtol=0)


@pytest.mark.parametrize(("variant", "passes"), [("preserve", 1), ("delete", 1), ("dual", 2)])
def test_extremal_costs_a_pass_an_iteration_image_and_area(variant, passes):
    net = convnet()
    rows = []
    net.register_forward_pre_hook(lambda _, inputs: rows.append(len(inputs[0])))
    method = ExtremalPerturbation(areas=(0.1, 0.2), iterations=5, variant=variant, **SMALL)
    explain(net, images(3), method, layer="relu3", chunk=4)
    assert sum(rows) == 3 + 3 * 2 * 5 * passes
    assert max(rows[1:]) == 4


def test_the_contrastive_reward_needs_classes():
    net, x = convnet(), images(1)
    method = ExtremalPerturbation(iterations=3, reward="contrastive", **SMALL)
    assert method(net, x, 1).raw.shape == (1, 16, 16)
    with pytest.raises(TargetError, match="contrastive"):
        method(net, x, Regression(1))


@pytest.mark.parametrize(
    "options",
    [
        {"areas": ()},
        {"areas": (0.0,)},
        {"areas": (1.5,)},
        {"areas": 0.0},
        {"levels": 1},
        {"sigma": 0.0},
    ],
)
def test_extremal_refuses_options_out_of_range(options):
    with pytest.raises(OptionError, match="extremal"):
        ExtremalPerturbation(**options)


# --- meaningful perturbation -----------------------------------------------------------------


@pytest.mark.parametrize("start", ["disc", "random"])
@pytest.mark.parametrize("perturbation", ["blur", "masking"])
def test_meaningful_perturbation_deletes_the_spot(start, perturbation):
    net, x = Bright(), spots()
    method = MeaningfulPerturbation(
        iterations=100, cell=4, mask_blur=1.0, start=start, perturbation=perturbation, jitter=1
    )
    made = method(net, 0.05 * x, 0, "conv")
    objective = made.details["objective"]
    assert objective.shape == (2, 100)
    assert bool((objective[:, -10:].mean(1) < objective[:, 0]).all())
    assert bool((made.raw[:, :8, :8].mean((1, 2)) > made.raw[:, 16:, 16:].mean((1, 2)) + 0.2).all())
    assert 0 <= made.raw.min() <= made.raw.max() <= 1


def test_where_blur_deletes_nothing_the_search_begins_at_the_whole_image():
    made = MeaningfulPerturbation(iterations=5)(Bright(), torch.zeros(1, 3, 32, 32), 0, "conv")
    assert made.raw.count_nonzero() == 0
    assert made.status == ("no positive evidence",)


def test_meaningful_perturbations_price_is_the_papers():
    cells = torch.rand(2, 5, 6)
    method = MeaningfulPerturbation()
    rough = torch.zeros(2)
    for i in range(5):
        for j in range(6):
            down = cells[:, i + 1, j] - cells[:, i, j] if i < 4 else 0 * rough
            across = cells[:, i, j + 1] - cells[:, i, j] if j < 5 else 0 * rough
            rough += (down**2 + across**2).sqrt() ** 3
    expected = 1e-4 * (1 - cells).sum((1, 2)) + 1e-2 * rough
    torch.testing.assert_close(method._price(cells), expected, **CLOSE)


def test_meaningful_perturbation_costs_its_iterations_and_its_discs():
    net = convnet()
    rows = []
    net.register_forward_pre_hook(lambda _, inputs: rows.append(len(inputs[0])))
    method = MeaningfulPerturbation(iterations=7)
    explain(net, images(3), method, layer="relu3", chunk=2)
    discs = len(range(0, 12 + 5, 5))
    assert sum(rows) == 3 + 3 * discs + 3 * 7
    assert max(rows[1:]) == 2


@pytest.mark.parametrize("options", [{"jitter": 0}, {"cell": 0}, {"variation_power": 0.5}])
def test_meaningful_perturbation_refuses_options_out_of_range(options):
    with pytest.raises(OptionError, match="meaningful"):
        MeaningfulPerturbation(**options)


# --- the bottleneck --------------------------------------------------------------------------


def iba_by_hand(net, x, label, method):
    """Autograd and torch's Adam on one image, with λ smoothed by a convolution."""
    tail = torch.nn.Sequential(net.pool, net.flatten, net.fc)
    with torch.no_grad():
        features = net[: list(dict(net.named_children())).index("relu3") + 1](x).double()
    tail = tail.double()
    std, mean = torch.std_mean(features, (2, 3), correction=0, keepdim=True)
    std = std.clamp_min(0.01)
    alpha = torch.full_like(features, 5).requires_grad_()
    adam = torch.optim.Adam([alpha], lr=method.learning_rate)
    draw = torch.Generator().manual_seed(method.seed)
    line = torch.exp(-0.5 * torch.arange(-2, 3).double() ** 2)
    kernel = (torch.outer(line, line) / line.sum() ** 2).expand(features.shape[1], 1, 5, 5)

    def information():
        padded = F.pad(alpha.sigmoid(), (2, 2, 2, 2), mode="reflect")
        gate = F.conv2d(padded, kernel, groups=len(kernel))
        scaled = (features - mean) / std
        kl = -0.5 * (1 + (1 - gate).square().log() - (gate * scaled).square() - (1 - gate).square())
        return gate, kl

    for _ in range(method.optimization_steps):
        noise = torch.randn(method.samples, *features.shape[1:], generator=draw).double()
        gate, kl = information()
        logits = tail(gate * features + (1 - gate) * (mean + std * noise))
        loss = -logits.log_softmax(1)[:, label].mean() + method.beta * kl.mean()
        adam.zero_grad()
        loss.backward()
        adam.step()
    net.float()
    cells = features.shape[2] * features.shape[3]
    return information()[1].sum(1).detach()[0] / np.log(2) * cells / x[0, 0].numel()


@pytest.mark.parametrize("chunk", [1, 32])
@pytest.mark.parametrize("beta", [0.1, 10.0])
def test_iba_is_the_paper_written_down(chunk, beta):
    net, x = convnet(seed=1), images(2, seed=1)
    method = IBA(beta=beta, samples=3, optimization_steps=4)
    made = method(net, x, [1, 3], "relu3", chunk=chunk)
    for image, label in enumerate([1, 3]):
        expected = iba_by_hand(convnet(seed=1), x[image : image + 1], label, method)
        torch.testing.assert_close(made.raw[image], expected.float(), atol=1e-4, rtol=1e-3)


def test_ibas_tail_runs_each_noisy_copy_and_its_head_once_a_step():
    net = convnet()
    head, tail = Counter(net.conv1), Counter(net.fc)
    explain(net, images(2), IBA(samples=5, optimization_steps=3), layer="relu3")
    assert tail.images == 2 + 2 + 2 * 5 * 3  # the batch, one probe of the tail, the copies
    assert head.images == 2 + 1 + 2 * 3


@pytest.mark.parametrize("options", [{"samples": 0}, {"beta": -1.0}, {"sigma": -1.0}])
def test_iba_refuses_options_out_of_range(options):
    with pytest.raises(OptionError, match="iba"):
        IBA(**options)


def test_iba_may_let_all_pass_and_read_every_cell_alone():
    made = explain(convnet(), images(1), IBA(beta=0.0, sigma=0.0, optimization_steps=1), 1, "relu3")
    assert made["iba"].map.isfinite().all()


def test_the_pyramid_shows_the_image_at_one_and_its_blur_at_zero():
    method, x = ExtremalPerturbation(perturbation="blur", image_blur=3.0), images(2)
    with tracing(convnet(), x, 1, ["input"]) as trace:
        show = method._perturbation(trace[["input"]], torch.tensor([1, 0]))
    torch.testing.assert_close(show(torch.ones(2, 16, 16)), x[[1, 0]])
    torch.testing.assert_close(show(torch.zeros(2, 16, 16)), blur(x[[1, 0]], 3.0))
