"""Copies of a network whose stages have random weights, from the output downwards."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn

from torchsaliency.core.acceleration import copy_network
from torchsaliency.core.network import unwrap
from torchsaliency.errors import OptionError

Cascade = Literal["cascading", "independent"]

_FEW = 5
"""Stages of a network worth the name; with fewer, the largest is looked into."""

_WEIGHTED = (nn.modules.conv._ConvNd, nn.Linear, nn.MultiheadAttention, nn.Embedding)


def network_stages(model: nn.Module) -> list[str]:
    """Return the names of a network's stages, from the output downwards.

    These are its children with weights; as long as they are fewer than five, the largest is
    replaced by its own children: fc, layer4, …, layer1, conv1 for a ResNet; the classifier and
    every block for networks whose blocks lie in one sequence. Children that hold norms alone belong
    to the stage before them.

    Example:
        >>> import torchsaliency
        >>> net = torchsaliency.load_model("builtin/shapes_cnn")
        >>> network_stages(net)[0]
        'fc'
    """
    net = unwrap(model)
    names = [""]
    while len(_find_weighted(net, names)) < _FEW:
        divisible = [name for name in names if len(_parts(net, name)) > 0]
        if not divisible:
            break
        largest = max(divisible, key=lambda name: _numbers(net.get_submodule(name)))
        place = names.index(largest)
        names[place : place + 1] = _parts(net, largest)
    return list(reversed(_find_weighted(net, names)))


def randomised_networks(
    model: nn.Module,
    *,
    mode: Cascade = "cascading",
    stages: Sequence[str] | None = None,
    seed: int = 0,
) -> Iterator[tuple[str, nn.Module]]:
    """Yield copies of a network, one a stage, with random weights.

    As torchvision initialises them, convolutions are drawn from N(0, 2/fan_out), norms become the
    identity and keep their running statistics, linear layers are uniform within 1/√fan_in; all
    other parameters (tokens, positions, embeddings) are drawn with their own mean and deviation.

    Args:
        model: the network; it is not changed.
        mode: "cascading" keeps earlier stages random, "independent" puts them back.
        stages: names of submodules, from the output downwards; `network_stages` by default.
        seed: of the weights.

    Yields:
        The stage, and a network valid until the next one is asked for.

    Raises:
        OptionError: there is no such stage or mode, or nothing in the stage to randomise.

    Example:
        >>> import torchsaliency
        >>> net = torchsaliency.load_model("builtin/shapes_cnn")
        >>> len([stage for stage, copy in randomised_networks(net)]) == len(network_stages(net))
        True
    """
    if mode not in ("cascading", "independent"):
        raise OptionError(f"There is no mode {mode!r}; it is cascading or independent.")
    net = unwrap(model)
    chosen = list(network_stages(net) if stages is None else stages)
    known = dict(net.named_modules())
    for name in chosen:
        if name not in known:
            near = ", ".join(network_stages(net))
            raise OptionError(f"The network has no stage {name!r}; it has {near}.")
        if _numbers(known[name]) == 0:
            raise OptionError(f"Stage {name!r} has no parameters, so nothing in it can be random.")
    changed = _copy(net)
    for place, name in enumerate(chosen):
        if mode == "independent" and place:
            changed = _copy(net)
        with torch.random.fork_rng(devices=[]), torch.inference_mode(mode=False), torch.no_grad():
            # each stage has its own seed, so that its weights do not depend on the other stages;
            # torch.manual_seed would seed the GPUs too, whose state is not restored
            torch.default_generator.manual_seed(seed * 1_000_003 + place)
            _randomise(changed.get_submodule(name))
            for norm in _norms_after(net, name, chosen):
                _randomise(changed.get_submodule(norm))
        yield name, changed


@torch.inference_mode(mode=False)
def _copy(net: nn.Module) -> nn.Module:
    return copy_network(net)


def _randomise(module: nn.Module) -> None:
    for part in module.modules():
        own = list(part.parameters(recurse=False))
        if not own:
            continue
        if isinstance(part, nn.modules.conv._ConvNd):
            _assign(part.weight, lambda w: nn.init.kaiming_normal_(w, mode="fan_out"))
            if part.bias is not None:
                _assign(part.bias, nn.init.zeros_)
        elif _is_norm(part):
            for name, parameter in part.named_parameters(recurse=False):
                _assign(parameter, nn.init.zeros_ if "bias" in name else nn.init.ones_)
        elif isinstance(part, nn.Linear):
            _assign(part.weight, lambda w: nn.init.kaiming_uniform_(w, a=5**0.5))
            if part.bias is not None:
                bound = part.in_features**-0.5
                _assign(part.bias, partial(nn.init.uniform_, a=-bound, b=bound))
        else:
            for parameter in own:
                _assign(parameter, _like_itself)


def _assign(parameter: Tensor, fill: Callable[[Tensor], Tensor]) -> None:
    """Fill a parameter from the processor's generator: the same weights on every device."""
    drawn = torch.empty(parameter.shape, dtype=torch.float32, device="cpu")
    if fill is _like_itself:
        drawn.copy_(parameter)
    parameter.copy_(fill(drawn))


def _like_itself(values: Tensor) -> Tensor:
    deviation = values.std() if values.numel() > 1 else values.abs().mean()
    return torch.randn(values.shape, dtype=values.dtype, device="cpu") * deviation + values.mean()


def _is_norm(module: nn.Module) -> bool:
    return "norm" in type(module).__name__.lower() or isinstance(
        module, nn.modules.batchnorm._BatchNorm
    )


def _parts(net: nn.Module, name: str) -> list[str]:
    prefix = f"{name}." if name else ""
    children = net.get_submodule(name).named_children()
    return [prefix + child for child, module in children if _numbers(module) > 0]


def _find_weighted(net: nn.Module, names: Sequence[str]) -> list[str]:
    """Keep the names whose modules hold more than norms."""
    return [
        name
        for name in names
        if name and any(isinstance(m, _WEIGHTED) for m in net.get_submodule(name).modules())
    ]


def _norms_after(net: nn.Module, name: str, stages: Sequence[str]) -> list[str]:
    """Name the modules after a stage, up to the next one, that hold norms alone."""
    found: list[str] = []
    while name:
        parent = name.rpartition(".")[0]
        prefix = f"{parent}." if parent else ""
        children = [prefix + child for child, _ in net.get_submodule(parent).named_children()]
        for sibling in children[children.index(name) + 1 :]:
            module = net.get_submodule(sibling)
            if sibling in stages or any(isinstance(m, _WEIGHTED) for m in module.modules()):
                return found
            if _numbers(module) > 0:
                found.append(sibling)
        name = parent  # the last of its siblings: what follows the parent follows it, too
    return found


def _numbers(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
