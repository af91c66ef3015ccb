"""Self-supervised encoders: every published layout, and every way a file can be wrong."""

from __future__ import annotations

import pickle

import pytest
import torch
from torch import nn

import torchsaliency
from torchsaliency.errors import CheckpointError, TargetError
from torchsaliency.zoo import load_model, models
from torchsaliency.zoo.sources import ssl
from torchsaliency.zoo.sources.convnext import ConvNeXtEncoder


class SmallResNet(nn.Module):
    """A network with the names that decide: a stem, four layers, and a place for a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4)
        self.layer4 = nn.Sequential(*(nn.Conv2d(4, 4, 3, padding=1) for _ in range(3)))
        self.fc = nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.layer4(self.bn1(self.conv1(x)).relu()).mean((2, 3)))


def small_convnext() -> ConvNeXtEncoder:
    return ConvNeXtEncoder(depths=(1, 1, 1, 3), widths=(4, 8, 8, 8))


@pytest.fixture(autouse=True)
def small_architectures(monkeypatch):
    """The published architectures are large; the layouts are the same around small ones."""
    changed = {
        name: ssl.replace(known, build=small_convnext if "convnext" in name else SmallResNet)
        for name, known in ssl.ENCODERS.items()
    }
    monkeypatch.setattr(ssl, "ENCODERS", changed)


def prefixed(state, prefix):
    return {f"{prefix}{key}": value for key, value in state.items()}


def moco(state):
    other = {
        **prefixed(state, "module.encoder_k."),
        "module.encoder_q.fc.0.weight": torch.ones(2, 2),
        "module.encoder_q.fc.2.bias": torch.ones(2),
        "module.encoder_k.fc.0.weight": torch.ones(2, 2),
        "module.queue": torch.ones(2, 8),
        "module.queue_ptr": torch.zeros(1, dtype=torch.long),
    }
    own = prefixed(state, "module.encoder_q.")
    return {"epoch": 800, "arch": "resnet50", "state_dict": {**own, **other}, "optimizer": {}}


def swav(state):
    heads = {
        "module.projection_head.0.weight": torch.ones(2, 2),
        "module.projection_head.1.running_mean": torch.ones(2),
        "module.prototypes.weight": torch.ones(3, 2),
    }
    return {**prefixed(state, "module."), **heads}


def full(state):
    heads = {"module.projector.0.weight": torch.ones(2, 2), "module.bn.running_mean": torch.ones(2)}
    return {"epoch": 1000, "model": {**prefixed(state, "module.backbone."), **heads}}


def vicregl_full(state):
    heads = {
        "module.projector.0.weight": torch.ones(2, 2),
        "module.maps_projector.0.weight": torch.ones(2, 2),
        "module.classifier.weight": torch.ones(2, 2),
    }
    return {"epoch": 300, "model": {**prefixed(state, "module.backbone."), **heads}}


LAYOUTS = [
    ("moco_v2", moco),
    ("swav", swav),
    ("swav", lambda state: {"state_dict": swav(state)}),
    ("barlow_twins", dict),
    ("barlow_twins", full),
    ("vicregl_resnet50", dict),
    ("vicregl_resnet50", vicregl_full),
    ("vicregl_convnext", dict),
    ("vicregl_convnext", vicregl_full),
]


def trained(name):
    torch.manual_seed(1)
    source = ssl.ENCODERS[name].build()
    for one in source.parameters():
        one.data = torch.randn_like(one)
    for one in source.modules():
        if isinstance(one, nn.BatchNorm2d):
            one.running_mean.normal_()
            one.running_var.uniform_(0.5, 2)
    return source.eval()


@pytest.mark.parametrize(("name", "layout"), LAYOUTS)
def test_the_loaded_encoder_is_the_source(name, layout, tmp_path):
    source = trained(name)
    torch.save(layout(source.state_dict()), path := tmp_path / "weights.pth.tar")
    network = load_model(f"ssl/{name}", weights=path)
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(network(x), source(x))
    assert network.encoder
    assert network.source["sha256_of"] == "file"
    assert network.judge.startswith("torchvision/")
    made = torchsaliency.explain(network, x, ["gradcam", "tsm"])
    assert made["tsm"].layers == (ssl.ENCODERS[name].layer,)


@pytest.mark.parametrize(("name", "layout"), LAYOUTS)
def test_a_missing_or_strange_key_is_named(name, layout, tmp_path):
    state = trained(name).state_dict()
    first = next(iter(state))
    missing = {key: value for key, value in state.items() if key != first}
    torch.save(layout(missing), path := tmp_path / "missing.pth")
    with pytest.raises(CheckpointError, match=rf"missing: {first}"):
        load_model(f"ssl/{name}", weights=path)
    torch.save(layout({**state, "layer9.weight": torch.ones(1)}), path := tmp_path / "more.pth")
    with pytest.raises(CheckpointError, match=r"layer9\.weight"):
        load_model(f"ssl/{name}", weights=path)


@pytest.mark.parametrize("name", ["moco_v2", "swav", "barlow_twins", "vicregl_convnext"])
def test_a_file_of_another_architecture_is_refused(name, tmp_path):
    other = nn.Sequential(nn.Linear(3, 4)).state_dict()
    torch.save(other, path := tmp_path / "other.pth")
    with pytest.raises(CheckpointError, match=str(path)):
        load_model(f"ssl/{name}", weights=path)


def test_a_truncated_file_is_refused(tmp_path):
    torch.save(moco(trained("moco_v2").state_dict()), path := tmp_path / "weights.pth")
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(CheckpointError, match="truncated"):
        load_model("ssl/moco_v2", weights=path)


class Trap:
    """Writes a file when it is unpickled."""

    def __init__(self, place):
        self.place = place

    def __reduce__(self):
        return (exec, (f"open({str(self.place)!r}, 'w').write('executed')",))


def test_a_pickle_with_code_is_refused_and_not_executed(tmp_path):
    state = {"state_dict": {"module.encoder_q.conv1.weight": Trap(tmp_path / "trace")}}
    torch.save(state, path := tmp_path / "trap.pth")
    with pytest.raises(CheckpointError, match="would run code, so nothing was loaded"):
        load_model("ssl/moco_v2", weights=path)
    assert not (tmp_path / "trace").exists()
    (tmp_path / "raw.pkl").write_bytes(pickle.dumps(state))
    with pytest.raises(CheckpointError, match=r"raw\.pkl"):
        load_model("ssl/moco_v2", weights=tmp_path / "raw.pkl")
    assert not (tmp_path / "trace").exists()


def test_names_are_listed_and_close_ones_told():
    listed = {one.name for one in models()}
    assert {
        "ssl/moco_v2",
        "ssl/swav",
        "ssl/barlow_twins",
        "ssl/vicregl_resnet50",
        "ssl/vicregl_convnext",
    } <= listed
    with pytest.raises(CheckpointError, match="ssl/moco_v2"):
        load_model("ssl/moco")


def test_a_class_of_an_encoder_is_a_clear_error(tmp_path):
    torch.save(trained("swav").state_dict(), path := tmp_path / "w.pth")
    network = load_model("ssl/swav", weights=path)
    with pytest.raises(TargetError, match="encoder without classes"):
        network.class_index("dog")


def test_convnext_pools_normalised_tokens():
    """VICRegL takes the mean after the normalisation, which is no normalisation of the mean."""
    net = small_convnext().eval()
    net.norm.weight.data.normal_()
    tokens = []
    net.norm.register_forward_hook(lambda module, args, out: tokens.append((args[0], out)))
    with torch.no_grad():
        z = net(torch.randn(2, 3, 64, 64))
        before, after = tokens[0]
        assert torch.allclose(z, after.mean((1, 2)))
        assert not torch.allclose(z, net.norm(before.mean((1, 2))), atol=1e-3)


def test_the_published_sizes():
    with torch.device("meta"):
        small = ConvNeXtEncoder("small")
        resnet = ssl.resnet50()
    assert sum(one.numel() for one in resnet.parameters()) == 23_508_032
    assert small.stages[3][2].dwconv.weight.shape == (768, 1, 7, 7)
    assert len(small.stages[2]) == 27


class TestEncoderOfAClassifier:
    def test_its_pooled_features(self):
        network = load_model("encoder/builtin/shapes_cnn")
        whole = load_model("builtin/shapes_cnn")
        x = torch.randn(2, 3, 64, 64)
        with torch.no_grad():
            z = network(x)
            assert torch.allclose(whole.module.fc(z), whole(x), atol=1e-6)
        assert (network.encoder, network.judge) == (True, "builtin/shapes_cnn")

    def test_a_network_without_a_linear_end(self):
        with pytest.raises(CheckpointError, match="no linear classifier"):
            load_model("encoder/torchvision/squeezenet1_0", pretrained=False)
