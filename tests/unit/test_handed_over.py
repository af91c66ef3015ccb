"""Whatever photographs are handed over, `explain`, `preprocess` and `overlay` take them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import torchsaliency as ts
from torchsaliency.errors import InputError
from torchsaliency.zoo import Network, Preprocessing

PREPARATION = Preprocessing((16, 16), (16, 16), mean=(0.5,) * 3, std=(0.25,) * 3)


def make_net():
    torch.manual_seed(0)
    layers = nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)
    return nn.Sequential(*layers)


@pytest.fixture
def photo():
    noise = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    return Image.fromarray(noise)


def forms(photo, path):
    array = np.array(photo)
    photo.save(path)
    tensor = torch.from_numpy(array).permute(2, 0, 1)
    return {
        "path": str(path),
        "PIL": photo,
        "HWC": array,
        "CHW": array.transpose(2, 0, 1),
        "float HWC": array / np.float32(255),
        "float 255": array.astype(np.float32),
        "tensor": tensor,
        "list": [photo],
        "list of paths": [path],
        "list of tensors": [tensor],
        "batch of arrays": array[None],
        "batch of tensors": tensor[None],
        "inputs": [PREPARATION(photo)],
        "input": PREPARATION(photo)[None],
    }


def test_every_form_is_explained_alike(photo, tmp_path):
    net = make_net()
    network = Network(net, name="net", preprocessing=PREPARATION)
    expected = ts.explain(net, PREPARATION(photo)[None], "gradcam", 1)["gradcam"]
    net.preprocessing = PREPARATION
    for name, given in forms(photo, tmp_path / "photo.png").items():
        for model in (network, net):
            found = ts.explain(model, given, "gradcam", 1)["gradcam"]
            assert torch.equal(found.map, expected.map), name
        if "input" not in name:
            assert torch.equal(ts.preprocess(given, net), PREPARATION(photo)[None]), name
    assert torch.equal(ts.methods.cam.GradCAM()(network, photo, 1).map, expected.map)


def test_a_list_is_overlaid(photo):
    network = Network(make_net(), name="net", preprocessing=PREPARATION)
    photos = [photo, np.array(photo.rotate(90))]
    found = ts.explain(network, photos, "gradcam")["gradcam"]
    drawn = ts.overlay(photos, found, network)
    assert [one.tobytes() for one in drawn] == [
        ts.overlay(one, found, network, index=place).tobytes() for place, one in enumerate(photos)
    ]
    with pytest.raises(InputError, match="1 photographs were given for 2 explained images"):
        ts.overlay([photo], found, network)


def test_a_network_that_does_not_say_is_asked(photo):
    with pytest.raises(InputError, match="set its attribute preprocessing"):
        ts.explain(make_net(), photo, "gradcam")
    with pytest.raises(InputError, match="does not say how photographs are prepared"):
        ts.explain(make_net(), torch.zeros(1, 3, 8, 8, dtype=torch.uint8), "gradcam")


def test_timm_and_hugging_face_say_it_themselves(photo, tmp_path):
    timm = pytest.importorskip("timm")
    transformers = pytest.importorskip("transformers")
    net = timm.create_model("test_resnet", num_classes=3)
    assert ts.preprocess(photo, net).shape[1:] == (3, 160, 160)
    config = transformers.ViTConfig(
        **dict.fromkeys(("hidden_size", "intermediate_size"), 8),
        **dict.fromkeys(("num_hidden_layers", "num_attention_heads"), 2),
        image_size=16,
        patch_size=8,
    )
    transformers.ViTForImageClassification(config).save_pretrained(tmp_path)
    model = transformers.ViTForImageClassification.from_pretrained(tmp_path)
    with pytest.raises(InputError, match="ViTForImageClassification does not say"):
        ts.preprocess(photo, model)
    transformers.ViTImageProcessor(size={"height": 16, "width": 16}).save_pretrained(tmp_path)
    assert ts.preprocess(photo, model).shape == (1, 3, 16, 16)
    assert ts.explain(model, photo, "gradcam")["gradcam"].map.shape == (1, 16, 16)


def test_pixels_are_warned_of_once(photo, recwarn):
    net, pixels = make_net(), torch.from_numpy(np.array(photo)).permute(2, 0, 1)[None].float()
    with pytest.warns(UserWarning, match="run from 0 to 255, as pixels do before normalisation"):
        ts.explain(net, pixels, "gradcam")
    recwarn.clear()
    ts.explain(net, pixels, "gradcam")
    raw = Preprocessing((16, 16), None, mean=(0.0,) * 3, std=(1 / 255,) * 3)
    ts.explain(Network(make_net(), name="raw", preprocessing=raw), pixels, "gradcam")
    assert not recwarn.list
