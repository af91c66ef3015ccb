"""One image never ends a run: a batch that fails is halved until the image at fault is alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, TypeVar, final

from torch import Tensor

from torchsaliency.errors import (
    CheckpointError,
    InputError,
    LayerError,
    OptionError,
    TargetError,
    TorchSaliencyError,
)

T = TypeVar("T")

_OF_THE_REQUEST = (OptionError, LayerError, TargetError, CheckpointError)
"""Errors that another image would not mend."""

_FIRST, _IN_A_ROW = 8, 64
"""So many images that fail with none before them, or one after another, are no single ones."""


@final
class Isolation:
    """Runs work on batches; what fails on one image is reported for that image alone.

    Attributes:
        worked: images that went well.
    """

    def __init__(self) -> None:
        self.worked = 0
        self._failed = 0

    def run(self, work: Callable[[slice], T], count: int) -> Iterator[tuple[slice, T | Exception]]:
        """Do the work on a batch, or on its parts.

        Args:
            work: takes the rows of the batch.
            count: images in it.

        Yields:
            Rows and their result, or, of a single row, the error.

        Raises:
            TorchSaliencyError: what the work raised, if it is of the request and not of an image:
                errors of options, layers and targets.
            InputError: image after image fails.
        """
        yield from self._run(work, slice(0, count))

    def _run(
        self, work: Callable[[slice], T], rows: slice
    ) -> Iterator[tuple[slice, T | Exception]]:
        try:
            found = work(rows)
        except _OF_THE_REQUEST:
            raise
        except Exception as error:  # a network may raise anything
            if rows.stop - rows.start == 1:
                self._count_failure(error)
                yield rows, error.with_traceback(None)
                return
        else:
            self.worked += rows.stop - rows.start
            self._failed = 0
            yield rows, found
            return
        # outside the handler, whose error holds the frames and with them their tensors
        middle = (rows.start + rows.stop) // 2
        yield from self._run(work, slice(rows.start, middle))
        yield from self._run(work, slice(middle, rows.stop))

    def _count_failure(self, error: Exception) -> None:
        self._failed += 1
        if self._failed < (_IN_A_ROW if self.worked else _FIRST):
            return
        if isinstance(error, TorchSaliencyError):
            raise error
        raise InputError(
            f"The run ends, as {self._failed} images failed one after another, the last with "
            f"{describe_failure(error)}"
        ) from error


def describe_failure(error: BaseException) -> str:
    """Return why an image failed, as one line."""
    lines = str(error).strip().splitlines()
    reason = lines[0].rstrip(". ") if lines else ""
    kind = type(error).__name__
    if isinstance(error, ValueError) and type(error).__module__.startswith("torchsaliency."):
        return f"{reason}."
    return f"{kind}: {reason}." if reason else f"{kind}."


def require_numbers(name: str, output: Any) -> None:
    """Raise `InputError` if what a network gives for an image is NaN or infinite.

    A logit of minus infinity is that of a class which is masked out.
    """
    if isinstance(output, Tensor) and (output.isnan() | output.isposinf()).any():
        raise InputError(f"{name} gives NaN or infinite numbers for this image.")
