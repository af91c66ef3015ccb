"""Passes without gradients in ONNX Runtime, which runs convolutions on a processor fastest.

Needs the extra `torchsaliency[onnx]`; nothing of it is imported before a session is made.
"""

from __future__ import annotations

import importlib.util
import io
import logging
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any, final

import torch
from torch import Tensor, nn

from torchsaliency.core.acceleration.engine import (
    Call,
    Engine,
    NetworkCopy,
    get_place,
    is_close,
    register_engine,
    warn_unused,
)
from torchsaliency.core.layer import first_tensor, replace_first
from torchsaliency.core.network import unwrap_output
from torchsaliency.core.runtime import draw_normal, without_warnings
from torchsaliency.core.space import repeat_image
from torchsaliency.errors import OptionError, out_of_memory

_NEEDED = ("onnx", "onnxscript", "onnxruntime")


def missing_packages() -> list[str]:
    """Return those packages of the extra that are not installed."""
    return [name for name in _NEEDED if importlib.util.find_spec(name) is None]


@final
class LayerReader(NetworkCopy):
    """A copy of a network that runs what comes before one layer in ONNX Runtime.

    Its first image alone passes through the copy up to the layer; there the features of all images
    take its place, and what follows runs as ever, with a graph where one is wanted. It is faithful
    if the output for two different images was the network's own.
    """

    def __init__(self, call: Call, net: nn.Module, layer: str, images: Tensor) -> None:
        super().__init__(call, net)
        self.faithful = False
        self._features: Tensor | None = None
        if layer not in dict(net.named_modules()):
            return  # the image itself
        try:
            self._before = ExportedNetwork(self.copy, images, layer)
        except RuntimeError as error:
            warn_unused("onnx", net, f"it failed: {str(error)[:200]}")
            return
        self.copy.register_forward_pre_hook(self._enter)
        self.copy.get_submodule(layer).register_forward_hook(self._leave)
        self.faithful = self._compare(net, images)

    def agrees(self, net: nn.Module, image: Tensor) -> bool:
        """Whether the copy still gives the network's output for an image, and another one."""
        return not self.faithful or self._compare(net, image)

    def _compare(self, net: nn.Module, images: Tensor) -> bool:
        """Whether what follows reads the layer alone: two images must not show in each other."""
        other = draw_normal(torch.Generator().manual_seed(0), *images[:1].shape).to(images)
        both = torch.cat([images[:1], other])
        with torch.no_grad():
            own = self.run_network(net, both.clone())
            try:
                found = self.call(self.copy, both)
            except (RuntimeError, ValueError, IndexError) as error:
                if out_of_memory(error):
                    raise
                return False  # what follows joins earlier features, or remembers the batch
        return is_close(own, found)

    def _enter(self, module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...] | None:  # noqa: ARG002
        images = inputs[0]
        self._features = None
        if images.requires_grad:
            return None  # a graph that reaches the image
        self._features = self._before(images)
        return (images[:1], *inputs[1:])

    def _leave(self, module: nn.Module, inputs: Any, output: Any) -> Any:  # noqa: ARG002
        features, self._features = self._features, None
        return output if features is None else replace_first(output, features)


@register_engine("onnx")
@final
class Onnx(Engine):
    """The network exported to ONNX Runtime, on a processor, for any batch.

    The first pass takes as long as the export. Needs `torchsaliency[onnx]`. Passes with gradients
    or hooks run channels-last.
    """

    with_graph = "channels-last"
    reader = LayerReader
    bakes = True

    @classmethod
    def require_packages(cls) -> None:
        """Raise `OptionError` if a package of the extra is missing."""
        missing = missing_packages()
        if missing:
            raise OptionError(
                f"accelerate='onnx' needs {', '.join(missing)}; run pip install "
                "'torchsaliency[onnx]', or choose channels-last."
            )

    @classmethod
    def require_device(cls, device: torch.device) -> None:
        """Raise `OptionError` for anything but a processor."""
        if device.type != "cpu":
            raise OptionError(
                f"accelerate='onnx' runs on a processor, and the images are on {device}; choose "
                "compile, bf16 or channels-last."
            )

    def run_copy(self, images: Tensor) -> Any:
        """Run the exported network."""
        if self.compiled is None:
            self.compiled = ExportedNetwork(self.copy, images, None, get_place(self.call))
        return self.compiled(images)


