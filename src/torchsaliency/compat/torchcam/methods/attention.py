"""The extractor that reads the attention of a transformer's blocks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from torchsaliency.compat.torchcam.methods.core import Extractor
from torchsaliency.core.layer import LayerLike, Tokens
from torchsaliency.core.maps import minmax
from torchsaliency.core.target import Target, score
from torchsaliency.core.trace import View, tracing
from torchsaliency.errors import OptionError
from torchsaliency.methods.attention.legrad import run_blocks, sum_slopes
from torchsaliency.methods.passes import rows, slope

__all__ = ["LeGrad"]


class LeGrad(Extractor):
    """LeGrad, `legrad`: what raises the score of each block's tokens, by its attention's gradient.

    The score of a block is read off its own tokens, whatever scores are handed over; the images of
    the last pass run once more.

    Args:
        model: a transformer.
        target_layer: its blocks that count, each with one attention inside.
        score_projection: makes scores (N, K) of a block's tokens (N, T, D); by default the norm
            and the head of torchvision's vision transformers, of the mean token.
        prefix_tokens: tokens before the patches.
        grid_shape: (h, w) of the patches; a square by default.
        enable_hooks: as `Extractor`.

    Raises:
        OptionError: an option is of another kind, or the network is no such transformer and no
            score_projection is given.
    """

    method_name, reads_scores = "legrad", False

    def __init__(
        self,
        model: nn.Module,
        target_layer: LayerLike | Sequence[LayerLike],
        *,
        score_projection: Callable[[Tensor], Tensor] | None = None,
        prefix_tokens: int = 1,
        grid_shape: tuple[int, int] | None = None,
        enable_hooks: bool = True,
    ) -> None:
        if prefix_tokens < 0 or min(grid_shape or (1,)) < 1:
            raise OptionError(
                f"prefix_tokens={prefix_tokens} and grid_shape={grid_shape} were given; there are "
                "0 tokens or more before the patches, and a side has 1 or more of them."
            )
        super().__init__(model, target_layer, enable_hooks=enable_hooks)
        self._project = score_projection or _of_torchvision(self._net)
        self._layout = Tokens(prefix_tokens, grid_shape)

    def _maps(self, scores: Any, target: Target, normalized: bool) -> list[Tensor]:
        """Return the mean map of the blocks, in a list."""
        del scores
        self._require_pass()
        model, x = self._given_inputs()
        with self._hooks_off(), tracing(model, x, target, gradients=False) as view:
            count = len(view.images)
            tokens = torch.cat([self._add(view, index) for index in rows(count, view)])
        maps = self._layout.to_maps(tokens[..., None])[:, 0]
        return [minmax(maps) if normalized else maps]

    def _add(self, view: View, index: Tensor) -> Tensor:
        """Return the mean over the blocks of every token (M, T) of the images at `index`."""
        modules = [view.get_module(name) for name in self.target_names]
        outputs = run_blocks(view, index, modules).choose().outputs
        return sum_slopes(view, outputs, partial(self._slope_of, view, index)) / len(outputs)

    def _slope_of(self, view: View, index: Tensor, tokens: Tensor) -> Tensor:
        leaf = tokens.clone().requires_grad_()
        with torch.enable_grad():
            values = score(view.target.take(index), self._project(leaf), len(index))
        return slope(view, values, leaf)


def _of_torchvision(net: nn.Module) -> Callable[[Tensor], Tensor]:
    """Return what reads the mean token as torchvision's vision transformers read theirs."""
    norm, heads = getattr(getattr(net, "encoder", None), "ln", None), getattr(net, "heads", None)
    if not isinstance(norm, nn.Module) or not isinstance(heads, nn.Module):
        raise OptionError(
            f"The scores of a {type(net).__name__}'s blocks are not known; give score_projection=, "
            "which makes scores (N, K) of tokens (N, T, D)."
        )

    def project(tokens: Tensor) -> Tensor:
        scores: Tensor = heads(norm(tokens.mean(1)))
        return scores

    return project
