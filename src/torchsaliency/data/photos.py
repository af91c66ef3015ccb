"""Opens photographs of every common kind as 8-bit RGB, or says in one sentence why it cannot.

EXIF rotation is applied, transparency is laid over white, deeper images are scaled (not clipped) to
8 bits, and of an animation or a multi-page file the first picture is taken.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from torchsaliency.core.errors import DataError
from torchsaliency.data.damage import damaged
from torchsaliency.data.dicom import is_dicom, open_dicom
from torchsaliency.data.scaling import scaled_to_bytes

PHOTO_SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".png", ".tif", ".tiff", ".webp", ".bmp", ".gif", ".dcm", ".dicom"}
)

_ACCEPTED = "accepted are JPEG, PNG, TIFF, WebP, BMP, GIF and DICOM"
_WHITE = (255, 255, 255, 255)
_FULL_16_BIT = 65535.0


def open_photo(path: str | Path) -> Image.Image:
    """Open a photograph as RGB, upright, 8 bits a channel.

    Grey images of 16 bits are scaled by 65535. Of 32-bit integers and floating-point images the
    range decides: floats within [0, 1] are scaled by 1 and within [0, 255] by 255, integers within
    [0, 65535] by 65535, any others from the lowest value to the highest.

    Args:
        path: a JPEG, PNG, TIFF, WebP, BMP, GIF or DICOM file.

    Raises:
        DataError: the file is missing, empty, damaged, too large or of another kind.
    """
    path = Path(path)
    _check_file(path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # remarks on metadata and large sizes, not on pixels
        return open_dicom(path) if is_dicom(path) else _rgb(_upright(_decoded(path)))


def find_photos(paths: str | Path | Iterable[str | Path]) -> list[Path]:
    """List photographs: files as given, folders searched to the bottom in sorted order.

    Of a folder, files with an image's suffix count, and hidden ones do not.

    Args:
        paths: one or more files and folders.

    Raises:
        DataError: a path does not exist, or there is no photograph at all.
    """
    given = [Path(path) for path in ([paths] if isinstance(paths, str | Path) else paths)]
    found: list[Path] = []
    for path in given:
        if path.is_dir():
            found += sorted(_photos_below(path))
        elif path.exists():
            found.append(path)
        else:
            raise DataError(f"{path} does not exist; give image files or folders of them.")
    if not found:
        where = ", ".join(map(str, given)) or "no paths"
        raise DataError(f"There are no photographs in {where}; {_ACCEPTED}.")
    return found


def _check_file(path: Path) -> None:
    """Say what is wrong with a path before any decoder sees it."""
    if path.is_dir():
        raise DataError(f"{path} is a folder, not a photograph; give a file, or use find_photos.")
    if not path.exists():
        raise DataError(f"{path} does not exist; give the path of an image file.")
    if not os.access(path, os.R_OK):
        raise DataError(f"{path} may not be read; check its permissions.")
    if path.stat().st_size == 0:
        raise DataError(f"{path} is empty; get the file again.")


def _photos_below(folder: Path) -> Iterator[Path]:
    for root, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in files:
            if not name.startswith(".") and Path(name).suffix.lower() in PHOTO_SUFFIXES:
                yield Path(root, name)


def _decoded(path: Path) -> Image.Image:
    """Decode the file's first picture."""
    try:
        with Image.open(path) as image:
            image.load()
            return image
    except Image.DecompressionBombError as error:
        raise DataError(
            f"{path} is too large to open safely ({error}); scale it down, "
            "or raise PIL.Image.MAX_IMAGE_PIXELS if you trust it."
        ) from error
    except UnidentifiedImageError as error:
        raise DataError(f"{path} is no image that can be read; {_ACCEPTED}.") from error
    except Exception as error:  # decoders raise many types for damaged files
        raise damaged(path, error) from error


def _upright(image: Image.Image) -> Image.Image:
    """Apply the camera's EXIF rotation; a damaged EXIF block does not spoil the picture."""
    try:
        return ImageOps.exif_transpose(image)
    except (OSError, ValueError, SyntaxError, KeyError, TypeError, ArithmeticError):
        return image


def _rgb(image: Image.Image) -> Image.Image:
    """Return any of PIL's kinds of image as RGB."""
    if image.mode == "RGB" and not image.has_transparency_data:
        return image.copy()
    if image.mode.startswith("I;16"):
        return _grey(np.asarray(image), _FULL_16_BIT)
    if image.mode in {"I", "F"}:
        return _grey(np.asarray(image), None)
    if image.has_transparency_data:
        colours = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", colours.size, _WHITE), colours).convert(
            "RGB"
        )
    return image.convert("RGB")


def _grey(values: NDArray[Any], full: float | None) -> Image.Image:
    return Image.fromarray(scaled_to_bytes(values, full)).convert("RGB")
