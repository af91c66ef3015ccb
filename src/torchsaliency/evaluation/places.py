"""Where the files of a store lie: in a folder, or below an address that pyarrow opens."""

from __future__ import annotations

import re
import uuid
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from copy import copy as shallow_copy
from pathlib import Path
from typing import final

from pyarrow import fs as pafs

from torchsaliency.core.files import PRIVATE, OutputFolder
from torchsaliency.errors import DataError, OptionError, OutputError, describe_error
from torchsaliency.evaluation.filesystems import (
    ADDRESS,
    Patience,
    hide_credentials,
    open_filesystem,
)

_SCHEME = re.compile(r"[a-z][a-z0-9+.-]+:", re.IGNORECASE)

_OBJECT_STORES = {"s3", "gcs", "abfs"}
"""They have no folders that must be made."""


class Files(ABC):
    """Files by name, each whole or not there."""

    @abstractmethod
    def read(self, name: str) -> bytes | None:
        """Return the content of a file; None if there is none."""

    @abstractmethod
    def write(self, name: str, content: bytes) -> None:
        """Write a file, or replace our own."""

    @abstractmethod
    def list(self, folder: str) -> list[str]:
        """Return the names of the files in a folder, sorted."""

    @abstractmethod
    def delete(self, name: str) -> None:
        """Remove a file of ours, if it is there."""


class Place(Files):
    """Where a store lies."""

    name: str
    """As users call it."""

    @property
    @abstractmethod
    def signals(self) -> Files:
        """Files that sessions leave each other; a loss of power may take them."""

    @abstractmethod
    def lock(self, *, shared: bool) -> AbstractContextManager[None]:
        """Keep out those who do not share the place; all others, if it is not shared."""

    @abstractmethod
    def set_aside(self, name: str) -> str:
        """Move a damaged file of ours away; return its new name."""

    @abstractmethod
    def is_foreign(self) -> bool:
        """Whether files of somebody else are there."""

    @abstractmethod
    def adopt(self, name: str, sha256: str) -> None:
        """Take over a file that is ours, although no record says so."""

    @abstractmethod
    def owns(self, name: str) -> bool:
        """Whether a file is there, and as we wrote it."""


def open_place(where: str | Path) -> Place:
    """Return a folder, or what an address such as s3://bucket/run names.

    Raises:
        DataError: the address cannot be opened, or is given as a `Path`, which mangles it.
    """
    if is_address(where):
        if str(where).lower().startswith("file://"):
            return FolderPlace(open_filesystem(str(where))[1])
        return RemotePlace(str(where))
    first = next(iter(Path(where).parts), "")
    if isinstance(where, Path) and _SCHEME.fullmatch(first):
        raise DataError(f"{where} is an address and was given as a Path; give it as text.")
    return FolderPlace(where)


def is_address(where: str | Path) -> bool:
    """Whether it is an address, and no path."""
    return isinstance(where, str) and ADDRESS.match(where) is not None


