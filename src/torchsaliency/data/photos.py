"""Opens photographs of every common kind as 8-bit RGB, or says in one sentence why it cannot.

Whether a photograph is a file, an image that PIL opened, an array or a tensor, `to_rgb` makes the
same pixels of it: EXIF rotation is applied, transparency is laid over white, deeper images are
scaled (not clipped) to 8 bits, and of an animation or a multi-page file the first picture is taken.

EXIF's orientation (CIPA DC-008, tag 0x0112) numbers the eight ways in which the stored pixels of an
upright photograph may lie; masks and boxes of the stored pixels are turned with them.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, final

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageFile
from torch import Tensor

from torchsaliency.data.decoding import check_pixels, name_decoder_errors, pixel_limit
from torchsaliency.data.dicom import is_dicom, open_dicom
from torchsaliency.data.files import find_fault, images_below, printable
from torchsaliency.data.scaling import image_of
from torchsaliency.errors import DataError

Photo = str | os.PathLike[str] | Image.Image | NDArray[Any] | Tensor
"""All that `to_rgb` takes for a photograph."""

_ACCEPTED = "accepted are JPEG, PNG, TIFF, WebP, BMP, GIF and DICOM"
_ACCEPTED_IN_MEMORY = "accepted are JPEG, PNG, TIFF, WebP, BMP and GIF"
_FORMATS = ("JPEG", "PNG", "TIFF", "WEBP", "BMP", "GIF")  # MPO opens as JPEG
_DEEP = ("I", "F")  # 16 and 32 bits a pixel: Pillow would clip these to 255, not scale them
_WHITE = (255, 255, 255, 255)
_TILE_SIZE = (322, 323)  # TIFF's tags TileWidth and TileLength
_TURNS = {
    1: (False, False, False),
    2: (False, True, False),
    3: (False, True, True),
    4: (False, False, True),
    5: (True, False, False),
    6: (True, True, False),
    7: (True, True, True),
    8: (True, False, True),
}
"""Whether the stored pixels are transposed, then mirrored left to right, then top to bottom."""


@final
@dataclass(frozen=True)
class Frame:
    """The size of an upright photograph, and how its file stores it.

    Attributes:
        size: (width, height) of the upright photograph.
        orientation: EXIF's, 1 to 8; 1 is stored upright.
    """

    size: tuple[int, int]
    orientation: int = 1

    @property
    def stored(self) -> tuple[int, int]:
        """Return (width, height) of the stored pixels."""
        transposed, _, _ = _TURNS[self.orientation]
        return self.size[::-1] if transposed else self.size


def open_photo(path: str | os.PathLike[str], *, max_pixels: int | None = None) -> Image.Image:
    """Open a photograph as RGB, upright, 8 bits a channel.

    Grey images of 16 bits are scaled by 65535. Of 32-bit integers and floating-point images the
    range decides: floats within [0, 1] are scaled by 1 and within [0, 255] by 255, integers within
    [0, 65535] by 65535, any others from the lowest value to the highest. Half a level beyond a
    range counts as within.

    Args:
        path: a JPEG, PNG, TIFF, WebP, BMP, GIF or DICOM file; its content decides, not its name.
        max_pixels: the largest picture that is decoded; None takes the environment variable
            TORCHSALIENCY_MAX_PIXELS, or 64 million. Pillow's own limit, PIL.Image.MAX_IMAGE_PIXELS,
            holds beside it.

    Raises:
        DataError: the file is missing, empty, damaged, too large or of another kind.
        OptionError: the limit is no whole number of at least 1.

    Example:
        >>> from torchsaliency.data import sample_photo
        >>> open_photo(sample_photo("chelsea").path).mode
        'RGB'
    """
    return read_photo(path, max_pixels=max_pixels)[0]


def to_rgb(photo: Photo) -> Image.Image:
    """Return a photograph as RGB, upright, 8 bits a channel, in whatever form it is given.

    Values are scaled as `open_photo` says; arrays of uint16 by 65535, of bool by 1. Colours in
    floating point must be in [0, 1] or [0, 255]. Two channels are grey and transparency, four are
    RGB and transparency.

    Args:
        photo: a path, an image that PIL opened, or an array or a tensor (H, W), (H, W, C) or
            (C, H, W) of bool, uint8, uint16, int32 (grey) or floats. Where a shape fits both
            layouts, an array is (H, W, C) and a tensor (C, H, W). Arrays have no EXIF block and are
            taken as they are.

    Raises:
        DataError: the photograph cannot be read or shown.

    Example:
        >>> to_rgb(np.array([[0, 65535]], dtype=np.uint16)).getpixel((1, 0))
        (255, 255, 255)
    """
    if isinstance(photo, str | os.PathLike):
        return open_photo(photo)
    if isinstance(photo, Image.Image):
        name, limit = getattr(photo, "filename", "") or "The photograph", pixel_limit()
        with name_decoder_errors(os.fsdecode(name), limit, _ACCEPTED):
            return _turn_upright(photo, os.fsdecode(name), limit)[0]
    if isinstance(photo, Tensor):
        return _over_white(image_of(_array_of(photo), channels_first=True))
    if isinstance(photo, np.ndarray):
        return _over_white(image_of(photo))
    raise DataError(
        f"The photograph is a {type(photo).__name__}; give a path, a PIL image, an array or a "
        "tensor."
    )


def read_photo(
    path: str | os.PathLike[str], *, max_pixels: int | None = None
) -> tuple[Image.Image, Frame]:
    """Open a photograph as `open_photo` does, and return how its file stores it.

    Raises:
        DataError: as `open_photo`.
        OptionError: as `open_photo`.
    """
    path, limit = Path(path), pixel_limit(max_pixels)
    if fault := find_fault(path):
        raise DataError(
            f"{printable(path)} {fault}; give an image file (find_photos lists those of a folder)."
        )
    with name_decoder_errors(path, limit, _ACCEPTED):
        if is_dicom(path):
            picture = open_dicom(path, limit)
            return picture, Frame(picture.size)
        with Image.open(path, formats=_FORMATS) as image:
            return _turn_upright(image, str(path), limit)


def decode_photo(content: bytes, name: str) -> tuple[Image.Image, Frame]:
    """Decode a photograph that lies in memory as `open_photo` does; DICOM is no such.

    Args:
        content: of the file.
        name: for errors.

    Raises:
        DataError: it is empty, damaged, too large or of another kind.
        OptionError: the limit of pixels is no whole number of at least 1.
    """
    limit = pixel_limit()
    if not content:
        raise DataError(f"{printable(name)} is empty; give an image file.")
    with (
        name_decoder_errors(name, limit, _ACCEPTED_IN_MEMORY),
        Image.open(BytesIO(content), formats=_FORMATS) as image,
    ):
        return _turn_upright(image, name, limit)


def find_photos(
    paths: str | os.PathLike[str] | Iterable[str | os.PathLike[str]],
) -> list[Path]:
    """List photographs: files as given, folders searched to the bottom in sorted order.

    Of a folder, files with an image's suffix count, and hidden ones do not. Links are followed; one
    that leads nowhere is listed, and an error when it is opened.

    Args:
        paths: one or more files and folders.

    Raises:
        DataError: a path does not exist, a folder cannot be read, or there is no photograph at all.

    Example:
        >>> from torchsaliency.data import sample_photo
        >>> [path.name for path in find_photos(sample_photo("chelsea").path)]
        ['chelsea.png']
    """
    given = [*map(Path, [paths] if isinstance(paths, str | os.PathLike) else paths)]
    found: list[Path] = []
    for path in given:
        if os.path.isdir(path):
            found += sorted(path / name for name in images_below(path))
        elif os.path.exists(path):
            found.append(path)
        else:
            raise DataError(
                f"{printable(path)} does not exist; give image files or folders of them."
            )
    if not found:
        where = ", ".join(map(printable, given)) or "no paths"
        raise DataError(f"There are no photographs in {where}; {_ACCEPTED}.")
    return found


def turn_pixels(pixels: NDArray[Any], orientation: int) -> NDArray[Any]:
    """Turn the stored pixels (H, W, …) of an image or a mask upright."""
    transposed, across, down = _TURNS[orientation]
    upright = np.swapaxes(pixels, 0, 1) if transposed else pixels
    return np.ascontiguousarray(upright[:: -1 if down else 1, :: -1 if across else 1])


def turn_boxes(boxes: Float[Tensor, "b 4"], frame: Frame) -> Float[Tensor, "b 4"]:
    """Turn boxes x0 y0 x1 y1 in the stored pixels to the upright photograph's."""
    transposed, across, down = _TURNS[frame.orientation]
    x0, y0, x1, y1 = boxes[:, [1, 0, 3, 2] if transposed else [0, 1, 2, 3]].unbind(1)
    if across:
        x0, x1 = frame.size[0] - x1, frame.size[0] - x0
    if down:
        y0, y1 = frame.size[1] - y1, frame.size[1] - y0
    return torch.stack([x0, y0, x1, y1], 1)


