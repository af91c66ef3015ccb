"""Volumes, videos and signals: the registry on them, and closed forms of a third dimension."""

import itertools

import pytest
import scipy.ndimage
import torch
from torch.nn import functional as F

from nets import (
    ATTENTION_NAMES,
    NAMES,
    VolumeTransformer,
    assert_good_map,
    convnet,
    convnet_of,
    images,
    lift,
    quick,
    volumes,
)
from torchsaliency import (
    RISE,
    AblationCAM,
    Blur,
    ChannelsLast,
    GradCAM,
    InputError,
    Layer,
    LayerError,
    Occlusion,
    ScoreCAM,
    Tokens,
    explain,
    tracing,
)
from torchsaliency.core.maps import minmax, upsample
from torchsaliency.core.masking import MeanColour, RISEBlur
from torchsaliency.evaluation import score
from torchsaliency.measures import perturbation_curve, region_curve, square_removals
from torchsaliency.measures.imputation import impute_neighbours
from torchsaliency.methods.masking.rise import RandomMasks
from torchsaliency.metrics import functional, metric_entry, metrics

EXACT = {"atol": 1e-10, "rtol": 0}
SIZES = {"signals": (40,), "pictures": (12, 10), "volumes": (6, 12, 10)}

OF_PICTURES = dict.fromkeys(
    ["extremal-perturbation", "xrai"], "is defined on pictures (N, C, H, W)"
)
"""Methods that are defined on pictures alone, and what they say of others."""

MEASURED_ON_PICTURES = {
    "completeness": "no attributions that could add up",
    "focus": "mosaics are of pictures",
    "grid-pointing-game": "mosaics are of pictures",
    "sm": "Crops are cut from pictures",
    "hog": "HOG is defined on maps of pictures",
    "ba": "Box accuracy is defined on maps of pictures",
}

SLICEWISE = ["cam", "gradcam", "hirescam", "layercam", "saliency", "input-x-gradient"]
"""Methods that see the slices of a volume apart, where the network does."""

ALL_AT_ONCE = {"rise": "grids of another number of cells", "occlusion": "boxes for squares"}
"""Methods that hide other parts of a volume of one slice than of a picture, and why."""


@pytest.fixture(scope="module")
def fresh():
    return convnet_of(3).double(), volumes(6, 12, 10).double()


@pytest.mark.parametrize("kind", ["signals", "volumes"])
@pytest.mark.parametrize("name", NAMES)
def test_every_method_gives_a_map_or_says_why_not(name, kind):
    size = SIZES[kind]
    net, x = convnet_of(len(size)), volumes(*size)
    if name in OF_PICTURES:
        with pytest.raises(InputError) as raised:
            quick(name)(net, x)
        assert OF_PICTURES[name] in str(raised.value)
        return
    assert_good_map(quick(name)(net, x, [0, 1]), 2, size)


@pytest.mark.parametrize("name", ATTENTION_NAMES)
def test_attention_lies_on_the_grid_of_the_patches(name):
    net, x = VolumeTransformer().eval(), volumes(6, 8, 16)
    made = quick(name)(net, x, [0, 1])
    assert_good_map(made, 2, (6, 8, 16))
    assert made.raw.shape == (2, 3, 2, 4)
    with pytest.raises(LayerError, match="has no attention"):
        quick(name)(convnet_of(3), volumes(6, 12, 10))


def test_heads_are_weighted_by_their_mean_over_all_patches():
    net, x = VolumeTransformer().eval(), volumes(6, 8, 16)
    with tracing(net, x, [0, 1], ["norm"], attentions=True) as view:
        rows, slopes = (
            block[-1][:, :, 0, 1:] for block in (view.attentions, view.attention_gradients)
        )
        expected = (slopes.mean(2, keepdim=True) * rows).mean(1).relu().view(2, 3, 2, 4)
    made = quick("attention-gradcam")(net, x, [0, 1]).raw
    torch.testing.assert_close(made, expected, atol=1e-7, rtol=1e-5)


def test_tokens_of_a_volume_are_read_on_a_grid_of_the_network():
    net, x = VolumeTransformer().eval(), volumes(6, 8, 16)
    made = explain(net, x, ["gradcam", "mtsm"])
    assert made["mtsm"].reshapes == (Tokens(1, (3, 2, 4)),)
    assert made["mtsm"].layers == ("blocks.1.norm1",)
    said = explain(net, x, "gradcam", layer=Layer("blocks.1.norm1", Tokens(1, (3, 2, 4))))
    assert torch.equal(said["gradcam"].map, made["gradcam"].map)


