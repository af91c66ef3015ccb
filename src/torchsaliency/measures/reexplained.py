"""Maps made again: of noisy, moved or masked images, of other classes, by changed networks."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, cast, final

import torch
from torch import Tensor, nn

from torchsaliency.core.explanation import Explanation
from torchsaliency.core.maps import relative_change, require_maps, to_float64
from torchsaliency.core.masking import Masking
from torchsaliency.core.network import unwrap
from torchsaliency.core.runtime import draw_uniform
from torchsaliency.core.space import add_sides
from torchsaliency.core.target import ClassTarget
from torchsaliency.errors import LayerError, OptionError, TargetError
from torchsaliency.measures.again import Again, Layers, features_of
from torchsaliency.measures.randomised import Cascade, randomised_networks


@final
@dataclass(frozen=True, eq=False)
class NoisyMaps:
    """Maps of images and of their noisy copies.

    Attributes:
        maps: (N, *size) of the images.
        noisy_maps: (N, S, *size) of S noisy copies each.
        distances: (N, S), largest change of a pixel value, ‖ε‖_∞.
        norms: (N,), Euclidean norm of the images, for the oldest form of Max-Sensitivity.
        image_distances: (N, S), ‖x - x'‖.
        image_changes: (N, S), ‖(x - x') / x‖, see `relative_change`.
        output_distances: (N, S), ‖f(x) - f(x')‖ of the network's numbers; None if these are no
            tensor (N, K).
        same_class: (N, S), whether the largest of these numbers is the same one; None likewise.
        feature_changes: (N, S), ‖(A - A') / A‖ of the feature maps at the explained layers; None
            if they were not asked for.
    """

    maps: Tensor
    noisy_maps: Tensor
    distances: Tensor
    norms: Tensor
    image_distances: Tensor
    image_changes: Tensor
    output_distances: Tensor | None
    same_class: Tensor | None
    feature_changes: Tensor | None

    def inputs(self) -> dict[str, Tensor | None]:
        """Return what metrics take, by the names of their arguments."""
        return {name: value for name, value in vars(self).items() if name != "distances"}


def noisy_maps(  # noqa: PLR0913 (all but the first two by name)
    model: nn.Module,
    explanation: Explanation,
    *,
    radius: float | int = 0.2,
    samples: int = 10,
    seed: int = 0,
    features: bool = False,
    layer: Layers = None,
    chunk: int | None = None,
) -> NoisyMaps:
    """Explain noisy copies x + ε by the same method, ε uniform in [-radius, radius] at every value.

    The class is that of the clean image, and the noise is the same for every image, so that a
    result does not depend on the batch. What the network says of the copies is read from the passes
    that explain them.

    Args:
        model: the network that was explained.
        explanation: what `explain` made of it.
        radius: of the noise, in the units of the tensor that was explained (normalised images).
        samples: noisy copies of each image.
        seed: of the noise.
        features: whether the layers' feature maps are compared, too; the clean images are then
            explained once more, for theirs.
        layer: the layers, if `explain` was given `Layer` objects with a reshape of their own.
        chunk: copies in one pass; None finds it.

    Raises:
        OptionError: no samples, or a radius that is not above 0.

    Example:
        >>> import torch, torchsaliency
        >>> net = torchsaliency.load_model("builtin/shapes_cnn")
        >>> found = torchsaliency.explain(net, torch.rand(2, 3, 64, 64), "gradcam")["gradcam"]
        >>> noisy_maps(net, found, samples=3).noisy_maps.shape
        torch.Size([2, 3, 64, 64])
    """
    if samples < 1 or not 0 < radius < math.inf:
        raise OptionError(
            f"{samples} samples of radius {radius} were given; accepted are at least one sample "
            "and a radius above 0."
        )
    images, output = explanation.images, explanation.output
    noise = _draw_noise(images, samples, seed).mul_(2).sub_(1).mul_(radius).to(images)
    again = Again(model, explanation, layer, chunk, features=features)
    clean = None
    if features:
        found = again.variants(1, lambda image, _: images[image])
        clean = torch.cat([features_of(made) for _, _, made in found])
    rows: dict[str, list[Tensor]] = {}
    for image, _, made in again.variants(
        samples, lambda image, place: images[image] + noise[place]
    ):
        row = {
            "noisy_maps": made.map,
            "image_changes": relative_change(images[image], made.images),
        }
        if isinstance(output, Tensor) and output.ndim == 2:  # noqa: PLR2004
            before, after = to_float64(output[image]), to_float64(made.output)
            row["output_distances"] = (before - after).norm(dim=1)
            row["same_class"] = before.argmax(1) == after.argmax(1)
        if clean is not None:
            row["feature_changes"] = relative_change(clean[image], features_of(made))
        for name, value in row.items():
            rows.setdefault(name, []).append(value)
    sets = {
        name: torch.cat(parts).unflatten(0, (len(images), samples)) for name, parts in rows.items()
    }
    sizes = to_float64(noise.flatten(1))
    return NoisyMaps(
        maps=explanation.map,
        distances=noise.flatten(1).abs().amax(1).expand(len(images), -1),
        norms=to_float64(images.flatten(1)).norm(dim=1),
        image_distances=sizes.norm(dim=1).expand(len(images), -1),
        **{"output_distances": None, "same_class": None, "feature_changes": None, **sets},
    )


def _draw_noise(images: Tensor, samples: int, seed: int) -> Tensor:
    """Return uniform numbers in [0, 1), (samples, C, *size), the same for every image."""
    draw = torch.Generator().manual_seed(seed)
    return draw_uniform(draw, samples, *images.shape[1:])


@final
@dataclass(frozen=True, eq=False)
class TranslatedMaps:
    """Maps of images and of their copies moved sideways.

    Attributes:
        maps: (N, *size) of the images.
        translated_maps: (N, S, *size) of S copies each.
        translation_distances: (N, S), ‖x - x'‖.
    """

    maps: Tensor
    translated_maps: Tensor
    translation_distances: Tensor

    def inputs(self) -> dict[str, Tensor]:
        """Return what metrics take, by the names of their arguments."""
        return vars(self)


def translated_maps(
    model: nn.Module,
    explanation: Explanation,
    *,
    steps: int = 28,
    layer: Layers = None,
    chunk: int | None = None,
) -> TranslatedMaps:
    """Explain copies of the images that are moved to the left and right (continuity).

    The copies are moved by -W + k·⌊(2W + 1) / steps⌋ columns, k = 1…steps, but for those that are
    not moved; the image's smallest value fills the columns that come in.

    Args:
        model: the network that was explained.
        explanation: what `explain` made of it.
        steps: how many copies of each image.
        layer: the layers, if `explain` was given `Layer` objects with a reshape of their own.
        chunk: copies in one pass; None finds it.

    Raises:
        OptionError: no steps, or more than there are places.

    Example:
        >>> import torch, torchsaliency
        >>> net = torchsaliency.load_model("builtin/shapes_cnn")
        >>> found = torchsaliency.explain(net, torch.rand(2, 3, 64, 64), "gradcam")["gradcam"]
        >>> translated_maps(net, found, steps=4).maps.shape
        torch.Size([2, 64, 64])
    """
    images = explanation.images
    width = images.shape[-1]
    if not 1 <= steps <= 2 * width + 1:
        raise OptionError(
            f"{steps} steps were given for images {width} columns wide; accepted are 1 to "
            f"{2 * width + 1}."
        )
    stride = (2 * width + 1) // steps
    columns = [move for k in range(steps) if (move := (k + 1) * stride - width)]
    again = Again(model, explanation, layer, chunk)

    def build(image: Tensor, place: Tensor) -> Tensor:
        pairs = zip(images[image], place.tolist(), strict=True)
        return torch.stack([_move(one, columns[at]) for one, at in pairs])

    maps, distances = [], []
    for image, _, made in again.variants(len(columns), build):
        maps.append(made.map)
        change = to_float64(images[image]) - to_float64(made.images)
        distances.append(change.flatten(1).norm(dim=1))
    shape = (len(images), len(columns))
    return TranslatedMaps(
        explanation.map,
        torch.cat(maps).unflatten(0, shape),
        torch.cat(distances).unflatten(0, shape),
    )


def _move(image: Tensor, columns: int) -> Tensor:
    """Move an image (C, *size) to the right, or to the left for negative numbers."""
    moved = torch.full_like(image, float(image.min()))
    if columns > 0:
        moved[..., columns:] = image[..., :-columns]
    else:
        moved[..., :columns] = image[..., -columns:]
    return moved


@final
@dataclass(frozen=True, eq=False)
class MaskedMaps:
    """Maps of images, and of what these maps keep of them.

    Attributes:
        maps: S (N, *size) of the images.
        masked_maps: S' (N, *size) of the images masked by S.
        output: the network's output on the masked images: their scores cost no further pass.
    """

    maps: Tensor
    masked_maps: Tensor
    output: Any

    def inputs(self) -> dict[str, Tensor]:
        """Return what metrics take, by the names of their arguments."""
        return {"maps": self.maps, "masked_maps": self.masked_maps}


def masked_maps(
    model: nn.Module,
    explanation: Explanation,
    *,
    masking: Masking | None = None,
    layer: Layers = None,
    chunk: int | None = None,
) -> MaskedMaps:
    """Explain x ⊙ S + b ⊙ (1 - S) by the same method for the same class (ADCC's coherency).

    Args:
        model: the network that was explained.
        explanation: what `explain` made of it; its maps are the masks S.
        masking: the baseline b; the explanation's own by default.
        layer: the layers, if `explain` was given `Layer` objects with a reshape of their own.
        chunk: images in one pass; None finds it.

    Example:
        >>> import torch, torchsaliency
        >>> net = torchsaliency.load_model("builtin/shapes_cnn")
        >>> found = torchsaliency.explain(net, torch.rand(2, 3, 64, 64), "gradcam")["gradcam"]
        >>> masked_maps(net, found).masked_maps.shape
        torch.Size([2, 64, 64])
    """
    images = explanation.images
    kept = require_maps(explanation.map)
    mask_out = masking or explanation.masking
    again = Again(model, explanation, layer, chunk)
    maps, outputs = [], []
    for index in again.parts(len(images)):
        found = again.explain(mask_out(images[index], kept[index]), index)
        maps.append(found.map)
        outputs.append(found.output)
    whole = torch.cat(outputs) if all(isinstance(output, Tensor) for output in outputs) else None
    return MaskedMaps(explanation.map, torch.cat(maps), whole)


@final
@dataclass(frozen=True, eq=False)
class RandomisedMaps:
    """Maps of networks with ever more random weights, one random stage each, or random labels.

    Attributes:
        stages: names of the stages, from the output downwards; "labels" alone with that mode.
        maps: (N, *size) of the trained network.
        random_maps: (N, L, *size), one a stage.
        mode: "cascading", "independent" or "labels".
    """

    stages: tuple[str, ...]
    maps: Tensor
    random_maps: Tensor
    mode: Cascade | Literal["labels"]

    def inputs(self) -> dict[str, Tensor]:
        """Return what metrics take, by the names of their arguments."""
        return {"maps": self.maps, "random_maps": self.random_maps}


def randomised_maps(  # noqa: PLR0913 (all but the first two by name)
    model: nn.Module,
    explanation: Explanation,
    *,
    mode: Cascade | Literal["labels"] = "cascading",
    stages: Sequence[str] | None = None,
    seed: int = 0,
    permuted: nn.Module | None = None,
    layer: Layers = None,
    chunk: int | None = None,
) -> RandomisedMaps:
    """Explain the same images and classes with randomised copies of the network (sanity check).

    Args:
        model: the network that was explained; copies are changed, never it.
        explanation: what `explain` made of it.
        mode: "cascading": all stages from the output down to this one are random; "independent":
            this one alone; "labels": no weights are drawn, and the other network is `permuted`.
        stages: names of submodules, from the output downwards; `network_stages` by default.
        seed: of the weights.
        permuted: a network of the same layers and classes, trained on permuted labels (Adebayo et
            al., 2018); needed with mode="labels", and by no other.
        layer: the layers, if `explain` was given `Layer` objects with a reshape of their own.
        chunk: images in one pass; None finds it.

    Raises:
        OptionError: there is no such stage, or nothing in it to randomise; or mode="labels" without
            `permuted`, `permuted` with another mode, with the explained network's weights, or one
            of other classes.
        LayerError: `permuted` lacks an explained layer.

    Example:
        >>> import torch, torchsaliency
        >>> net = torchsaliency.load_model("builtin/shapes_cnn")
        >>> other = torchsaliency.load_model("builtin/shapes_cnn_permuted")
        >>> made = torchsaliency.explain(net, torch.rand(1, 3, 64, 64), "gradcam")["gradcam"]
        >>> randomised_maps(net, made, mode="labels", permuted=other).random_maps.shape
        torch.Size([1, 1, 64, 64])
    """
    if (mode == "labels") != (permuted is not None):
        raise OptionError(
            f"The mode {mode!r} was given {'with' if permuted is not None else 'without'} a "
            'network trained on permuted labels; give permuted=… and mode="labels" together.'
        )
    if mode == "labels":
        other = cast("nn.Module", permuted)
        require_other_weights(model, other)
        networks = iter([("labels", other)])
    else:
        networks = randomised_networks(model, mode=mode, stages=stages, seed=seed)
    names, maps = [], []
    again = Again(model, explanation, layer, chunk)
    parts = again.parts(len(explanation), substitute=False)
    for name, network in networks:
        names.append(name)
        try:
            found = [again.explain(explanation.images[i], i, network) for i in parts]
        except LayerError as error:
            raise LayerError(f"The network of permuted labels lacks a layer: {error}") from error
        _require_same_classes(explanation.output, found[0].output)
        maps.append(torch.cat([one.map for one in found]))
    return RandomisedMaps(tuple(names), explanation.map, torch.stack(maps, 1), mode)


def require_other_weights(model: nn.Module, permuted: nn.Module) -> None:
    """Refuse the explained network as its own network of permuted labels.

    Raises:
        OptionError: both are one network, or all weights are equal.
    """
    first, second = unwrap(model), unwrap(permuted)
    if first is second or _equal_weights(first.state_dict(), second.state_dict()):
        raise OptionError(
            "The network of permuted labels has the weights of the explained one; give the one "
            "that was trained on permuted labels (permuted=…; --permuted with --permuted-weights)."
        )


def _equal_weights(first: Mapping[str, Any], second: Mapping[str, Any]) -> bool:
    return (
        bool(first)
        and first.keys() == second.keys()
        and all(
            not isinstance(one, Tensor)
            or (one.shape == second[key].shape and torch.equal(one, second[key].to(one)))
            for key, one in first.items()
        )
    )


def _require_same_classes(explained: Any, other: Any) -> None:
    """Refuse a network whose numbers are not those of the explained one."""
    if not isinstance(explained, Tensor) or not isinstance(other, Tensor):
        return
    if explained.shape[1:] != other.shape[1:]:
        raise OptionError(
            f"The network of permuted labels gives {tuple(other.shape[1:])} numbers an image, and "
            f"the explained one {tuple(explained.shape[1:])}; give one trained on the same classes."
        )


@final
@dataclass(frozen=True, eq=False)
class RandomNetworkMaps:
    """Maps of the trained network, and of one without any trained weight.

    Attributes:
        maps: (N, *size) of the trained network.
        random_network_maps: (N, *size) of a network all of whose stages are random.
    """

    maps: Tensor
    random_network_maps: Tensor

    def inputs(self) -> dict[str, Tensor]:
        """Return what metrics take, by the names of their arguments."""
        return vars(self)


def random_network_maps(
    model: nn.Module,
    explanation: Explanation,
    *,
    seed: int = 0,
    layer: Layers = None,
    chunk: int | None = None,
) -> RandomNetworkMaps:
    """Explain the same images and classes with a network of random weights.

    Args:
        model: the network that was explained; a copy is changed, never it.
        explanation: what `explain` made of it.
        seed: of the weights.
        layer: the layers, if `explain` was given `Layer` objects with a reshape of their own.
        chunk: images in one pass; None finds it.

    Example:
        >>> import torch, torchsaliency
        >>> net = torchsaliency.load_model("builtin/shapes_cnn")
        >>> found = torchsaliency.explain(net, torch.rand(2, 3, 64, 64), "gradcam")["gradcam"]
        >>> random_network_maps(net, found).random_network_maps.shape
        torch.Size([2, 64, 64])
    """
    again = Again(model, explanation, layer, chunk)
    parts = again.parts(len(explanation), substitute=False)
    *_, (_, network) = randomised_networks(model, seed=seed)
    found = [again.explain(explanation.images[i], i, network).map for i in parts]
    return RandomNetworkMaps(explanation.map, torch.cat(found))


@final
@dataclass(frozen=True, eq=False)
class SmoothRandomisedMaps:
    """Mean maps of noisy copies, by the trained network and by ever more random ones.

    Attributes:
        smooth_maps: (N, *size) of the trained network.
        smooth_random_maps: (N, L, *size), one a stage.
    """

    smooth_maps: Tensor
    smooth_random_maps: Tensor

    def inputs(self) -> dict[str, Tensor]:
        """Return what metrics take, by the names of their arguments."""
        return vars(self)


def smooth_randomised_maps(  # noqa: PLR0913 (options of a published protocol)
    model: nn.Module,
    explanation: Explanation,
    *,
    samples: int = 10,
    noise: float | int = 0.1,
    mode: Cascade = "cascading",
    stages: Sequence[str] | None = None,
    seed: int = 0,
    layer: Layers = None,
    chunk: int | None = None,
) -> SmoothRandomisedMaps:
    """Explain noisy copies with the network and with randomised ones, and average their maps.

    The noise is Gaussian, its deviation a share of each image's range of values, and the same for
    every network; the last copy has none.

    Args:
        model: the network that was explained; copies are changed, never it.
        explanation: what `explain` made of it.
        samples: copies of each image.
        noise: its deviation, as a share of the range max x - min x.
        mode: "cascading" or "independent", as `randomised_maps`.
        stages: names of submodules, from the output downwards; `network_stages` by default.
        seed: of the weights and of the noise.
        layer: the layers, if `explain` was given `Layer` objects with a reshape of their own.
        chunk: images in one pass; None finds it.

    Raises:
        OptionError: no samples, a negative noise, no such stage, or nothing in it to randomise.

    Example:
        >>> import torch, torchsaliency
        >>> net = torchsaliency.load_model("builtin/shapes_cnn")
        >>> found = torchsaliency.explain(net, torch.rand(2, 3, 64, 64), "gradcam")["gradcam"]
        >>> smooth_randomised_maps(net, found, samples=2).smooth_maps.shape
        torch.Size([2, 64, 64])
    """
    if samples < 1 or not 0 <= noise < math.inf:
        raise OptionError(
            f"{samples} samples with noise of {noise} were given; accepted are at least one sample "
            "and a noise of 0 or more."
        )
    images = explanation.images
    draw = torch.Generator().manual_seed(seed)
    shape = samples, *images.shape[1:]
    drawn = torch.randn(shape, generator=draw, dtype=torch.float32, device="cpu")
    drawn[-1] = 0
    drawn = drawn.to(images)
    flat = images.flatten(1)
    scale = noise * add_sides(flat.amax(1) - flat.amin(1), images)
    again = Again(model, explanation, layer, chunk)

    def average(network: nn.Module | None) -> Tensor:
        total = torch.zeros_like(explanation.map)
        for index in again.parts(len(images) * samples, substitute=network is None):
            image = index // samples
            copies = images[image] + scale[image] * drawn[index % samples]
            total.index_add_(0, image, again.explain(copies, image, network).map.to(total))
        return total / samples

    trained = average(None)
    networks = randomised_networks(model, mode=mode, stages=stages, seed=seed)
    return SmoothRandomisedMaps(trained, torch.stack([average(net) for _, net in networks], 1))


@final
@dataclass(frozen=True, eq=False)
class OtherClassMaps:
    """Maps for the explained class, and for another one.

    Attributes:
        maps: (N, *size) of the explained class.
        other_class_maps: (N, *size) of another class.
        labels: (N,) the other class.
    """

    maps: Tensor
    other_class_maps: Tensor
    labels: Tensor

    def inputs(self) -> dict[str, Tensor]:
        """Return what metrics take, by the names of their arguments."""
        return {"maps": self.maps, "other_class_maps": self.other_class_maps}


def other_class_maps(
    model: nn.Module,
    explanation: Explanation,
    *,
    seed: int = 0,
    layer: Layers = None,
    chunk: int | None = None,
) -> OtherClassMaps:
    """Explain the same images for another class, drawn at random (random logit test).

    The class is the explained one plus a random number, modulo the number of classes: each of the
    others is as probable, and an image's does not depend on its batch.

    Args:
        model: the network that was explained.
        explanation: what `explain` made of it.
        seed: of the class.
        layer: the layers, if `explain` was given `Layer` objects with a reshape of their own.
        chunk: images in one pass; None finds it.

    Raises:
        TargetError: no class was explained, or there is no other.

    Example:
        >>> import torch, torchsaliency
        >>> net = torchsaliency.load_model("builtin/shapes_cnn")
        >>> found = torchsaliency.explain(net, torch.rand(2, 3, 64, 64), "gradcam")["gradcam"]
        >>> other_class_maps(net, found).labels.shape
        torch.Size([2])
    """
    target, output = explanation.target, explanation.output
    count = output.shape[1] if isinstance(output, Tensor) and output.ndim == 2 else 0  # noqa: PLR2004
    if not isinstance(target, ClassTarget) or count < 2:  # noqa: PLR2004
        raise TargetError(
            f"A {type(target).__name__} of a network with {count} classes was explained; the map "
            "of another class needs a class target and at least two classes."
        )
    draw = torch.Generator().manual_seed(seed)
    step = int(torch.randint(1, count, (1,), generator=draw, device="cpu"))
    others = (target.labels.expand(len(explanation)) + step) % count
    other = replace(target, labels=others)
    again = Again(model, explanation, layer, chunk)
    found = [
        again.explain(explanation.images[index], index, target=other).map
        for index in again.parts(len(explanation))
    ]
    return OtherClassMaps(explanation.map, torch.cat(found), others)
