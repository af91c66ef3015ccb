"""Images of any number of channels: multispectral TIFF files, NumPy files, arrays and tensors.

Their numbers stay as the file has them, because no range says what they mean: reflectances,
temperatures or counts. tifffile (the extra `multispectral`) reads every TIFF; Pillow those of up to
four channels or of several grey pages.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from PIL import Image, ImageSequence
from torch import Tensor

from torchsaliency.data.decoding import check_pixels, name_decoder_errors, pixel_limit
from torchsaliency.data.files import find_fault, printable
from torchsaliency.data.photos import Photo
from torchsaliency.errors import DataError, MissingPackageError, require_extra

_ACCEPTED = "accepted are TIFF, NumPy's .npy, and images that Pillow opens"
_TIFF = (b"II*\x00", b"MM\x00*", b"II+\x00", b"MM\x00+")
_SHOWN = (0.02, 0.98)
"""The quantiles between which a channel is shown from black to white."""

_SENTINEL, _SENTINEL_COLOURS = 10, (3, 2, 1)
"""From so many channels on, those of Sentinel-2 are taken for red, green and blue: B4, B3, B2."""

_MOST_QUANTILE = 1 << 20
"""Values that torch finds a quantile of; more are thinned out."""


def read_channels(photo: Photo, channels: int) -> NDArray[np.float32]:
    """Return an image's numbers (H, W, C) as its file stores them, in float32.

    Args:
        photo: a path, an image that PIL opened, or an array or a tensor (H, W), (H, W, C) or
            (C, H, W). Where both have the right number of channels, an array is (H, W, C) and a
            tensor (C, H, W).
        channels: how many there must be.

    Raises:
        DataError: the image cannot be read, or has another number of channels.

    Example:
        >>> read_channels(np.zeros((13, 64, 64)), 13).shape
        (64, 64, 13)
    """
    first, name = isinstance(photo, Tensor), "The image"
    if isinstance(photo, str | os.PathLike):
        name = printable(photo)
        values = read_values(Path(photo))
    elif isinstance(photo, Image.Image):
        values = _read_pages(photo)
    elif isinstance(photo, Tensor):
        values = photo.detach().float().numpy(force=True)
    else:
        values = np.asarray(photo)
    if values.ndim == 2:  # noqa: PLR2004 (height and width)
        values = values[..., None]
    axes = [axis for axis in ((0, -1) if first else (-1, 0)) if values.shape[axis] == channels]
    if values.ndim != 3 or 0 in values.shape or not axes or values.dtype.kind not in "buif":  # noqa: PLR2004
        raise DataError(
            f"{name} holds {values.dtype} of shape {values.shape}, and the network reads "
            f"{channels} channels; give (H, W, {channels}) or ({channels}, H, W)."
        )
    found = np.ascontiguousarray(np.moveaxis(values, axes[0], -1), dtype=np.float32)
    if not np.isfinite(found).all():
        raise DataError(f"{name} holds NaN or infinite numbers; fill the missing pixels first.")
    return found


def show_channels(values: Float[Tensor, "*batch c h w"]) -> Float[Tensor, "*batch 3 h w"]:
    """Return channels as colours in [0, 1] for the eye.

    Three of them are shown, each from its 2nd to its 98th percentile: the fourth, third and second
    of ten and more (red, green and blue of Sentinel-2), the first three of three and more, and the
    first alone as grey of fewer.

    Args:
        values: (*batch, C, H, W), of any range.

    Returns:
        Colours (*batch, 3, H, W) in [0, 1].

    Example:
        >>> show_channels(torch.rand(13, 4, 4)).shape
        torch.Size([3, 4, 4])
    """
    count = values.shape[-3]
    places = _SENTINEL_COLOURS if count >= _SENTINEL else (0, 1, 2) if count > 2 else (0, 0, 0)  # noqa: PLR2004
    chosen = values.detach().float().cpu()[..., list(places), :, :]
    flat = chosen.flatten(-2)
    flat = flat[..., :: max(1, flat.shape[-1] // _MOST_QUANTILE + 1)]
    low, high = flat.quantile(torch.tensor(_SHOWN), dim=-1)[..., None, None]
    shown: Tensor = ((chosen - low) / (high - low).clamp_min(1e-12)).clamp(0, 1)
    return shown


def picture_of(values: NDArray[np.float32]) -> Image.Image:
    """Return an image (H, W, C) of any channels as a picture, see `show_channels`."""
    shown = show_channels(torch.from_numpy(values).permute(2, 0, 1))
    return Image.fromarray((shown * 255).round().to(torch.uint8).permute(1, 2, 0).numpy())


def read_values(path: Path) -> NDArray[Any]:
    """Return the numbers of a .npy file, a TIFF or another image, as they are stored.

    Raises:
        DataError: it cannot be read, or is too large.
    """
    limit = pixel_limit()
    if fault := find_fault(path):
        raise DataError(f"{printable(path)} {fault}; give an image file.")
    with name_decoder_errors(path, limit, _ACCEPTED):
        with path.open("rb") as file:
            head = file.read(6)
        if head == b"\x93NUMPY":
            values: NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
            sides = sorted(values.shape)[-2:] or [0]
            check_pixels(printable(path), (sides[0], sides[-1]), limit)
            return values
        if head[:4] in _TIFF:
            return _read_tiff(path, limit)
        with Image.open(path) as image:
            check_pixels(printable(path), image.size, limit)
            return _read_pages(image)


def _read_tiff(path: Path, limit: int) -> NDArray[Any]:
    try:
        require_extra("multispectral", "tifffile")
    except MissingPackageError as missing:
        try:
            with Image.open(path) as image:
                check_pixels(printable(path), image.size, limit)
                return _read_pages(image)
        except OSError as error:
            raise DataError(f"{printable(path)} cannot be read by Pillow: {missing}") from error
    import tifffile  # noqa: PLC0415 (an extra)

    with tifffile.TiffFile(path) as file:
        page = file.pages[0]
        check_pixels(printable(path), (page.imagewidth, page.imagelength), limit)
        values: NDArray[Any] = np.squeeze(file.asarray())
    return values


def _read_pages(image: Image.Image) -> NDArray[Any]:
    """Return the bands of an image, or its grey pages one after the other."""
    frames = getattr(image, "n_frames", 1)
    if frames > 1 and len(image.getbands()) == 1:
        return np.stack([np.array(page) for page in ImageSequence.Iterator(image)], axis=-1)
    return np.array(image)
