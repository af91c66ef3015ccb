"""Infidelity and the largest sensitivity, by captum's calls."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from torchsaliency.compat.captum.attr.base import (
    Baselines,
    Given,
    Targets,
    as_network,
    ask,
    read_baselines,
    take_only,
)

Perturbed = Callable[..., tuple[Given, Given]]


def infidelity_perturb_func_decorator(
    multiply_by_inputs: bool = True,
) -> Callable[[Callable[..., Given]], Perturbed]:
    """Make a function that returns perturbed images one that returns what was taken away, too.

    Args:
        multiply_by_inputs: whether the attributions are shares, multiplied by x: then what was
            taken away is (x - x') / (x - b), b the baselines or 0, else x - x'.
    """

    def decorate(function: Callable[..., Given]) -> Perturbed:
        def perturb(inputs: Given, baselines: Baselines = None) -> tuple[Given, Given]:
            found = function(inputs) if baselines is None else function(inputs, baselines)
            before, after = take_only(inputs, "inputs"), take_only(found, "perturbed inputs")
            taken = before - after
            if multiply_by_inputs:
                start = 0 if baselines is None else take_only(baselines, "baselines")
                way = before - start
                taken = taken / torch.where(way == 0, 1, way)
            return taken, after

        return perturb

    return decorate


def infidelity(  # noqa: PLR0913, PLR0917 (captum's arguments)
    forward_func: Callable[..., Any],
    perturb_func: Perturbed,
    inputs: Given,
    attributions: Given,
    baselines: Baselines = None,
    additional_forward_args: Any = None,
    target: Targets = None,
    n_perturb_samples: int = 10,
    max_examples_per_batch: int | None = None,
    normalize: bool = False,
) -> Tensor:
    """Return mean (β I·a - (y(x) - y(x')))² of every image, (N,).

    Args:
        forward_func: a network, or a function of the inputs.
        perturb_func: gives I and x' of a batch in which each image is repeated.
        inputs: x (N, C, *size).
        attributions: a, of the same shape.
        baselines: given to `perturb_func`, if they are given.
        additional_forward_args: what else the network takes.
        target: the score.
        n_perturb_samples: perturbations of each image.
        max_examples_per_batch: images that are perturbed at once.
        normalize: whether β is the least-squares scale of each image; else it is 1.
    """
    asked = ask(as_network(forward_func), inputs, target, additional_forward_args)
    images, count = asked.images, len(asked.images)
    shares = take_only(attributions, "attributions").view_as(images)
    once = max(1, (max_examples_per_batch or count * n_perturb_samples) // count)
    clean = asked.score(images)[:, None]
    products, drops = [], []
    for done in range(0, n_perturb_samples, once):
        each = min(once, n_perturb_samples - done)
        copies = images.repeat_interleave(each, 0)
        more = []
        if baselines is not None:
            base = read_baselines(baselines, images).expand_as(images)
            more = [base.repeat_interleave(each, 0)]
        given = perturb_func(*(asked.give_shape(part) for part in (copies, *more)))
        taken, changed = (
            take_only(part, "perturbed inputs").reshape(count, each, *images.shape[1:])
            for part in given
        )
        products.append((taken * shares[:, None]).double().flatten(2).sum(2))
        scores = asked.score_variants(each, lambda image, place, to=changed: to[image, place])  # type: ignore[misc]
        drops.append(clean - scores)
    product, drop = torch.cat(products, 1).to(clean), torch.cat(drops, 1)
    if normalize:
        size = product.square().mean(1, keepdim=True)
        product = product * torch.where(size > 0, (product * drop).mean(1, keepdim=True) / size, 1)
    return (product - drop).square().mean(1).to(images)


def perturb_uniformly(inputs: Given, perturb_radius: float | int = 0.02) -> Given:
    """Return the images with noise that is uniform in [-radius, radius]."""
    noisy = tuple(
        one + (2 * torch.rand_like(one) - 1) * perturb_radius
        for one in (inputs if isinstance(inputs, tuple) else (inputs,))
    )
    return noisy if isinstance(inputs, tuple) else noisy[0]


def sensitivity_max(
    explanation_func: Callable[..., Any],
    inputs: Given,
    perturb_func: Callable[..., Given] = perturb_uniformly,
    perturb_radius: float | int = 0.02,
    n_perturb_samples: int = 10,
    norm_ord: Any = "fro",
    max_examples_per_batch: int | None = None,
    **kwargs: Any,
) -> Tensor:
    """Return the largest ‖a(x + ε) - a(x)‖ / ‖a(x)‖ of every image, (N,).

    Args:
        explanation_func: the method `attribute` of a class.
        inputs: x (N, C, *size).
        perturb_func: gives x + ε of a batch, and is told the radius if it takes one.
        perturb_radius: of the noise.
        n_perturb_samples: noisy copies of each image.
        norm_ord: of the norm over all numbers of an image.
        max_examples_per_batch: one copy of each image is explained at a time.
        kwargs: of the explanation.
    """
    del max_examples_per_batch
    clean = take_only(explanation_func(inputs, **kwargs), "attributions").flatten(1)
    order = 2 if norm_ord == "fro" else norm_ord
    size = clean.norm(order, dim=1)
    size = torch.where(size > 0, size, 1)
    largest = torch.zeros_like(size)
    knows = len(inspect.signature(perturb_func).parameters) == 1  # its own radius
    radius = () if knows else (perturb_radius,)
    for _ in range(n_perturb_samples):
        noisy = perturb_func(inputs, *radius)
        change = take_only(explanation_func(noisy, **kwargs), "attributions").flatten(1) - clean
        largest = torch.maximum(largest, change.norm(order, dim=1) / size)
    return largest
