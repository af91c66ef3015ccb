"""Whether a network takes images of any aspect, found by a trial.

A convolutional network with global pooling does: its maps grow with the image, and its output does
not depend on where they are. Position embeddings, and linear layers over positions, do not.
"""

from __future__ import annotations

import math

from jaxtyping import Float
from torch import Tensor, nn

from torchsaliency.core.discovery import default_layer
from torchsaliency.core.layer import Layer, Tokens
from torchsaliency.core.segmentation import is_dense
from torchsaliency.core.space import repeat_image
from torchsaliency.core.trace import View, tracing
from torchsaliency.errors import out_of_memory

_TOLERANCE = 1e-3
"""How far a score may move, relative to its size, when pooled features change places."""

_NEAR = 0.1
"""How far, relatively, pixels a cell may be from the power of two that the stride is taken for."""


def find_stride_of_any_aspect(
    model: nn.Module, image: Float[Tensor, "1 c h w"], layer: Layer | None = None
) -> int | None:
    """Return the pixels from one cell of the layer to the next, of a network for any aspect.

    The network is run on the upper half of the image. It takes any aspect if that works, the
    layer's map is half as high, too, and turning its features by 180° leaves the score as it is (a
    segmenter's, which has a score a pixel, may move).

    Args:
        model: any network.
        image: of the size that the network is made for.
        layer: where maps are read; the default layer if None.

    Returns:
        The stride; of a network that is not for any aspect, None.
    """
    half = image[..., : image.shape[-2] // 2, :]
    try:
        chosen = default_layer(model, half) if layer is None else layer
        # its layout is found anew: of tokens, the grid is another
        layers = [Layer(chosen.name)]
        with tracing(model, half, _mean_square, layers, gradients=False) as trace:
            return _stride(trace[chosen.name])
    except Exception as error:  # a network may raise anything
        if out_of_memory(error):
            raise
        return None


def _stride(view: View) -> int | None:
    width, (rows, columns) = view.size[1], view.activations.shape[2:]
    follows = columns > 1 and abs(columns - 2 * rows) <= 2  # noqa: PLR2004 (a row more or less)
    if isinstance(view.layer.reshape, Tokens) or not follows:
        return None
    if not is_dense(view.output) and not _is_position_free(view):
        return None
    # where strides do not divide the side, or nothing is padded, the ratio is near to the stride
    ratio = width / columns
    stride: int = 2 ** round(math.log2(ratio))
    near = abs(ratio / stride - 1) <= _NEAR
    return stride if near or width % columns else width // columns


def _mean_square(output: Tensor) -> Tensor:
    return output.flatten(1).float().square().mean(1)


def _is_position_free(view: View) -> bool:
    turned = view.activations[0].flip(-2, -1)
    moved = view.tail(0, lambda index: repeat_image(turned, len(index)), 1)[0]
    return bool((moved - view.score[0]).abs() <= _TOLERANCE * view.score[0].abs())
