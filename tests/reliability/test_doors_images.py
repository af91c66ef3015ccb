"""Whatever a file holds, it opens as an RGB image or costs one sentence, in time and alone."""

from __future__ import annotations

import io
import itertools
import os
import subprocess
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import trees
from torchsaliency.data import open_data, open_photo, to_rgb
from torchsaliency.data.photosets import read_xml
from torchsaliency.data.tables import read_table
from torchsaliency.errors import DataError

pydicom = pytest.importorskip("pydicom")

pytestmark = pytest.mark.filterwarnings("ignore")  # decoders remark on what is damaged

LONGEST = 2.0
"""Seconds of the processor that one small file may take."""

SIZE = (24, 32)


@pytest.fixture(autouse=True)
def no_other_program(monkeypatch):
    """Fail where a file starts a program."""

    def refuse(*words, **_):
        pytest.fail(f"a program was started: {words}")

    for module, name in (
        (subprocess, "Popen"),
        (os, "system"),
        (os, "popen"),
        (os, "posix_spawn"),
        (os, "execv"),
    ):
        monkeypatch.setattr(module, name, refuse)


def opens(read, *arguments) -> bool:
    """Whether a file is read; it must be, or cost one sentence, in time."""
    begun = time.process_time()
    try:
        found = read(*arguments)
    except DataError as error:
        assert "\n" not in str(error), str(error)
        assert str(error).endswith("."), str(error)
        assert "; " in str(error), str(error)
        found = None
    assert time.process_time() - begun < LONGEST
    if isinstance(found, Image.Image):
        assert found.mode == "RGB"
        assert 0 not in found.size
    return found is not None


def small_files() -> dict[str, bytes]:
    """Return small real files of every kind."""
    draw = np.random.default_rng(0)
    smooth = np.linspace(0, 200, SIZE[0] * SIZE[1]).reshape(SIZE)
    rgb = np.stack([smooth, smooth[::-1], draw.integers(0, 255, SIZE)], -1).astype(np.uint8)
    colour, grey = Image.fromarray(rgb), Image.fromarray(rgb[..., 0])
    alpha = Image.fromarray(np.dstack([rgb, rgb[..., :1]]))
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "a description"
    deep = Image.fromarray(smooth.astype(np.uint16) * 200)
    frames = {"save_all": True, "append_images": [Image.fromarray(255 - rgb)] * 2}
    tiff = {"tiff_lzw": colour, "tiff_adobe_deflate": colour, "jpeg": colour, "packbits": grey}
    made = {
        "rgb.png": (colour, {}),
        "alpha.png": (alpha, {"exif": exif}),
        "palette.png": (colour.quantize(16), {"transparency": bytes([0, 90, 255])}),
        "deep.png": (deep, {}),
        "bits.png": (grey.convert("1"), {}),
        "plain.jpg": (colour, {"exif": exif, "dpi": (72, 72)}),
        "progressive.jpg": (colour, {"progressive": True}),
        "grey.jpg": (grey, {}),
        "cmyk.jpg": (colour.convert("CMYK"), {}),
        "still.gif": (colour, {}),
        "moving.gif": (colour, {**frames, "duration": 50, "loop": 0}),
        "lossy.webp": (colour, {"exif": exif}),
        "lossless.webp": (alpha, {"lossless": True}),
        "moving.webp": (colour, {**frames, "duration": 50}),
        "plain.bmp": (colour, {}),
        "palette.bmp": (colour.quantize(8), {}),
        "plain.tif": (colour, {"tiffinfo": {0x0112: 8}}),
        "pages.tif": (colour, frames),
        "float.tif": (Image.fromarray(smooth.astype(np.float32)), {}),
        "fax.tif": (grey.convert("1"), {"compression": "group4"}),
        "stereo.mpo": (colour, frames),
        **{f"{name}.tif": (image, {"compression": name}) for name, image in tiff.items()},
    }
    files = {}
    for name, (image, options) in made.items():
        buffer = io.BytesIO()
        kind = {"jpg": "JPEG", "tif": "TIFF"}.get(name[-3:], name.rpartition(".")[2].upper())
        image.save(buffer, kind, **options)
        files[name] = buffer.getvalue()
    return files


