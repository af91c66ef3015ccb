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

from torchsaliency.core.layer import first_tensor
from torchsaliency.core.quiet import without_warnings
from torchsaliency.core.target import unwrap_output
from torchsaliency.errors import OptionError, out_of_memory

_NEEDED = ("onnx", "onnxscript", "onnxruntime")


def missing_packages() -> list[str]:
    """Return those packages of the extra that are not there."""
    return [name for name in _NEEDED if importlib.util.find_spec(name) is None]


def require_onnx() -> None:
    """Check that the packages of the extra are there.

    Raises:
        OptionError: they are not.
    """
    missing = missing_packages()
    if missing:
        raise OptionError(
            f"accelerate='onnx' needs {', '.join(missing)}; run pip install 'torchsaliency[onnx]', "
            "or choose channels-last."
        )


@final
class ExportedNetwork:
    """A network, or the part of it before a layer, exported for any number of images.

    Args:
        net: held still, on a processor.
        images: (N, C, H, W), N at least 1; sets the size of an image.
        layer: the module whose first tensor is returned; None returns the unwrapped output.

    Raises:
        RuntimeError: the network cannot be exported, or not run; the reason is its message.
        MemoryError: the memory does not suffice.
    """

    def __init__(self, net: nn.Module, images: Tensor, layer: str | None = None) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        # Between passes torch makes the next masks; threads that wait for work would be in its way.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = 4  # its errors come as exceptions
        with _told(), tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "network.onnx"
            with _quiet():
                _exported(_Read(net, layer), images).save(str(path))
            self._session = onnxruntime.InferenceSession(
                path, options, providers=["CPUExecutionProvider"]
            )
        self._name = self._session.get_inputs()[0].name

    def __call__(self, images: Tensor) -> Tensor:
        """Return the output, or the layer's, of images (N, C, H, W)."""
        with _told():
            # both are views of the same memory, no copies
            given = {self._name: images.detach().contiguous().numpy()}
            return torch.from_numpy(self._session.run(None, given)[0])


@final
class _Read(nn.Module):
    """A network that returns one tensor: its output's, or a layer's."""

    def __init__(self, net: nn.Module, layer: str | None) -> None:
        super().__init__()
        self.net, self._layer = net, layer

    def forward(self, images: Tensor) -> Any:
        if self._layer is None:
            return unwrap_output(self.net(images))
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


def _exported(net: nn.Module, images: Tensor) -> Any:
    two = images[:1].expand(2, -1, -1, -1).contiguous()  # a batch of one is taken for a constant
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
def _quiet() -> Iterator[None]:
    """Let the exporter say nothing: what matters is raised."""
    with ExitStack() as stack:
        stack.enter_context(without_warnings())
        stack.enter_context(redirect_stdout(io.StringIO()))
        stack.enter_context(redirect_stderr(io.StringIO()))
        kept = logging.root.manager.disable
        logging.disable(logging.ERROR)
        stack.callback(logging.disable, kept)
        yield


@contextmanager
def _told() -> Iterator[None]:
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
