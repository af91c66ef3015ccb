"""The folder of `explain`: one `manifest.json` describes every run whose files are still there.

While a run is on, a list in the folder's private part names the photographs that are finished, so
that a run that was killed continues where it stopped.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, final

from torchsaliency.core.files import OutputFolder
from torchsaliency.errors import OptionError

MANIFEST = "manifest.json"
_PROGRAM, _SCHEMA = "torchsaliency", 1
_FINISHED = "finished.jsonl"


@final
class Folder:
    """The output folder of `explain`."""

    def __init__(self, path: Path) -> None:
        self._output = OutputFolder(path)
        self.path = self._output.path
        self.write = self._output.write
        self._runs: list[dict[str, Any]] = []

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Keep other processes from writing to the folder."""
        with self._output.lock():
            self._runs = self._output.read_manifest(MANIFEST, _fits).get("runs", [])
            yield

    def refuse_to_replace(self, names: Sequence[str], photos: Iterable[Path]) -> None:
        """Check, before any work is done, that no file to be written is somebody else's or a photo.

        Photographs that are read stay as they are even if an earlier run wrote them.
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
        self._output.require_own([*names, MANIFEST])

    def finish(self, identity: str, facts: Mapping[str, Any]) -> None:
        """Note that a photograph is finished, and what a run that continues must know of it."""
        self._output.note(_FINISHED, {"identity": identity, **facts})

    def read_finished(self, identity: str) -> dict[str, dict[str, Any]]:
        """Return what was noted of photographs by a run that did not end, by their SHA-256.

        Only those whose files are all there, as they were written.
        """
        found = {}
        for facts in self._output.notes(_FINISHED):
            if facts.pop("identity", None) != identity:
                continue
            if all(self._output.owns(name) for name in _files([facts["photo"]])):
                found[facts["photo"]["sha256"]] = facts
        return found

    def write_manifest(self, run: dict[str, Any], *, ended: bool) -> None:
        """Add a run to the manifest; of earlier runs, what this one wrote over is removed."""
        written = {*_files(run["photos"]), *run["grids"]}
        earlier = [_without(old, written) for old in self._runs]
        runs = [*(old for old in earlier if old["photos"]), run]
        names = [name for each in runs for name in (*_files(each["photos"]), *each["grids"])]
        facts = {"program": _PROGRAM, "schema": _SCHEMA, "runs": runs}
        self._output.write_manifest(MANIFEST, facts, names)
        if ended:
            self._output.dissolve()


def _fits(manifest: Mapping[str, Any]) -> bool:
    for run in manifest["runs"]:
        _files(run["photos"]), run["grids"]
    return bool(manifest["program"] == _PROGRAM and manifest["schema"] == _SCHEMA)


def _files(photos: Iterable[Mapping[str, Any]]) -> list[str]:
    return [name for photo in photos for facts in photo["maps"] for name in facts["files"].values()]


def _without(run: dict[str, Any], written: set[str]) -> dict[str, Any]:
    """Return a run without the maps and grids that were written over."""
    photos = []
    for photo in run["photos"]:
        maps = [facts for facts in photo["maps"] if written.isdisjoint(facts["files"].values())]
        if maps:
            photos.append({**photo, "maps": maps})
    return {
        **run,
        "photos": photos,
        "grids": [name for name in run["grids"] if name not in written],
    }
