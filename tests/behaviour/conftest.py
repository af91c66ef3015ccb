"""The built-in network and the six built-in photographs, explained once by every method."""

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

import torchsaliency
from nets import NAMES, SLOWEST
from sharing import compute_once
from torchsaliency import Explanation, Network
from torchsaliency.core.method import create
from torchsaliency.data import sample_photos

FEW = {
    "rise": {"samples": 40},
    "extremal-perturbation": {"iterations": 4},
    "meaningful-perturbation": {"iterations": 4},
    "occlusion": {"stride": 1.0},
    "lime": {"passes": 20},
    "kernelshap": {"passes": 20},
    "iba": {"samples": 4},
    "smoothgrad": {"samples": 4},
    "smoothgradcam++": {"samples": 4},
    "gradientshap": {"samples": 4},
    "deepshap": {"samples": 2},
    "integrated-gradients": {"steps": 6},
    "blur-ig": {"steps": 6},
    "smoothgrad-squared": {"samples": 4},
    "vargrad": {"samples": 4},
    "xrai": {"steps": 4},
    # as good as the default's 100 passes, which a test shows
    "opticam": {"solver": "trust-region", "iterations": 20},
}
"""Fewer passes than the defaults, for methods of hundreds of which only a map is asked here."""

SLOW = {"scorecam": 2}
"""Methods of a pass a channel explain so many photographs."""


@dataclass(frozen=True)
class Studio:
    """What the behaviour tests look at."""

    net: Network
    names: list[str]
    images: Tensor
    labels: list[int]
    explanations: dict[str, Explanation]

    def probabilities(self, images: Tensor) -> Tensor:
        with torch.no_grad():
            return self.net(images).softmax(1)[range(len(images)), self.labels[: len(images)]]

    def clean_and_masked(self, method: str) -> tuple[Tensor, Tensor]:
        """Class probabilities of the photographs, and of their grey-masked versions."""
        maps = self.explanations[method].map
        images = self.images[: len(maps)]
        return self.probabilities(images), self.probabilities(images * maps[:, None])

    def average_drop(self, method: str, count: int | None = None) -> float:
        """Of all photographs, or of the first."""
        clean, masked = (one[:count] for one in self.clean_and_masked(method))
        return 100 * float(((clean - masked).clamp_min(0) / clean).mean())

    def average_gain(self, method: str, count: int | None = None) -> float:
        """Of all photographs, or of the first."""
        clean, masked = (one[:count] for one in self.clean_and_masked(method))
        return 100 * float(((masked - clean).clamp_min(0) / (1 - clean)).mean())


@pytest.fixture(scope="session")
def studio(tmp_path_factory: pytest.TempPathFactory) -> Studio:
    net = torchsaliency.load_model("builtin/efficientnet_lite0")
    photos = sample_photos()
    images = torchsaliency.preprocess([photo.open() for photo in photos.values()], net)
    labels = [photo.class_index for photo in photos.values()]
    quick = [name for name in NAMES if name not in {*SLOW, *SLOWEST}]
    methods = {name: create(name, FEW.get(name)) for name in quick}

    def compute() -> dict[str, Explanation]:
        found = torchsaliency.explain(net, images, methods, labels)
        for name, count in SLOW.items():
            few, of_few = images[:count], labels[:count]
            found |= torchsaliency.explain(net, few, name, of_few, accelerate="onnx")
        return found

    explanations = compute_once(tmp_path_factory.getbasetemp(), "studio", compute)
    return Studio(net, list(photos), images, labels, explanations)
