"""Programs written for torchcam, with nothing but the import lines changed.

Each program takes `use`, which imports a module of either package, and must give the same numbers;
what is different on purpose has a test of its own below.
"""

import importlib
import json
from collections.abc import Callable
from functools import partial
from operator import itemgetter
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torchvision.models import VisionTransformer

from nets import convnet, images
from torchsaliency import GradCAMPlusPlus, create
from torchsaliency.compat.torchcam import methods
from torchsaliency.compat.torchcam.explain import explain
from torchsaliency.compat.torchcam.utils import overlay_mask
from torchsaliency.core.maps import minmax, upsample
from torchsaliency.errors import InputError, LayerError, OptionError, TargetError
from torchsaliency.viz.overlay import overlay

Use = Callable[[str], Any]


def use_ours(name: str) -> Any:
    return importlib.import_module(f"torchsaliency.compat.torchcam{name}")


def use_theirs(name: str) -> Any:
    return importlib.import_module(f"torchcam{name}")


def run_both(program: Callable[..., Any], *args: Any, atol: float = 1e-4) -> Any:
    """Run a program with either package, and compare the maps that it returns."""
    made, theirs = program(use_ours, *args), program(use_theirs, *args)
    assert len(made) == len(theirs)
    for one, other in zip(made, theirs, strict=True):
        torch.testing.assert_close(one, other.detach(), atol=atol, rtol=1e-3)
    return made


def extract(use: Use, name: str, layer: Any, label: Any, **options: Any) -> Any:
    net, x = convnet(inplace=False, seed=3), images(2, seed=1)
    if not isinstance(layer, str | list):
        layer = layer(net)
    with getattr(use(".methods"), name)(net, layer, **options) as extractor:
        scores = net(x)
        maps = extractor(label, scores)
        return [*maps, extractor.fuse_cams(maps)]


LAYERS = ["relu3", lambda net: net.relu3, ["relu2", "relu3"], lambda net: [net.relu2, "relu3"]]


@pytest.mark.parametrize("layer", LAYERS, ids=["name", "module", "names", "both"])
@pytest.mark.parametrize("name", ["GradCAM", "XGradCAM", "LayerCAM", "FinerCAM"])
def test_maps_are_theirs(name, layer):
    for label in (1, [1, 3]):
        run_both(extract, name, layer, label)


def test_cam_is_theirs():
    run_both(extract, "CAM", "relu3", [1, 3])


def test_score_cam_is_nearly_theirs():
    """Theirs stretches a mask before it is resized, ours after, as the paper does."""
    run_both(extract, "ScoreCAM", ["relu2", "relu3"], [1, 3], atol=1e-2)


@pytest.mark.parametrize("name", ["SSCAM", "ISCAM", "SmoothGradCAMpp"])
def test_other_extractors_are_the_librarys(name):
    """Values of torchcam's differ on purpose (errata L15, L16), or by their noise."""
    net, x = convnet(seed=3), images(2, seed=1)
    torch.manual_seed(0)
    with getattr(methods, name)(net, "relu3", num_samples=3) as extractor:
        (made,) = extractor(1, net(x))
        options = dict(extractor._make_method().options)
    if name != "ISCAM":
        torch.manual_seed(0)
        options["seed"] = int(torch.randint(2**31, ()))
    found = create(extractor.method_name, options)(net, x, 1, "relu3")
    torch.testing.assert_close(made, minmax(found.raw))


def test_refine_cam_is_theirs():
    def program(use: Use) -> Any:
        base = use(".methods").LayerCAM
        return extract(use, "RefineCAM", ["relu2", "relu3"], 1, base_method=base)

    run_both(program)


BLOCKS = ["encoder.layers.encoder_layer_0", "encoder.layers.encoder_layer_2"]


def torchvisions_vit() -> nn.Module:
    torch.manual_seed(0)
    options = {"num_layers": 3, "num_heads": 2, "hidden_dim": 16, "mlp_dim": 32, "num_classes": 5}
    net = VisionTransformer(image_size=32, patch_size=8, **options).eval()
    nn.init.normal_(net.heads.head.weight)  # torchvision's begins with zeros
    return net


@pytest.mark.parametrize("blocks", [BLOCKS, BLOCKS[:1]], ids=["two", "first"])
def test_legrad_is_theirs(blocks):
    def program(use: Use, **options: Any) -> Any:
        net, x = torchvisions_vit(), images(2, 32, 32, seed=1)
        with use(".methods").LeGrad(net, blocks, **options) as extractor:
            return extractor([1, 3], net(x), normalized=not options)

    run_both(program)
    head = torch.randn(16, 5, generator=torch.Generator().manual_seed(1))
    made = run_both(
        partial(
            program,
            prefix_tokens=9,
            grid_shape=(2, 4),
            score_projection=partial(_read_class_token, head),
        )
    )
    assert made[0].shape == (2, 2, 4)


