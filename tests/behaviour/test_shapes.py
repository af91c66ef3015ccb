"""What methods must do where the truth is known: on drawn shapes, with networks trained on them."""

from functools import cache

import pytest
import torch
from torch import Tensor, nn

import torchsaliency
from nets import ATTENTION_NAMES, NAMES, NEEDS_A_LINEAR_HEAD, NEEDS_CONVOLUTIONS, NEEDS_RELU
from torchsaliency import Explanation
from torchsaliency.core.method import Needs, create, methods
from torchsaliency.data import shapes
from torchsaliency.data.shapes import Shapes
from torchsaliency.evaluation import score
from torchsaliency.metrics import create_metric
from torchsaliency.zoo.tiny import TRAINED, permuted_labels

SETTINGS = {
    "blur-ig": {"steps": 10},
    "deepshap": {"samples": 3},
    "extremal-perturbation": {
        "iterations": 30,
        "learning_rate": 0.1,  # the steps of 800 iterations are too short for 30
        "spacing": 6,  # on images of 64 pixels instead of 224
        "sigma": 9.0,
        "image_blur": 8.0,
    },
    # by default what speaks against the class counts too, and most of that is background
    "feature-ablation": {"channels": "sum-positive"},
    "gradientshap": {"samples": 10},
    "integrated-gradients": {"steps": 10},
    "iscam": {"steps": 3},
    "kernelshap": {"passes": 60},
    "lime": {"passes": 60},
    "meaningful-perturbation": {"iterations": 30},
    "occlusion": {"stride": 0.5},
    "opticam": {"iterations": 30},
    "rise": {"samples": 150},
    "smoothgrad": {"samples": 10},
    "smoothgrad-squared": {"samples": 10},
    "sscam": {"samples": 3},
    "vargrad": {"samples": 10},
    "xrai": {"steps": 10},
}
"""Fewer passes than the defaults, and sizes that fit these small images."""

FOR_TWO = {
    # noise of the default 0.15 hides the class from this network, not the objects
    "smoothgrad": {"samples": 10, "spread": 0.05},
    # before pooling and a linear layer, the default does not depend on the class (see its options)
    "normgrad": {"virtual": "scaling"},
}
"""Settings under which a method can tell two objects apart, where the others cannot."""

IMAGES = {
    "extremal-perturbation": 16,
    "feature-ablation": 32,
    "iba": 32,
    "iscam": 16,
    "kernelshap": 32,
    "lime": 32,
    "meaningful-perturbation": 32,
    "rise": 32,
    "scorecam": 32,
    "sscam": 16,
}
PAIRS = {
    "extremal-perturbation": 8,
    "feature-ablation": 12,
    "iba": 8,
    "iscam": 8,
    "kernelshap": 8,
    "lime": 16,
    "meaningful-perturbation": 8,
    "occlusion": 12,
    "opticam": 12,
    "rise": 8,
    "scorecam": 8,
    "sscam": 8,
    "xrai": 12,
}
MOST_IMAGES, MOST_PAIRS = 64, 24
"""The slowest methods see fewer images."""

CONTROLS = {name for name, entry in methods().items() if entry.control}
"""Made to say nothing of the image."""

LABEL_FREE = {name for name, entry in methods().items() if Needs.TARGET not in entry.needs}

BESIDE_IN_VIT = {"gradcam", "xgradcam", "tsm", "mtsm"}
"""Point beside the object in this transformer. Channel weights averaged over patches say little of
it (Table 2 of Opti-CAM has it so for Grad-CAM on ViT); tsm and mtsm do not centre the features, so
that what all patches share comes first (eigencam centres them and points well).
"""

RELATIVES = {
    *("eigengradcam", "fem", "finercam", "gradcam-elementwise", "group-cam", "iscam", "kpcacam"),
    *("refinecam", "relevance-cam", "seg-eigencam", "shapleycam", "smoothgradcam++", "sscam"),
}
"""What is said of Grad-CAM, Score-CAM or Eigen-CAM in a transformer is said of these relatives."""

BESIDE_IN_CNN = {"fullgrad", "smoothgrad-squared", "vargrad"}
"""FullGrad adds what the biases of every layer say, without signs, here most of the background; the
squares and variances weigh what ten noisy copies add to each gradient.
"""

BY_POINTING_ALONE = {("shapes_vit", "opticam")}
"""Deletion is that of chance: the mask keeps the object, and says little of the order within."""

NOT_BY_CLASS = {"deconvnet", "smoothgrad-squared", "sscam", "vargrad"}
"""DeconvNet reconstructs the image whatever the class (Nie et al., ICML 2018); squares and
variances of gradients lose their signs, and SS-CAM's noise covers what tells coarse masks apart.
"""

NOT_BY_CLASS_IN_VIT = {
    "ablationcam",
    "blur-ig",
    "attention-gradcam",  # its class speaks by one number a head
    "deeplift",
    "deepshap",
    "gradcam++",
    "hirescam",
    "input-x-gradient",
    "integrated-gradients",
    "layercam",
    "lrp",
    "normgrad",
    "saliency",
    "smoothgrad",
    "smoothgrad-squared",
    "vargrad",
}
"""Their maps of two classes hardly differ, or not to the right side, in this transformer."""

CNN_NAMES = [name for name in NAMES if name not in CONTROLS]

