"""Several methods from one pass: trace once, let every method read, bring each map to [0, 1]."""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from torchsaliency.core.acceleration import accelerated
from torchsaliency.core.discovery import default_layer
from torchsaliency.core.explanation import Explanation
from torchsaliency.core.inputs import Inputs, InputsLike, as_inputs, images_of
from torchsaliency.core.layer import Layer, LayerLike, as_group
from torchsaliency.core.maps import Fusion, is_constant, require_fusion, upsample
from torchsaliency.core.maps import fuse as fuse_maps
from torchsaliency.core.masking import Masking
from torchsaliency.core.method import (
    Method,
    Needs,
    Saliency,
    as_saliency,
    create,
    require_differentiable,
    set_explainer,
)
from torchsaliency.core.network import NetworkWrapper, as_module, find_fact, unwrap
from torchsaliency.core.neurons import read_neurons
from torchsaliency.core.runtime import seconds_now
from torchsaliency.core.scores import ScoresLike, parse_scores
from torchsaliency.core.space import Size
from torchsaliency.core.target import TargetLike
from torchsaliency.core.trace import View, tracing
from torchsaliency.errors import InputError, LayerError, OptionError
from torchsaliency.options import read_choice
from torchsaliency.registry import load_all

MethodLike = str | Method | Mapping[str, Any]
MethodsLike = MethodLike | Sequence[MethodLike] | Mapping[str, MethodLike]


def explain(  # noqa: PLR0913 (all but the first five by name)
    model: Any,
    x: InputsLike | Any,
    methods: MethodsLike = "opticam",
    target: TargetLike = None,
    layer: LayerLike | Sequence[LayerLike] | None = None,
    *,
    masking: Masking | None = None,
    chunk: int | None = None,
    accelerate: str | None = None,
    scores: ScoresLike = None,
    output: int | str | None = None,
    of: int | str | None = None,
    forward_kwargs: Mapping[str, Any] | None = None,
    fuse: Fusion = "mean",
    differentiable: bool = False,
) -> dict[str, Explanation]:
    """Explain a batch of images by one or several methods, sharing one pass of the network.

    The network is not changed: training flags, `requires_grad`, `.grad`, hooks and the random state
    are the same afterwards, also after an error.

    Args:
        model: any vision network; wrappers are looked through. A program of `torch.export` has its
            layers; one of TorchScript runs as a whole, for methods that read none.
        x: images (N, C, H, W), volumes (N, C, D, H, W), videos (N, C, T, H, W) or signals
            (N, C, T), preprocessed for the network; moved to its device and precision. Anything
            else is prepared as the network says (`torchsaliency.preprocess`): paths, PIL images,
            NumPy arrays, uint8 tensors, and lists of them.
        methods: names, `Method` objects, or {"rise": {"samples": 100}} with options as in a plan;
            a mapping of several of these, or of labels of your own to names or `Method` objects.
        target: None for the predicted class (of an encoder: for its own embedding, of a regression
            for its first number, of a detector for its surest detection), a class index, N indices,
            a `Target`, a `Box` of a detector, a `Segment` of a segmenter, a `Neuron` of a layer,
            or any row-wise callable (N, K) -> (N,).
        layer: name, submodule or `Layer`, or several of them; None for the default layer.
        masking: baseline for methods that mask the image; mean colour by default.
        chunk: images in one derived pass (masks, ablations); bounds memory, not the result; None
            finds it from the network's largest layer. Halved where the memory ends.
        accelerate: the engine of derived passes, see `accelerated`; None leaves it as it is.
        scores: what the network's numbers mean: "softmax", "sigmoid" (independent labels), "binary"
            (one logit), "probabilities", "regression", "embedding", or a function from its output
            to probabilities (N, K). None takes what the network says, or else shows; to say it for
            all functions that take a network, give it an attribute `scores`.
        output: where its numbers are in what the network returns: an index, a key or a path such
            as "heads.main"; "layer:NAME" for what a layer gives; None finds them.
        of: which of several inputs is explained, by name or place; None for the only one that can
            be. The others pass unchanged, each variant of an image with its own row of them.
        forward_kwargs: keyword arguments with which the network is always called.
        fuse: how the maps of several layers become one: "mean", "max" or "product" of maps that are
            resized and then stretched, or "grid-mean" (pytorch-grad-cam's order), "grid-max"
            (torchcam's) or "grid-product" of maps that are stretched and then resized. Signed
            values and attributions are always averaged; a method that reads several layers as one
            (Opti-CAM, RefineCAM) goes its own way.
        differentiable: whether maps keep their graph down to the network's parameters, so that a
            loss can be put on them and the network be trained by it; of methods that read one pass
            (`Method.differentiable`). The network is still run in evaluation mode and given back.

    Returns:
        One `Explanation` a method, by name or label, in the order given.

    Raises:
        InputError, TargetError, LayerError, OptionError: see each; the message says what to do.

    Example:
        >>> import torch, torchvision, torchsaliency
        >>> net = torchvision.models.resnet18()
        >>> found = torchsaliency.explain(net, torch.rand(2, 3, 64, 64), ["gradcam", "mtsm"])
        >>> found["mtsm"].map.shape
        torch.Size([2, 64, 64])
    """
    load_all()
    require_fusion(fuse)
    chosen = resolve_methods(methods)
    needs = functools.reduce(operator.or_, (method.entry.needs for method in chosen.values()))
    texts = isinstance(x, Inputs | Mapping | tuple) or forward_kwargs is not None
    model = as_module(model, texts=texts)
    if scores is not None or output is not None or forward_kwargs is not None:
        model = NetworkWrapper(
            model, scores=parse_scores(scores), output=output, forward_kwargs=forward_kwargs
        )
    model = read_neurons(model, target)
    x = read_inputs(model, x, of)
    for method in chosen.values() if differentiable else ():
        require_differentiable(method)
    with ExitStack() as stack:
        if accelerate is not None:
            stack.enter_context(accelerated(accelerate))
        layers = choose_layers(model, x, layer, needs)
        begun = seconds_now(images_of(x).device)
        view = stack.enter_context(
            tracing(
                model,
                x,
                target,
                layers,
                gradients=Needs.GRADIENTS in needs,
                attentions=Needs.ATTENTION in needs,
                masking=masking,
                chunk=chunk,
                differentiable=differentiable,
            )
        )
        stack.enter_context(torch.set_grad_enabled(differentiable))
        shared = seconds_now(view.images.device) - begun, view.passes
        names = [layer.name for layer in layers]
        return {
            label: _explain_by(method, label, view, names, shared, fuse)
            for label, method in chosen.items()
        }


