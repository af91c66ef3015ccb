"""A foreign network may fail in any way; the user gets a sentence."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torchsaliency.errors import InputError, TorchSaliencyError, describe_error, out_of_memory


@contextmanager
def running(name: str) -> Iterator[None]:
    """Turn whatever the network raises while it runs into one sentence.

    Args:
        name: of the network.

    Raises:
        InputError: something failed that is no error of this library's own.
    """
    try:
        yield
    except TorchSaliencyError:
        raise
    except Exception as error:  # any module may raise anything
        if out_of_memory(error):
            raise InputError(
                f"The memory does not suffice to run {name} ({describe_error(error)}); give a "
                "smaller --chunk or --batch-size."
            ) from error
        raise InputError(
            f"{name} failed while it was explained ({type(error).__name__}: "
            f"{describe_error(error)}); check that its input size, --precision and --device suit "
            "it."
        ) from error
