"""The one sentence for a file whose decoder broke on it."""

from __future__ import annotations

from pathlib import Path

from torchsaliency.core.errors import DataError


def damaged(path: Path, error: Exception) -> DataError:
    """Return the error for a truncated or damaged file, with the decoder's reason."""
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(". ")
    return DataError(f"{path} is truncated or damaged ({reason}); get the file again.")
