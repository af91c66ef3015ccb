"""Small scans of every orientation, DICOM series and clips, written for tests."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import av
import nibabel
import numpy as np
from nibabel.orientations import axcodes2ornt
from numpy.typing import NDArray
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

STEPS = {"R": 2.0, "A": 1.0, "S": 1.5}
"""Millimetres from voxel to voxel along each axis of the body."""


def phantom(depth: int = 6, height: int = 10, width: int = 8) -> NDArray[np.float32]:
    """Return whole numbers (D, H, W), all different along each side."""
    lines = np.meshgrid(*map(np.arange, (depth, height, width)), indexing="ij")
    return (100 * lines[0] + 10 * lines[1] + lines[2]).astype(np.float32)


def write_nifti(path: Path, canonical: NDArray[Any], codes: str = "RAS") -> NDArray[np.float64]:
    """Write a volume (D, H, W) with the file's axes as `codes` say, and return its affine."""
    order = axcodes2ornt(codes)
    back = nibabel.orientations.ornt_transform(axcodes2ornt("RAS"), order)
    stored = nibabel.apply_orientation(canonical.transpose(2, 1, 0), back)
    affine = np.eye(4)
    affine[:3, :3] = 0
    for place, (axis, sign) in enumerate(order):
        affine[int(axis), place] = sign * STEPS["RAS"[int(axis)]]
        affine[int(axis), 3] = 3 - sign * int(axis)
    nibabel.save(nibabel.Nifti1Image(stored, affine), path)
    return affine


def write_series(
    folder: Path, canonical: NDArray[Any], *, leave_out: Iterable[str] = (), **changes: Any
) -> None:
    """Write the slices of a volume as axial DICOM files, in no order of their names.

    DICOM's columns go to the left and its rows to the back. Values are stored 1000 higher.
    """
    folder.mkdir()
    series, count = generate_uid(), len(canonical)
    for place in range(count):
        dataset = Dataset()
        dataset.file_meta = FileMetaDataset()
        dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID = CTImageStorage
        dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID = generate_uid()
        stored = canonical[place, ::-1, ::-1] + 1000
        facts = {
            "SeriesInstanceUID": series,
            "Rows": stored.shape[0],
            "Columns": stored.shape[1],
            "PixelSpacing": [STEPS["A"], STEPS["R"]],
            "ImageOrientationPatient": [1, 0, 0, 0, 1, 0],
            "ImagePositionPatient": [-5, -7, STEPS["S"] * place],
            "SamplesPerPixel": 1,
            "PhotometricInterpretation": "MONOCHROME2",
            "BitsAllocated": 16,
            "BitsStored": 16,
            "HighBit": 15,
            "PixelRepresentation": 0,
            "RescaleSlope": 1,
            "RescaleIntercept": -1000,
            "PixelData": np.ascontiguousarray(stored).astype(np.uint16).tobytes(),
        }
        facts |= {key: value(place) for key, value in changes.items()}
        for key, value in facts.items():
            if key not in leave_out:
                setattr(dataset, key, value)
        dataset.save_as(folder / f"{(5 * place + 3) % count:02d}.dcm", enforce_file_format=True)


def moving_square(count: int = 12, width: int = 64, height: int = 48) -> list[Image.Image]:
    """Return frames in which a bright square moves over grey."""
    frames = []
    for place in range(count):
        pixels = np.full((height, width, 3), 60, np.uint8)
        pixels[8 + place : 20 + place, 10 + 2 * place : 24 + 2 * place] = (220, 180, 40)
        frames.append(Image.fromarray(pixels))
    return frames


def write_animation(path: Path, frames: list[Image.Image], milliseconds: int = 80) -> None:
    """Write frames as GIF, WebP or PNG."""
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=milliseconds, loop=0)


def write_video(path: Path, frames: list[Image.Image], rate: int = 12) -> None:
    """Write frames as a video by PyAV."""

    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=rate)
        stream.width, stream.height = frames[0].size
        stream.pix_fmt = "yuv420p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_image(frame)))
        container.mux(stream.encode(None))
