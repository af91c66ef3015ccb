"""DICOM images look as in a viewer."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from torchsaliency.data import open_photo
from torchsaliency.errors import DataError

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


# --- elements without a value --------------------------------------------------------------------

EMPTY = (None, "", [])
OPTIONAL = (
    *("WindowCenter", "WindowWidth", "RescaleSlope", "RescaleIntercept", "PixelSpacing"),
    *("VOILUTFunction", "VOILUTSequence", "ModalityLUTSequence", "NumberOfFrames"),
    *("PixelPaddingValue", "PixelPaddingRangeLimit", "WindowCenterWidthExplanation"),
)
NEEDED = (
    *("Rows", "Columns", "SamplesPerPixel", "PhotometricInterpretation"),
    *("BitsAllocated", "BitsStored", "PixelRepresentation"),
)
PLAIN = [0, 64, 128, 255]


@pytest.mark.parametrize("value", EMPTY, ids=["none", "text", "list"])
@pytest.mark.parametrize("name", OPTIONAL)
def test_an_empty_element_counts_as_absent(name, value, tmp_path):
    if name.endswith("Sequence"):
        value = pydicom.Sequence([])
    assert grey(written(tmp_path / "a.dcm", STORED, **{name: value})) == PLAIN


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"WindowCenter": 0.5}, PLAIN),
        ({"WindowCenter": 0.5, "WindowWidth": None}, PLAIN),
        ({"WindowCenter": ["", ""], "WindowWidth": ["", ""]}, PLAIN),
        ({"WindowCenter": ["", "1000.5"], "WindowWidth": ["", "2001"]}, [0, 128, 255, 255]),
        ({"WindowCenter": [1000.5, 7], "WindowWidth": 2001}, [0, 128, 255, 255]),
        ({"WindowCenter": 1000.5, "WindowWidth": 2001, "VOILUTFunction": ""}, [0, 128, 255, 255]),
        ({"WindowCenter": 1000.5, "WindowWidth": 2001, "VOILUTFunction": "X"}, [0, 128, 255, 255]),
        (
            {"WindowCenter": 1000.5, "WindowWidth": 2001, "VOILUTSequence": pydicom.Sequence([])},
            [0, 128, 255, 255],
        ),
        ({"WindowCenter": 1000, "WindowWidth": 0}, PLAIN),
        ({"WindowCenter": 1000, "WindowWidth": -5}, PLAIN),
        ({"WindowCenter": 1000, "WindowWidth": 0.5}, PLAIN),
        ({"WindowCenter": 1000, "WindowWidth": 0, "VOILUTFunction": "SIGMOID"}, PLAIN),
        ({"WindowCenter": 0, "WindowWidth": 1, "VOILUTFunction": "SIGMOID"}, [128, 255, 255, 255]),
        ({"RescaleSlope": -1}, [255, 191, 128, 0]),
        ({"RescaleIntercept": -1000, "WindowCenter": 0.5, "WindowWidth": 2001}, [0, 128, 255, 255]),
        ({"RescaleSlope": 2, "WindowCenter": 2000.5, "WindowWidth": 4001}, [0, 128, 255, 255]),
    ],
    ids=range(16),
)
def test_windows_and_rescaling_with_parts_missing(fields, expected, tmp_path):
    assert grey(written(tmp_path / "a.dcm", STORED, **fields)) == expected


@pytest.mark.parametrize("how", ["empty", "deleted"])
@pytest.mark.parametrize("name", NEEDED)
def test_what_the_pixels_need_is_named(name, how, tmp_path):
    path = written(tmp_path / "a.dcm", STORED)
    dataset = pydicom.dcmread(path)
    setattr(dataset, name, None) if how == "empty" else delattr(dataset, name)
    dataset.save_as(path)
    with pytest.raises(DataError, match=f"has no value of {name}, without which") as caught:
        open_photo(path)
    assert "\n" not in str(caught.value)


@pytest.mark.filterwarnings("ignore")  # pydicom remarks on the value as it is written
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("RescaleSlope", b"many"),
        ("WindowWidth", b"wide"),
        ("WindowCenter", b"nan"),
        ("RescaleIntercept", b"inf"),
        ("NumberOfFrames", b"few"),
        ("PhotometricInterpretation", b"HSV"),
        ("PhotometricInterpretation", b"MONOCHROME3"),
        ("BitsStored", b"\x11\x00"),
        ("BitsStored", b"\x00\x00"),
        ("BitsAllocated", b"\x07\x00"),
        ("SamplesPerPixel", b"\x03\x00"),
        ("SamplesPerPixel", b"\x00\x00"),
        ("PixelRepresentation", b"\x05\x00"),
        ("Rows", b"\xff\xff"),
        ("Columns", b"\x00\x00"),
    ],
    ids=str,
)
def test_values_that_make_no_sense_cost_a_sentence(name, value, tmp_path):
    other = {"WindowCenter": 5, "WindowWidth": 5} if name.startswith("Window") else {}
    path = written(tmp_path / "a.dcm", STORED, **other)
    dataset = pydicom.dcmread(path)
    tag = pydicom.datadict.tag_for_keyword(name)
    vr = pydicom.datadict.dictionary_VR(tag)
    raw = pydicom.dataelem.RawDataElement(tag, vr, len(value), value, 0, False, True)
    dataset._dict[pydicom.tag.Tag(tag)] = raw
    dataset.save_as(path)
    with pytest.raises(DataError) as caught:
        open_photo(path)
    assert "\n" not in str(caught.value)
    assert "; " in str(caught.value)


# --- padding, tables, palettes -------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["MONOCHROME2", "MONOCHROME1"])
@pytest.mark.parametrize("rescaled", [False, True])
def test_padding_decides_nothing_and_is_black(rescaled, kind, tmp_path):
    pixels = np.array([[-2000, 0, 500, 1000, -2000]], np.int16)
    fields = {"RescaleSlope": 2, "RescaleIntercept": -7} if rescaled else {}
    path = tmp_path / "a.dcm"
    written(path, pixels, PixelPaddingValue=-2000, PhotometricInterpretation=kind, **fields)
    expected = {"MONOCHROME2": [0, 0, 128, 255, 0], "MONOCHROME1": [0, 255, 128, 0, 0]}
    assert grey(path) == expected[kind]


def test_a_range_of_padding_and_nothing_but_padding(tmp_path):
    pixels = np.array([[10, 11, 12, 100, 200]], np.uint16)
    path = tmp_path / "a.dcm"
    written(path, pixels, PixelPaddingValue=12, PixelPaddingRangeLimit=10)
    assert grey(path) == [0, 0, 0, 0, 255]
    written(path, np.full((1, 3), 7, np.uint8), PixelPaddingValue=7)
    assert grey(path) == [0, 0, 0]


def table(values, first, bits, form="<u2"):
    item = pydicom.Dataset()
    item.LUTDescriptor = [len(values), first, bits]
    if form == "US":
        item.add_new("LUTData", "US", [int(value) for value in values])
    else:
        data = values.astype(form).tobytes()
        item.LUTData = data + b"\0" * (len(data) % 2)
    return pydicom.Sequence([item])


@pytest.mark.parametrize(
    ("bits", "form"), [(8, "u1"), (8, "<u2"), (8, "US"), (12, "<u2"), (16, "<u2"), (16, "US")]
)
def test_tables_are_looked_up_wherever_their_places_are(bits, form, tmp_path):
    """Places beyond 255 in a table of bytes are no bytes themselves."""
    pixels = np.array([[0, 1000, 1500, 2000, 4095]], np.uint16)
    values = np.linspace(0, 2**bits - 1, 1001).astype(int)
    path = written(tmp_path / "a.dcm", pixels, VOILUTSequence=table(values, 1000, bits, form))
    assert grey(path) == pytest.approx([0, 0, 128, 255, 255], abs=1)
    path = written(
        tmp_path / "b.dcm", pixels, ModalityLUTSequence=table(values[::-1], 1000, bits, form)
    )
    assert grey(path) == pytest.approx([255, 255, 128, 0, 0], abs=1)
    with_window = {
        "WindowCenter": 1,
        "WindowWidth": 2,
    }  # of two ways to show it, the table is first
    made = table(values, 1000, bits, form)
    path = written(tmp_path / "c.dcm", pixels, VOILUTSequence=made, **with_window)
    assert grey(path) == pytest.approx([0, 0, 128, 255, 255], abs=1)


@pytest.mark.parametrize("bits", [8, 16])
def test_palette_colours(bits, tmp_path):
    pixels = np.array([[0, 1, 300, 999]], np.uint16)
    colours = np.random.default_rng(0).integers(0, 256, (301, 3))
    fields = {}
    for name, levels in zip(("Red", "Green", "Blue"), colours.T, strict=True):
        entries = levels.astype(np.uint8) if bits == 8 else levels.astype("<u2") * 257
        data = entries.tobytes()
        fields[f"{name}PaletteColorLookupTableDescriptor"] = [301, 0, bits]
        fields[f"{name}PaletteColorLookupTableData"] = data + b"\0" * (len(data) % 2)
    path = tmp_path / "a.dcm"
    written(path, pixels, PhotometricInterpretation="PALETTE COLOR", **fields)
    opened = np.asarray(open_photo(path))[0]
    assert (opened == colours[[0, 1, 300, 300]]).all()
    written(path, pixels, PhotometricInterpretation="PALETTE COLOR")
    with pytest.raises(DataError, match="damaged"):
        open_photo(path)


# --- size ----------------------------------------------------------------------------------------


def test_the_limit_counts_before_the_pixels_are_decoded(tmp_path, monkeypatch):
    colour = np.zeros((6, 10, 3), np.uint8)
    plain, path = written(tmp_path / "a.dcm", STORED), written(tmp_path / "b.dcm", colour)
    assert open_photo(plain, max_pixels=4).size == (4, 1)
    assert open_photo(path, max_pixels=180).size == (10, 6)
    monkeypatch.setattr(pydicom.pixels, "pixel_array", lambda *_, **__: pytest.fail("decoded"))
    with pytest.raises(DataError, match="has 4x1 pixels and at most 3 are decoded"):
        open_photo(plain, max_pixels=3)
    with pytest.raises(DataError, match="has 10x6 pixels and at most 59 are decoded"):
        open_photo(path, max_pixels=179)
    dataset = pydicom.dcmread(plain)
    dataset.Rows = dataset.Columns = 65535
    dataset.save_as(plain)
    with pytest.raises(DataError, match="has 65535x65535 pixels and at most 64000000"):
        open_photo(plain)


def test_a_file_that_inflates_without_end(tmp_path, monkeypatch):
    dataset = pydicom.dcmread(written(tmp_path / "a.dcm", STORED.repeat(20, 0)))
    dataset.file_meta.TransferSyntaxUID = pydicom.uid.DeflatedExplicitVRLittleEndian
    dataset.save_as(tmp_path / "deflated.dcm", enforce_file_format=True)
    assert grey(tmp_path / "deflated.dcm") == PLAIN
    dataset.PixelData = bytes(300_000_000)
    dataset.save_as(tmp_path / "bomb.dcm", enforce_file_format=True)
    assert (tmp_path / "bomb.dcm").stat().st_size < 1_000_000
    del dataset
    monkeypatch.setattr(pydicom, "dcmread", lambda *_, **__: pytest.fail("inflated"))
    with pytest.raises(DataError, match="inflates to more than 144777216 bytes"):
        open_photo(tmp_path / "bomb.dcm")
