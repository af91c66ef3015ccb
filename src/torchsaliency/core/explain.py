"""Several methods from one pass: trace once, let every method read, bring each map to [0, 1]."""

from __future__ import annotations

import functools
import operator
from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor, nn

from torchsaliency.core.acceleration.engine import accelerated
from torchsaliency.core.clock import seconds_now
from torchsaliency.core.discovery import default_layer
from torchsaliency.core.explanation import Explanation
from torchsaliency.core.layer import Layer, LayerLike
from torchsaliency.core.maps import is_constant, minmax, normalise, upsample
from torchsaliency.core.masking import Masking
from torchsaliency.core.method import Method, Needs, Saliency, create
from torchsaliency.core.target import OwnEmbedding, TargetLike
from torchsaliency.core.trace import Trace, tracing
from torchsaliency.core.wrapper import NetworkWrapper, unwrap
from torchsaliency.errors import LayerError, OptionError
from torchsaliency.registry import load_all

MethodLike = str | Method
MethodsLike = MethodLike | Sequence[MethodLike] | Mapping[str, MethodLike]


def explain(  # noqa: PLR0913 (all but the first five by name)
    model: nn.Module,
    x: Float[Tensor, "n c H W"],
    methods: MethodsLike = "opticam",
    target: TargetLike = None,
    layer: LayerLike | Sequence[LayerLike] | None = None,
    *,
    masking: Masking | None = None,
    chunk: int | None = None,
    accelerate: str | None = None,
) -> dict[str, Explanation]:
    """Explain a batch of images by one or several methods, sharing one pass of the network.

    The network is not changed: training flags, `requires_grad`, `.grad`, hooks and the random state
    are the same afterwards, also after an error.

    Args:
        model: any vision network; wrappers are looked through.
        x: images (N, C, H, W), preprocessed for the network; moved to its device and precision.
        methods: names or `Method` objects; a mapping gives them labels of your own.
        target: None for the predicted class (of an encoder of the zoo: for its own embedding), a
            class index, N indices, a `Target` or any row-wise callable (N, K) -> (N,).
        layer: name, submodule or `Layer`, or several of them; None for the default layer.
        masking: baseline for methods that mask the image; mean colour by default.
        chunk: images in one derived pass (masks, ablations); bounds memory, not the result; None
            finds it from the network's largest layer. Halved where the memory ends.
        accelerate: how derived passes run, see `accelerated`; None leaves it as it is.

    Returns:
        One `Explanation` a method, by name or label, in the order given.

    Raises:
        InputError, TargetError, LayerError, OptionError: see each; the message says what to do.

    Example:
        >>> import torch, torchvision, torchsaliency
        >>> net = torchvision.models.resnet18()
        >>> made = torchsaliency.explain(net, torch.rand(2, 3, 64, 64), ["gradcam", "mtsm"])
        >>> made["mtsm"].map.shape
        torch.Size([2, 64, 64])
    """
    if accelerate is not None:
        with accelerated(accelerate):
            return explain(model, x, methods, target, layer, masking=masking, chunk=chunk)
    load_all()
    chosen = resolve_methods(methods)
    needs = functools.reduce(operator.or_, (method.entry.needs for method in chosen.values()))
    layers = _layers(model, x, layer, needs)
    if target is None and getattr(model, "encoder", False) is True:
        target = OwnEmbedding()
    begun = seconds_now(x.device)
    with tracing(
        model,
        x,
        target,
        layers,
        gradients=Needs.GRADIENTS in needs,
        attentions=Needs.ATTENTION in needs,
        masking=masking,
        chunk=chunk,
    ) as trace:
        names = [one.name for one in layers]
        shared = seconds_now(trace.images.device) - begun, trace.passes
        return {
            label: replace(_explanation(method, trace, names, *shared), label=label)
            for label, method in chosen.items()
        }