def _read_class_token(head: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    return tokens[:, 0] @ head


def test_legrad_refuses_what_it_cannot_read():
    net = torchvisions_vit()
    with pytest.raises(OptionError, match="blocks are not known; give score_projection="):
        methods.LeGrad(convnet(), "relu3")
    with pytest.raises(OptionError, match="1 or more of them"):
        methods.LeGrad(net, BLOCKS, grid_shape=(0, 4))
    with methods.LeGrad(net, BLOCKS, prefix_tokens=2) as extractor:
        net(images(1, 32, 32))
        with pytest.raises(LayerError, match="do not fill a 3x3 grid"):
            extractor(1)


def test_comparisons_of_finer_cam_are_theirs():
    def program(use: Use, others: Any) -> Any:
        net, x = convnet(inplace=False, seed=3), images(2, seed=1)
        base = use(".methods").LayerCAM
        with use(".methods").FinerCAM(net, "relu3", base_method=base, gamma=0.9) as extractor:
            return extractor([1, 3], net(x), others, normalized=False)

    for others in (0, [0, 2], [[0, 2], [1, 4]]):
        run_both(program, others)


def test_both_protocols_and_targets():
    def program(use: Use) -> Any:
        net, x = convnet(inplace=False, seed=3), images(2, seed=1)
        extractor = use(".methods").GradCAM(net, "relu3")
        first = extractor(1, net(x))
        net(images(1, seed=5))
        extractor.disable_hooks()
        net(images(2, seed=6))
        extractor.enable_hooks()
        scores = net(x)
        several = extractor(
            scores=scores, targets=[itemgetter(1), itemgetter(3)], retain_graph=True
        )
        own = extractor(0, (scores.softmax(1)[:, 2:] ** 2), normalized=False)
        extractor.remove_hooks()
        return [*first, *several, *own]

    run_both(program)


@pytest.mark.parametrize("name", ["ClassificationMetric", "DeletionInsertionMetric"])
def test_metrics_are_theirs(name):
    def program(use: Use) -> Any:
        net, x = convnet(inplace=False, seed=3), images(2, seed=1)
        with use(".methods").LayerCAM(net, ["relu2", "relu3"]) as extractor:
            metric = getattr(use(".metrics"), name)(extractor, partial(torch.softmax, dim=-1))
            metric.update(x)
            metric.update(x, [1, 3])
            metric.update(x, targets=itemgetter(2))
            return [torch.tensor(list(metric.summary().values()))]

    run_both(program, atol=1e-5)


def test_explain_is_theirs():
    def program(use: Use) -> Any:
        net, x = convnet(inplace=False, seed=3), images(1, seed=1)
        module = importlib.import_module(use(".explain").__name__)
        found = module.explain(net, x, expected_class_idx=0, target_layer=["relu2", "relu3"])
        assert found.target_layers == ("relu2", "relu3")
        return [found.logits, *[one for key in sorted(found.cams) for one in found.cams[key]]]

    run_both(program)


def test_the_folder_of_an_explanation(tmp_path):
    net, x = convnet(seed=3), images(1, seed=1)
    names = ["a", "b", "c", "d", "e"]
    found = explain(net, x, class_names=names, target_layer="relu3")
    photo = Image.new("RGB", (20, 12))
    folder = found.save(tmp_path / "new", photo)
    manifest = json.loads((folder / "manifest.json").read_text())
    own = manifest["classes"][str(found.predicted_class_idx)]
    files = {own["artifacts"][0][kind] for kind in ("map", "heatmap", "overlay")}
    assert {file.name for file in folder.iterdir()} == {"manifest.json", *files}
    assert own["class_name"] == names[found.predicted_class_idx]
    with Image.open(folder / own["artifacts"][0]["overlay"]) as drawn:
        assert drawn.size == (20, 12)
    with pytest.raises(FileExistsError):
        found.save(tmp_path / "new", photo)
    with pytest.raises(OptionError):
        found.save(tmp_path / "other", photo, alpha=3.0)
    assert not (tmp_path / "other").exists()


# --- what is corrected ----------------------------------------------------------------------------


def test_gradcampp_keeps_its_normalisation():
    """Theirs divides a copy: α stays g², and a weight is Σ g² ReLU(g)."""
    net, x = convnet(inplace=False, seed=3), images(2, seed=1)
    (made,), (theirs,) = (
        extract(use, "GradCAMpp", "relu3", 1)[:1] for use in (use_ours, use_theirs)
    )
    torch.testing.assert_close(made, minmax(GradCAMPlusPlus()(net, x, 1, "relu3").raw))
    features = net[:-3](x) if isinstance(net, nn.Sequential) else None
    features = features.detach().requires_grad_()
    (g,) = torch.autograd.grad(net[-3:](features)[:, 1].sum(), features)
    lost = (g.square() * g.relu()).sum((2, 3))
    expected = minmax((lost[..., None, None] * features).sum(1).relu()).detach()
    torch.testing.assert_close(theirs.detach(), expected, atol=1e-3, rtol=0)
    assert (made - theirs).abs().max() > 0.05


def test_an_in_place_operation_behind_the_layer_changes_nothing():
    x, maps = images(1, seed=1), {}
    for inplace in (False, True):
        net = convnet(inplace=inplace, seed=3)
        maps[inplace] = []
        for use in (use_ours, use_theirs):
            with use(".methods").GradCAM(net, "bn3") as extractor:
                maps[inplace] += extractor(1, net(x), normalized=False)
    torch.testing.assert_close(maps[True][0], maps[False][0])
    torch.testing.assert_close(maps[False][0], maps[False][1].detach(), atol=1e-5, rtol=1e-4)
    assert not torch.allclose(maps[True][1], maps[False][1], atol=1e-3)


def test_without_a_graph_the_pass_is_run_again():
    net, x = convnet(seed=3).requires_grad_(False), images(2, seed=1)
    with methods.GradCAM(net, "relu3") as extractor:
        with torch.no_grad():
            plain = net(x)
        (again,) = extractor(1, plain)
        (made,) = extractor(1, net(x))  # frozen weights and images without a graph are enough
        torch.testing.assert_close(again, made)
        with torch.no_grad():
            plain = net(x).softmax(1)
        with pytest.raises(TargetError, match="carry no graph"):
            extractor(1, plain)


def test_what_does_not_belong_together_is_refused():
    net, x = convnet(seed=3), images(2, seed=1)
    with methods.GradCAM(net, "relu3") as extractor:
        with pytest.raises(InputError, match="has not run"):
            extractor(1)
        old = net(x)
        net(images(2, seed=7))
        with pytest.raises(LayerError, match="does not depend"):
            extractor(1, old)
        scores = net(x)
        for wrong in ({"class_idx": -1}, {"class_idx": [1]}, {}, {"class_idx": 1, "targets": sum}):
            with pytest.raises(TargetError):
                extractor(scores=scores, **wrong)
    with pytest.raises(LayerError, match="relu3"):
        methods.GradCAM(net, "relu33")
    two = nn.Sequential(net, nn.Tanh(), nn.Linear(5, 3)).eval()
    with methods.CAM(two, "0.relu3") as extractor:
        scores = two(x)
        with pytest.raises(LayerError, match="global average pooling"):
            extractor(1, scores)


def test_an_overlay_shows_the_map_as_it_is():
    """Theirs squares the map, and the squares of 8 bits are cut to 8 bits."""
    photo = Image.fromarray(np.full((8, 8, 3), 100, np.uint8))
    values = np.linspace(0, 1, 64, dtype=np.float32).reshape(8, 8)
    made = np.asarray(overlay_mask(photo, Image.fromarray(values), alpha=0.4)).astype(int)
    grey = np.asarray(overlay_mask(photo, Image.fromarray(np.uint8(255 * values)), alpha=0.4))
    assert np.abs(made - grey).max() <= 8
    by_hand = overlay(photo, torch.from_numpy(values), alpha=0.6, colormap="jet", blend="constant")
    assert np.array_equal(made, np.asarray(by_hand))
    with pytest.raises(OptionError, match="how much of the photograph"):
        overlay_mask(photo, Image.fromarray(values), alpha=1.0)


def test_maps_of_layers_are_fused():
    cams = [torch.rand(1, 4, 4), torch.rand(1, 2, 2)]
    found = methods.GradCAM.fuse_cams(cams, (8, 8))
    torch.testing.assert_close(found, torch.maximum(*[upsample(cam, (8, 8)) for cam in cams]))
    for use in (use_ours, use_theirs):
        torch.testing.assert_close(
            use(".methods").LayerCAM.fuse_cams(cams),
            torch.maximum(*[upsample(torch.tanh(2 * cam), (4, 4)) for cam in cams]),
        )
    with pytest.raises(TypeError):
        methods.GradCAM.fuse_cams(cams[0])
    with pytest.raises(InputError):
        methods.GradCAM.fuse_cams([])
