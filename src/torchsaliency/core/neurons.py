"""Neurons as what is explained: a layer's output in the place of the network's.

Where an output's numbers are is said by a path (`explain(…, output="heads.main")`), and so is that
they are a layer's: "layer:layer3.1" is what that module gives. All that runs the network then sees
these numbers, methods and metrics alike.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, final

from torch import Tensor, nn

from torchsaliency.core.layer import Layer, first_tensor, replace_first
from torchsaliency.core.network import NetworkWrapper, find_fact, unwrap
from torchsaliency.core.scores import REGRESSION
from torchsaliency.core.target import Scores, Target, register_target
from torchsaliency.errors import LayerError, TargetError

_PREFIX = "layer:"


def layer_of_output(where: int | str | None) -> str | None:
    """Return the layer whose output a path names, None if it names a part of the network's own."""
    named = isinstance(where, str) and where.startswith(_PREFIX)
    return where.removeprefix(_PREFIX) if named else None  # type: ignore[union-attr]


def run_to_layer(net: nn.Module, name: str, run: Callable[[], Any]) -> Tensor:
    """Return what a layer gives while the network runs.

    Args:
        net: the network.
        name: of the layer; "" is the network itself.
        run: runs the network.

    Raises:
        LayerError: there is no such layer, or it did not run, or ran twice.
    """
    found: list[Tensor] = []

    def keep(module: nn.Module, inputs: Any, output: Any) -> Any:  # noqa: ARG001
        found.append(first_tensor(output, name))
        # The network goes on with a copy, so that an in-place operation spoils nothing.
        return replace_first(output, found[-1].clone())

    module = Layer(name).module_of(net) if name else net
    handle = (module or net).register_forward_hook(keep)
    try:
        run()
    finally:
        handle.remove()
    if len(found) != 1:
        raise LayerError(
            f"Layer {name!r} ran {len(found)} times in one pass, and neurons are of a layer that "
            "runs once; name another."
        )
    return found[0]


@register_target("neuron")
@final
@dataclass(frozen=True)
class Neuron(Target):
    """A neuron of a layer, or a channel: the mean of A[index] over all places that are left.

    A is what the layer gives for an image, without the batch: of (C, h, w), the index (c, i, j) is
    one neuron, and (c,) the mean of a channel. The network runs as far as it does for a class, and
    a method that reads features must be given a layer before this one.

    Attributes:
        layer: its name; "" stands for the network's own output.
        index: its place in what the layer gives for an image; a number k is (k,).

    Example:
        >>> import torch, torchsaliency
        >>> net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU())
        >>> neuron = torchsaliency.Neuron("0", (2, 5, 5))
        >>> found = torchsaliency.explain(net, torch.rand(1, 3, 16, 16), "saliency", neuron)
        >>> int((found["saliency"].map > 0).sum()) <= 9  # what the kernel sees
        True
    """

    words: ClassVar[tuple[str, ...]] = ("LAYER",)

    layer: str = ""
    index: int | tuple[int, ...] = 0

    @classmethod
    def read_word(cls, word: str, class_index: Callable[[str], int]) -> dict[str, Any]:  # noqa: ARG003
        """Return the options that a word stands for: a layer."""
        return {"layer": word}

    @property
    def output(self) -> str:
        """The path of the layer's output."""
        return _PREFIX + self.layer

    def __call__(self, output: Any) -> Scores:
        """Return the neuron of each image.

        Raises:
            TargetError: the layer gives no tensor, or has no such place.
        """
        index = (self.index,) if isinstance(self.index, int) else self.index
        shape = tuple(output.shape[1:]) if isinstance(output, Tensor) else ()
        inside = 0 < len(index) <= len(shape) and all(
            -side <= place < side for place, side in zip(index, shape, strict=False)
        )
        if not inside:
            raise TargetError(
                f"Neuron {self.index} was asked for and layer {self.layer!r} gives {shape} for an "
                "image; give a place in it, or the first numbers of one."
            )
        neurons: Tensor = output[(slice(None), *index)].reshape(len(output), -1)
        return neurons.mean(1)

    def describe(self) -> dict[str, Any]:
        """Return the layer and the place."""
        index = self.index if isinstance(self.index, int) else list(self.index)
        return {"kind": "Neuron", "layer": self.layer, "index": index}


def read_neurons(model: nn.Module, target: object) -> nn.Module:
    """Return a network that gives the layer's output if a neuron is explained, else the network.

    Raises:
        LayerError: the network has no such layer.
    """
    if not isinstance(target, Neuron) or find_fact(model, "output") == target.output:
        return model
    if target.layer:
        Layer(target.layer).module_of(unwrap(model))
    return NetworkWrapper(model, scores=REGRESSION, output=target.output)
