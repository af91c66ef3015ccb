"""What the pages of the documentation assume to be there: a reader's files, and small networks.

Weights that a page would fetch are those of tiny random networks here, under the same names; the
page's own lines run as they are printed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from transformers import (
    DetrConfig,
    DetrForObjectDetection,
    ResNetConfig,
    ResNetForImageClassification,
    TrainingArguments,
)

import torchsaliency
from nets import tiny_detector
from torchsaliency import training
from torchsaliency.data import sample_photo
from torchsaliency.zoo import Network, Preprocessing, imagenet
from trees import KVASIR

CAT = 8
"""The class of cats in Pascal VOC."""


class SeesCats(nn.Module):
    """A segmenter of Pascal VOC's classes that sees cats wherever the picture is bright."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), nn.ReLU(), nn.Conv2d(4, 4, 3, 2, 1))
        self.head = nn.Conv2d(4, 21, 1)
        with torch.no_grad():
            self.head.bias[CAT] = 5.0

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"out": self.head(self.features(x))}


def _make_sure(head: nn.Linear) -> None:
    """Let a detector's last layer give its first class a score near 1."""
    with torch.no_grad():
        head.bias[1] += 10.0


def _load_tiny(name: str, **given: Any) -> Network:
    """Return a small network for one whose weights would be fetched; others as ever."""
    if name == "torchvision/fasterrcnn_resnet50_fpn":
        plain = Preprocessing(None, None, mean=(0.0,) * 3, std=(1.0,) * 3)
        net = tiny_detector()
        _make_sure(net.roi_heads.box_predictor.cls_score)
        return Network(net, name=name, preprocessing=plain)
    if name == "torchvision/deeplabv3_resnet50":
        classes = tuple("cat" if number == CAT else f"class {number}" for number in range(21))
        return Network(SeesCats(), name=name, preprocessing=imagenet(32), classes=classes)
    return _LOAD(name, **given)


_LOAD = torchsaliency.load_model


def prepare_detectors(monkeypatch: pytest.MonkeyPatch, page: ModuleType) -> None:  # noqa: ARG001
    """Two photographs; Faster R-CNN, DeepLab and DETR under their names."""
    for name in ("street.jpg", "cat.jpg"):
        with Image.open(sample_photo("chelsea").path) as photo:
            photo.resize((64, 64)).save(name)
    monkeypatch.setattr(torchsaliency, "load_model", _load_tiny, raising=False)
    backbone = ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic",
        out_features=["stage2"],
    )  # fmt: skip
    config = DetrConfig(
        use_timm_backbone=False, backbone=None, backbone_config=backbone,
        use_pretrained_backbone=False, d_model=16, encoder_layers=1, decoder_layers=1,
        encoder_attention_heads=2, decoder_attention_heads=2, encoder_ffn_dim=16,
        decoder_ffn_dim=16, num_queries=6, num_labels=4,
    )  # fmt: skip
    detr = DetrForObjectDetection(config)
    _make_sure(detr.class_labels_classifier)
    detr.save_pretrained("facebook/detr-resnet-50")


def prepare_logging(monkeypatch: pytest.MonkeyPatch, page: ModuleType) -> None:  # noqa: ARG001
    """The images, labels, network and arguments of a reader who trains."""
    images, labels = torch.rand(8, 3, 16, 16), torch.arange(8) % 2
    config = ResNetConfig(
        embedding_size=4, hidden_sizes=[4, 8], depths=[1, 1], layer_type="basic", num_labels=2
    )
    vars(page).update(
        images=images, labels=labels, pixel_values=images, MEAN=(0.5,) * 3, STD=(0.25,) * 3,
        model=ResNetForImageClassification(config),
        arguments=TrainingArguments("out", use_cpu=True, report_to=[]),
        validation=[{"pixel_values": image, "labels": 0} for image in images],
    )  # fmt: skip


def prepare_medical(monkeypatch: pytest.MonkeyPatch, page: ModuleType) -> None:  # noqa: ARG001
    """Eight tiny images of each of Kvasir's classes; one epoch of a small network, on the CPU."""
    for name in KVASIR:
        Path("kvasir-dataset-v2", name).mkdir(parents=True)
        for number in range(8):
            photo = Image.new("RGB", (8, 6), (number, 90, 40))
            photo.save(Path("kvasir-dataset-v2", name, f"{name}-{number}.jpg"))

    def make_quick(facts: Mapping[str, Any]) -> training.Finetuning:
        small = {"arch": "builtin/shapes_cnn", "device": "cpu", "epochs": 1, "head_epochs": 1}
        assert facts["device"] == "cuda"
        return make(facts | small)

    make = training.make_finetuning
    monkeypatch.setattr(training, "make_finetuning", make_quick)


PREPARE: Mapping[str, Callable[[pytest.MonkeyPatch, ModuleType], None]] = {
    "detectors.md": prepare_detectors,
    "logging.md": prepare_logging,
    "medical.md": prepare_medical,
}
"""What is done before a page runs, by page."""
