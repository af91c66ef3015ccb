"""Programs for networks: what they can, and what is said of the rest."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import nn

import torchsaliency as ts
from torchsaliency.errors import CheckpointError, InputError, LayerError, TorchSaliencyError
from torchsaliency.zoo import load_model

X = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(0)
    layers = nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)
    return nn.Sequential(*layers).eval()


@pytest.fixture(scope="module")
def files(net, tmp_path_factory):
    folder = tmp_path_factory.mktemp("programs")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecations inside torch
        batch = torch.export.Dim("batch")
        torch.export.save(
            torch.export.export(net, (X,), dynamic_shapes=({0: batch},)), folder / "net.pt2"
        )
        torch.jit.save(torch.jit.script(net), folder / "net.torchscript")
        pytest.importorskip("onnxruntime")
        torch.onnx.export(net, (X[:1],), folder / "net.onnx", dynamo=False)
    return folder


def explain(model, method):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return ts.explain(model, X, method, 1)[method]


@pytest.mark.parametrize("suffix", ["pt2", "torchscript", "onnx"])
@pytest.mark.parametrize("method", ["rise", "occlusion", "saliency", "gradcam"])
def test_a_program_is_explained_as_its_network(suffix, method, net, files):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        network = load_model(str(files / f"net.{suffix}"))
    assert "mean 0.485" in network.source["assumed"]
    works = {
        "pt2": True,
        "torchscript": method != "gradcam",
        "onnx": method in {"rise", "occlusion"},
    }
    if not works[suffix]:
        with pytest.raises(TorchSaliencyError, match=r"; |such as"):
            explain(network, method)
        return
    torch.testing.assert_close(
        explain(network, method).raw, explain(net, method).raw, rtol=1e-3, atol=1e-4
    )


def test_programs_are_handed_over(net):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        scripted, exported = torch.jit.script(net), torch.export.export(net, (X[:1],))
        fixed = torch.export.export(net, (X,))
    with pytest.raises(InputError, match="takes batches of 2 images and no others"):
        explain(fixed, "rise")
    scripted.train()
    with pytest.raises(LayerError, match="layers of a TorchScript program cannot be watched"):
        explain(scripted, "gradcam")
    assert scripted.training
    with pytest.raises(LayerError, match="'1' is a part of a TorchScript program"):
        ts.explain(scripted, X, "gradcam", 1, "1")
    inside = nn.Sequential(scripted, nn.Softmax(1)).eval()
    with pytest.raises(LayerError, match=r"'0\.1' is a part of a TorchScript program"):
        ts.explain(inside, X, "gradcam", 1, "0.1")
    with pytest.raises(LayerError, match="name one"):
        ts.explain(inside, X, "gradcam", 1)
    assert ts.explain(inside, X, "rise", 1)["rise"].status == ("ok", "ok")
    torch.testing.assert_close(explain(exported, "gradcam").raw, explain(net, "gradcam").raw)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("net.onnx", r"load it with torchsaliency.load_model\('net.onnx'\)"),
        ({"weight": X}, "give the network with these weights in it"),
        (None, "give a torch.nn.Module, a TorchScript program"),
    ],
)
def test_what_is_no_network(given, message):
    with pytest.raises(InputError, match=message):
        ts.explain(given, X)


def test_wrong_files(tmp_path):
    with pytest.raises(CheckpointError, match="does not exist"):
        load_model(str(tmp_path / "none.onnx"))
    (path := tmp_path / "text.pt2").write_text("no program")
    with pytest.raises(CheckpointError, match="cannot be loaded as a network"):
        load_model(str(path))


def test_texts_beside_images():
    transformers = pytest.importorskip("transformers")
    sizes = dict.fromkeys(("hidden_size", "intermediate_size"), 16) | dict.fromkeys(
        ("num_hidden_layers", "num_attention_heads"), 2
    )
    text = {"vocab_size": 9, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1}
    config = transformers.CLIPConfig(
        text_config={**sizes, **text, "max_position_embeddings": 4},
        vision_config={**sizes, "image_size": 16, "patch_size": 4},
    )
    torch.manual_seed(0)
    model = transformers.CLIPModel(config).eval()
    with pytest.raises(InputError, match="CLIPModel reads input_ids beside images"):
        ts.explain(model, X)
    texts = {"input_ids": torch.tensor([[0, 5, 1], [0, 7, 1]])}
    images = {"pixel_values": X}
    found = ts.explain(model, images, ["gradcam", "rise"], 1, forward_kwargs=texts)
    assert found["gradcam"].output.shape == (2, 2)
    assert found["rise"].map.shape == (2, 16, 16)
