"""The folder of a fine-tuning, whose every file is whole or not there.

`checkpoint.pt` is the state after the last epoch. At the end there are `model.safetensors` (with
class names and preprocessing), `report.json` and, where the test images were drawn here and not by
the data's folders, their list `test.csv`.
"""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, final

import torch

from torchsaliency.core.errors import DataError, OptionError

CHECKPOINT, WEIGHTS = "checkpoint.pt", "model.safetensors"
REPORT, TEST_LIST = "report.json", "test.csv"


@final
class Saved:
    """The folder of a run; each file in it is whole or not there.

    Attributes:
        folder: where it lies.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def insist_on_own_folder(self) -> None:
        """Clear what a killed session left half-written.

        Raises:
            OptionError: there are files that this run would overwrite and did not write.
        """
        for left in self.folder.glob("*.part"):
            left.unlink()
        there = [one for one in (WEIGHTS, REPORT, TEST_LIST) if (self.folder / one).exists()]
        if there and not (self.folder / CHECKPOINT).exists():
            raise OptionError(
                f"{self.folder} holds {', '.join(there)} and no {CHECKPOINT} to go on from; give a "
                "folder that is empty or does not exist."
            )

    def state(self, identity: Mapping[str, Any]) -> dict[str, Any] | None:
        """Return the state after the last epoch, None if there is none.

        Raises:
            DataError: it cannot be read.
            OptionError: it is another run's.
        """
        path = self.folder / CHECKPOINT
        if not path.exists():
            return None
        try:
            found: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
            begun = found["identity"]
        except Exception as error:  # torch raises many types for a file that is torn
            raise DataError(
                f"{path} is damaged or no checkpoint of a fine-tuning; delete it to begin anew, or "
                "choose another folder."
            ) from error
        for name in {**begun, **identity}:
            if begun.get(name) != identity.get(name):
                raise OptionError(
                    f"{self.folder} was begun with {name} = {_said(begun.get(name))} and now "
                    f"{_said(identity.get(name))} is given; two runs would be mixed. Give another "
                    "folder, or the first value."
                )
        return found

    def keep(self, name: str, content: bytes) -> None:
        """Write a file."""
        with self._whole(name) as file:
            file.write(content)

    def keep_state(self, state: Mapping[str, Any]) -> None:
        """Write the checkpoint."""
        with self._whole(CHECKPOINT) as file:
            torch.save(dict(state), file)

    @contextmanager
    def _whole(self, name: str) -> Iterator[BinaryIO]:
        """Give a file to write that takes its name when all of it is on the disk."""
        self.folder.mkdir(parents=True, exist_ok=True)
        part = self.folder / f"{name}.{uuid.uuid4().hex[:8]}.part"
        with part.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        part.replace(self.folder / name)


def _said(value: Any) -> str:
    return "nothing" if value is None else json.dumps(value, ensure_ascii=False)
