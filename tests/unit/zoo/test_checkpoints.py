"""Weights files: every layout people save, and every way a file can be wrong."""

from __future__ import annotations

import argparse
import hashlib
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from torchsaliency.errors import CheckpointError
from torchsaliency.zoo.checkpoints import read_checkpoint, state_dict_sha256


def small(classes: int = 3) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, classes))


def saved(tmp_path: Path, content: object) -> Path:
    torch.save(content, path := tmp_path / "weights.pth")
    return path


def assert_filled(path: Path, state: dict[str, torch.Tensor]) -> None:
    model = small()
    read_checkpoint(path).fill(model)
    for key, tensor in model.state_dict().items():
        assert torch.equal(tensor, state[key]), key


LAYOUTS = {
    "bare": lambda s: s,
    "state_dict": lambda s: {"state_dict": s, "epoch": 3, "args": argparse.Namespace(lr=0.1)},
    "model": lambda s: {"model": s, "optimizer": {"lr": 0.1}},
    "model_state_dict": lambda s: {"model_state_dict": s, "loss": 0.5},
    "parallel": lambda s: {f"module.{k}": v for k, v in s.items()},
    "compiled": lambda s: {f"_orig_mod.{k}": v for k, v in s.items()},
    "lightning": lambda s: {"state_dict": {f"model.{k}": v for k, v in s.items()}},
    "both": lambda s: {f"module._orig_mod.{k}": v for k, v in s.items()},
    "backbone": lambda s: {f"net.backbone.{k}": v for k, v in s.items()},
    "beside": lambda s: (
        {"criterion.weight": torch.ones(2)}
        | {f"module.model.{k}": v for k, v in s.items()}
        | {"module.ema.weight": torch.ones(2)}
    ),
    "uncounted": lambda s: {k: v for k, v in s.items() if "num_batches" not in k},
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(layout, tmp_path):
    state = small().state_dict()
    assert_filled(saved(tmp_path, LAYOUTS[layout](state)), state)


def test_what_is_stripped_is_said(tmp_path):
    path = saved(tmp_path, LAYOUTS["beside"](small().state_dict()))
    found = read_checkpoint(path).without_prefixes(small())
    expected = "the prefix module.model., left out: criterion.weight, module.ema.weight"
    assert found.stripped == expected
    # a part of the network under a prefix is no network
    state = {
        f"model.{key}": value for key, value in small().state_dict().items() if "2." not in key
    }
    with pytest.raises(CheckpointError, match=r"missing: 2\.weight, 2\.bias"):
        read_checkpoint(saved(tmp_path, state)).fill(small())


def test_safetensors(tmp_path):
    state = small().state_dict()
    save_file(state, path := tmp_path / "weights.safetensors")
    assert_filled(path, state)


def test_a_prefix_that_the_network_has_stays(tmp_path):
    class Holder(nn.Module):
        def __init__(self):
            super().__init__()
            self.model = nn.Linear(2, 2)

    source, copy = Holder(), Holder()
    read_checkpoint(saved(tmp_path, source.state_dict())).fill(copy)
    assert torch.equal(copy.model.weight, source.model.weight)


def test_the_hash_is_the_files(tmp_path):
    path = saved(tmp_path, small().state_dict())
    assert read_checkpoint(path).sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


def test_misfits_are_named(tmp_path):
    state = small(5).state_dict()
    state["extra.weight"] = state.pop("0.weight")
    model = small()
    before = state_dict_sha256(model)
    with pytest.raises(CheckpointError) as caught:
        read_checkpoint(saved(tmp_path, state)).fill(model)
    message = str(caught.value)
    assert "missing: 0.weight" in message
    assert "unexpected: extra.weight" in message
    assert "2.weight is (5, 4) for (3, 4)" in message
    assert state_dict_sha256(model) == before


def test_the_number_of_classes_is_read_from_the_head(tmp_path):
    checkpoint = read_checkpoint(saved(tmp_path, small(5).state_dict()))
    assert checkpoint.class_count(small(3)) == 5
    assert checkpoint.class_count(small(5)) is None
    wider = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, 3))
    assert checkpoint.class_count(wider) is None


class Bomb:
    def __reduce__(self):
        return os.mkdir, (os.environ["BOMB"],)


def test_code_in_a_pickle_is_not_run(tmp_path, monkeypatch):
    monkeypatch.setenv("BOMB", str(tmp_path / "exploded"))
    path = saved(tmp_path, {"state_dict": small().state_dict(), "callback": Bomb()})
    with pytest.raises(CheckpointError, match="nothing was loaded; save the network's weights"):
        read_checkpoint(path)
    assert not (tmp_path / "exploded").exists()


def test_a_whole_pickled_network_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match="Python objects besides tensors"):
        read_checkpoint(saved(tmp_path, small()))


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("kept", [1, 10, 200, 0.5])
def test_truncated_files(suffix, kept, tmp_path):
    whole = tmp_path / f"whole{suffix}"
    write = save_file if suffix == ".safetensors" else torch.save
    write(small().state_dict(), whole)
    content = whole.read_bytes()
    cut = tmp_path / f"cut{suffix}"
    cut.write_bytes(content[: int(kept * len(content)) if isinstance(kept, float) else kept])
    with pytest.raises(CheckpointError, match="truncated or is no weights file"):
        read_checkpoint(cut)


def test_text_is_no_weights_file(tmp_path):
    path = tmp_path / "weights.pt"
    path.write_text("version https://git-lfs.github.com/spec/v1")
    with pytest.raises(CheckpointError, match="truncated or is no weights file"):
        read_checkpoint(path)


def test_missing_files_and_folders(tmp_path):
    with pytest.raises(CheckpointError, match="does not exist"):
        read_checkpoint(tmp_path / "none.pth")
    with pytest.raises(CheckpointError, match="is a folder"):
        read_checkpoint(tmp_path)


@pytest.mark.parametrize("content", [{"epoch": 3}, {}, [1, 2], torch.zeros(3)], ids=str)
def test_files_without_a_state_dict(content, tmp_path):
    with pytest.raises(CheckpointError, match="no state dict"):
        read_checkpoint(saved(tmp_path, content))


def test_the_state_dicts_hash_tells_networks_apart():
    model = small()
    first = state_dict_sha256(model)
    assert state_dict_sha256(model) == first
    with torch.no_grad():
        model[2].bias[0] += 1
    assert state_dict_sha256(model) != first
    state_dict_sha256(model.bfloat16())
