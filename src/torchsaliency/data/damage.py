"""The one sentence for a file that its decoder refuses or breaks on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from torchsaliency.data.limits import too_large
from torchsaliency.data.names import shown
from torchsaliency.errors import DataError

_LONGEST = 200


@contextmanager
def decoding(path: Path | str, limit: int, accepted: str) -> Iterator[None]:
    """Turn every error of a decoder inside the context into one sentence about its file.

    Args:
        path: of the file.
        limit: of pixels.
        accepted: the kinds of file that are, as the end of the sentence.

    Raises:
        DataError: the decoder raised anything.
    """
    try:
        yield
    except DataError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise too_large(shown(path), limit) from error
    except MemoryError as error:
        raise DataError(
            f"{shown(path)} needs more memory than there is; scale it down, or free some memory."
        ) from error
    except UnidentifiedImageError as error:
        raise DataError(f"{shown(path)} is no image that can be read; {accepted}.") from error
    except Exception as error:  # decoders raise many types for damaged files
        raise damaged(path, error) from error


def damaged(path: Path | str, error: Exception) -> DataError:
    """Return the error for a truncated or damaged file, with the decoder's reason."""
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(". ")
    reason = shown(reason[:_LONGEST])
    return DataError(f"{shown(path)} is truncated or damaged ({reason}); get the file again.")
