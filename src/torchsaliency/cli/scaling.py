"""`--scale shared`: all overlays of a run drawn again, with one range of colours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from torchsaliency.cli.folder import Folder
from torchsaliency.cli.media import Photographs
from torchsaliency.viz import Limits, find_limits


def share_scale(
    entries: Sequence[Mapping[str, Any]],
    photos: Mapping[str, Path],
    folder: Folder,
    medium: Photographs,
) -> Limits | None:
    """Draw all overlays again, and return the values of the first colour and the last.

    Maps that are not finite keep what was drawn of them.

    Args:
        entries: what the manifest says of each photograph.
        photos: their files, by name.
        folder: with their raw maps, which are read again.
        medium: draws them.

    Returns:
        None if no map is finite.
    """
    signed = medium.options.signed
    finite = [
        [facts for facts in entry["maps"] if facts["status"] != "not finite"] for entry in entries
    ]

    def read(facts: Mapping[str, Any]) -> Tensor:
        name = facts["files"]["signed" if signed else "raw"]
        return torch.from_numpy(np.load(folder.path / name)).float()

    if not any(finite):
        return None
    limits = find_limits((read(facts) for maps in finite for facts in maps), signed=signed)
    for entry, maps in zip(entries, finite, strict=True):
        picture = medium.open(photos[entry["name"]])
        for facts in maps:
            content = medium.redraw(picture, read(facts), facts["target"], limits)
            folder.write(facts["files"]["overlay"], content)
    return limits
