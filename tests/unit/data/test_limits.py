"""An absurd size costs a sentence, and no memory."""

from __future__ import annotations

import struct
import time
import warnings
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

import trees
from torchsaliency.data import backgrounds, open_data, open_photo, shapes, to_rgb
from torchsaliency.data.decoding import MAX_PIXELS, VARIABLE, pixel_limit
from torchsaliency.errors import DataError, OptionError
from trees import FIRST, image, val

pytestmark = pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")

SUFFIXES = ("png", "jpg", "gif", "webp", "bmp", "tiff")


def opened(path):
    """Return what `to_rgb` makes of the image that PIL opens."""
    with Image.open(path) as image:
        return to_rgb(image)


def bomb(path, width, height):
    """Write a PNG that claims its size and has no pixels to speak of."""

    def chunk(kind, data):
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(bytes(999))) + chunk(b"IEND", b"")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + body)
    return path


@pytest.mark.parametrize("size", [(13_000, 13_000), (8001, 8000), (2**31 - 1, 2**31 - 1)])
def test_a_bomb_is_refused_before_it_is_decoded(size, tmp_path, monkeypatch):
    path = bomb(tmp_path / "bomb.png", *size)
    monkeypatch.setattr(Image.core, "new", lambda *_: pytest.fail("memory was taken"))
    begun = time.perf_counter()
    for door in (open_photo, to_rgb, opened):
        try:
            door(path)
        except Image.DecompressionBombError:
            assert size[0] > 13_000  # the caller's own Image.open
        except DataError as error:
            said = str(error)
            assert str(MAX_PIXELS) in said
            assert f"scale it down, or set the environment variable {VARIABLE} higher" in said
            assert "\n" not in said
        else:
            pytest.fail("it opened")
    assert time.perf_counter() - begun < 2


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_the_limit_is_set_by_argument_and_environment(suffix, tmp_path, monkeypatch):
    path = image(tmp_path / f"a.{suffix}", size=(40, 30))
    assert open_photo(path).size == (40, 30)
    assert open_photo(path, max_pixels=1200).size == (40, 30)
    with pytest.raises(DataError, match="has 40x30 pixels and at most 1199 are decoded"):
        open_photo(path, max_pixels=1199)
    monkeypatch.setenv(VARIABLE, "1199")
    for door in (open_photo, to_rgb, opened):
        with pytest.raises(DataError, match="has 40x30 pixels and at most 1199 are decoded"):
            door(path)
    assert open_photo(path, max_pixels=1200).size == (40, 30)
    monkeypatch.setenv(VARIABLE, "1_200")
    assert open_photo(path).size == (40, 30)
    assert to_rgb(Image.new("RGB", (99, 99))).size == (99, 99)  # nothing is left to decode


@pytest.mark.parametrize("wrong", ["0", "-5", "many", "1.5", "9" * 5000])
def test_a_limit_that_is_none(wrong, monkeypatch):
    monkeypatch.setenv(VARIABLE, wrong)
    with pytest.raises(OptionError, match="give a whole number of at least 1") as caught:
        pixel_limit()
    assert len(str(caught.value)) < 200
    with pytest.raises(OptionError):
        pixel_limit(0)
    monkeypatch.setenv(VARIABLE, "")
    assert pixel_limit() == MAX_PIXELS


@pytest.mark.parametrize("suffix", ["gif", "webp", "tiff"])
def test_of_many_pictures_the_first_is_decoded_alone(suffix, tmp_path):
    path = tmp_path / f"a.{suffix}"
    first = Image.fromarray(np.full((30, 40, 3), 9, np.uint8))
    size = (400, 300) if suffix == "tiff" else first.size  # other kinds have pictures of one size
    rest = [Image.new("RGB", size, (50 * n, 0, 0)) for n in range(5)]
    first.save(path, save_all=True, append_images=rest)
    assert open_photo(path, max_pixels=1200).size == (40, 30)
    with pytest.raises(DataError, match="has 40x30 pixels"):
        open_photo(path, max_pixels=1199)