def mutated(content: bytes, draw: np.random.Generator) -> bytes:
    """Return a file with bytes flipped, set, inserted, deleted, doubled or cut off."""
    made = bytearray(content)
    for _ in range(int(draw.integers(1, 6))):
        place = int(draw.integers(0, max(len(made), 1)))
        if draw.random() < 0.4:  # headers decide more than pixels
            place = min(place, int(draw.integers(0, 64)))
        length = int(draw.integers(1, 9))
        odd = draw.choice([0, 1, 127, 128, 255], length).astype(np.uint8).tobytes()
        match int(draw.integers(0, 6)):
            case 0 if made:
                made[place % len(made)] ^= 1 << int(draw.integers(0, 8))
            case 1:
                made[place : place + length] = odd
            case 2:
                made[place:place] = odd
            case 3:
                del made[place : place + length]
            case 4:
                made[place:place] = made[place : place + 64]
            case _:
                if draw.random() < 0.3:
                    del made[place:]
    return bytes(made)


def test_the_files_that_are_mutated_open(tmp_path):
    for name, content in small_files().items():
        (tmp_path / name).write_bytes(content)
        assert opens(open_photo, tmp_path / name), name


def test_mutated_images(tmp_path, trials, tally):
    files = small_files()
    tried = trials(100, 2000)
    draw = np.random.default_rng(7)
    opened = 0
    for number, name in zip(range(tried), itertools.cycle(files), strict=False):
        path = tmp_path / f"{number}.{name}"
        path.write_bytes(mutated(files[name], draw))
        opened += opens(open_photo, path)
        path.unlink()
    assert 0 < opened < tried
    tally("images", "mutated images", tried, tried, "an RGB image, or one sentence")


def test_mutated_images_that_pil_opens(tmp_path, trials, tally):
    files = small_files()
    tried = trials(50, 500)
    draw = np.random.default_rng(8)
    for number, name in zip(range(tried), itertools.cycle(files), strict=False):
        path = tmp_path / f"{number}.{name}"
        path.write_bytes(mutated(files[name], draw))
        try:
            image = Image.open(path)
        except Exception:  # the caller's own
            image = Image.new("RGB", (1, 1))
        with image:
            opens(to_rgb, image)
    tally("images", "mutated images, opened by PIL", tried, tried, "an RGB image, or one sentence")


# --- other kinds of file --------------------------------------------------------------------------


def saved_as(kind: str, mode: str = "RGB") -> bytes:
    buffer = io.BytesIO()
    Image.new(mode, (32, 32)).save(buffer, kind)
    return buffer.getvalue()


def zipped() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("photo.png", "a photo")
    return buffer.getvalue()


POSTSCRIPT = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 100 100\n%%EndComments\nshowpage\n"
FOREIGN = {
    "EPS": lambda: POSTSCRIPT,
    "EPS by PIL": lambda: saved_as("EPS"),
    "EPS with a preview": lambda: b"\xc5\xd0\xd3\xc6\x20\0\0\0\x50\0\0\0" + bytes(20) + POSTSCRIPT,
    "PostScript": lambda: b"%!PS\n(hello) show showpage\n",
    "PDF": lambda: saved_as("PDF"),
    "PSD": lambda: b"8BPS\0\1" + bytes(6) + b"\0\3\0\0\0\x20\0\0\0\x20\0\x08\0\3" + bytes(900),
    "ICO": lambda: saved_as("ICO"),
    "CUR": lambda: b"\0\0\2\0\1\0" + bytes(99),
    "ICNS": lambda: saved_as("ICNS"),
    "SVG": lambda: b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>',
    "TGA": lambda: saved_as("TGA"),
    "PCX": lambda: saved_as("PCX"),
    "PPM": lambda: saved_as("PPM"),
    "PGM in text": lambda: b"P2\n2 2\n255\n0 1\n2 3\n",
    "JPEG 2000": lambda: saved_as("JPEG2000"),
    "AVIF": lambda: b"\0\0\0\x1cftypavif\0\0\0\0avifmif1miaf" + bytes(200),
    "HEIC": lambda: b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(200),
    "SGI": lambda: saved_as("SGI"),
    "IM": lambda: saved_as("IM"),
    "DIB": lambda: saved_as("DIB"),
    "DDS": lambda: saved_as("DDS"),
    "XBM": lambda: saved_as("XBM", "1"),
    "MSP": lambda: saved_as("MSP", "1"),
    "WMF": lambda: b"\xd7\xcd\xc6\x9a\0\0" + bytes(99),
    "FITS": lambda: b"SIMPLE  =                    T".ljust(2880) + bytes(99),
    "text": lambda: b"no photograph at all\n" * 9,
    "HTML": lambda: b"<!DOCTYPE html><html><img src='x.png'></html>",
    "JSON": lambda: b'{"error": "not found"}',
    "zip": zipped,
    "gzip": lambda: b"\x1f\x8b\x08\0" + bytes(99),
    "ELF": lambda: b"\x7fELF\2\1\1" + bytes(99),
    "script": lambda: b"#!/bin/sh\ntouch was-run\n",
    "NumPy": lambda: b"\x93NUMPY\1\0v\0{'descr': '|u1', 'shape': (3, 3)}".ljust(128) + bytes(9),
    "MP4": lambda: b"\0\0\0\x20ftypisom" + bytes(99),
    "nothing but zeros": lambda: bytes(4096),
}


