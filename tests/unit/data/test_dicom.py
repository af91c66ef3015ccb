"""DICOM images look as in a viewer."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from torchsaliency.core.errors import DataError
from torchsaliency.data import open_photo

pydicom = pytest.importorskip("pydicom")


def written(path: Path, pixels: np.ndarray, **fields: object) -> Path:
    dataset = pydicom.Dataset()
    dataset.file_meta = pydicom.dataset.FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = pydicom.uid.SecondaryCaptureImageStorage
    dataset.file_meta.MediaStorageSOPInstanceUID = "1.2.3"
    dataset.SOPClassUID = pydicom.uid.SecondaryCaptureImageStorage
    dataset.SOPInstanceUID = "1.2.3"
    colour = pixels.shape[-1] == 3 and pixels.ndim == 3
    dataset.SamplesPerPixel = 3 if colour else 1
    dataset.PhotometricInterpretation = "RGB" if colour else "MONOCHROME2"
    if colour:
        dataset.PlanarConfiguration = 0
    dataset.Rows, dataset.Columns = pixels.shape[:2] if colour else pixels.shape[-2:]
    dataset.BitsAllocated = dataset.BitsStored = pixels.dtype.itemsize * 8
    dataset.HighBit = dataset.BitsStored - 1
    dataset.PixelRepresentation = int(pixels.dtype.kind == "i")
    dataset.PixelData = pixels.tobytes()
    for name, value in fields.items():
        setattr(dataset, name, value)
    dataset.save_as(path, enforce_file_format=True)
    return path


STORED = np.array([[0, 1000, 2000, 4000]], dtype=np.uint16)


def grey(path: Path) -> list[int]:
    opened = np.asarray(open_photo(path))
    assert opened.shape[-1] == 3
    return opened[0, :, 0].tolist()


def test_the_whole_range_without_a_window(tmp_path):
    assert grey(written(tmp_path / "a.dcm", STORED)) == [0, 64, 128, 255]


def test_monochrome1_is_inverted(tmp_path):
    path = written(tmp_path / "a.dcm", STORED, PhotometricInterpretation="MONOCHROME1")
    assert grey(path) == [255, 191, 128, 0]


@pytest.mark.parametrize(
    ("window", "expected"),
    [
        ({"WindowCenter": 0.5, "WindowWidth": 2001}, [0, 128, 255, 255]),
        ({"WindowCenter": [0.5, 7], "WindowWidth": [2001, 7]}, [0, 128, 255, 255]),
        (
            {"WindowCenter": 0, "WindowWidth": 2000, "VOILUTFunction": "LINEAR_EXACT"},
            [0, 128, 255, 255],
        ),
        (
            {"WindowCenter": 0, "WindowWidth": 2000, "VOILUTFunction": "SIGMOID"},
            [30, 128, 225, 254],
        ),
        ({"WindowCenter": 0.5, "WindowWidth": 1}, [0, 0, 255, 255]),
    ],
    ids=str,
)
def test_the_window_applies_after_the_rescaling(window, expected, tmp_path):
    path = written(tmp_path / "a.dcm", STORED, RescaleSlope=1, RescaleIntercept=-1000, **window)
    assert grey(path) == expected


def test_the_magic_number_is_enough(tmp_path):
    assert grey(written(tmp_path / "IM0001", STORED)) == [0, 64, 128, 255]


def test_signed_constant_and_colour(tmp_path):
    signed = np.array([[-100, 0, 100]], dtype=np.int16)
    assert grey(written(tmp_path / "signed.dcm", signed)) == [0, 128, 255]
    flat = np.full((2, 2), 9, dtype=np.uint8)
    assert grey(written(tmp_path / "flat.dcm", flat)) == [0, 0]
    colour = np.array([[[1, 2, 3], [250, 251, 252]]], dtype=np.uint8)
    opened = open_photo(written(tmp_path / "colour.dcm", colour))
    assert (np.asarray(opened) == colour).all()


def test_the_first_frame(tmp_path):
    frames = np.stack([np.eye(4, dtype=np.uint8), np.ones((4, 4), dtype=np.uint8)])
    path = written(tmp_path / "frames.dcm", frames, NumberOfFrames=2)
    assert (np.asarray(open_photo(path))[..., 0] == np.eye(4) * 255).all()


def test_bad_files(tmp_path):
    (text := tmp_path / "text.dcm").write_text("no DICOM at all")
    with pytest.raises(DataError, match="named as DICOM and is none"):
        open_photo(text)
    path = written(tmp_path / "whole.dcm", STORED.repeat(99, 0))
    (cut := tmp_path / "cut.dcm").write_bytes(path.read_bytes()[:-400])
    with pytest.raises(DataError, match="truncated or damaged"):
        open_photo(cut)
    report = pydicom.dcmread(path)
    del report.PixelData
    report.save_as(tmp_path / "report.dcm")
    with pytest.raises(DataError, match="without an image"):
        open_photo(tmp_path / "report.dcm")


def test_without_the_extra(tmp_path, monkeypatch):
    path = written(tmp_path / "a.dcm", STORED)
    monkeypatch.setitem(sys.modules, "pydicom", None)
    with pytest.raises(DataError, match=r"pip install 'torchsaliency\[dicom\]'"):
        open_photo(path)
