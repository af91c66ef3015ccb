"""The folder a run writes to: its files never replace anything that is not an earlier run's.

One `manifest.json` tells of every run whose files are still there, newest last.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, final

from torchsaliency.core.errors import OptionError

MANIFEST = "manifest.json"
_SCHEMA = 1
_PROGRAM = "torchsaliency"


@final
class Folder:
    """An output folder.

    Attributes:
        path: made if it did not exist.

    Raises:
        OptionError: it cannot be made, or holds a manifest of another program.
    """

    def __init__(self, path: Path) -> None:
        self.path = path.expanduser()
        with _sentences(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
        self._runs = self._earlier_runs()
        self._own = {name for run in self._runs for name in files_of(run)} | {MANIFEST}

    def refuse_to_replace(self, names: Iterable[str], photos: Iterable[Path]) -> None:
        """Insist, before any work is done, that no file to be written is somebody else's.

        Args:
            names: of the files to be written.
            photos: that are read, and must stay as they are even if an earlier run wrote them.

        Raises:
            OptionError: a file is not from an earlier run, or is one of the photos.
        """
        read = {photo.resolve() for photo in photos}
        for name in names:
            path = self.path / name
            if path.resolve() in read:
                raise OptionError(
                    f"{path} is one of the photographs and would be written over; choose another "
                    "folder with --output."
                )
            if name not in self._own and path.exists():
                raise OptionError(
                    f"{path} exists and no earlier run wrote it; choose another folder with "
                    "--output, or move the file away."
                )

    def write(self, name: str, content: bytes) -> None:
        """Write one file.

        Raises:
            OptionError: it cannot be written.
        """
        with _sentences(self.path):
            (self.path / name).write_bytes(content)

    def write_manifest(self, run: dict[str, Any]) -> None:
        """Add a run to the manifest; of earlier runs, what this one wrote over is forgotten.

        Raises:
            OptionError: it cannot be written.
        """
        written = set(files_of(run))
        earlier = [_without(old, written) for old in self._runs]
        content = {
            "program": _PROGRAM,
            "schema": _SCHEMA,
            "runs": [*(old for old in earlier if old["photos"]), run],
        }
        # Replaced in one step: an interruption must not cost what is known of earlier runs.
        draft = f".{MANIFEST}.part"
        self.write(draft, (json.dumps(content, indent=2) + "\n").encode())
        with _sentences(self.path):
            (self.path / draft).replace(self.path / MANIFEST)

    def _earlier_runs(self) -> list[dict[str, Any]]:
        path = self.path / MANIFEST
        if not path.exists():
            return []
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            if content["program"] == _PROGRAM and content["schema"] == _SCHEMA:
                runs: list[dict[str, Any]] = content["runs"]
                return runs
        except (OSError, ValueError, KeyError, TypeError):
            pass
        raise OptionError(
            f"{path} exists and this program did not write it; choose another folder with --output."
        )


def files_of(run: dict[str, Any]) -> list[str]:
    """Return the names of the files that a run wrote, but for the manifest."""
    maps = [one for photo in run["photos"] for one in photo["maps"]]
    return [*(name for one in maps for name in one["files"].values()), *run["grids"]]


def _without(run: dict[str, Any], written: set[str]) -> dict[str, Any]:
    """Return a run without the maps and grids that were written over."""
    photos = []
    for photo in run["photos"]:
        maps = [one for one in photo["maps"] if written.isdisjoint(one["files"].values())]
        if maps:
            photos.append({**photo, "maps": maps})
    return {**run, "photos": photos, "grids": [one for one in run["grids"] if one not in written]}


@contextmanager
def _sentences(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise OptionError(
            f"{folder} cannot be written to ({error.strerror or error}); choose another folder "
            "with --output."
        ) from error
