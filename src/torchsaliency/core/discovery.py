"""Which layer to read when nobody says: the papers' for networks they name, else a traced pass.

The traced pass looks for the last spatial feature map on which the prediction depends all over the
image. In a transformer with a class token that is the last block's first normalisation: after it,
patch tokens reach the output no more.
"""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from torchsaliency.core.layer import (
    Layer,
    Reshape,
    Tokens,
    first_tensor,
    infer_reshape,
    replace_first,
)
from torchsaliency.core.layout import decide_layout, grids_in
from torchsaliency.core.network import unwrap
from torchsaliency.core.rules import differentiate
from torchsaliency.core.scores import REGRESSION
from torchsaliency.core.session import Session, open_session
from torchsaliency.core.space import Size
from torchsaliency.errors import LayerError, TargetError
from torchsaliency.registry import load_all

Resolver = Callable[[nn.Module], Layer | None]

_resolvers: list[Resolver] = []
_found: weakref.WeakKeyDictionary[nn.Module, tuple[tuple[Any, ...], Layer]] = (
    weakref.WeakKeyDictionary()
)

_LIVE_SHARE = 0.5
"""The least share of cells with a gradient: attention to patches passes, a class token fails."""


def register_default_layer(resolver: Resolver) -> Resolver:
    """Let `resolver` name the default layer of the architectures it knows; None for the rest."""
    _resolvers.append(resolver)
    return resolver


def default_layer(model: nn.Module, x: Float[Tensor, "n c *size"]) -> Layer:
    """Return the layer that is read when none is named.

    Known architectures get the papers' layer; for any other, one image is traced forward and
    backward. The answer is remembered for this network and image size.

    Raises:
        InputError: the images cannot be explained.
        LayerError: no layer of the network has a spatial map on which the output depends.
    """
    net = unwrap(model)
    load_all()
    names = tuple(name for name, _ in net.named_modules())
    key = (len(_resolvers), names, tuple(x.shape[1:]))
    remembered = _found.get(net)
    if remembered is None or remembered[0] != key:
        remembered = (key, _resolve(net) or _find(model, x))
        _found[net] = remembered
    return remembered[1]


def _resolve(net: nn.Module) -> Layer | None:
    return next((layer for resolver in _resolvers if (layer := resolver(net))), None)


def _find(model: nn.Module, x: Tensor) -> Layer:
    net = unwrap(model)
    first = x[:1] if x.ndim > 3 else x  # noqa: PLR2004
    with open_session(model, first, scores=REGRESSION) as session, torch.enable_grad():
        image = session.images[:1]
        outputs, score, grids = _trace(session)
        places = _candidates(net, outputs, session.size, grids)
        if places:
            found = differentiate(score, [outputs[name] for name in places])
            chosen = _widest(list(places.values()), found)
            if chosen is not None:
                layout = decide_layout(
                    net, chosen.name, outputs[chosen.name].detach(), image, session.call
                )
                return chosen if layout is None else Layer(chosen.name, layout)
    raise LayerError(
        "No layer of this network gives a feature map larger than one cell on which "
        "the output depends; "
        'name one with layer=…, or use layer="input".'
    )


def output_shapes(model: nn.Module, x: Float[Tensor, "n c *size"]) -> dict[str, Tensor]:
    """Return the output of every layer that runs once, as a tensor without memory.

    Args:
        model: any network; wrappers are looked through.
        x: images (N, C, *size).

    Returns:
        Tensors on the device "meta" by the layer's name, in the order of completion.

    Raises:
        InputError: the images do not fit.
    """
    shapes: dict[str, Tensor] = {}

    def note(name: str, output: Any, tensor: Tensor) -> None:  # noqa: ARG001
        shapes.setdefault(name, tensor.to("meta"))

    with open_session(model, x, scores=REGRESSION) as session:
        _, runs = _run_watched(session, session.images, note)
    return {name: shape for name, shape in shapes.items() if runs[name] == 1}


