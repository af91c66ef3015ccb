"""Volumes of medical scanners: NIfTI files and DICOM series (extra: `torchsaliency[medical]`).

Whatever the file's own order, voxels are (D, H, W): D to the head (superior), H to the front
(anterior), W to the right, which is NIfTI's RAS read backwards. A map is written back in the file's
own order, size and affine, so that any viewer lays it over the scan.
"""

from __future__ import annotations

import gzip
import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from torchsaliency.core.maps import upsample
from torchsaliency.data.decoding import VARIABLE, make_damage_error, pixel_limit
from torchsaliency.data.dicom import is_dicom
from torchsaliency.data.files import find_fault, printable
from torchsaliency.errors import DataError, MissingPackageError, require_extra

NIFTI_SUFFIXES = (".nii", ".nii.gz")

_SERIES = 0.02
"""How far the distances of a series' slices may differ, relative to their mean."""

_NEEDED = ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing")


@final
@dataclass(frozen=True, eq=False)
class Scan:
    """A volume in its canonical order, and how its file stores it.

    Attributes:
        voxels: (D, H, W) float32, to the head, the front and the right; of a scan with several
            channels or times, (C, D, H, W).
        affine: (4, 4), from the file's voxels to millimetres in RAS.
        stored: the size in the file's own order.
        path: of the file or the folder.
    """

    voxels: NDArray[np.float32]
    affine: NDArray[np.float64]
    stored: tuple[int, ...]
    path: Path

    @property
    def size(self) -> tuple[int, int, int]:
        """(D, H, W)."""
        depth, height, width = self.voxels.shape[-3:]
        return depth, height, width

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Millimetres from voxel to voxel along D, H and W."""
        import nibabel  # noqa: PLC0415 (an extra)

        steps = np.sqrt((self.affine[:3, :3] ** 2).sum(0))
        order = nibabel.io_orientation(self.affine)[:, 0].astype(int).tolist()
        x, y, z = (float(steps[order.index(axis)]) for axis in range(3))
        return z, y, x

    def picture(self) -> Tensor:
        """Return the voxels (C, D, H, W), stretched to [0, 1] from 1 % to 99 % of their values."""
        voxels = torch.from_numpy(self.voxels)
        voxels = voxels if voxels.ndim == 4 else voxels[None]  # noqa: PLR2004
        low, high = np.percentile(self.voxels, (1, 99))
        return ((voxels - float(low)) / (float(high - low) or 1)).clamp(0, 1)

    def to_stored_order(self, volume: Tensor) -> NDArray[np.float32]:
        """Return a volume over the scan, (d, h, w), in the file's own order and size."""
        import nibabel  # noqa: PLC0415 (an extra)

        grown = upsample(volume[None].detach().float().cpu(), self.size)[0]
        order = nibabel.io_orientation(self.affine)
        back = nibabel.orientations.ornt_transform(nibabel.orientations.axcodes2ornt("RAS"), order)
        found = nibabel.apply_orientation(grown.numpy().transpose(2, 1, 0), back)
        return np.ascontiguousarray(found, dtype=np.float32)

    def nifti(self, volume: Tensor) -> bytes:
        """Return a volume over the scan, (d, h, w), as the bytes of a .nii.gz file.

        It has the scan's size, order and affine.
        """
        import nibabel  # noqa: PLC0415 (an extra)

        image = nibabel.Nifti1Image(self.to_stored_order(volume), self.affine)
        image.header.set_xyzt_units("mm")
        return gzip.compress(image.to_bytes(), mtime=0)


def is_scan(path: Path) -> bool:
    """Whether a path is a NIfTI file or a folder with a series of DICOM files, by their names."""
    if path.is_dir():
        return next(dicom_files(path), None) is not None
    return path.name.lower().endswith(NIFTI_SUFFIXES)


def dicom_files(folder: Path) -> Iterator[Path]:
    """Yield the DICOM files in a folder, in any order; scanners often give them no suffix."""
    for file in folder.iterdir():
        if not file.name.startswith(".") and not find_fault(file) and is_dicom(file):
            yield file


def open_scan(path: str | os.PathLike[str], *, max_voxels: int | None = None) -> Scan:
    """Open a NIfTI file, or the DICOM series in a folder, in its canonical order.

    Values are as the scanner means them: NIfTI's slope and intercept and DICOM's modality table
    (Hounsfield units of a CT) are applied.

    Args:
        path: a .nii or .nii.gz file, or a folder.
        max_voxels: the largest volume that is read; None takes the environment variable
            TORCHSALIENCY_MAX_PIXELS, or 64 million.

    Raises:
        DataError: it is missing, damaged, too large, no volume, or several series.
        MissingPackageError: the extra `medical` is not installed.

    Example:
        >>> import nibabel
        >>> scan = nibabel.Nifti1Image(np.zeros((6, 8, 10), dtype=np.float32), np.eye(4))
        >>> nibabel.save(scan, "scan.nii")
        >>> open_scan("scan.nii").voxels.shape
        (10, 8, 6)
    """
    path, limit = Path(path), pixel_limit(max_voxels)
    require_extra("medical", "nibabel", "pydicom")
    try:
        return _open_series(path, limit) if path.is_dir() else _open_nifti(path, limit)
    except (DataError, MissingPackageError):
        raise
    except Exception as error:  # readers raise many types for damaged files
        raise make_damage_error(path, error) from error