def test_channels_last_volumes_are_read():
    class Last(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.patch = torch.nn.Conv3d(3, 24, 4, stride=4)
            self.norm = torch.nn.LayerNorm(24)
            self.fc = torch.nn.Linear(24, 5)

        def forward(self, x):
            return self.fc(self.norm(self.patch(x).movedim(1, -1)).mean((1, 2, 3)))

    made = explain(Last().eval(), volumes(8, 12, 16), "gradcam", layer="norm")["gradcam"]
    assert made.reshapes == (ChannelsLast(),)
    assert made.raw.shape == (2, 2, 3, 4)


@pytest.mark.parametrize("kind", SIZES)
def test_gradcams_weights_are_the_classifiers(kind):
    net, x = convnet_of(len(SIZES[kind])).double(), volumes(*SIZES[kind]).double()
    made = explain(net, x, "gradcam", [1, 2])["gradcam"]
    features = net[:6](x)
    weights = net.fc.weight[[1, 2]] / features[0, 0].numel()
    expected = torch.einsum("nk,nk...->n...", weights, features).relu()
    torch.testing.assert_close(made.raw, expected.detach(), **EXACT)


@pytest.mark.parametrize("name", SLICEWISE)
def test_a_network_of_slices_explains_each_of_them(name):
    flat, depth = convnet().double(), 4
    x = volumes(depth, 16, 12).double()
    made = quick(name)(lift(flat), x, [1, 2], "relu3").raw
    slices = x.movedim(2, 1).flatten(0, 1)
    alone = quick(name)(flat, slices, [1] * depth + [2] * depth, "relu3").raw
    scale = 1 if name == "cam" else depth  # the head's mean is over all slices
    torch.testing.assert_close(scale * made.flatten(0, 1), alone, **EXACT)


@pytest.mark.parametrize("name", sorted({*NAMES} - {*OF_PICTURES} - {*ALL_AT_ONCE}))
def test_a_volume_of_one_slice_is_a_picture(name):
    flat, x = convnet().double(), images(2, 16, 12).double()
    made = quick(name)(lift(flat), x[:, :, None], [1, 2], "relu3")
    expected = quick(name)(flat, x, [1, 2], "relu3")
    # sixteen pixels a side hold few superpixels, and half as many supervoxels
    if name in {"lime", "kernelshap", "feature-ablation"}:
        assert_good_map(made, 2, (1, 16, 12))
        return
    torch.testing.assert_close(made.map[:, 0], expected.map, atol=1e-8, rtol=0)


# --- masks, against plain loops -------------------------------------------------------------------


def test_occlusion_is_the_mean_drop_of_all_windows(fresh):
    net, x = fresh
    made = Occlusion(window=0.5, stride=0.5)(net, x, [1, 2]).raw
    clean = net(x)[[0, 1], [1, 2]]
    total, count = torch.zeros_like(x[:, 0]), torch.zeros_like(x[:, 0])
    windows, strides = (3, 6, 5), (2, 3, 2)
    starts = [range(0, n - w + s, s) for n, w, s in zip((6, 12, 10), windows, strides, strict=True)]
    for corner in itertools.product(*starts):
        where = (slice(None), *(slice(a, a + w) for a, w in zip(corner, windows, strict=True)))
        hidden = x.movedim(1, 0).clone()
        hidden[(slice(None), *where)] = 0
        drop = clean - net(hidden.movedim(0, 1))[[0, 1], [1, 2]]
        total[where] += drop[:, None, None, None]
        count[where] += 1
    torch.testing.assert_close(made, (total / count).detach(), **EXACT)


def test_rise_is_the_weighted_mean_of_stretched_grids(fresh):
    net, x = fresh
    rise = RISE(samples=9, cells=3, seed=4)
    made = rise(net, x, [1, 2]).raw
    masks = RandomMasks(rise, (6, 12, 10), x.device)
    total = torch.zeros_like(x[:, 0])
    for grid, shift in zip(masks.grids, masks.shifts.tolist(), strict=True):
        stretched = F.interpolate(grid[None, None], (8, 16, 16), mode="trilinear")[0, 0]
        d, h, w = shift
        mask = stretched[d : d + 6, h : h + 12, w : w + 10].double()
        probability = net(x * mask).softmax(1)[[0, 1], [1, 2]]
        total += probability[:, None, None, None] * mask
    torch.testing.assert_close(made, total.detach() / (9 * 0.5), atol=1e-6, rtol=0)
    assert masks.shifts.amax(0).tolist() <= [1, 3, 3]


def test_score_and_ablation_cam_are_those_of_plain_loops(fresh):
    net, x = fresh
    features, labels = net[:6](x).detach(), torch.tensor([1, 2])
    masked, without = [], []
    for channel in range(8):
        mask = minmax(upsample(features[:, channel], (6, 12, 10), align_corners=True))
        masked.append(net(x * mask[:, None])[[0, 1], labels])
        cut = features.clone()
        cut[:, channel] = 0
        without.append(net[6:](cut)[[0, 1], labels])
    score_weights = torch.stack(masked, 1).softmax(1)
    clean = net(x)[[0, 1], labels][:, None]
    drops = clean - torch.stack(without, 1)
    drops = torch.where(clean > 0, drops / clean, drops)
    for method, weights in ((ScoreCAM(), score_weights), (AblationCAM(), drops)):
        expected = torch.einsum("nk,nkdhw->ndhw", weights, features).relu()
        torch.testing.assert_close(method(net, x, labels, "relu2").raw, expected.detach(), **EXACT)


@pytest.mark.parametrize("order", ["insertion", "deletion"])
def test_curves_are_those_of_a_plain_loop(fresh, order):
    net, x = fresh
    maps = torch.rand(2, 6, 12, 10, generator=torch.Generator().manual_seed(0)).double()
    found = perturbation_curve(net, x, maps, [1, 2], order=order)
    assert len(found.fractions) == 13, "as many steps as a picture of that height has"
    blank = RISEBlur().baseline(x) if order == "insertion" else torch.zeros_like(x)
    ranks = maps.flatten(1).argsort(descending=True, stable=True).argsort().view(maps.shape)
    for place in range(13):
        taken = (ranks < 60 * place)[:, None]
        variant = torch.where(taken == (order == "insertion"), x, blank)
        expected = net(variant).softmax(1)[[0, 1], [1, 2]]
        torch.testing.assert_close(found.probabilities[:, place], expected.detach(), **EXACT)


def test_regions_are_cubes(fresh):
    net, x = fresh
    maps = torch.rand(2, 6, 12, 10, generator=torch.Generator().manual_seed(1)).double()
    found = region_curve(
        net, x, maps, [1, 2], patch=2, regions=3, placement="grid", masking=MeanColour()
    )
    blocks = F.avg_pool3d(maps[:, None], 2)[:, 0]
    variant = x.clone()
    for place in range(3):
        for image in range(2):
            best = blocks[image].flatten().argsort(descending=True)[place]
            d, h, w = (2 * int(n) for n in torch.unravel_index(best, blocks.shape[1:]))
            assert found.corners[image, place].tolist() == [d, h, w]
            variant[image, :, d : d + 2, h : h + 2, w : w + 2] = 0
        expected = net(variant).softmax(1)[[0, 1], [1, 2]]
        torch.testing.assert_close(found.probabilities[:, place + 1], expected.detach(), **EXACT)
    sliding = region_curve(net, x, maps, [1, 2], patch=2, regions=3).corners
    near = (sliding[:, :, None] - sliding[:, None]).abs().amax(-1) < 2
    assert torch.equal(near, torch.eye(3, dtype=torch.bool).expand(2, -1, -1)), "none overlap"


def test_infidelity_removes_boxes_and_sums_over_them(fresh):
    net, x = fresh
    found = square_removals(net, x, [1, 2], samples=4, side=0.5)
    assert found.squares.shape == (4, 6)
    maps = torch.rand(2, 6, 12, 10, dtype=torch.float64)
    clean, sums = net(x)[[0, 1], [1, 2]], []
    for place, (x0, y0, z0, x1, y1, z1) in enumerate(found.squares.tolist()):
        assert (x1 - x0, y1 - y0, z1 - z0) == (5, 6, 3)
        variant = x.clone()
        variant[:, :, z0:z1, y0:y1, x0:x1] = 0
        drop = clean - net(variant)[[0, 1], [1, 2]]
        torch.testing.assert_close(found.drops[:, place], drop.detach(), **EXACT)
        sums.append(maps[:, z0:z1, y0:y1, x0:x1].sum((1, 2, 3)))
    plain = (torch.stack(sums, 1) - found.drops).square().mean(1)
    infidelity = functional.infidelity(maps, found.squares, found.drops, normalise=False)
    torch.testing.assert_close(infidelity, plain, **EXACT)


def test_imputed_voxels_are_the_mean_of_their_26_neighbours():
    draw = torch.Generator().manual_seed(0)
    x, removed = torch.rand(1, 2, 5, 6, 7, generator=draw), torch.rand(1, 5, 6, 7, generator=draw)
    removed = removed < 0.7
    filled = impute_neighbours(x, removed).double()
    assert torch.equal(filled[:, :, ~removed[0]], x.double()[:, :, ~removed[0]])
    kernel = torch.zeros(3, 3, 3, dtype=torch.float64)
    for place in itertools.product(range(3), repeat=3):
        steps = sum(n != 1 for n in place)
        kernel[place] = 0 if steps == 0 else {1: 1 / 14, 2: 1 / 28, 3: 1 / 56}[steps]
    assert float(kernel.sum()) == pytest.approx(1)
    kernel = kernel[None, None]
    sums = F.conv3d(filled[0][:, None], kernel, padding=1)[:, 0]
    shares = F.conv3d(torch.ones(1, 1, 5, 6, 7, dtype=torch.float64), kernel, padding=1)[0, 0]
    means = sums / shares
    torch.testing.assert_close(means[:, removed[0]], filled[0][:, removed[0]], atol=1e-5, rtol=0)


@pytest.mark.parametrize("kind", SIZES)
def test_the_blur_is_scipys(kind):
    x = volumes(*SIZES[kind]).double()
    found = Blur(2.0).baseline(x)
    for image in range(2):
        for channel in range(3):
            expected = scipy.ndimage.gaussian_filter(
                x[image, channel].numpy(), 2.0, mode="nearest", truncate=3.0
            )
            torch.testing.assert_close(
                found[image, channel], torch.from_numpy(expected), atol=1e-7, rtol=0
            )


# --- metrics --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", metrics())
def test_every_metric_scores_volumes_or_says_why_not(name):
    net, x = convnet_of(3), volumes(12, 12, 14)
    made = GradCAM()(net, x, [1, 2])
    boxes = [torch.tensor([[2, 3, 1, 9, 10, 8]]), torch.tensor([[0, 0, 0, 14, 6, 12]])]
    masks = torch.zeros(2, 12, 12, 14, dtype=torch.int64)
    masks[:, 2:8, 3:9, 1:11] = 1
    given = {"samples", "stages", "patch", "regions"}
    small = {"samples": 2, "stages": 1, "patch": 3, "regions": 2}
    options = {key: small[key] for key in given & {*metric_entry(name).options}}
    metric = metric_entry(name).factory(**options)
    if name in MEASURED_ON_PICTURES:
        with pytest.raises(InputError, match=MEASURED_ON_PICTURES[name]):
            score(net, made, [metric], boxes=boxes, masks=masks)
        return
    found = score(net, made, [metric], boxes=boxes, masks=masks)[name]
    assert found.per_image.shape == (2,)


def test_localisation_counts_voxels():
    maps = torch.zeros(1, 4, 6, 8)
    maps[0, 1:3, 2:5, 3:7] = 1
    maps[0, 0, 0, 0] = 0.5
    box = [torch.tensor([[3, 2, 1, 7, 5, 2]])]  # x0 y0 z0 x1 y1 z1: one of the two slices
    assert functional.energy_pointing_game(maps, box).item() == pytest.approx(100 * 12 / 24.5)
    assert functional.pointing_game(maps, box, ties="expected").item() == 50
    scores = functional.pixel_scores(maps, box)
    assert scores.recall.item() == pytest.approx(100)
    assert scores.precision.item() == pytest.approx(100 * 12 / 24.5)
    assert functional.localisation_error(maps, box, continuous=True).item() == pytest.approx(50)
    whole = [torch.tensor([[3, 2, 1, 7, 5, 3]])]
    assert functional.localisation_error(maps, whole).item() == 0
    assert functional.iou_at(maps, (maps > 0.7).long()).item() == pytest.approx(100 * 24 / 25)
    with pytest.raises(InputError, match="x0 y0 z0 x1 y1 z1"):
        functional.pointing_game(maps, [torch.tensor([[3, 2, 7, 5]])])


def test_shapes_that_are_no_images_are_said():
    with pytest.raises(InputError, match=r"\(N, C, D, H, W\) for volumes"):
        explain(convnet_of(3), torch.rand(1, 2, 3, 4, 5, 6), "gradcam")
    with pytest.raises(InputError, match=r"add the batch dimension with x\[None\]"):
        explain(convnet(), torch.rand(3, 16, 16), "gradcam")