class FolderFiles(Files):
    """Files in a folder.

    Attributes:
        path: of the folder.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @final
    def read(self, name: str) -> bytes | None:
        """Return the content of a file; None if there is none."""
        try:
            return (self.path / name).read_bytes()
        except FileNotFoundError:
            return None

    @final
    def list(self, folder: str) -> list[str]:
        """Return the names of the files in a folder, sorted."""
        return sorted(path.name for path in (self.path / folder).glob("*"))

    @final
    def delete(self, name: str) -> None:
        """Remove a file of ours, if it is there."""
        (self.path / name).unlink(missing_ok=True)


@final
class FolderSignals(FolderFiles):
    """Files that sessions leave each other in the private folder."""

    def write(self, name: str, content: bytes) -> None:
        """Write a file, or replace it; nobody waits until it is on the disk."""
        target = self.path / name
        draft = target.with_name(f"{target.name}.{uuid.uuid4().hex[:8]}")
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            draft.write_bytes(content)
            draft.replace(target)
        except OSError as error:
            with suppress(OSError):
                draft.unlink()
            raise OutputError(
                f"{self.path} cannot be written to ({describe_error(error)}); free some space, or "
                "look after its rights, and start the same command again to go on."
            ) from error


@final
class FolderPlace(FolderFiles, Place):
    """A folder of this machine, or one that all machines mount."""

    def __init__(self, folder: str | Path) -> None:
        self._output = OutputFolder(folder)
        super().__init__(self._output.path)
        self.name = str(self.path)

    @property
    def signals(self) -> Files:
        """Files that sessions leave each other in the private folder."""
        return FolderSignals(self.path / PRIVATE)

    @contextmanager
    def lock(self, *, shared: bool) -> Iterator[None]:
        """Keep others out, see `OutputFolder.lock` and `OutputFolder.share`."""
        with ExitStack() as stack:
            try:
                stack.enter_context(self._output.share() if shared else self._output.lock())
            except OutputError:
                raise
            except OptionError as error:
                raise OptionError(
                    f"{error} Several processes share a folder with --engine torchrun."
                ) from None
            yield

    def write(self, name: str, content: bytes) -> None:
        """Write a file, or replace our own."""
        self._output.write(name, content)

    def set_aside(self, name: str) -> str:
        """Move a damaged file of ours into the private folder."""
        return self._output.set_aside(name)

    def is_foreign(self) -> bool:
        """Whether files are there that no record calls ours."""
        return next(iter(self._output.list_foreign()), None) is not None

    def adopt(self, name: str, sha256: str) -> None:
        """Take over a file that is ours, although no record says so."""
        self._output.adopt({name: sha256})

    def owns(self, name: str) -> bool:
        """Whether a file is there, and as we wrote it."""
        return self._output.owns(name)


@final
class RemotePlace(Place):
    """Objects below an address: one put each, which a store makes wholly or not at all.

    There are no locks and no renames; sessions share the place (see `Store`). Requests that fail
    are repeated for a while (see `Patience`).
    """

    def __init__(self, address: str) -> None:
        self.name = hide_credentials(address)
        self._files, self._root = open_filesystem(address)
        self._patience = Patience(self.name)

    @property
    def signals(self) -> Files:
        """Files that sessions leave each other, in a folder of the same name as elsewhere."""
        place = shallow_copy(self)
        place._root += f"/{PRIVATE}"
        return place

    @contextmanager
    def lock(self, *, shared: bool) -> Iterator[None]:  # noqa: ARG002
        """Keep nobody out."""
        yield

    def read(self, name: str) -> bytes | None:
        """Return the content of an object; None if there is none."""

        def read() -> bytes:
            while True:
                stamp, content = self._read_once(name)
                # size and content are two requests; what is not named by its content may have been
                # replaced between them
                if not name.endswith(".json") or self._read_once(name, count=0)[0] == stamp:
                    return content

        try:
            return self._patience.request("read", read)
        except FileNotFoundError:
            return None

    def _read_once(self, name: str, count: int | None = None) -> tuple[object, bytes]:
        """Return what marks a version of an object, and its first bytes, by default all."""
        with self._files.open_input_file(f"{self._root}/{name}") as file:
            return (file.size(), file.metadata()), file.read(count)

    def write(self, name: str, content: bytes) -> None:
        """Put an object, or replace it."""
        path = f"{self._root}/{name}"

        def put() -> None:
            if self._files.type_name not in _OBJECT_STORES:
                self._files.create_dir(path.rpartition("/")[0], recursive=True)
            with self._files.open_output_stream(path) as file:
                file.write(content)

        self._patience.request("written to", put)

    def list(self, folder: str) -> list[str]:
        """Return the names of the objects in a folder, sorted."""
        found = self._describe(folder)
        return sorted(info.base_name for info in found if info.type == pafs.FileType.File)

    def _describe(self, folder: str) -> Sequence[pafs.FileInfo]:
        selector = pafs.FileSelector(f"{self._root}/{folder}".rstrip("/"), allow_not_found=True)
        found: Sequence[pafs.FileInfo] = self._patience.request(
            "read", lambda: self._files.get_file_info(selector)
        )
        return found

    def delete(self, name: str) -> None:
        """Remove an object, if it is there."""
        with suppress(FileNotFoundError):
            path = f"{self._root}/{name}"
            self._patience.request("written to", lambda: self._files.delete_file(path))

    def set_aside(self, name: str) -> str:
        """Move a damaged object into the folder `damaged`."""
        new = f"damaged/{uuid.uuid4().hex[:8]}-{name.rpartition('/')[2]}"
        content = self.read(name)
        if content is not None:
            self.write(new, content)
            self.delete(name)
        return new

    def is_foreign(self) -> bool:
        """Whether there are any objects."""
        return bool(self._describe(""))

    def adopt(self, name: str, sha256: str) -> None:
        """Do nothing: everything below the address is ours."""

    def owns(self, name: str) -> bool:
        """Whether the object is there."""
        return self.read(name) is not None
