"""Networks as programs: ONNX files, and what `torch.export` and `torch.jit` saved.

A `.pt2` file has its layers and gradients. A TorchScript program (`.torchscript`, `.ts`) has
gradients alone, and an ONNX file neither: choose methods that need none, such as rise. ONNX files
need the extra `torchsaliency[onnx]`.
"""

# ruff: noqa: PLC0415 (heavy libraries load only when used)

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from torchsaliency.core.network import Program, as_module
from torchsaliency.data.files import find_fault
from torchsaliency.errors import CheckpointError, describe_error, require_extra
from torchsaliency.zoo.inputs import InputFacts
from torchsaliency.zoo.network import Network
from torchsaliency.zoo.sources.source import Request

SUFFIXES = (".onnx", ".pt2", ".torchscript", ".ts")
"""The names of files that hold a whole network."""


def is_program(name: str) -> bool:
    """Whether a name is that of a file that holds a whole network."""
    return name.lower().endswith(SUFFIXES)


def load(request: Request) -> Network:
    """Load a network from a file that holds all of it."""
    path = Path(os.path.expanduser(request.name))
    if fault := find_fault(path):
        raise CheckpointError(f"The network {path} {fault}; give a file {', '.join(SUFFIXES)}.")
    request.refuse_other_classes()
    if request.weights is not None:
        raise CheckpointError(f"{path} holds its own weights; leave out weights={request.weights}.")
    suffix = path.suffix.lower()
    try:
        model, known = _OPENERS.get(suffix, _open_script)(path)
    except CheckpointError:
        raise
    except Exception as error:  # each reader raises its own kinds
        raise CheckpointError(
            f"{path} cannot be loaded as a network ({describe_error(error)}); save it again with "
            "torch.export.save, torch.jit.save or torch.onnx.export."
        ) from error
    said = request.given.or_else(known)
    preprocessing = said.apply(None, model)
    assumed = said.describe_assumptions(preprocessing)
    return Network(
        model,
        name=request.name,
        preprocessing=preprocessing,
        classes=said.classes,
        source={
            "origin": "program",
            "architecture": type(model).__name__,
            "weights": str(path),
            "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
            "sha256_of": "file",
            "pretrained": None,
            "versions": {"torch": str(torch.__version__)},
            **({"assumed": assumed} if assumed else {}),
        },
    )


def _open_script(path: Path) -> tuple[nn.Module, InputFacts]:
    return as_module(torch.jit.load(path, map_location="cpu")), InputFacts()


def _open_export(path: Path) -> tuple[nn.Module, InputFacts]:
    program = torch.export.load(path)
    example = program.example_inputs[0][0] if program.example_inputs else None
    shape = tuple(example.shape) if isinstance(example, Tensor) else ()
    return as_module(program), _facts_of(shape)


def _open_onnx(path: Path) -> tuple[nn.Module, InputFacts]:
    require_extra("onnx", "onnxruntime")
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    first, *others = session.get_inputs()
    if others:
        raise CheckpointError(
            f"{path} takes {1 + len(others)} inputs ({first.name}, {others[0].name} …); give a "
            "network of one input, its images."
        )
    single = first.shape and first.shape[0] == 1

    def run(images: Tensor) -> Any:
        values = images.detach().float().cpu()
        parts = values.split(1) if single else [values]  # exported for one image
        outputs = [session.run(None, {first.name: part.numpy()}) for part in parts]
        joined = [
            torch.cat([torch.from_numpy(o) for o in column])
            for column in zip(*outputs, strict=True)
        ]
        moved = [one.to(images.device) for one in joined]
        return moved[0] if len(moved) == 1 else tuple(moved)

    return Program(run, "network in an ONNX file"), _facts_of(tuple(first.shape))


_OPENERS = {".onnx": _open_onnx, ".pt2": _open_export}


def _facts_of(shape: tuple[Any, ...]) -> InputFacts:
    """Return what the shape (N, C, H, W) of an input says, as far as its sides are fixed."""
    if len(shape) != 4:  # noqa: PLR2004
        return InputFacts()
    channels, *size = (side if isinstance(side, int) else None for side in shape[1:])
    return InputFacts.parse(size=None if None in size else tuple(size), channels=channels)