def _open_nifti(path: Path, limit: int) -> Scan:
    import nibabel  # noqa: PLC0415 (an extra)

    if fault := find_fault(path):
        raise DataError(f"{printable(path)} {fault}; give a .nii or .nii.gz file.")
    image = nibabel.load(path)
    shape = tuple(int(side) for side in image.shape)
    if len(shape) not in (3, 4) or 0 in shape:
        raise DataError(
            f"{printable(path)} has the shape {shape}; give a volume, or one of several channels."
        )
    _check_voxels(path, shape, limit)
    canonical = nibabel.as_closest_canonical(image)
    values = np.asarray(canonical.get_fdata(dtype=np.float32)).T  # (Z, Y, X), channels first
    return Scan(_finite(values), image.affine, shape[:3], path)


def _open_series(path: Path, limit: int) -> Scan:
    import nibabel  # noqa: PLC0415 (an extra)
    import pydicom  # noqa: PLC0415

    files = sorted(dicom_files(path))
    headers = [pydicom.dcmread(file, stop_before_pixels=True) for file in files]
    _check_series(path, headers)
    order, affine = _lay_out(headers)
    first = headers[order[0]]
    _check_voxels(path, (len(files), int(first.Rows), int(first.Columns)), limit)
    slices = [_read_slice(pydicom.dcmread(files[place])) for place in order]
    stored = np.stack(slices).transpose(2, 1, 0)  # columns, rows, slices
    canonical = nibabel.apply_orientation(stored, nibabel.io_orientation(affine))
    return Scan(_finite(canonical.T.astype(np.float32)), affine, stored.shape, path)


def _check_series(path: Path, headers: Sequence[Any]) -> None:
    """Check that the files of a folder are the slices of one volume."""
    name = printable(path)
    if len(headers) < 2:  # noqa: PLR2004
        raise DataError(
            f"The folder {name} holds {len(headers)} DICOM files; give one with the slices of a "
            "volume."
        )
    if missing := [key for key in _NEEDED if any(header.get(key) is None for header in headers)]:
        raise DataError(
            f"A DICOM file in {name} has no {missing[0]}, without which slices cannot be put in "
            "order; get the series again."
        )
    series = {str(header.get("SeriesInstanceUID")) for header in headers}
    if len(series) > 1:
        raise DataError(
            f"The folder {name} holds {len(series)} DICOM series; give a folder with one of them."
        )
    if len({(header.Rows, header.Columns, *header.PixelSpacing) for header in headers}) > 1:
        raise DataError(
            f"The slices in {name} have different sizes or spacings; give a folder with one series."
        )


def _lay_out(headers: Sequence[Any]) -> tuple[list[int], NDArray[np.float64]]:
    """Return the order of the slices along their normal, and the affine of (column, row, slice).

    DICOM's axes are left, posterior, superior, so the first two change their sign.
    """
    first = headers[0]
    rows, columns = (np.array(first.ImageOrientationPatient[at:][:3], float) for at in (0, 3))
    normal = np.cross(rows, columns)
    places = np.array([header.ImagePositionPatient for header in headers], dtype=float)
    heights = places @ normal
    order = np.argsort(heights, kind="stable").tolist()
    gaps = np.diff(heights[order])
    if gaps.min() <= 0 or np.ptp(gaps) > _SERIES * gaps.mean():
        raise DataError(
            f"The slices of the series lie {gaps.min():.3g} to {gaps.max():.3g} mm apart; give a "
            "series whose slices are all there, once, at one distance."
        )
    down, across = (float(step) for step in first.PixelSpacing)
    affine = np.eye(4)
    affine[:3, 0], affine[:3, 1] = rows * across, columns * down
    affine[:3, 2] = (places[order[-1]] - places[order[0]]) / (len(order) - 1)
    affine[:3, 3] = places[order[0]]
    return order, np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine


def _read_slice(dataset: Any) -> NDArray[np.float32]:
    from pydicom.pixels import apply_modality_lut, pixel_array  # noqa: PLC0415 (an extra)

    return np.asarray(apply_modality_lut(pixel_array(dataset), dataset), dtype=np.float32)


def _check_voxels(path: Path, shape: Sequence[int], limit: int) -> None:
    if math.prod(shape) > limit:
        raise DataError(
            f"{printable(path)} has {'x'.join(map(str, shape))} voxels and at most {limit} are "
            f"read; scale it down, or set the environment variable {VARIABLE} higher."
        )


def _finite(voxels: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return voxels without NaN or infinite values, which stand for no measurement."""
    return np.ascontiguousarray(np.nan_to_num(voxels, nan=0.0, posinf=0.0, neginf=0.0))