def _turn_upright(image: Image.Image, name: str, limit: int) -> tuple[Image.Image, Frame]:
    """Return an image of any of PIL's kinds as RGB and upright, and how it was stored."""
    if isinstance(image, ImageFile.ImageFile):
        _check_before_decoding(image, name, limit)
    if 0 in image.size:
        raise DataError(f"{printable(name)} has no pixels; give another photograph.")
    image.load()
    orientation = _orientation_of(image)
    colours = _colours(image)
    if orientation != 1:
        colours = Image.fromarray(turn_pixels(np.asarray(colours), orientation))
    colours.info.clear()  # an EXIF block that was followed must not be followed again
    return colours, Frame(colours.size, orientation)


def _check_before_decoding(image: ImageFile.ImageFile, name: str, limit: int) -> None:
    """Refuse an image of too many pixels, or one that another program would have to draw."""
    check_pixels(printable(name), image.size, limit)
    tags = getattr(image, "tag_v2", {})
    tile = [value for tag in _TILE_SIZE if isinstance(value := tags.get(tag), int)]
    if len(tile) == len(_TILE_SIZE):  # a tile is decoded whole, however little of it is the image
        check_pixels(f"A tile of {printable(name)}", (tile[0], tile[1]), limit)
    if image.format == "EPS" and image.tile:
        raise DataError(f"{printable(name)} is EPS and no image of pixels; {_ACCEPTED}.")


