"""Maps that another program made, in a folder, named by image id: `--maps-from NAME=FOLDER`."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any, final

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from torchsaliency.core.given import GIVEN, GivenMaps
from torchsaliency.core.method import Method
from torchsaliency.core.trace import View
from torchsaliency.data.channels import read_values
from torchsaliency.data.files import hash_of, printable
from torchsaliency.data.scans import NIFTI_SUFFIXES, open_scan
from torchsaliency.errors import DataError, InputError, OptionError

SUFFIXES = (".npy", ".png", ".tif", ".tiff", *NIFTI_SUFFIXES)


@final
@dataclass(frozen=True)
class FolderMaps(Method):
    """Maps of a data set's images, a file each: ID.npy, ID.png, ID.tif, ID.nii or ID.nii.gz.

    The id is the sample's, with or without its own suffix ("cats/1.jpg" has cats/1.npy or
    cats/1.jpg.npy).

    Attributes:
        folder: where the files are.
        digest: what `digest_of` the images must be; not checked if empty.
    """

    folder: str
    digest: str = ""

    def saliency(self, view: View) -> Tensor:  # noqa: ARG002
        """Refuse: without ids nothing can be looked up."""
        raise InputError(f"Maps of {self.folder} belong to a data set; give the images' maps.")

    def take(self, ids: Sequence[str]) -> GivenMaps:
        """Return the maps of some images.

        Raises:
            DataError: one is missing or no map, or two differ in size.
        """
        maps = [read_map(self._find(name)) for name in ids]
        if len({one.shape for one in maps}) > 1:
            shapes = sorted({"x".join(map(str, one.shape)) for one in maps})
            raise DataError(
                f"The maps in {printable(self.folder)} are of {' and '.join(shapes)}; give all at "
                "the size of the network's input."
            )
        return GivenMaps(np.stack(maps))

    def with_digest(self, ids: Sequence[str]) -> FolderMaps:
        """Return the same maps with the digest of these images' files.

        Raises:
            DataError: a map is missing or no map, or the digest was given and is another.
        """
        hashes = []
        for name in ids:
            path = self._find(name)
            read_map(path)
            hashes.append(f"{name} {hash_of(path)}")
        text = "\n".join(sorted(hashes)).encode(errors="surrogatepass")
        found = hashlib.blake2b(text, digest_size=16).hexdigest()
        if self.digest not in ("", found):
            raise DataError(
                f"The maps in {printable(self.folder)} have the digest {found}, and {self.digest} "
                "was asked for; give the maps that the plan names, or leave the digest out."
            )
        return replace(self, digest=found)

    def _find(self, name: str) -> Path:
        folder = Path(self.folder)
        stems = dict.fromkeys([name, str(PurePosixPath(name).with_suffix(""))])
        for stem in stems:
            for suffix in SUFFIXES:
                path = folder / f"{stem}{suffix}"
                if path.is_file():
                    return path
        raise DataError(
            f"{printable(self.folder)} has no map of the image {name}; name each file by its "
            f"image's id, such as {list(stems)[-1]}.npy, .png or .nii.gz."
        )


FolderMaps.entry = replace(GIVEN, factory=FolderMaps)


def read_map(path: Path) -> NDArray[np.float32]:
    """Return a map of a file: (H, W), or (D, H, W) of a NIfTI file, in its canonical order.

    Raises:
        DataError: it cannot be read, has channels, or holds NaN or infinite values.
    """
    if path.name.endswith(NIFTI_SUFFIXES):
        values: Any = open_scan(path).voxels
    else:
        values = np.asarray(read_values(path))
        if values.ndim == 3 and 1 in (values.shape[0], values.shape[-1]):  # noqa: PLR2004
            values = values.squeeze(0 if values.shape[0] == 1 else -1)
    sides = (1, 2, 3) if path.suffix in (".npy", ".nii", ".gz") else (2,)
    if values.dtype.kind not in "fiub" or values.ndim not in sides or 0 in values.shape:
        raise DataError(
            f"{printable(path)} holds {values.dtype} of {values.shape}; a map has one number a "
            "pixel, (H, W)."
        )
    found = np.array(values, dtype=np.float32)
    if not np.isfinite(found).all():
        raise DataError(f"{printable(path)} holds NaN or infinite values; give finite numbers.")
    return found


def parse_given(text: str) -> dict[str, Any]:
    """Return the choice of a method that NAME=FOLDER stands for.

    Raises:
        OptionError: it is not of this form.
    """
    label, equals, folder = text.partition("=")
    if not equals or not label.strip() or not folder:
        raise OptionError(
            f"maps_from: {text!r} was given; give NAME=FOLDER, the name of the maps and where they "
            "are."
        )
    return {"name": GIVEN.name, "label": label.strip(), "options": {"folder": folder}}


def create_given(options: dict[str, Any]) -> FolderMaps:
    """Return the maps of a choice's options.

    Raises:
        OptionError: no folder, or an option that is not known.
    """
    if not {"folder"} <= options.keys() <= {"folder", "digest"}:
        raise OptionError(
            f"Given maps have the options folder and digest, and {', '.join(options) or 'none'} "
            "was given; name the folder of the maps."
        )
    return FolderMaps(**{name: str(value) for name, value in options.items()})