@pytest.mark.parametrize("suffix", ["png", "jpg", "tif"])
@pytest.mark.parametrize("kind", FOREIGN)
def test_other_kinds_are_refused_whatever_their_name(kind, suffix, tmp_path, tally):
    path = tmp_path / f"photo.{suffix}"
    path.write_bytes(FOREIGN[kind]())
    with pytest.raises(DataError, match="no image that can be read; accepted are JPEG, PNG"):
        open_photo(path)
    data = open_data(tmp_path)
    assert list(data.check()) == [f"photo.{suffix}"]
    tally("images", "files of other kinds under an image's name", 2, 2, "refused, no program runs")


@pytest.mark.parametrize("kind", ["EPS", "EPS by PIL", "EPS with a preview"])
def test_no_program_draws_what_pil_has_opened(kind, tmp_path):
    (path := tmp_path / "photo.png").write_bytes(FOREIGN[kind]())
    with Image.open(path) as image, pytest.raises(DataError, match="is EPS and no image of pixels"):
        to_rgb(image)


@pytest.mark.parametrize("kind", ["EPS", "JPEG", "GIF", "TIFF", "text"])
def test_a_mask_is_a_png(kind, tmp_path):
    trees.voc(tmp_path)
    content = FOREIGN[kind]() if kind in FOREIGN else saved_as(kind, "L")
    (tmp_path / "SegmentationClass" / "2007_000042.png").write_bytes(content)
    with pytest.raises(DataError, match="no image that can be read; a mask is a PNG"):
        open_data(tmp_path).picture(0)


@pytest.mark.parametrize("kind", ["png", "jpg", "gif", "webp", "bmp", "tif"])
def test_the_content_decides_and_not_the_name(kind, tmp_path):
    for name, content in small_files().items():
        (path := tmp_path / f"{name}.{kind}").write_bytes(content)
        assert opens(open_photo, path)


# --- DICOM ----------------------------------------------------------------------------------------


USUAL = {
    **{"WindowCenter": 1000, "WindowWidth": 2000, "VOILUTFunction": "LINEAR"},
    **{"RescaleSlope": 1, "RescaleIntercept": -1000, "PixelSpacing": [0.5, 0.5]},
    **{"NumberOfFrames": 1, "PixelPaddingValue": 0, "PixelPaddingRangeLimit": 3},
    **{"PatientName": "Nobody", "PatientID": "", "StudyDate": "20200101"},
    **{"RescaleType": "HU", "Modality": "CT", "LossyImageCompression": "00"},
}


def dicom(bits=16, kind="MONOCHROME2", *, signed=False, **fields):
    """Return a data set of random pixels."""
    wide, channels = max(8, bits), 3 if kind in {"RGB", "YBR_FULL"} else 1
    draw = np.random.default_rng(0)
    values = draw.integers(0, 2 ** min(bits, 62), (*SIZE, channels), dtype=np.uint64)
    stored = values.astype(f"<u{wide // 8 if wide % 8 == 0 else 2}")
    dataset = pydicom.Dataset()
    dataset.file_meta = pydicom.dataset.FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    dataset.SOPClassUID = pydicom.uid.SecondaryCaptureImageStorage
    dataset.SOPInstanceUID = "1.2.3"
    dataset.Rows, dataset.Columns = SIZE
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = channels, kind
    dataset.BitsAllocated = 1 if bits == 1 else stored.itemsize * 8
    dataset.BitsStored, dataset.HighBit = bits, bits - 1
    dataset.PixelRepresentation = int(signed)
    dataset.PixelData = (np.packbits(values[..., 0]) if bits == 1 else stored).tobytes()
    if channels > 1:
        dataset.PlanarConfiguration = 0
    for name, value in fields.items():
        setattr(dataset, name, value)
    return dataset