def test_a_gif_that_grows_with_its_picture(tmp_path):
    image(tmp_path / "a.gif", size=(40, 30))
    content = bytearray((tmp_path / "a.gif").read_bytes())
    place = content.index(b",") + 5  # of the picture's width and height, beyond the screen's
    content[place : place + 4] = struct.pack("<HH", 9000, 9000)
    (tmp_path / "a.gif").write_bytes(content)
    with pytest.raises(DataError, match="has 9000x9000 pixels"):
        open_photo(tmp_path / "a.gif")


def test_a_tiff_of_one_huge_tile(tmp_path):
    tags = {322: 80_000, 323: 80_000}
    Image.new("RGB", (32, 32)).save(tmp_path / "a.tiff", compression="tiff_lzw", tiffinfo=tags)
    content = (tmp_path / "a.tiff").read_bytes()
    if struct.pack("<I", 80_000) not in content:  # not written by this Pillow: put them in
        content = _with_tags(content, tags)
    (tmp_path / "a.tiff").write_bytes(content)
    with pytest.raises(DataError, match=r"A tile of .*a\.tiff has 80000x80000 pixels"):
        open_photo(tmp_path / "a.tiff")


def _with_tags(content, tags):
    """Return a little-endian TIFF with some more tags of type LONG in its first directory."""
    (offset,) = struct.unpack_from("<I", content, 4)
    (count,) = struct.unpack_from("<H", content, offset)
    entries = [content[offset + 2 + 12 * n : offset + 14 + 12 * n] for n in range(count)]
    entries += [struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items()]
    entries.sort(key=lambda entry: struct.unpack_from("<H", entry)[0])
    directory = struct.pack("<H", len(entries)) + b"".join(entries) + bytes(4)
    return content[:4] + struct.pack("<I", len(content)) + content[8:] + directory


def test_pillows_own_limit_is_told_as_ours(tmp_path, monkeypatch):
    image(tmp_path / "a.png", size=(40, 30))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(DataError, match=r"more pixels than the 100 that .* raise PIL\.Image\.MAX"):
        open_photo(tmp_path / "a.png")
    with pytest.raises(DataError, match=f"more pixels than the 50 that .*{VARIABLE}"):
        open_photo(tmp_path / "a.png", max_pixels=50)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    assert open_photo(tmp_path / "a.png").size == (40, 30)  # Pillow only warns
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    assert open_photo(tmp_path / "a.png").size == (40, 30)


def test_pillows_warning_as_an_error_is_told_as_ours(tmp_path):
    path = bomb(tmp_path / "bomb.png", 13_000, 13_000)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(DataError, match=f"more pixels than the {MAX_PIXELS} that are decoded"):
            open_photo(path)


def test_masks_have_the_limit_too(tmp_path):
    trees.voc(tmp_path)
    bomb(tmp_path / "SegmentationClass" / "2007_000042.png", 13_000, 13_000)
    with pytest.raises(DataError, match=r"2007_000042\.png has 13000x13000 pixels and at most"):
        open_data(tmp_path).picture(0)
    bomb(tmp_path / "SegmentationClass" / "2007_000042.png", 2**20, 2**20)
    with pytest.raises(DataError, match=r"2007_000042\.png has more pixels than the"):
        open_data(tmp_path).picture(0)


@pytest.mark.parametrize(
    ("spec", "sentence"),
    [
        ("shapes:2?side=100000", "of 100000x100000 pixels were asked for, and at most 64000000"),
        ("shapes:99999999999999999", "99999999999999999 shapes were asked for; give 1 to 10000000"),
        ("shapes:10000001", "give 1 to 10000000"),
        ("shapes:-1", "give 1 to 10000000"),
        (f"shapes:{'9' * 5000}", "does not fit"),
        (f"shapes:2?side={'9' * 5000}", "does not fit"),
    ],
    ids=range(6),
)
def test_absurd_shapes(spec, sentence):
    with pytest.raises(OptionError, match=sentence) as caught:
        open_data(spec)
    assert "\n" not in str(caught.value)