def _colours(image: Image.Image) -> Image.Image:
    if not image.mode.startswith(_DEEP):
        return _over_white(image)
    values = np.asarray(image)
    grey = image_of(values)
    clear = image.info.get("transparency")
    if isinstance(clear, int):
        grey.paste(255, mask=Image.fromarray(values == clear))
    return grey.convert("RGB")


def _over_white(image: Image.Image) -> Image.Image:
    if not image.has_transparency_data:
        return image.convert("RGB")
    colours = image.convert("RGBA")
    paper = Image.new("RGBA", colours.size, _WHITE)
    return Image.alpha_composite(paper, colours).convert("RGB")


def _array_of(tensor: Tensor) -> NDArray[Any]:
    """Return a tensor's values as an array; NumPy knows no bfloat16."""
    values = tensor.detach()
    if values.is_floating_point() and values.dtype != torch.float64:
        values = values.float()
    try:
        array: NDArray[Any] = values.numpy(force=True)
    except (TypeError, RuntimeError, NotImplementedError) as error:
        raise DataError(
            f"The photograph is a tensor of {tensor.dtype} on {tensor.device}, which has no values "
            "that NumPy can read; give a dense tensor on a device."
        ) from error
    return array


def _orientation_of(image: Image.Image) -> int:
    """Return the orientation of an image that is decoded; 1 where its EXIF block is damaged."""
    try:
        value = image.getexif().get(ExifTags.Base.Orientation, 1)
        return int(value) if value in _TURNS else 1
    except Exception:  # a damaged EXIF block breaks its parser in many ways and spoils no pixel
        return 1
