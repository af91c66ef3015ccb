"""Where the files of a store lie: in a folder, or below an address that pyarrow opens."""

from __future__ import annotations

import re
import uuid
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import final

import pyarrow as pa
from pyarrow import fs as pafs

from torchsaliency.core.files import OutputFolder
from torchsaliency.errors import DataError, OutputError, describe_error

_ADDRESS = re.compile(r"[a-z][a-z0-9+.-]+://", re.IGNORECASE)


class Place(ABC):
    """Files by name, each whole or not there."""

    name: str
    """As users call it."""

    @abstractmethod
    def lock(self, *, shared: bool) -> AbstractContextManager[None]:
        """Keep out those who do not share the place; all others, if it is not shared."""

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
        DataError: the address cannot be opened.
    """
    return RemotePlace(str(where)) if is_address(where) else FolderPlace(where)


def is_address(where: str | Path) -> bool:
    """Whether it is an address, and no path."""
    return isinstance(where, str) and _ADDRESS.match(where) is not None


@final
class FolderPlace(Place):
    """A folder of this machine, or one that all machines mount."""

    def __init__(self, folder: str | Path) -> None:
        self._output = OutputFolder(folder)
        self.path = self._output.path
        self.name = str(self.path)

    def lock(self, *, shared: bool) -> AbstractContextManager[None]:
        """Keep others out, see `OutputFolder.lock` and `OutputFolder.share`."""
        return self._output.share() if shared else self._output.lock()

    def read(self, name: str) -> bytes | None:
        """Return the content of a file; None if there is none."""
        try:
            return (self.path / name).read_bytes()
        except FileNotFoundError:
            return None

    def write(self, name: str, content: bytes) -> None:
        """Write a file, or replace our own."""
        self._output.write(name, content)

    def list(self, folder: str) -> list[str]:
        """Return the names of the files in a folder, sorted."""
        return sorted(path.name for path in (self.path / folder).glob("*"))

    def delete(self, name: str) -> None:
        """Remove a file of ours, if it is there."""
        (self.path / name).unlink(missing_ok=True)

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

    There are no locks and no renames; sessions share the place (see `Store`).
    """

    def __init__(self, address: str) -> None:
        self.name = address.rstrip("/")
        try:
            self._files, self._root = pafs.FileSystem.from_uri(self.name)
        except (OSError, ValueError, ImportError) as error:
            raise DataError(
                f"{address} cannot be opened ({describe_error(error)}); give an address of a file "
                "system that pyarrow or fsspec has, such as s3://bucket/folder."
            ) from error

    @contextmanager
    def lock(self, *, shared: bool) -> Iterator[None]:  # noqa: ARG002
        """Keep nobody out."""
        yield

    def read(self, name: str) -> bytes | None:
        """Return the content of an object; None if there is none."""
        try:
            with self._plain_errors("read"):
                file = self._files.open_input_file(f"{self._root}/{name}")
                content: bytes = file.read()
        except FileNotFoundError:
            return None
        return content

    def write(self, name: str, content: bytes) -> None:
        """Put an object, or replace it."""
        path = f"{self._root}/{name}"
        with self._plain_errors("written to"):
            if self._files.type_name == "local":
                self._files.create_dir(path.rpartition("/")[0], recursive=True)
                self._put(f"{path}.{uuid.uuid4().hex[:8]}", content, path)
            else:
                self._put(path, content)

    def _put(self, path: str, content: bytes, final: str | None = None) -> None:
        with self._files.open_output_stream(path) as file:
            file.write(content)
        if final is not None:
            self._files.move(path, final)

    def list(self, folder: str) -> list[str]:
        """Return the names of the objects in a folder, sorted."""
        selector = pafs.FileSelector(f"{self._root}/{folder}", allow_not_found=True)
        with self._plain_errors("read"):
            found = self._files.get_file_info(selector)
        return sorted(info.base_name for info in found if info.type == pafs.FileType.File)

    def delete(self, name: str) -> None:
        """Remove an object, if it is there."""
        with self._plain_errors("written to"), suppress(FileNotFoundError):
            self._files.delete_file(f"{self._root}/{name}")

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
        selector = pafs.FileSelector(self._root, allow_not_found=True)
        with self._plain_errors("read"):
            return bool(self._files.get_file_info(selector))

    def adopt(self, name: str, sha256: str) -> None:
        """Do nothing: everything below the address is ours."""

    def owns(self, name: str) -> bool:
        """Whether the object is there."""
        return self.read(name) is not None

    @contextmanager
    def _plain_errors(self, what: str) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError:
            raise
        except (OSError, pa.ArrowException) as error:
            raise OutputError(
                f"{self.name} cannot be {what} ({describe_error(error)}); look after the "
                "connection and the rights, and start the same command again to go on."
            ) from error
