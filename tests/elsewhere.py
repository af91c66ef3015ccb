"""A pretended device without float64, on which everything is computed by the processor.

`Elsewhere` holds a tensor and says that it lies on an accelerator. As on a real one, two devices do
not meet in one operation, but for numbers without axes; as on Apple's, there is no float64. torch
learns of the device before its first backward pass or never, so this runs as a program of its own:
it prints what is wrong with each method there.
"""

from __future__ import annotations

import json
import os
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_flatten, tree_map
from torch.utils.backend_registration import (
    _DummyBackendModule,
    _setup_privateuseone_for_python_backend,
)

from nets import ATTENTION_NAMES, NAMES, convnet, images, quick, tiny_vit
from torchsaliency.core import maps
from torchsaliency.methods import passes


class _Module(_DummyBackendModule):
    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16]


_setup_privateuseone_for_python_backend("elsewhere", _Module())
DEVICE = torch.device("elsewhere", 0)
_COPIES = (
    torch.ops.aten._to_copy.default,
    torch.ops.aten.copy_.default,
    torch.ops.aten._local_scalar_dense.default,
)


class Elsewhere(Tensor):
    """A tensor that says it lies on `DEVICE`."""

    inside: Tensor

    @staticmethod
    def __new__(cls, inside: Tensor) -> Elsewhere:
        made = Tensor._make_wrapper_subclass(
            cls,
            inside.size(),
            strides=inside.stride(),
            storage_offset=inside.storage_offset(),
            dtype=inside.dtype,
            layout=inside.layout,
            device=DEVICE,
            requires_grad=False,
        )
        made.inside = inside
        return made

    def tolist(self) -> Any:
        return self.inside.tolist()

    def untyped_storage(self) -> torch.UntypedStorage:
        return self.inside.untyped_storage()

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return compute(func, args, kwargs or {})


class Pretending(TorchDispatchMode):
    """While it is active, `DEVICE` exists."""

    def __enter__(self) -> Pretending:
        torch._C._set_only_lift_cpu_tensors(True)  # torch.tensor(…, device=DEVICE)
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        torch._C._set_only_lift_cpu_tensors(False)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return compute(func, args, kwargs or {})


def compute(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    flat = [one for one in tree_flatten((args, kwargs))[0] if isinstance(one, Tensor)]
    there = [one for one in flat if isinstance(one, Elsewhere)]
    here = [one for one in flat if not isinstance(one, Elsewhere)]
    wanted = kwargs.get("device")
    wanted = None if wanted is None else torch.device(wanted)
    if there and any(one.ndim for one in here) and func not in _COPIES and not _indexes(func, here):
        raise RuntimeError(
            f"Expected all tensors to be on the same device, but {func} found {DEVICE} and cpu"
        )
    if wanted is not None and wanted.type == DEVICE.type:
        kwargs = {**kwargs, "device": torch.device("cpu")}
    with _disable_current_modes():
        made = func(*tree_map(_inside, args), **tree_map(_inside, kwargs))
    if func._schema.is_mutable and isinstance(args[0], Tensor) and "out" not in kwargs:
        return args[0]  # written in place
    outside = bool(there) if wanted is None else wanted.type == DEVICE.type
    return tree_map(_elsewhere, made) if outside else made


def _indexes(func: Any, here: list[Tensor]) -> bool:
    """Accelerators take indices from the processor."""
    return "index" in str(func) and all(one.dtype in (torch.int64, torch.bool) for one in here)


def _inside(value: Any) -> Any:
    return value.inside if isinstance(value, Elsewhere) else value


def _elsewhere(value: Any) -> Any:
    if not isinstance(value, Tensor) or isinstance(value, Elsewhere):
        return value
    if value.dtype in (torch.float64, torch.complex128):
        raise TypeError(f"{DEVICE} has no float64")
    return Elsewhere(value)


def move(net: nn.Module) -> nn.Module:
    """Put a network's parameters and buffers there."""
    for module in net.modules():
        for name, one in module._parameters.items():
            if one is not None:
                made = nn.Parameter(Elsewhere(one.detach()), requires_grad=one.requires_grad)
                module._parameters[name] = made
        for name, one in module._buffers.items():
            if one is not None:
                module._buffers[name] = Elsewhere(one)
    return net


LABELS = {
    "on the processor": lambda: torch.tensor([1, 2]),
    "there": lambda: Elsewhere(torch.tensor([1, 2])),
    "as a list": lambda: [1, 2],
    "as an array": lambda: np.array([1, 2]),
}


def case(name: str) -> tuple[nn.Module, Tensor, str]:
    if name in ATTENTION_NAMES:
        return tiny_vit(), images(2, 32, 32), "blocks.1"
    return convnet(), images(2), "relu3"


def outcome(name: str, kind: str) -> str:
    """Return in what a method's map differs there, or nothing."""
    near = 5e-4 if name == "extremal-perturbation" else 5e-5  # iterates: float32's sums add up
    net, x, layer = case(name)
    plain = quick(name)(net, x, [1, 2], layer)
    given, label = (Elsewhere(x), LABELS[kind]()) if kind in LABELS else (x, [1, 2])
    try:
        found = quick(name)(move(case(name)[0]), given, label, layer)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    if found.map.device != DEVICE:
        return f"the map is on {found.map.device}"
    if found.status != plain.status:
        return f"the status is {found.status}"
    gap = float((found.map.cpu() - plain.map).abs().max())
    return "" if gap <= near else f"the map differs by {gap}"


if __name__ == "__main__":
    for place in (maps, passes):
        place.has_float64 = lambda device: device.type != "elsewhere"
    with Pretending():
        told = {
            f"{name}, {kind}": outcome(name, kind)
            for name in [*NAMES, *ATTENTION_NAMES]
            for kind in (*LABELS, "images on the processor")
        }
    print(json.dumps(told), flush=True)
    os._exit(0)  # torch's threads for that device know no end