def with_elements_spoilt():
    """Yield data sets with each element empty, absent and garbled."""
    for name in [one.keyword for one in dicom(**USUAL)]:
        for value in (None, "", []):
            yield f"{name} {value!r}", dicom(**{**USUAL, name: value})
        dataset = dicom(**USUAL)
        delattr(dataset, name)
        yield f"{name} deleted", dataset
        tag = pydicom.tag.Tag(pydicom.datadict.tag_for_keyword(name))
        kind = pydicom.datadict.dictionary_VR(tag).split()[0]
        for value in (b"\xff\xff", b"x\\y", bytes(7), b"9" * 300, b"-1"):
            dataset = dicom(**USUAL)
            dataset._dict[tag] = pydicom.dataelem.RawDataElement(
                tag, kind, len(value), value, 0, False, True
            )
            yield f"{name} {value[:9]!r}", dataset


def of_every_kind():
    """Yield data sets of all depths, photometric interpretations and transfer syntaxes."""
    kinds = ("MONOCHROME1", "MONOCHROME2", "RGB", "YBR_FULL", "PALETTE COLOR", "HSV")
    for bits, kind in itertools.product((1, 8, 10, 12, 16, 32, 64), kinds):
        for signed in (False, True):
            yield f"{bits} bits, {kind}, signed {signed}", dicom(bits, kind, signed=signed)
    for uid in pydicom.uid.AllTransferSyntaxes:
        dataset = dicom(8)
        dataset.file_meta.TransferSyntaxUID = uid
        if uid.is_encapsulated:
            frame = saved_as("JPEG2000" if "2000" in uid.name else "JPEG", "L")
            dataset.PixelData = pydicom.encaps.encapsulate([frame])
            dataset["PixelData"].VR = "OB"
        yield uid.name, dataset
    for extra in (b"", bytes(3), bytes(9999)):
        yield f"{len(extra)} bytes of pixels", dicom(PixelData=extra)


def test_dicom_variants(tmp_path, trials, tally):
    variants = [*with_elements_spoilt(), *of_every_kind()]
    tried = trials(60, 250)
    opened = written = 0
    for number in np.linspace(0, len(variants) - 1, tried).astype(int).tolist():
        _, dataset = variants[number]
        path = tmp_path / f"{number}.dcm"
        try:
            dataset.save_as(path, enforce_file_format=True)
        except Exception:  # pydicom itself does not write it
            continue
        written += 1
        opened += opens(open_photo, path)
    assert written > 0.6 * tried
    assert 0.2 * written < opened < written
    tally("images", "DICOM variants", written, written, "an RGB image, or one sentence")


def test_mutated_dicom(tmp_path, trials, tally):
    dataset = dicom(**USUAL)
    dataset.save_as(tmp_path / "whole.dcm", enforce_file_format=True)
    content = (tmp_path / "whole.dcm").read_bytes()
    head = len(content) - len(dataset.PixelData)
    tried, draw = trials(60, 500), np.random.default_rng(9)
    for number in range(tried):
        path = tmp_path / f"{number}.dcm"
        path.write_bytes(mutated(content[128:head], draw).rjust(head, b"\0") + content[head:])
        opens(open_photo, path)
        path.unlink()
    tally("images", "mutated DICOM", tried, tried, "an RGB image, or one sentence")


# --- annotations ----------------------------------------------------------------------------------


def test_mutated_annotations(tmp_path, trials, tally):
    table = "file,label,x0,y0,x1,y1\n" + "".join(f'"{n}.png",cat,0,0,{n + 1},5\n' for n in range(9))
    trees.xml(tmp_path / "a.xml", (8, 6), ("n01440764", 1, 1, 5, 5), ("n01443537", 0, 0, 2, 2))
    whole = {"a.xml": (tmp_path / "a.xml").read_bytes(), "b.csv": table.encode()}
    readers = {"a.xml": read_xml, "b.csv": read_table}
    tried, draw = trials(100, 1000), np.random.default_rng(10)
    opened = 0
    for _, name in zip(range(tried), itertools.cycle(whole), strict=False):
        Path(tmp_path / name).write_bytes(mutated(whole[name], draw))
        opened += opens(readers[name], tmp_path / name)
    assert 0 < opened < tried
    tally("images", "mutated XML and CSV", tried, tried, "read, or one sentence")