def resolve_methods(methods: MethodsLike) -> dict[str, Method]:
    """Return the methods by label.

    Raises:
        OptionError: an unknown name, none at all, or one name twice in a sequence.
    """
    if isinstance(methods, Mapping):
        pairs = list(methods.items())
    else:
        several = [methods] if isinstance(methods, str | Method) else list(methods)
        pairs = [(one if isinstance(one, str) else one.name, one) for one in several]
    made = {label: create(one) if isinstance(one, str) else one for label, one in pairs}
    if not made or len(made) != len(pairs):
        raise OptionError(
            f"{len(pairs)} methods with {len(made)} different names were given; give at least one, "
            "and a mapping {label: method} to run a method twice."
        )
    return made


def _layers(
    model: nn.Module, x: Tensor, layer: LayerLike | Sequence[LayerLike] | None, needs: Needs
) -> list[Layer]:
    net = unwrap(model)
    if layer is None:
        known = getattr(model, "layer", None) if isinstance(model, NetworkWrapper) else None
        if isinstance(known, Layer):
            return [known]
        try:
            return [default_layer(net, x)]
        except LayerError:
            if Needs.ACTIVATIONS in needs:
                raise
            return [Layer.of("input", net)]  # read by no method
    group = [layer] if isinstance(layer, str | nn.Module | Layer) else list(layer)
    layers = [Layer.of(one, net) for one in group]
    if not layers or len({one.name for one in layers}) != len(layers):
        raise OptionError(f"{len(layers)} layers were given; give at least one, each once.")
    return layers


def _explanation(
    method: Method, trace: Trace, names: Sequence[str], shared_seconds: float, shared_passes: int
) -> Explanation:
    begun, passes, backward = seconds_now(trace.images.device), trace.passes, trace.backward_seconds
    groups = [list(names)] if method.joint else [[name] for name in names]
    views = [trace[group] for group in groups]
    spared = sum(view.shared.spared_seconds for view in views)
    found = [
        trace.with_less_memory(lambda view=view: _as_saliency(method.saliency(view)))  # type: ignore[misc]
        for view in views
    ]
    # Methods may run the network with gradients; what they hand on is plain numbers.
    raws = [one.raw.detach() for one in found]
    maps = [normalise(upsample(raw, trace.size), method.scaling) for raw in raws]
    # Several layers: the mean of their maps, stretched after resizing (pytorch-grad-cam: before).
    fused = minmax(torch.stack(maps).mean(0)) if len(maps) > 1 else maps[0]
    raw = fused if len(raws) > 1 else raws[0]
    seconds = shared_seconds + seconds_now(trace.images.device) - begun
    if backward and Needs.GRADIENTS in method.entry.needs:
        seconds += backward  # alone, the method would have run it, too
    # and it would have made itself what another had made
    seconds += sum(view.shared.spared_seconds for view in views) - spared
    return Explanation(
        map=fused,
        raw=raw,
        images=trace.images,
        target=trace.target,
        score=trace.score,
        output=trace.output,
        layers=tuple(names),
        reshapes=tuple(view.layers[0].reshape for view in (trace[name] for name in names)),
        method=method,
        masking=trace.masking,
        status=_status(raw, trace, found),
        details={name: value for one in found for name, value in one.details.items()},
        seconds=seconds,
        passes=shared_passes + trace.passes - passes,
    )


def _as_saliency(found: Tensor | Saliency) -> Saliency:
    return found if isinstance(found, Saliency) else Saliency(found)


_GAP = 0.01
"""How far shares that must add up may be off, relative to what they must add up to."""


def _status(raw: Tensor, trace: Trace, found: Sequence[Saliency]) -> tuple[str, ...]:
    flat = raw.flatten(1)
    high, constant = flat.amax(1), is_constant(raw)
    finite = flat.isfinite().all(1) & trace.finite.to(raw.device)
    complete = torch.ones_like(finite)
    for one in found:
        if "gap" in one.details:
            complete &= one.details["gap"].abs().to(raw.device) <= _GAP
    facts = zip(*(one.tolist() for one in (finite, complete, constant, high)), strict=True)
    return tuple(
        "not finite"
        if not is_finite
        else "incomplete"
        if not is_complete
        else "ok"
        if not is_flat
        else "no positive evidence"
        if most <= 0
        else "constant map"
        for is_finite, is_complete, is_flat, most in facts
    )