set_explainer(explain)

_readers: list[Callable[[nn.Module, Any], Any]] = []


def set_reader(reader: Callable[[nn.Module, Any], Any]) -> None:
    """Let `reader` make inputs of photographs: core reads no files; tensors pass it unchanged."""
    _readers[:] = [reader]


def read_inputs(model: nn.Module, x: Any, of: int | str | None = None) -> InputsLike:
    """Return images, photographs or several inputs as inputs of the network, see `explain`."""
    x = _readers[0](model, x)
    return x if isinstance(x, Tensor) else as_inputs(x, of)


def resolve_methods(methods: MethodsLike) -> dict[str, Method]:
    """Return the methods by label.

    In a mapping, a key is the label of a name or `Method`, or the name of a mapping of options.

    Raises:
        OptionError: an unknown name or option, none at all, or one name twice in a sequence.
    """
    if isinstance(methods, Mapping):
        pairs = [
            _create_one({label: spec})
            if isinstance(spec, Mapping)
            else (label, _create_one(spec)[1])
            for label, spec in methods.items()
        ]
    else:
        several = [methods] if isinstance(methods, str | Method) else list(methods)
        pairs = [_create_one(spec) for spec in several]
    found = dict(pairs)
    if not found or len(found) != len(pairs):
        raise OptionError(
            f"{len(pairs)} methods with {len(found)} different names were given; give at least "
            "one, and a mapping {label: method} to run a method twice."
        )
    return found


def _create_one(given: Any) -> tuple[str, Method]:
    """Return a method and its label."""
    if isinstance(given, Method):
        return given.name, given
    choice = read_choice("method", given)
    if choice.augmented or choice.eigen or choice.noise:
        raise OptionError(
            f"{choice.label} was given with augmented, eigen or noise, which are fields of plans; "
            "give NoiseTunnel(…), Augmented(…) or EigenSmoothed(…) instead."
        )
    return choice.label, create(choice.name, choice.options)


