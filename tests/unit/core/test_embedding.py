"""Targets without classes: own embedding, another image's, a prototype's, any vector's."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from nets import convnet, images
from torchsaliency import (
    EmbeddingSimilarity,
    OwnEmbedding,
    embeddings,
    explain,
    similarity_to,
    tracing,
)
from torchsaliency.core.method import create
from torchsaliency.errors import InputError, TargetError

ENCODER_METHODS = (
    "gradcam",
    "gradcam++",
    "hirescam",
    "layercam",
    "xgradcam",
    "scorecam",
    "ablationcam",
    "rise",
    "occlusion",
    "saliency",
    "integrated-gradients",
    "smoothgrad",
    "input-x-gradient",
    "opticam",
)
FEW = {
    "rise": {"samples": 20},
    "opticam": {"iterations": 3},
    "smoothgrad": {"samples": 3},
    "integrated-gradients": {"steps": 3},
    "occlusion": {"window": 0.5, "stride": 0.5},
}


@pytest.fixture(scope="module")
def net():
    return convnet()


@pytest.fixture(scope="module")
def x():
    return images(3, 16, 16)


def test_embeddings_are_the_networks_output_in_chunks(net, x):
    with torch.no_grad():
        expected = net(x)
    for chunk in (1, 2, 32):
        assert torch.allclose(embeddings(net, x, chunk=chunk), expected, atol=1e-6)


@pytest.mark.parametrize("kind", ["dot", "cosine", "mse"])
def test_the_score_of_the_own_embedding(net, x, kind):
    made = explain(net, x, "fakecam", OwnEmbedding(kind))["fakecam"]
    z = embeddings(net, x)
    expected = {"dot": z.square().sum(1), "cosine": torch.ones(3), "mse": torch.zeros(3)}[kind]
    assert torch.allclose(made.score, expected, atol=1e-5)


@pytest.mark.parametrize("name", ENCODER_METHODS)
def test_every_gradient_and_masking_method_takes_an_embedding(net, x, name):
    other = x[:1].flip(3)
    target = similarity_to(net, other, "dot")
    one = explain(net, x, create(name, FEW.get(name)), target)[name]
    z = embeddings(net, other)
    # the same as explaining by any callable that says the same
    other_way = explain(net, x, create(name, FEW.get(name)), lambda y: (y * z).sum(1))[name]
    assert torch.allclose(one.map, other_way.map, atol=1e-5)
    assert one.map.isfinite().all()


def test_the_gradient_of_the_inner_product_in_closed_form(net, x):
    """∇⟨z, z₀⟩ with z₀ detached is Σ_k z₀_k ∇z_k."""
    z = embeddings(net, x)
    with tracing(net, x, OwnEmbedding(), ["relu2"]) as trace:
        found = trace["relu2"].gradients
    total = torch.zeros_like(found)
    for k in range(z.shape[1]):
        with tracing(net, x, lambda y, k=k: y[:, k], ["relu2"]) as trace:
            total += z[:, k, None, None, None] * trace["relu2"].gradients
    assert torch.allclose(found, total, atol=1e-5)


def test_one_reference_serves_all_images_and_keeps_its_rows(net, x):
    z = embeddings(net, x)
    one = EmbeddingSimilarity(z[:1], "cosine")
    assert torch.allclose(one(z), F.cosine_similarity(z, z[:1].expand_as(z)), atol=1e-6)
    assert one.take(torch.tensor([2, 0])) is one
    several = EmbeddingSimilarity(z, "cosine").take(torch.tensor([2, 0]))
    assert torch.equal(several.reference, z[[2, 0]])
    with pytest.raises(TargetError, match="one for all"):
        EmbeddingSimilarity(z[:2])(z)


def test_a_prototype_is_the_mean_direction(net, x):
    z = F.normalize(embeddings(net, x), dim=1).mean(0, keepdim=True)
    assert torch.allclose(similarity_to(net, x, prototype=True).reference, z, atol=1e-6)


def test_what_is_no_embedding(net, x):
    with pytest.raises(InputError, match="at least one"):
        similarity_to(net, x[:0])
    with pytest.raises(TargetError, match=r"An embedding is \(N, D\)"):
        embeddings(torch.nn.Conv2d(3, 2, 1), x)
    with pytest.raises(TargetError, match="compares embeddings"):
        explain(net, x, create("opticam", {"selector": "mse"}), 0)


def test_opticam_keeps_the_embedding_better_than_it_began(net, x):
    made = explain(net, x, create("opticam", {"selector": "mse"}), OwnEmbedding())["opticam"]
    objective = made.details["objective"]
    last = torch.stack([row[~row.isnan()][-1] for row in objective])
    assert (last > objective[:, 0]).all()


def test_the_area_makes_maps_smaller(net, x):
    areas = []
    for area in (0.0, 0.3, 3.0):
        method = create("opticam", {"selector": "mse", "area": area})
        areas.append(explain(net, x, method, OwnEmbedding())["opticam"].map.mean())
    assert areas[0] > areas[1] > areas[2]
