"""Opens DICOM images as a viewer would show them (extra: `torchsaliency[dicom]`).

Stored values go through the modality's rescaling or table, then the file's first table or window of
interest (DICOM PS3.3, C.11.1 and C.11.2), and MONOCHROME1 is inverted. Pixels that only pad the
image (PixelPaddingValue) decide nothing and are black. Of a multi-frame file the first frame is
taken. An element without a value counts as absent: anonymisers and archives leave many.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from torchsaliency.data.decoding import HINT, check_pixels
from torchsaliency.data.files import printable
from torchsaliency.data.scaling import scaled_to_bytes
from torchsaliency.errors import DataError

_PREAMBLE = 128
_MAGIC = b"DICM"
_SUFFIXES = (".dcm", ".dicom")
_NEEDED = (
    *("Rows", "Columns", "SamplesPerPixel", "PhotometricInterpretation"),
    *("BitsAllocated", "BitsStored", "PixelRepresentation"),
)
_GREY = ("MONOCHROME1", "MONOCHROME2")
_LINEAR = "LINEAR"
_FUNCTIONS = (_LINEAR, "LINEAR_EXACT", "SIGMOID")
_BYTE = 8
_BYTES_OF_A_VALUE = 2
_HEADER = 2**24  # bytes of all that is not pixels
_GROUP_LENGTH = 12  # bytes of the element that tells how long the meta information is
_BLOCK = 2**20
_MOST = 2**16  # entries of a table, where its descriptor says 0


def is_dicom(path: Path) -> bool:
    """Whether a file says that it is DICOM, by its magic number or its suffix."""
    with path.open("rb") as file:
        return file.read(_PREAMBLE + 4)[_PREAMBLE:] == _MAGIC or path.suffix.lower() in _SUFFIXES


def open_dicom(path: Path, limit: int) -> Image.Image:
    """Open a DICOM image as RGB.

    Args:
        path: of the file.
        limit: of values (pixels times channels) that are decoded.

    Raises:
        DataError: pydicom is not installed, or the file is no DICOM image or too large.
        Exception: of many types, of pydicom and its decoders for a damaged file.
    """
    name = printable(path)
    try:
        import pydicom  # noqa: PLC0415 (an extra)
        from pydicom.errors import InvalidDicomError  # noqa: PLC0415
    except ImportError as error:
        raise DataError(
            f"{name} is a DICOM image, which needs the package pydicom; "
            "run pip install 'torchsaliency[dicom]'."
        ) from error
    try:
        _check_inflated(path, limit)
        dataset = pydicom.dcmread(path)
        _check(dataset, name, limit)
        with np.errstate(all="ignore"):  # what is not finite is shown black
            return Image.fromarray(_levels(dataset, name)).convert("RGB")
    except InvalidDicomError as error:
        raise DataError(
            f"{name} is named as DICOM and is none; give a DICOM file or the right suffix."
        ) from error


def _check_inflated(path: Path, limit: int) -> None:
    """Refuse a deflated file that inflates to more than any image: pydicom inflates all at once."""
    from pydicom.filereader import read_file_meta_info  # noqa: PLC0415
    from pydicom.uid import DeflatedExplicitVRLittleEndian  # noqa: PLC0415

    about = read_file_meta_info(path)
    if about.get("TransferSyntaxUID") != DeflatedExplicitVRLittleEndian:
        return
    most, length = limit * _BYTES_OF_A_VALUE + _HEADER, 0
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    with path.open("rb") as file:
        file.seek(_PREAMBLE + len(_MAGIC) + _GROUP_LENGTH + about.FileMetaInformationGroupLength)
        while block := inflater.unconsumed_tail or file.read(_BLOCK):
            length += len(inflater.decompress(block, _BLOCK))
            if length > most:
                raise DataError(
                    f"{printable(path)} inflates to more than {most} bytes; get another file, or "
                    f"{HINT} if you trust it."
                )


def _check(dataset: Any, name: str, limit: int) -> None:
    """Refuse a file that is no image, lacks what its pixels need, or is too large."""
    if _value(dataset, "PixelData") is None:
        raise DataError(f"{name} is a DICOM file without an image; give one with pixel data.")
    if missing := [keyword for keyword in _NEEDED if _value(dataset, keyword) is None]:
        raise DataError(
            f"{name} has no value of {', '.join(missing)}, without which its pixels cannot be "
            "read; get the file again."
        )
    size, channels = (int(dataset.Columns), int(dataset.Rows)), int(dataset.SamplesPerPixel)
    check_pixels(name, size, limit // max(channels, 1))
    if _value(dataset, "NumberOfFrames") is None and "NumberOfFrames" in dataset:
        del dataset.NumberOfFrames  # empty, which pydicom cannot read


def _levels(dataset: Any, name: str) -> NDArray[np.uint8]:
    from pydicom.pixels import pixel_array  # noqa: PLC0415

    stored = pixel_array(dataset, index=0)
    kind = str(dataset.PhotometricInterpretation)
    if stored.ndim == 3:  # noqa: PLR2004 (rows, columns and colours)
        return scaled_to_bytes(stored, 2.0**dataset.BitsStored - 1)
    if kind == "PALETTE COLOR":
        return _palette_colours(stored, dataset)
    if kind not in _GREY:
        raise DataError(
            f"{name} has the photometric interpretation {printable(kind)!r}; give a grey image, "
            "RGB, YBR or palette colours."
        )
    values, padding = _rescale(stored, dataset, name), _padding(stored, dataset, name)
    if table := _value(dataset, "VOILUTSequence"):
        values = _stretch(_look_up(values, table[0], "LUT"), ~padding)
    elif (window := _window(dataset, name)) is not None:
        values = _apply_window(values, *window)
    else:
        values = _stretch(values, ~padding)
    levels = scaled_to_bytes(1 - values if kind == "MONOCHROME1" else values, 1.0)
    levels[padding] = 0
    return levels


def _palette_colours(stored: NDArray[Any], dataset: Any) -> NDArray[np.uint8]:
    palettes = [f"{colour}PaletteColorLookupTable" for colour in ("Red", "Green", "Blue")]
    colours = np.stack([_look_up(stored, dataset, palette) for palette in palettes], -1)
    count, _, bits = dataset.RedPaletteColorLookupTableDescriptor
    of_bytes = bits == _BYTE or len(dataset.RedPaletteColorLookupTableData) == (count or _MOST)
    return scaled_to_bytes(colours, 255.0 if of_bytes else 65535.0)


def _rescale(stored: NDArray[Any], dataset: Any, name: str) -> NDArray[np.float64]:
    if table := _value(dataset, "ModalityLUTSequence"):
        return _look_up(stored, table[0], "LUT")
    slope = _number(dataset, "RescaleSlope", name)
    intercept = _number(dataset, "RescaleIntercept", name)
    values: NDArray[np.float64] = stored.astype(np.float64) * (1.0 if slope is None else slope)
    return values + (intercept or 0.0)


def _look_up(values: NDArray[Any], dataset: Any, table: str) -> NDArray[np.float64]:
    """Apply a table; a value before its first entry takes the first, one after its last the last.

    Not by pydicom, which computes places in the type of the entries, where they may overflow.
    """
    count, first, _ = (int(number) for number in dataset[f"{table}Descriptor"].value)
    entries = dataset[f"{table}Data"].value
    count = count or _MOST
    if isinstance(entries, bytes):
        order = ">" if dataset.original_encoding[1] is False else "<"
        entries = np.frombuffer(entries, f"{order}u2" if len(entries) >= 2 * count else "u1")
    listed = np.atleast_1d(np.asarray(entries, dtype=np.float64))[:count]
    places = (np.rint(values) - first).clip(0, len(listed) - 1).astype(np.int64)
    found: NDArray[np.float64] = listed[places]
    return found


def _padding(stored: NDArray[Any], dataset: Any, name: str) -> NDArray[np.bool_]:
    value = _number(dataset, "PixelPaddingValue", name)
    if value is None:
        return np.zeros(stored.shape, dtype=bool)
    limit = _number(dataset, "PixelPaddingRangeLimit", name)
    # a signed value may be written as an unsigned one
    first, last = (
        np.asarray(int(end)).astype(stored.dtype)
        for end in (value, value if limit is None else limit)
    )
    found: NDArray[np.bool_] = (stored >= min(first, last)) & (stored <= max(first, last))
    return found


def _window(dataset: Any, name: str) -> tuple[float, float, str] | None:
    """Return the centre, width and function of the first window; None where there is none."""
    function = str(_value(dataset, "VOILUTFunction"))
    function = function if function in _FUNCTIONS else _LINEAR
    least = 1.0 if function == _LINEAR else 0.0  # by the standard, below which it is none
    for centre, width in zip(
        _numbers(dataset, "WindowCenter", name),
        _numbers(dataset, "WindowWidth", name),
        strict=False,
    ):
        if centre is not None and width is not None and width > 0 and width >= least:
            return centre, width, function
    return None


def _apply_window(
    values: NDArray[np.float64], centre: float, width: float, function: str
) -> NDArray[np.float64]:
    if function == "SIGMOID":
        return 1 / (1 + np.exp(-4 * (values - centre) / width))
    if function == _LINEAR:  # by the standard, a width counts values, and the centre lies between
        centre, width = centre - 0.5, width - 1
    if width == 0:
        return (values > centre).astype(np.float64)
    return ((values - centre) / width + 0.5).clip(0, 1)


def _stretch(values: NDArray[np.float64], counted: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Scale values to [0, 1] from the lowest to the highest of those that count."""
    finite = values[counted & np.isfinite(values)]
    if not finite.size or finite.min() == finite.max():
        return np.zeros_like(values)
    low, high = float(finite.min()), float(finite.max())
    return (values - low) / (high - low)


def _number(dataset: Any, keyword: str, name: str) -> float | None:
    numbers = _numbers(dataset, keyword, name)
    return next((number for number in numbers if number is not None), None)


def _numbers(dataset: Any, keyword: str, name: str) -> list[float | None]:
    """Return the numbers of an element, None for each that is empty."""
    value = _value(dataset, keyword)
    several = isinstance(value, Sequence) and not isinstance(value, str)
    numbers = [
        None if _is_empty(item) else float(item)
        for item in (value if several else [value])  # fails where it is no number
    ]
    if not all(number is None or math.isfinite(number) for number in numbers):
        raise DataError(f"{name} has a {keyword} that is not finite; get the file again.")
    return numbers


def _value(dataset: Any, keyword: str) -> Any:
    value = dataset.get(keyword)
    return None if _is_empty(value) else value


def _is_empty(value: Any) -> bool:
    if isinstance(value, str):
        return not value.strip(" \0")
    if isinstance(value, Sequence):
        return all(map(_is_empty, value))
    return value is None