def choose_layers(
    model: nn.Module, x: InputsLike, layer: LayerLike | Sequence[LayerLike] | None, needs: Needs
) -> list[Layer]:
    """Return the layers that are named, else the network's default layer."""
    net = unwrap(model)
    if layer is None:
        known = find_fact(model, "layer")
        if isinstance(known, Layer):
            return [known]
        try:
            return [default_layer(model, x)]
        except (LayerError, InputError):  # an image in which a detector finds nothing
            if Needs.ACTIVATIONS in needs:
                raise
            return [Layer.of("input", net)]  # read by no method
    layers = [Layer.of(spec, net) for spec in as_group(layer)]
    if not layers or len({layer.name for layer in layers}) != len(layers):
        raise OptionError(f"{len(layers)} layers were given; give at least one, each once.")
    return layers


def _explain_by(
    method: Method,
    label: str,
    view: View,
    names: list[str],
    shared: tuple[float, int],
    fusion: Fusion,
) -> Explanation:
    """Run one method on the traced pass, which took `shared` seconds and passes."""
    traced, device = view.traced, view.images.device
    begun, passes, backward = seconds_now(device), view.passes, traced.backward_seconds
    views = [view[group] for group in ([names] if method.joint else names)]
    saved = sum(seen.shared.saved_seconds for seen in views)
    found = [
        view.with_less_memory(
            lambda seen=seen: as_saliency(method.saliency(seen), keep_graph=view.differentiable)  # type: ignore[misc]
        )
        for seen in views
    ]
    raws = [saliency.raw for saliency in found]
    fused = fuse_maps(raws, view.size, fusion, method.scaling)
    raw = fused if len(raws) > 1 else raws[0]
    signed = _mean([saliency.signed for saliency in found], view.size)
    attributions = _mean([saliency.attributions for saliency in found])
    seconds = shared[0] + seconds_now(device) - begun
    if backward and Needs.GRADIENTS in method.entry.needs:
        seconds += backward  # alone, the method would have run it, too
    # and it would have computed itself what another had computed
    seconds += sum(seen.shared.saved_seconds for seen in views) - saved
    return Explanation(
        map=fused,
        raw=raw,
        images=view.images,
        target=view.target,
        score=view.score,
        output=view.output,
        layers=tuple(names),
        reshapes=tuple(traced.layers[name].reshape for name in names),
        method=method,
        masking=view.masking,
        status=_status(raw, view, found),
        details={name: value for saliency in found for name, value in saliency.details.items()},
        seconds=seconds,
        passes=shared[1] + view.passes - passes,
        label=label,
        scores=view.session.scores,
        inputs=view.session.inputs,
        place=view.session.output,
        signed=signed,
        attributions=attributions,
        fusion=fusion,
    )


def _mean(parts: Sequence[Tensor | None], size: Size | None = None) -> Tensor | None:
    """Return the mean over layers of what each gave, upsampled to `size`; None if one gave none."""
    given = [part for part in parts if part is not None]
    if len(given) < len(parts):
        return None
    resized = given if size is None else [upsample(part, size) for part in given]
    return resized[0] if len(resized) == 1 else torch.stack(resized).mean(0)


_GAP = 0.01
"""How far shares that must add up may be off, relative to what they must add up to."""


def _status(raw: Tensor, view: View, found: Sequence[Saliency]) -> tuple[str, ...]:
    """Return each image's status; the first that applies."""
    finite = raw.flatten(1).isfinite().all(1) & view.finite.to(raw.device)
    gaps = [saliency.details["gap"] for saliency in found if "gap" in saliency.details]
    incomplete = torch.zeros_like(finite)
    for gap in gaps:
        incomplete |= ~(gap.abs().to(raw.device) <= _GAP)
    constant, negative = is_constant(raw), raw.flatten(1).amax(1) <= 0
    statuses = {
        "not finite": ~finite,
        "incomplete": incomplete,
        "no positive evidence": constant & negative,
        "constant map": constant,
        "ok": torch.ones_like(finite),
    }
    applies = torch.stack(list(statuses.values())).int().argmax(0)
    return tuple([*statuses][place] for place in applies.tolist())
