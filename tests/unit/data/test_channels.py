"""Images of any number of channels keep the numbers of their files."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch
from PIL import Image

from torchsaliency.data import read_channels, show_channels
from torchsaliency.errors import DataError

tifffile = pytest.importorskip("tifffile")

VALUES = np.random.default_rng(0).integers(0, 10_000, (6, 8, 13)).astype(np.uint16)


@pytest.mark.parametrize("form", ["tiff", "planar tiff", "pages", "npy", "array", "CHW", "tensor"])
def test_every_form_gives_the_same_numbers(form, tmp_path):
    path = tmp_path / f"scene.{'npy' if form == 'npy' else 'tif'}"
    first = np.ascontiguousarray(VALUES.transpose(2, 0, 1))
    if form == "tiff":
        tifffile.imwrite(path, VALUES, photometric="minisblack", planarconfig="contig")
    elif form == "planar tiff":
        tifffile.imwrite(path, first, photometric="minisblack", planarconfig="separate")
    elif form == "pages":
        tifffile.imwrite(path, first, photometric="minisblack")
    elif form == "npy":
        np.save(path, VALUES)
    given = {"array": VALUES, "CHW": first, "tensor": torch.from_numpy(first.astype(np.float32))}
    found = read_channels(given.get(form, path), 13)
    assert found.dtype == np.float32
    assert np.array_equal(found, VALUES)


def test_pillow_reads_pages_and_bands(tmp_path, monkeypatch):
    pages = [Image.fromarray(VALUES[..., channel]) for channel in range(3)]
    pages[0].save(path := tmp_path / "pages.tif", save_all=True, append_images=pages[1:])
    monkeypatch.setitem(sys.modules, "tifffile", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    assert np.array_equal(read_channels(path, 3), VALUES[..., :3])
    many = tmp_path / "many.tif"
    tifffile.imwrite(many, VALUES, photometric="minisblack", planarconfig="contig")
    with pytest.raises(DataError, match=r"pip install 'torchsaliency\[multispectral\]'"):
        read_channels(many, 13)
    four = Image.fromarray(VALUES[..., :4].astype(np.uint8), "RGBA")
    assert np.array_equal(read_channels(four, 4), VALUES[..., :4].astype(np.uint8))


def test_what_does_not_fit(tmp_path):
    with pytest.raises(DataError, match="reads 4 channels; give"):
        read_channels(VALUES, 4)
    with pytest.raises(DataError, match="NaN"):
        read_channels(np.full((13, 4, 4), np.nan), 13)
    with pytest.raises(DataError, match="does not exist"):
        read_channels(tmp_path / "none.tif", 13)
    (path := tmp_path / "text.tif").write_text("no image")
    with pytest.raises(DataError, match="no image that can be read"):
        read_channels(path, 13)


def test_three_channels_are_shown():
    shown = show_channels(torch.from_numpy(VALUES.astype(np.float32)).permute(2, 0, 1))
    assert shown.shape == (3, 6, 8)
    assert (float(shown.min()), float(shown.max())) == (0, 1)
    top = VALUES[..., 3].argmax()
    assert shown[0].flatten()[top] == 1
    assert torch.equal(*show_channels(torch.rand(2, 2, 4, 4))[:, 1:].unbind(1))
