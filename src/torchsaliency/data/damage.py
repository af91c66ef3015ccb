"""The one sentence for a file whose decoder broke on it."""

from __future__ import annotations

from pathlib import Path

from torchsaliency.core.errors import DataError
from torchsaliency.data.names import shown

_LONGEST = 200


def damaged(path: Path | str, error: Exception) -> DataError:
    """Return the error for a truncated or damaged file, with the decoder's reason."""
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(". ")
    reason = shown(reason[:_LONGEST])
    return DataError(f"{shown(path)} is truncated or damaged ({reason}); get the file again.")