def test_the_functions_that_draw_have_the_limit_too(monkeypatch):
    for draw in (shapes, backgrounds):
        with pytest.raises(OptionError, match="at most 64000000 are drawn"):
            draw(1, side=8001)
    monkeypatch.setenv(VARIABLE, "1024")
    assert shapes(1, side=32).images.shape[-1] == 32
    with pytest.raises(OptionError, match="at most 1024 are drawn"):
        shapes(1, side=33)


XML = {
    "wide": ("<width>8</width>", "<width>999999999999</width>"),
    "both": ("<width>8</width><height>6</height>", f"{'<width>%s</width><height>%s</height>'}"),
    "long": ("<width>8</width>", f"<width>{'9' * 5000}</width>"),
    "huge box": ("<xmax>5</xmax>", "<xmax>1e30</xmax>"),
    "endless box": ("<xmax>5</xmax>", "<xmax>inf</xmax>"),
    "no number": ("<xmax>5</xmax>", "<xmax>nan</xmax>"),
    "words": ("<xmax>5</xmax>", "<xmax>five</xmax>"),
}
XML["both"] = (XML["both"][0], XML["both"][1] % (8 * 10**11, 6 * 10**11))


def annotated(root, number=2):
    trees.foldered_imagenet(root / "data")
    path = root / "boxes" / f"{val(number)}.xml"
    trees.xml(path, (8, 6), (FIRST, 1, 1, 5, 5))
    return path


@pytest.mark.parametrize("change", XML.values(), ids=XML)
def test_absurd_annotations_are_told_for_their_image_alone(change, tmp_path):
    path = annotated(tmp_path)
    assert change[0] in path.read_text()
    path.write_text(path.read_text().replace(*change))
    broken = open_data(tmp_path / "data", boxes=tmp_path / "boxes").check()
    assert list(broken) == [f"val/{val(2)}.JPEG"]
    assert "\n" not in broken[f"val/{val(2)}.JPEG"]


def test_entities_are_refused(tmp_path):
    path = annotated(tmp_path)
    laughs = "".join(f'<!ENTITY a{n + 1} "{f"&a{n};" * 10}">' for n in range(9))
    declared = f'<!DOCTYPE annotation [<!ENTITY a0 "ha">{laughs}]>'
    plain = path.read_text()
    named = tmp_path / "secret.txt"
    named.write_text(FIRST)
    for content in (
        declared + plain.replace("<annotation>", "<annotation><filename>&a9;</filename>"),
        declared + plain,
        f'<!DOCTYPE a [<!ENTITY b SYSTEM "{named}">]>' + plain.replace(FIRST, "&b;"),
        '<!DOCTYPE a SYSTEM "http://localhost/a.dtd">' + plain,
        ('<?xml version="1.0" encoding="utf-16"?>' + declared + plain).encode("utf-16"),
    ):
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        begun = time.perf_counter()
        with pytest.raises(DataError, match="declares the document type") as caught:
            open_data(tmp_path / "data", boxes=tmp_path / "boxes").picture(0)
        assert time.perf_counter() - begun < 2
        assert "\n" not in str(caught.value)


def test_sizes_that_come_along_are_bounded_for_their_image_alone(tmp_path):
    trees.foldered_imagenet(tmp_path / "data")
    lines = [f"val/{val(number)}.JPEG,0,0,4,4\n" for number in (1, 2, 3)]
    (tmp_path / "localization.txt").write_text("".join(lines))
    sizes = [f"{val(1)},0,0\n", f"{val(2)},999999999999,6\n", f"{val(3)},8,6\n"]
    (tmp_path / "image_sizes.txt").write_text("".join(sizes))
    data = open_data(tmp_path / "data", boxes=tmp_path / "localization.txt")
    broken = data.check()
    assert list(broken) == [f"val/{val(2)}.JPEG"]
    assert "has 999999999999x6 pixels" in broken[f"val/{val(2)}.JPEG"]
    assert torch.equal(data.picture(1).boxes, torch.tensor([[0.0, 0.0, 4.0, 4.0]]))
