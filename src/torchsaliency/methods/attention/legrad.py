"""LeGrad: the gradients of all blocks' attention, each of the score of that block's own tokens."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, final

import torch
from torch import Tensor, nn

from torchsaliency.core.attention import Attention, record_attention
from torchsaliency.core.layer import first_tensor
from torchsaliency.core.maps import upcast
from torchsaliency.core.method import Method, Needs, register
from torchsaliency.core.rules import differentiate
from torchsaliency.core.trace import View
from torchsaliency.errors import LayerError
from torchsaliency.methods.attention.rollout import from_block
from torchsaliency.methods.attention.tokens import on_grid, whole_attentions
from torchsaliency.methods.passes import images_of, layer_gradients, loss_scale, rows

NEEDS = Needs.ATTENTION | Needs.TARGET | Needs.PASSES


@register("legrad", family="attention", cite="bousselham2025", needs=NEEDS)
@final
@dataclass(frozen=True)
class LeGrad(Method):
    """LeGrad: what raises the score of each block's tokens, read off its attention's gradient.

    s_l is the score if every token after the last block is the mean of block l's tokens;
    S = Σ_l mean_h mean_i ReLU(∂s_l/∂A_l)_hij over heads h and rows i, for the patches j.

    One pass with a graph, and one more for every block.

    Source: Bousselham et al., ICCV 2025, and the authors' code for CLIP, whose score is that of the
    mean token; the network's own norm, pooling and head read it here. Attention pooling has no
    map of its own here, where the code for SigLIP reads nothing else.

    Attributes:
        start: the first block that counts, from 0.
    """

    start: int = 0

    def saliency(self, view: View) -> Tensor:
        """Return the sum over the blocks, (N, *grid)."""
        from_block(self.name, self.start, whole_attentions(view))

        def add(index: Tensor) -> Tensor:
            blocks, images = run_blocks(view, index), images_of(view)[index]
            chain = blocks.choose()
            slope_of = partial(_slope_of_mean, view, chain.modules[-1], images, index)
            return sum_slopes(view, chain.outputs[self.start :], slope_of)

        return on_grid(view, torch.cat([add(index) for index in rows(len(view.images), view)]))


BlockOutput = tuple[Tensor, Attention]
"""What a block gave in a pass: tokens (M, T, D) in the graph, and the attention inside."""


def run_blocks(view: View, index: Tensor, chosen: Sequence[nn.Module] | None = None) -> Blocks:
    """Run the images at `index` with a graph, and return what their transformer's blocks gave.

    Args:
        view: the images.
        index: which of them.
        chosen: blocks in the place of those that are found.
    """
    with torch.enable_grad(), record_attention(len(index)) as found:
        blocks = Blocks(view.session.net, found, chosen)
        with blocks.watch():
            view.run(images_of(view)[index].clone().requires_grad_().clone(), index)
    return blocks


def sum_slopes(
    view: View, outputs: Sequence[BlockOutput], slope_of: Callable[[Tensor], Tensor]
) -> Tensor:
    """Return Σ_l mean_h mean_i ReLU(∂s_l/∂A_l)_hij of every token j, (M, T).

    Args:
        view: the images.
        outputs: of the blocks l.
        slope_of: gives ∂s_l/∂Z_l (M, T, D) of a block's tokens Z_l, out of the graph.
    """
    scale, parts = loss_scale(view), []
    for tokens, attention in outputs:
        weight = scale * slope_of(tokens.detach()).to(tokens)
        (found,) = differentiate(tokens, [attention.source], weight, keep_graph=True)
        zeros = attention.weights.new_zeros(attention.weights.shape)
        slopes = zeros if found is None else attention.gradient(found) / scale
        parts.append(slopes.relu().mean((1, 2)))
    return torch.stack(parts).sum(0)


def _slope_of_mean(
    view: View, last: nn.Module, images: Tensor, index: Tensor, tokens: Tensor
) -> Tensor:
    """Return ∂s/∂Z (M, T, D), s the score if all tokens after the last block are the mean of Z."""
    mean = upcast(tokens).mean(1, keepdim=True).expand_as(tokens)
    slopes = layer_gradients(view, last, images, index, mean)[1]
    return slopes.mean(1, keepdim=True).expand_as(tokens)


@final
@dataclass(eq=False)
class _Chain:
    """A list of modules, and what each gave in one pass.

    Attributes:
        modules: that follow each other.
        outputs: of each module its tokens, and the attention that ran inside.
    """

    modules: Sequence[nn.Module]
    outputs: list[BlockOutput] = field(default_factory=list)


@final
class Blocks:
    """Finds a transformer's blocks: modules in a row, each with one attention inside.

    Args:
        net: the network.
        found: the list that fills with attentions while it runs.
        chosen: the blocks, if they are known.
    """

    def __init__(
        self, net: nn.Module, found: list[Attention], chosen: Sequence[nn.Module] | None = None
    ) -> None:
        self._found = found
        rows_of_modules = [
            [*module.children()]
            for module in net.modules()
            if isinstance(module, nn.ModuleList | nn.Sequential) and len(module)
        ]
        self._chains = [
            _Chain(modules) for modules in (rows_of_modules if chosen is None else [chosen])
        ]

    @contextmanager
    def watch(self) -> Iterator[None]:
        """Note what every module gives in the pass inside the context."""
        begun: list[int] = []

        def enter(*unused: Any) -> None:
            del unused
            begun.append(len(self._found))

        def leave(chain: _Chain, module: nn.Module, inputs: Any, output: Any) -> None:
            del module, inputs
            inside = self._found[begun.pop() :]
            if len(inside) == 1:
                tokens = first_tensor(output, "")
                chain.outputs.append((tokens, inside[0]))

        with ExitStack() as stack:
            for chain in self._chains:
                for module in chain.modules:
                    stack.callback(module.register_forward_pre_hook(enter).remove)
                    hook = partial(leave, chain)
                    stack.callback(module.register_forward_hook(hook).remove)
            yield

    def choose(self) -> _Chain:
        """Return the longest chain whose modules all have one attention; the outermost of these.

        Raises:
            LayerError: there is none.
        """
        found = [
            chain
            for chain in self._chains
            if len(chain.outputs) == len(chain.modules)
            and all(tokens.ndim == 3 for tokens, _ in chain.outputs)  # noqa: PLR2004
        ]
        if not found:
            raise LayerError(
                "legrad reads the tokens between the blocks of a transformer, and this network "
                "has no list of blocks with one attention each; use generic-attention, or a class "
                "activation map such as gradcam."
            )
        return max(found, key=lambda chain: len(chain.modules))
