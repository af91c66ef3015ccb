"""Photographs as what every picture here is made of: 8-bit RGB."""

from __future__ import annotations

from PIL import ExifTags, Image, ImageOps

from torchsaliency.errors import InputError

_WIDE = ("I", "F")  # 16 and 32 bits a pixel: Pillow would clip these to 255, not scale them
_WHITE = (255, 255, 255, 255)


def check(photo: Image.Image) -> None:
    """Raise unless the photo can be shown.

    Raises:
        InputError: the photo has no pixels, or more than 8 bits a channel.
    """
    if 0 in photo.size:
        raise InputError(
            f"The photo is {photo.width}x{photo.height} pixels, and a picture needs one at least; "
            "give another photo."
        )
    if photo.mode.startswith(_WIDE):
        raise InputError(
            f"The photo has mode {photo.mode!r}, and pictures are made from 8 bits a channel; "
            "scale its values to 0..255 and convert it to 'L' or 'RGB' first."
        )


def rgb(photo: Image.Image) -> Image.Image:
    """Return the photo as 8-bit RGB, upright, as `torchsaliency.data.to_rgb` does.

    Grayscale, palette and CMYK convert, transparency shows white, and a photo that PIL opened and
    whose EXIF block says how it is turned is turned.

    Raises:
        InputError: the photo has no pixels, or more than 8 bits a channel.
    """
    check(photo)
    if photo.getexif().get(ExifTags.Base.Orientation, 1) != 1:
        photo = ImageOps.exif_transpose(photo)
    if photo.has_transparency_data:
        paper = Image.new("RGBA", photo.size, _WHITE)
        return Image.alpha_composite(paper, photo.convert("RGBA")).convert("RGB")
    return photo.convert("RGB")
