"""Submodules by type or by any rule."""

from __future__ import annotations

from collections.abc import Callable, Collection

from torch import nn


def find_layer_types_recursive(
    model: nn.Module, layer_types: Collection[type[nn.Module]]
) -> list[nn.Module]:
    """Return the submodules of exactly these types, in the order of the network's definition."""
    return find_layer_predicate_recursive(model, lambda layer: type(layer) in layer_types)


def find_layer_predicate_recursive(
    model: nn.Module, predicate: Callable[[nn.Module], bool]
) -> list[nn.Module]:
    """Return the submodules of which the predicate is true, in the order of definition."""
    return [layer for name, layer in model.named_modules() if name and predicate(layer)]


def replace_layer_recursive(model: nn.Module, old_layer: nn.Module, new_layer: nn.Module) -> bool:
    """Put a layer in the place of another, and say whether it was found."""
    for module in model.modules():
        for name, layer in module.named_children():
            if layer is old_layer:
                setattr(module, name, new_layer)
                return True
    return False


def replace_all_layer_type_recursive(
    model: nn.Module, old_layer_type: type[nn.Module], new_layer: nn.Module
) -> None:
    """Put one layer in the place of all of a type."""
    for module in list(model.modules()):
        for name, layer in list(module.named_children()):
            if isinstance(layer, old_layer_type):
                setattr(module, name, new_layer)