@final
class ExportedNetwork:
    """A network, or the part of it before a layer, exported for any number of images.

    Args:
        net: held still, on a processor.
        images: (N, C, *size), N at least 1; sets the size of an image.
        layer: the module whose first tensor is returned; None returns the unwrapped output.
        where: in the output its scores are; None finds them.

    Raises:
        RuntimeError: the network cannot be exported, or not run; the reason is its message.
        MemoryError: the memory does not suffice.
    """

    def __init__(
        self,
        net: nn.Module,
        images: Tensor,
        layer: str | None = None,
        where: int | str | None = None,
    ) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        # Between passes torch makes the next masks; threads that wait for work would be in its way.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = 4  # its errors come as exceptions
        with _plain_errors(), tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "network.onnx"
            with _silence():
                _export(_Read(net, layer, where), images).save(str(path))
            self._session = onnxruntime.InferenceSession(
                path, options, providers=["CPUExecutionProvider"]
            )
        self._name = self._session.get_inputs()[0].name

    def __call__(self, images: Tensor) -> Tensor:
        """Return the output, or the layer's, of images (N, C, *size)."""
        with _plain_errors():
            # both are views of the same memory, no copies
            given = {self._name: images.detach().contiguous().numpy()}
            return torch.from_numpy(self._session.run(None, given)[0])


@final
class _Read(nn.Module):
    """A network that returns one tensor: its output's, or a layer's."""

    def __init__(self, net: nn.Module, layer: str | None, where: int | str | None) -> None:
        super().__init__()
        self.net, self._layer, self._where = net, layer, where

    def forward(self, images: Tensor) -> Any:
        if self._layer is None:
            return unwrap_output(self.net(images), self._where)
        seen: list[Tensor] = []

        def keep(module: nn.Module, inputs: Any, output: Any) -> None:  # noqa: ARG001
            # a copy, as the next layer may work in place
            seen.append(first_tensor(output, str(self._layer)).clone())

        handle = self.net.get_submodule(self._layer).register_forward_hook(keep)
        try:
            self.net(images)
        finally:
            handle.remove()
        return seen[0]


def _export(net: nn.Module, images: Tensor) -> Any:
    two = repeat_image(images[0], 2).contiguous()  # a batch of one is taken for a constant
    program = torch.onnx.export(
        net.eval(),
        (two,),
        dynamo=True,
        dynamic_shapes=({0: torch.export.Dim("images")},),
        verbose=False,
    )
    assert program is not None
    return program


@contextmanager
def _silence() -> Iterator[None]:
    """Suppress what the exporter prints and logs: what matters is raised."""
    with ExitStack() as stack:
        stack.enter_context(without_warnings())
        stack.enter_context(redirect_stdout(io.StringIO()))
        stack.enter_context(redirect_stderr(io.StringIO()))
        kept = logging.root.manager.disable
        logging.disable(logging.ERROR)
        stack.callback(logging.disable, kept)
        yield


@contextmanager
def _plain_errors() -> Iterator[None]:
    """Turn errors of exporter and runtime, which have many classes, into two of Python's own."""
    try:
        yield
    except MemoryError:
        raise
    except Exception as error:
        if out_of_memory(error):
            raise MemoryError(str(error)) from error
        cause: BaseException = error
        while cause.__cause__ is not None:  # the exporter's own text names a step, not the reason
            cause = cause.__cause__
        lines = str(cause).strip().splitlines() or [type(cause).__name__]
        raise RuntimeError(lines[0]) from error
