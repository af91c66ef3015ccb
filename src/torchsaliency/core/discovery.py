"""Which layer to read when nobody says: the papers' for networks they name, else a traced pass.

The traced pass looks for the last spatial feature map on which the prediction depends all over the
image. In a transformer with a class token that is the last block's first normalisation: after it,
patch tokens reach the output no more. A segmenter's is the last one on its coarsest grid, before
the logits; a detector's the last one on which every detection of the first image depends.
"""

from __future__ import annotations

import math
import re
import weakref
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from torchsaliency.core.detection import is_detections
from torchsaliency.core.inputs import InputsLike, first_of, images_of
from torchsaliency.core.layer import (
    NO_LAYERS,
    Layer,
    Reshape,
    Tokens,
    first_tensor,
    infer_reshape,
    replace_first,
)
from torchsaliency.core.layout import decide_layout, grids_in
from torchsaliency.core.maps import upsample
from torchsaliency.core.network import Program, kind_of_program, unwrap
from torchsaliency.core.rules import differentiate
from torchsaliency.core.scores import REGRESSION
from torchsaliency.core.segmentation import is_dense
from torchsaliency.core.session import Session, open_session
from torchsaliency.core.space import Size
from torchsaliency.errors import InputError, LayerError, TargetError, out_of_memory
from torchsaliency.registry import load_all

Resolver = Callable[[nn.Module], Layer | None]

_resolvers: list[Resolver] = []
_found: weakref.WeakKeyDictionary[nn.Module, tuple[tuple[Any, ...], Layer]] = (
    weakref.WeakKeyDictionary()
)

_LIVE_SHARE = 0.5
"""The least share of cells with a gradient: attention to patches passes, a class token fails."""

_DETECTIONS = 16
"""So many of a detector's surest detections must depend on its default layer."""


_ATTENTION = re.compile(r"(Attention|Attn)(Pool\w*|[A-Z][a-z]*sample)?$")


def register_default_layer(resolver: Resolver) -> Resolver:
    """Let `resolver` name the default layer of the architectures it knows; None for the rest.

    Args:
        resolver: takes the unwrapped network; the first resolver that gives a layer decides.

    Returns:
        The resolver, so that this is a decorator.

    Example:
        >>> @register_default_layer
        ... def find_layer(net):
        ...     return Layer("stem") if type(net).__name__ == "MyNet" else None
    """
    _resolvers.append(resolver)
    return resolver


def default_layer(model: nn.Module, x: InputsLike) -> Layer:
    """Return the layer that is read when none is named.

    Known architectures get the papers' layer; for any other, one image is traced forward and
    backward. The answer is remembered for this network and image size.

    Args:
        model: the network; it is left as it is.
        x: images (N, C, *size) as the network takes them; the first is traced.

    Raises:
        InputError: the images cannot be explained.
        LayerError: no layer of the network has a spatial map on which the output depends.

    Example:
        >>> import torch, torchvision
        >>> default_layer(torchvision.models.resnet18(), torch.rand(1, 3, 64, 64)).name
        'layer4.1'
    """
    net = unwrap(model)
    load_all()
    names = tuple(name for name, _ in net.named_modules())
    key = (len(_resolvers), names, tuple(images_of(x).shape[1:]))
    remembered = _found.get(net)
    if remembered is None or remembered[0] != key:
        remembered = (key, _resolve(net) or _find(model, x))
        _found[net] = remembered
    return remembered[1]


def _resolve(net: nn.Module) -> Layer | None:
    return next((layer for resolver in _resolvers if (layer := resolver(net))), None)


def _find(model: nn.Module, x: InputsLike) -> Layer:
    net = unwrap(model)
    first = first_of(x) if images_of(x).ndim > 3 else x  # noqa: PLR2004
    with open_session(model, first, scores=REGRESSION) as session, torch.enable_grad():
        image = session.images[:1]
        outputs, output, grids = _trace(session)
        places = _candidates(net, outputs, session.size, grids)
        if is_detections(output):
            chosen = _below_all_detections(session, places, outputs, output[0])
        elif is_dense(output):
            chosen = _coarsest(places, outputs, output)
        else:
            chosen = _below_top_score(places, outputs, output)
        if chosen is not None:
            layout = decide_layout(
                net, chosen.name, outputs[chosen.name].detach(), image, session.call
            )
            return chosen if layout is None else Layer(chosen.name, layout)
    if isinstance(net, Program | torch.jit.ScriptModule):
        raise LayerError(f"The layers of a {kind_of_program(net)} cannot be watched; {NO_LAYERS}")
    raise LayerError(
        "No layer of this network gives a feature map larger than one cell on which "
        "the output depends; "
        'name one with layer=…, use layer="input", or choose a method that reads none, such as '
        "rise, occlusion or saliency."
    )


