"""The folder of a fine-tuning, whose every file is whole and unchanged, or not there.

`checkpoint.pt` is the state after the last epoch. At the end there are `model.safetensors` (with
class names and preprocessing), `report.json` and, where the test images were drawn here and not by
the data's folders, their list `test.csv`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, final

import torch

from torchsaliency.core.files import OutputFolder
from torchsaliency.errors import DataError, OptionError

CHECKPOINT, WEIGHTS = "checkpoint.pt", "model.safetensors"
REPORT, TEST_LIST = "report.json", "test.csv"


@final
class Saved:
    """The folder of a run; each file in it is whole or not there.

    Attributes:
        folder: where it lies.
    """

    def __init__(self, folder: Path) -> None:
        self._output = OutputFolder(folder)
        self.folder = self._output.path

    @contextmanager
    def held(self) -> Iterator[None]:
        """Keep other processes from writing to the folder.

        Raises:
            OptionError: one does, or there are files that this run would overwrite and that no
                earlier one wrote.
        """
        there = [one for one in (WEIGHTS, REPORT, TEST_LIST) if (self.folder / one).exists()]
        if there and not (self.folder / CHECKPOINT).exists():
            raise OptionError(
                f"{self.folder} holds {', '.join(there)} and no {CHECKPOINT} to go on from; give a "
                "folder that is empty or does not exist."
            )
        with self._output.held():
            self._output.insist_on_own([WEIGHTS, REPORT, TEST_LIST])
            yield

    def state(self, identity: Mapping[str, Any]) -> dict[str, Any] | None:
        """Return the state after the last epoch, None if there is none.

        Raises:
            DataError: it was changed since, or cannot be read.
            OptionError: it is another run's.
        """
        path = self.folder / CHECKPOINT
        if not path.exists():
            return None
        damaged = DataError(
            f"{path} is damaged or no checkpoint of a fine-tuning in this folder; delete it to "
            "begin anew, or choose another folder."
        )
        if not self._output.owns(CHECKPOINT):
            raise damaged
        try:
            found: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
            begun = found["identity"]
        except Exception as error:  # torch raises many types for a file that is torn
            raise damaged from error
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
        self._output.write(name, content)

    def keep_state(self, state: Mapping[str, Any]) -> None:
        """Write the checkpoint."""
        with self._output.writing(CHECKPOINT) as file:
            torch.save(dict(state), file)


def _said(value: Any) -> str:
    return "nothing" if value is None else json.dumps(value, ensure_ascii=False)
