"""How large an image may be before it is decoded, and what is said when a decoder fails."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from torchsaliency.data.files import printable
from torchsaliency.errors import DataError, OptionError

MAX_PIXELS = 64_000_000
"""Pixels of the largest image that is decoded, unless another limit is set."""

VARIABLE = "TORCHSALIENCY_MAX_PIXELS"
"""The environment variable that sets another limit of pixels."""

HINT = f"set the environment variable {VARIABLE} higher"

_LONGEST = 200


def pixel_limit(max_pixels: int | None = None) -> int:
    """Return how many pixels the largest image may have.

    Args:
        max_pixels: the limit of one call; None takes the environment variable's, or 64 million.

    Raises:
        OptionError: the limit is not a whole number of at least 1.
    """
    given = os.environ.get(VARIABLE) or MAX_PIXELS if max_pixels is None else max_pixels
    try:
        limit = int(given)
    except (ValueError, TypeError, OverflowError):
        limit = 0
    if limit < 1:
        raise OptionError(
            f"The limit of pixels (max_pixels or {VARIABLE}) is {str(given)[:40]!r}; give a whole "
            f"number of at least 1, such as {MAX_PIXELS}."
        )
    return limit


def check_pixels(name: str, size: tuple[int, int], limit: int) -> None:
    """Refuse an image of size (width, height) that has more pixels than the limit.

    Raises:
        DataError: it has more pixels than the limit.
    """
    if size[0] * size[1] > limit:
        raise DataError(
            f"{name} has {size[0]}x{size[1]} pixels and at most {limit} are decoded; scale it "
            f"down, or {HINT} if you trust it."
        )


@contextmanager
def name_decoder_errors(path: Path | str, limit: int, accepted: str) -> Iterator[None]:
    """Turn every error of a decoder inside the context into one sentence about its file.

    Args:
        path: of the file.
        limit: of pixels.
        accepted: the accepted kinds of file, as the end of the sentence.

    Raises:
        DataError: the decoder raised anything.
    """
    name = printable(path)
    try:
        yield
    except DataError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        pillows = Image.MAX_IMAGE_PIXELS or limit  # Pillow's own limit holds beside ours
        hint = HINT if limit <= pillows else "raise PIL.Image.MAX_IMAGE_PIXELS"
        raise DataError(
            f"{name} has more pixels than the {min(limit, pillows)} that are decoded; scale it "
            f"down, or {hint} if you trust it."
        ) from error
    except MemoryError as error:
        raise DataError(
            f"{name} needs more memory than there is; scale it down, or free some memory."
        ) from error
    except UnidentifiedImageError as error:
        raise DataError(f"{name} is no image that can be read; {accepted}.") from error
    except Exception as error:  # decoders raise many types for damaged files
        raise make_damage_error(path, error) from error


def make_damage_error(path: Path | str, error: Exception) -> DataError:
    """Return the error for a truncated or damaged file, with the decoder's reason."""
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(". ")
    reason = printable(reason[:_LONGEST])
    return DataError(f"{printable(path)} is truncated or damaged ({reason}); get the file again.")