_FINEST = 4
"""A finer layer's grid has at most one cell for so many pixels of a side."""

_COARSER = 2
"""A finer layer's grid has so many times the cells of the next: padding makes no other grid."""


def finer_layers(model: nn.Module, x: InputsLike, layer: Layer) -> list[Layer]:
    """Return the last layer on each grid that is finer than a layer's and ran before it.

    Those on which the output depends, the finest first, on grids of at most a quarter of the
    image's sides; none for the input, or where all layers have one grid. One image is traced.

    Args:
        model: any network; wrappers are looked through.
        x: one image (1, C, *size), or several inputs of one.
        layer: a layer of the network.
    """
    net = unwrap(model)
    with open_session(model, x, scores=REGRESSION) as session, torch.enable_grad():
        outputs, output, grids = _trace(session)
        if layer.name not in outputs:
            return []
        order = list(outputs)
        places = _candidates(net, outputs, session.size, grids)
        before = order[: order.index(layer.name)]
        sizes = {
            name: tuple(_to_maps(place, outputs[name]).shape[2:]) for name, place in places.items()
        }
        own = layer if layer.reshape is not None else places.get(layer.name)
        if own is None:
            return []
        cells = math.prod(_to_maps(own, outputs[layer.name]).shape[2:])
        fine = [
            name
            for name in before
            if name in places
            and math.prod(sizes[name]) > cells
            and all(
                side <= math.ceil(whole / _FINEST)
                for side, whole in zip(sizes[name], session.size, strict=True)
            )
        ]
        chosen: list[str] = []
        last = {sizes[name]: name for name in fine}
        for name in sorted(last.values(), key=lambda name: math.prod(sizes[name])):
            if math.prod(sizes[name]) >= _COARSER * cells:
                chosen.append(name)
                cells = math.prod(sizes[name])
        scores = output[0]["scores"] if is_detections(output) else output
        if not chosen or not isinstance(scores, Tensor) or not scores.requires_grad:
            return []
        found = differentiate(scores.float().sum() * 1024, [outputs[name] for name in chosen])
        read = [name for name, one in zip(chosen, found, strict=True) if one is not None]
        return [places[name] for name in reversed(read)]


def _below_top_score(
    places: dict[str, Layer], outputs: dict[str, Tensor], output: Any
) -> Layer | None:
    if not isinstance(output, Tensor):
        raise TargetError(
            f"This network gives a {type(output).__name__}, from which no default layer can be "
            "found; name one with layer=…."
        )
    if not places:
        return None
    top = (
        output.reshape(len(output), -1).float().amax(1).sum() * 1024
    )  # half precision keeps small gradients
    return _widest(list(places.values()), differentiate(top, [outputs[name] for name in places]))


def _coarsest(places: dict[str, Layer], outputs: dict[str, Tensor], output: Tensor) -> Layer | None:
    """Return the last layer of a segmenter on its coarsest grid, the maps of logits left out."""
    maps = {name: _to_maps(layer, outputs[name]) for name, layer in places.items()}
    maps = {name: one for name, one in maps.items() if one.shape[1] != output.shape[1]}
    if not maps:
        return None
    top = output.float().amax(1).mean() * 1024
    found = differentiate(top, [outputs[name] for name in maps])
    read = [name for name, one in zip(maps, found, strict=True) if one is not None]
    cells = {name: maps[name][0, 0].numel() for name in read}
    return next((places[name] for name in read if cells[name] == min(cells.values())), None)


