"""The folder of `explain`: one `manifest.json` tells of every run whose files are still there.

While a run is on, a list in the folder's private part tells of the photographs that are finished,
so that a run that was killed goes on where it stopped.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, final

from torchsaliency.core.files import OutputFolder, finite, json_bytes
from torchsaliency.errors import OptionError

MANIFEST = "manifest.json"
_SCHEMA = 1
_PROGRAM = "torchsaliency"
_FINISHED = "finished.jsonl"


@final
class Folder:
    """An output folder.

    Attributes:
        path: where it lies.
    """

    def __init__(self, path: Path) -> None:
        self._output = OutputFolder(path)
        self.path = self._output.path
        self._runs: list[dict[str, Any]] = []

    @contextmanager
    def held(self) -> Iterator[None]:
        """Keep other processes from writing to the folder.

        Raises:
            OptionError: one does, or the folder cannot be made, or holds a manifest of another
                program.
        """
        with self._output.held():
            self._runs = self._earlier_runs()
            yield

    def refuse_to_replace(self, names: Sequence[str], photos: Iterable[Path]) -> None:
        """Insist, before any work is done, that no file to be written is somebody else's.

        Args:
            names: of the files to be written.
            photos: that are read, and must stay as they are even if an earlier run wrote them.

        Raises:
            OptionError: a file is not from an earlier run, or is one of the photos; or two maps
                would have one name.
        """
        for name, count in Counter(name.casefold() for name in names).items():
            if count > 1:
                raise OptionError(
                    f"Two of the files would be called {name}; explain those photographs one by "
                    "one, with different --output."
                )
        read = {photo.resolve() for photo in photos}
        for name in names:
            path = self.path / name
            if path.resolve() in read:
                raise OptionError(
                    f"{path} is one of the photographs and would be written over; choose another "
                    "folder with --output."
                )
        self._output.insist_on_own([*names, MANIFEST])

    def write(self, name: str, content: bytes) -> None:
        """Write one file.

        Raises:
            OptionError: it cannot be written.
        """
        self._output.write(name, content)

    # --- going on after a kill --------------------------------------------------------------------

    def finish(self, identity: str, photo: Mapping[str, Any]) -> None:
        """Note that all files of a photograph are written.

        Args:
            identity: of the run.
            photo: what a run that goes on must know.
        """
        self._output.note(_FINISHED, {"identity": identity, **photo})

    def finished(self, identity: str) -> dict[str, dict[str, Any]]:
        """Return what was noted of photographs by a run that did not end, by their SHA-256.

        Only those whose files are all there, as they were written.
        """
        found = {}
        for told in self._output.notes(_FINISHED):
            if told.pop("identity", None) != identity:
                continue
            names = [name for one in told["photo"]["maps"] for name in one["files"].values()]
            if all(self._output.owns(name) for name in names):
                found[told["photo"]["sha256"]] = told
        return found

    # --- the manifest -----------------------------------------------------------------------------

    def write_manifest(self, run: dict[str, Any], *, ended: bool) -> None:
        """Add a run to the manifest; of earlier runs, what this one wrote over is forgotten.

        Args:
            run: what was made.
            ended: whether nothing is left to be done.

        Raises:
            OptionError: it cannot be written.
        """
        written = set(files_of(run))
        earlier = [_without(old, written) for old in self._runs]
        runs = [*(old for old in earlier if old["photos"]), run]
        names = sorted({name for one in runs for name in files_of(one)})
        content = {
            "program": _PROGRAM,
            "schema": _SCHEMA,
            "runs": runs,
            "files": {name: digest for name in names if (digest := self._output.digest(name))},
        }
        self._output.write(MANIFEST, json_bytes(finite(content), indent=2))
        if ended:
            self._output.dissolve()

    def _earlier_runs(self) -> list[dict[str, Any]]:
        path = self.path / MANIFEST
        if not path.exists():
            return []
        try:
            told = path.read_bytes()
            content = json.loads(told)
            if content["program"] == _PROGRAM and content["schema"] == _SCHEMA:
                runs: list[dict[str, Any]] = content["runs"]
                for run in runs:
                    files_of(run)
                own = {MANIFEST: hashlib.sha256(told).hexdigest()}
                self._output.know({**content["files"], **own})
                return runs
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            pass
        raise OptionError(
            f"{path} exists and `torchsaliency explain` did not write it; choose another folder "
            "with --output."
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
