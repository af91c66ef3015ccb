"""What the attention methods share: the class token's rows, and the patches' grid."""

from __future__ import annotations

import math

from torch import Tensor

from torchsaliency.core.layer import Tokens, infer_reshape
from torchsaliency.core.layout import find_grids
from torchsaliency.core.space import describe_size
from torchsaliency.core.trace import View
from torchsaliency.errors import LayerError

_DISTILLATION = ("dist_token", "distillation_token")


def whole_attentions(view: View) -> list[Tensor]:
    """Return the attention (N, heads, T, T) of every block.

    Raises:
        LayerError: the network has no attention, or attends in windows or stages.
    """
    found = view.attentions
    count = len(view.images)
    sizes = {tuple(block.shape[2:]) for block in found if block.ndim == 4}  # noqa: PLR2004
    usual = all(block.ndim == 4 and len(block) == count for block in found)  # noqa: PLR2004
    if not found or not usual or len(sizes) != 1:
        seen = " and ".join(str(tuple(block.shape)) for block in found[:2])
        finding = f"attends as {seen}" if found else "has no attention"
        raise LayerError(
            "Attention methods need a transformer whose blocks all attend over the whole image "
            f"(ViT, DeiT, DINOv2, …), and this network {finding}; use a class activation map, such "
            "as gradcam, layercam or opticam."
        )
    return found


def patch_row(view: View, attention: Tensor) -> Tensor:
    """Return what the class reads of the patches, (N, *grid), from a matrix (N, T, T).

    The row is the class token's; with a distillation token, the mean of both; without any token of
    its own, as after average pooling, the mean over all patches. Registers are left out.

    Raises:
        LayerError: the tokens do not fill a grid.
    """
    layout = _layout(view, attention.shape[-1])
    heads = 1
    if layout.prefix > 1:
        named = any(name.endswith(_DISTILLATION) for name in view.trace.parameter_names)
        heads = 2 if named else 1
    rows = attention[:, :heads] if layout.prefix else attention
    return layout.to_maps(rows.mean(1)[..., None])[:, 0]


def on_grid(view: View, tokens: Tensor) -> Tensor:
    """Return one number a token (N, T) on the grid of the patches, (N, *grid).

    Raises:
        LayerError: the tokens do not fill a grid.
    """
    return _layout(view, tokens.shape[-1]).to_maps(tokens[..., None])[:, 0]


def _layout(view: View, count: int) -> Tokens:
    for layer in view.layers:
        known = layer.reshape
        grid = known.grid if isinstance(known, Tokens) else None
        if isinstance(known, Tokens) and grid and known.prefix + math.prod(grid) == count:
            return known
    images = view.images[:1]
    grids = find_grids(view.session.net, images.new_empty(1, count, 1), images)
    found = infer_reshape((1, count, 1), view.size, grids)
    if not isinstance(found, Tokens):
        raise LayerError(
            f"{count} tokens do not fill a grid over an image of {describe_size(view.size)}; "
            "say their layout with Layer(name, Tokens(prefix=…, grid=(h, w)))."
        )
    return found
