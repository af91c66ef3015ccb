"""How large an image may be before it is decoded or drawn, and how many may be drawn."""

from __future__ import annotations

import os

from PIL import Image

from torchsaliency.errors import DataError, OptionError

MAX_PIXELS = 64_000_000
"""Pixels of the largest image that is decoded, unless another limit is set."""

MAX_IMAGES = 10_000_000
"""Images of the largest data set that is drawn."""

VARIABLE = "TORCHSALIENCY_MAX_PIXELS"
"""The environment variable that sets another limit of pixels."""

HINT = f"set the environment variable {VARIABLE} higher"


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
    """Refuse an image that has more pixels than are decoded.

    Args:
        name: of the image's file, for the error.
        size: (width, height).
        limit: of pixels.

    Raises:
        DataError: it has more pixels than the limit.
    """
    if size[0] * size[1] > limit:
        raise DataError(
            f"{name} has {size[0]}x{size[1]} pixels and at most {limit} are decoded; scale it "
            f"down, or {HINT} if you trust it."
        )


def too_large(name: str, limit: int) -> DataError:
    """Return the error for an image that Pillow itself refuses for its size.

    Args:
        name: of the image's file, for the error.
        limit: of pixels that are decoded; Pillow's own holds beside it.
    """
    pillows = Image.MAX_IMAGE_PIXELS or limit
    hint = HINT if limit <= pillows else "raise PIL.Image.MAX_IMAGE_PIXELS"
    return DataError(
        f"{name} has more pixels than the {min(limit, pillows)} that are decoded; scale it down, "
        f"or {hint} if you trust it."
    )