VIT_NAMES = [
    name
    for name in (*NAMES, *ATTENTION_NAMES)
    # masks and superpixels see of a network its score alone, and are shown on the other one
    if methods()[name].family != "masking"
    and name not in {"feature-ablation", "kernelshap", "lime"}
    if name not in CONTROLS | RELATIVES | BESIDE_IN_VIT
    if name not in NEEDS_A_LINEAR_HEAD | NEEDS_RELU | NEEDS_CONVOLUTIONS
]


@cache
def network(name: str) -> nn.Module:
    return torchsaliency.load_model(f"builtin/{name}")


def normalised(images: Tensor) -> Tensor:
    return (images - 0.5) / 0.25


@cache
def single(count: int) -> Shapes:
    return shapes(count, seed=2, start=5000)


@cache
def pairs(count: int) -> Shapes:
    return shapes(count, seed=2, start=8000, objects=2)


def explain_images(
    net: str, name: str, x: Tensor, labels: Tensor, settings: dict[str, object] | None = None
) -> Explanation:
    method = create(name, settings or SETTINGS.get(name))
    return torchsaliency.explain(network(net), normalised(x), method, labels)[name]


def at_random(made: Explanation) -> Explanation:
    """The same explanation with smooth maps that know nothing of the images."""
    draw = torch.Generator().manual_seed(0)
    coarse = torch.rand(len(made), 1, 8, 8, generator=draw)
    maps = nn.functional.interpolate(coarse, made.map.shape[1:], mode="bilinear")[:, 0]
    low, high = maps.amin((1, 2), keepdim=True), maps.amax((1, 2), keepdim=True)
    fields = {name: getattr(made, name) for name in made.__dataclass_fields__}
    return Explanation(**{**fields, "map": (maps - low) / (high - low)})


def judged(net: str, made: Explanation, drawn: Shapes) -> tuple[float, float]:
    """Deletion (lower is better) and the share of maps that point into the object's box."""
    metrics = [create_metric("deletion", {"budget": 8}), create_metric("sp")]
    found = score(network(net), made, metrics, boxes=list(drawn.boxes))
    return float(found["deletion"].compute()), float(found["sp"].compute())


@cache
def chance(net: str, count: int) -> tuple[float, float]:
    drawn = single(count)
    return judged(net, at_random(explain_images(net, "fakecam", drawn.images, drawn.labels)), drawn)


@pytest.mark.parametrize(("name", "least"), [("shapes_cnn", 0.98), ("shapes_vit", 0.95)])
def test_the_classifiers_know_the_shapes(name, least):
    test = shapes(1000, seed=2, start=10_000)
    with torch.no_grad():
        parts = [network(name)(normalised(part)) for part in test.images.split(100)]
    predicted = torch.cat(parts).argmax(1)
    assert (predicted == test.labels).float().mean() >= least


def test_the_permuted_network_knows_its_labels_by_heart_and_no_shape():
    net, taught = network("shapes_cnn_permuted"), shapes(100, seed=TRAINED)
    unseen = shapes(400, seed=2, start=10_000)
    with torch.no_grad():
        known = net(normalised(taught.images)).argmax(1)
        guessed = net(normalised(unseen.images)).argmax(1)
    assert (known == permuted_labels()[:100]).float().mean() >= 0.98
    assert (guessed == unseen.labels).float().mean() < 0.2  # chance is 1/8


@pytest.mark.parametrize(
    ("net", "name"),
    [
        *(("shapes_cnn", name) for name in CNN_NAMES if name not in BESIDE_IN_CNN),
        *(("shapes_vit", name) for name in VIT_NAMES),
    ],
)
def test_better_than_chance_on_deletion_and_pointing(net, name):
    drawn = single(IMAGES.get(name, MOST_IMAGES))
    made = explain_images(net, name, drawn.images, drawn.labels)
    deletion, pointing = judged(net, made, drawn)
    deletion_by_chance, pointing_by_chance = chance(net, len(drawn.images))
    assert pointing > pointing_by_chance + 15
    assert deletion < deletion_by_chance or (net, name) in BY_POINTING_ALONE


@pytest.mark.parametrize(
    ("net", "name"),
    [
        *(("shapes_cnn", name) for name in CNN_NAMES if name not in LABEL_FREE | NOT_BY_CLASS),
        *(
            ("shapes_vit", name)
            for name in VIT_NAMES
            if name not in LABEL_FREE | NOT_BY_CLASS_IN_VIT
        ),
    ],
)
def test_the_map_moves_with_the_class(net, name):
    """Two objects, each explained in turn: the map moves to the one that is asked for."""
    drawn = pairs(PAIRS.get(name, MOST_PAIRS))
    on = [drawn.masks == place + 1 for place in range(2)]
    share = []
    for place in range(2):
        maps = explain_images(net, name, drawn.images, drawn.kinds[:, place], FOR_TWO.get(name)).map
        there, elsewhere = ((one * maps).sum((1, 2)) for one in (on[place], on[1 - place]))
        share.append(there / (there + elsewhere).clamp_min(1e-9))
    moved = share[0] + share[1] - 1  # of the map on one object, when it is asked for and when not
    error = moved.std() / len(moved) ** 0.5
    assert moved.mean() > 2.5 * error
