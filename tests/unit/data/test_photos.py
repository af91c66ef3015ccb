"""Every kind of photograph opens as 8-bit RGB, and every bad file says why it does not."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from torchsaliency.data import find_photos, open_photo
from torchsaliency.errors import DataError

RAMP = np.linspace(0, 255, 64, dtype=np.uint8).reshape(8, 8)
COLOURS = np.stack([RAMP, RAMP[::-1], np.full_like(RAMP, 90)], axis=-1)


def reopened(image: Image.Image, path: Path, **options: object) -> np.ndarray:
    image.save(path, **options)
    opened = open_photo(path)
    assert opened.mode == "RGB"
    return np.asarray(opened).astype(int)


@pytest.mark.parametrize(
    ("suffix", "options", "tolerance"),
    [
        ("png", {}, 0),
        ("bmp", {}, 0),
        ("tiff", {}, 0),
        ("webp", {"lossless": True}, 0),
        ("jpg", {"quality": 100, "subsampling": 0}, 6),
    ],
)
def test_formats(suffix, options, tolerance, tmp_path):
    opened = reopened(Image.fromarray(COLOURS), tmp_path / f"photo.{suffix}", **options)
    assert np.abs(opened - COLOURS).max() <= tolerance


def test_gif_and_palette(tmp_path):
    frames = [Image.new("P", (8, 8), 1), Image.new("P", (8, 8), 2)]
    for frame in frames:
        frame.putpalette([0, 0, 0, 250, 10, 20, 1, 2, 3])
    opened = reopened(frames[0], tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    assert (opened == (250, 10, 20)).all()
    assert (reopened(frames[0], tmp_path / "a.png") == (250, 10, 20)).all()


def test_grey_and_black_and_white(tmp_path):
    grey = reopened(Image.fromarray(RAMP), tmp_path / "grey.png")
    assert (grey == RAMP[..., None]).all()
    assert set(reopened(Image.new("1", (4, 4), 1), tmp_path / "bw.png").flat) == {255}


@pytest.mark.parametrize("suffix", ["png", "tiff"])
def test_16_bits_are_scaled(suffix, tmp_path):
    deep = np.array([[0, 257, 32896, 65535]], dtype=np.uint16)
    opened = reopened(Image.fromarray(deep), tmp_path / f"deep.{suffix}")
    assert opened[0, :, 0].tolist() == [0, 1, 128, 255]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0.0, 0.5, 1.0], [0, 128, 255]),
        ([0.0, 100.0, 255.0], [0, 100, 255]),
        ([-1000.0, 0.0, 1000.0], [0, 128, 255]),
        ([0.0, float("nan"), 1.0], [0, 0, 255]),
        ([7.0, 7.0, 700.0], [0, 0, 255]),
        ([float("nan")] * 3, [0, 0, 0]),
        ([-3.0, -3.0, -3.0], [0, 0, 0]),
    ],
)
def test_floating_point_tiff(values, expected, tmp_path):
    image = Image.fromarray(np.array([values], dtype=np.float32))
    assert reopened(image, tmp_path / "float.tiff")[0, :, 1].tolist() == expected


def test_32_bit_integers(tmp_path):
    image = Image.fromarray(np.array([[0, 32896, 65535]], dtype=np.int32))
    assert reopened(image, tmp_path / "int.tiff")[0, :, 2].tolist() == [0, 128, 255]


def test_the_first_page(tmp_path):
    pages = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    opened = reopened(pages[0], tmp_path / "pages.tiff", save_all=True, append_images=pages[1:])
    assert (opened == (255, 0, 0)).all()


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_transparency_lies_on_white(mode, tmp_path):
    clear = Image.new(mode, (4, 4), 0)
    assert (reopened(clear, tmp_path / "clear.png") == 255).all()


def test_transparent_colours_and_palettes(tmp_path):
    marked = Image.new("RGB", (4, 4), (9, 9, 9))
    opened = reopened(marked, tmp_path / "key.png", transparency=(9, 9, 9))
    assert (opened == 255).all()
    palette = Image.new("P", (4, 4), 0)
    palette.putpalette([200, 0, 0, 0, 200, 0])
    opened = reopened(palette, tmp_path / "palette.png", transparency=bytes([0, 255]))
    assert (opened == 255).all()


def test_cmyk(tmp_path):
    white = Image.new("CMYK", (8, 8), (0, 0, 0, 0))
    assert reopened(white, tmp_path / "adobe.jpg").min() >= 250
    assert reopened(white, tmp_path / "cmyk.tiff").min() == 255


def test_exif_rotation(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held upright
    image = Image.new("RGB", (20, 10))
    assert reopened(image, tmp_path / "turned.jpg", exif=exif).shape == (20, 10, 3)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_damaged_exif_does_not_spoil_the_photo(tmp_path):
    image = Image.new("RGB", (20, 10))
    opened = reopened(image, tmp_path / "exif.jpg", exif=b"Exif\0\0MM\0*\0\0\xff\xff")
    assert opened.shape == (10, 20, 3)


def test_one_pixel(tmp_path):
    assert reopened(Image.new("L", (1, 1), 7), tmp_path / "dot.png").tolist() == [[[7, 7, 7]]]


@pytest.mark.parametrize("suffix", ["png", "jpg", "tiff", "webp", "bmp", "gif"])
@pytest.mark.parametrize("kept", [0.05, 0.5, 0.9])
def test_truncated(suffix, kept, tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(whole := tmp_path / f"whole.{suffix}")
    content = whole.read_bytes()
    (cut := tmp_path / f"cut.{suffix}").write_bytes(content[: int(kept * len(content))])
    with pytest.raises(DataError, match="cut"):
        open_photo(cut)


def test_not_a_photo(tmp_path):
    (text := tmp_path / "text.jpg").write_text("this is no photograph")
    with pytest.raises(DataError, match="no image that can be read; accepted are JPEG"):
        open_photo(text)
    (empty := tmp_path / "empty.png").touch()
    with pytest.raises(DataError, match="is empty"):
        open_photo(empty)
    with pytest.raises(DataError, match="is a folder"):
        open_photo(tmp_path)
    with pytest.raises(DataError, match="does not exist"):
        open_photo(tmp_path / "none.png")


def test_a_file_that_may_not_be_read(tmp_path, monkeypatch):
    Image.new("RGB", (4, 4)).save(path := tmp_path / "mine.png")
    monkeypatch.setattr(os, "access", lambda *_: False)  # root may read anything
    with pytest.raises(DataError, match="may not be read"):
        open_photo(path)


class TestFindPhotos:
    @pytest.fixture
    def folder(self, tmp_path):
        for name in ("b.JPG", "a/z.png", "a/deep/c.tif", "notes.txt", ".hidden.png", ".git/d.png"):
            (path := tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        return tmp_path

    def test_folders_are_searched_and_sorted(self, folder):
        found = [path.relative_to(folder).as_posix() for path in find_photos([folder])]
        assert found == ["a/deep/c.tif", "a/z.png", "b.JPG"]
        assert find_photos(str(folder)) == find_photos(folder)

    def test_files_come_as_given(self, folder):
        given = [folder / "notes.txt", folder / "b.JPG"]
        assert find_photos(given) == given

    def test_missing_and_empty(self, folder, tmp_path):
        with pytest.raises(DataError, match="none does not exist"):
            find_photos([folder, tmp_path / "none"])
        (empty := tmp_path / "empty").mkdir()
        with pytest.raises(DataError, match="no photographs in"):
            find_photos(empty)
        with pytest.raises(DataError, match="no photographs in no paths"):
            find_photos([])