def _below_all_detections(
    session: Session,
    places: dict[str, Layer],
    outputs: dict[str, Tensor],
    found: Mapping[str, Tensor],
) -> Layer | None:
    """Return the last layer of a detector on which each of its surest detections depends.

    The layer then does not depend on the object that is explained: a pyramid has levels that one
    object is read from, and another is not.
    """
    surest = found["scores"].sort(descending=True, stable=True).values[:_DETECTIONS]
    if not len(surest):
        raise InputError(
            "The detector finds nothing in the first image, so no default layer can be found; "
            "name one with layer=…."
        )
    places = _without_queries(session, places)
    rest = list(places)
    for score in surest:
        if not rest or not score.requires_grad:
            return None
        sources = [outputs[name] for name in rest]
        gradients = differentiate(score.float() * 1024, sources, keep_graph=True)
        rest = [
            name
            for name, gradient in zip(rest, gradients, strict=True)
            if gradient is not None
            and int((_to_maps(places[name], gradient).abs().amax(1) > 0).sum()) > 1
        ]
    return places[rest[0]] if rest else None


def _without_queries(session: Session, places: dict[str, Layer]) -> dict[str, Layer]:
    """Return the layers but those whose tokens are no patches of the image.

    A detector's queries may be as many as a grid of patches, or stand behind them: an image of
    twice the width has more columns of patches, and everything else in place. All layers are
    returned if the network takes no other width.
    """
    *others, width = session.size
    wide = (*others, 2 * width)
    shapes: dict[str, tuple[int, ...]] = {}

    def note(name: str, output: Any, tensor: Tensor) -> None:  # noqa: ARG001
        shapes[name] = tuple(tensor.shape)

    if not any(isinstance(layer.reshape, Tokens) for layer in places.values()):
        return places
    try:
        with torch.no_grad():
            _run_watched(session, upsample(session.images[0], wide)[None], note)
    except Exception as error:  # a network may raise anything
        if out_of_memory(error):
            raise
        return places

    def follows(name: str, tokens: Reshape | None) -> bool:
        if not isinstance(tokens, Tokens):
            return True
        found = infer_reshape(shapes[name], wide) if name in shapes else None
        return (
            isinstance(found, Tokens)
            and found.prefix == tokens.prefix
            and found.grid is not None
            and tokens.grid is not None
            and found.grid[-1] > tokens.grid[-1]
        )

    return {name: layer for name, layer in places.items() if follows(name, layer.reshape)}


def _to_maps(layer: Layer, tensor: Tensor) -> Tensor:
    assert layer.reshape is not None  # candidates have one
    return layer.reshape.to_maps(tensor)


def output_shapes(model: nn.Module, x: InputsLike) -> dict[str, Tensor]:
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
    """Return the layers with a spatial map, the last to complete first.

    Those inside an attention come after all others: they are a block's queries, keys or values.
    """
    found: dict[str, Layer] = {}
    for name, output in reversed(outputs.items()):
        reshape = infer_reshape(tuple(output.shape), size, grids)
        if reshape is None or not _is_stream(net.get_submodule(name), name, reshape):
            continue
        channels, *grid = reshape.to_maps(output).shape[1:]
        # of few frames or slices a network may leave one, which is a map all the same
        if min(channels, *sorted(grid)[-2:]) > 1:
            found[name] = Layer(name, reshape)
    return dict(sorted(found.items(), key=lambda item: _is_inside_attention(net, item[0])))


def _is_inside_attention(net: nn.Module, name: str) -> bool:
    """Whether a module is a part of one whose class is called an attention."""
    parts = name.split(".")
    above = (net.get_submodule(".".join(parts[:count])) for count in range(1, len(parts)))
    return any(_ATTENTION.search(type(module).__name__) for module in above)


def _trace(session: Session) -> tuple[dict[str, Tensor], Any, set[Size]]:
    """Run once; return each layer's output in the order of completion, the network's, and grids."""
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
    return {name: tensor for name, tensor in outputs.items() if runs[name] == 1}, output, grids


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
            if name and not isinstance(module, torch.jit.ScriptModule):
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
        if gradient is None:
            continue
        live = _to_maps(layer, gradient).abs().amax(1) > 0
        share = float(live.float().mean())
        if share >= _LIVE_SHARE:
            return layer
        if int(live.sum()) > 1 and (best is None or share > best[0]):
            best = share, layer
    return None if best is None else best[1]