def _candidates(
    net: nn.Module, outputs: dict[str, Tensor], size: Size, grids: set[Size]
) -> dict[str, Layer]:
    """Return the layers with a spatial map, the last to complete first."""
    found: dict[str, Layer] = {}
    for name, output in reversed(outputs.items()):
        reshape = infer_reshape(tuple(output.shape), size, grids)
        if reshape is None or not _is_stream(net.get_submodule(name), name, reshape):
            continue
        channels, *grid = reshape.to_maps(output).shape[1:]
        # of few frames or slices a network may leave one, which is a map all the same
        if min(channels, *sorted(grid)[-2:]) > 1:
            found[name] = Layer(name, reshape)
    return found


def _trace(session: Session) -> tuple[dict[str, Tensor], Tensor, set[Size]]:
    """Run once; return each layer's output in the order of completion, the top score, and grids."""
    leaf = session.images.clone().requires_grad_()
    outputs: dict[str, Tensor] = {}
    grids: set[Size] = set()
    modules = dict(session.net.named_modules())

    def keep(name: str, output: Any, tensor: Tensor) -> Any:
        grids.update(grids_in(modules[name], output, len(session.size)))
        if not tensor.requires_grad or tensor.shape[:1] != leaf.shape[:1]:
            return None
        outputs.pop(name, None)
        # what is handed on: a module may give its features beside the pooled ones that are read
        outputs[name] = tensor.clone()
        return replace_first(output, outputs[name])

    # the network may work in place on its input
    output, runs = _run_watched(session, leaf.clone(), keep)
    if not isinstance(output, Tensor):
        raise TargetError(
            f"This network gives a {type(output).__name__}, from which no default layer can be "
            "found; name one with layer=…."
        )
    top = output.reshape(len(output), -1).float().amax(1)
    top = top.sum() * 1024  # half precision keeps small gradients
    return {name: tensor for name, tensor in outputs.items() if runs[name] == 1}, top, grids


def _run_watched(
    session: Session, images: Tensor, watch: Callable[[str, Any, Tensor], Any]
) -> tuple[Any, Counter[str]]:
    """Run the network; give `watch` each layer's name, output and first tensor, and count runs."""
    runs: Counter[str] = Counter()

    def hook(name: str, module: nn.Module, inputs: Any, output: Any) -> Any:  # noqa: ARG001
        try:
            tensor = first_tensor(output, name)
        except LayerError:
            return None
        runs[name] += 1
        return watch(name, output, tensor)

    with ExitStack() as stack:
        for name, module in session.net.named_modules():
            if name:
                stack.callback(module.register_forward_hook(partial(hook, name)).remove)
        return session.run(images), runs


def _is_stream(module: nn.Module, name: str, reshape: Reshape) -> bool:
    """Whether an output is the network's stream of features, not its patches or a projection."""
    if "patch_embed" in name or _is_patch_convolution(module):
        return False
    inner = nn.Linear | nn.Dropout | nn.Identity
    return not (isinstance(reshape, Tokens) and isinstance(module, inner))


def _is_patch_convolution(module: nn.Module) -> bool:
    if not isinstance(module, nn.modules.conv._ConvNd):
        return False
    return module.kernel_size == module.stride and max(module.stride) > 1


def _widest(layers: Sequence[Layer], found: Sequence[Tensor | None]) -> Layer | None:
    """Return the first layer of whose cells at least half have a gradient, or else the most.

    A network may read a part of each map alone, a crop say; one cell, a class token's, is no map.
    """
    best: tuple[float, Layer] | None = None
    for layer, gradient in zip(layers, found, strict=True):
        assert layer.reshape is not None  # candidates have one
        if gradient is None:
            continue
        live = layer.reshape.to_maps(gradient).abs().amax(1) > 0
        share = float(live.float().mean())
        if share >= _LIVE_SHARE:
            return layer
        if int(live.sum()) > 1 and (best is None or share > best[0]):
            best = share, layer
    return None if best is None else best[1]
