"""Opens DICOM images as a viewer would show them (extra: `torchsaliency[dicom]`).

Stored values go through the modality's rescaling, then the file's first window (DICOM PS3.3,
C.11.2.1.2), and MONOCHROME1 is inverted. Of a multi-frame file the first frame is taken.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from torchsaliency.core.errors import DataError
from torchsaliency.data.damage import damaged
from torchsaliency.data.scaling import scaled_to_bytes

_PREAMBLE = 128
_MAGIC = b"DICM"
_SUFFIXES = (".dcm", ".dicom")
_COLOUR_CHANNELS = 3


def is_dicom(path: Path) -> bool:
    """Whether a file says that it is DICOM, by its magic number or its suffix."""
    with path.open("rb") as file:
        return file.read(_PREAMBLE + 4)[_PREAMBLE:] == _MAGIC or path.suffix.lower() in _SUFFIXES


def open_dicom(path: Path) -> Image.Image:
    """Open a DICOM image as RGB.

    Raises:
        DataError: pydicom is not installed, or the file is no DICOM image.
    """
    try:
        import pydicom  # noqa: PLC0415 (an extra)
        from pydicom.errors import InvalidDicomError  # noqa: PLC0415
        from pydicom.pixels import pixel_array  # noqa: PLC0415
    except ImportError as error:
        raise DataError(
            f"{path} is a DICOM image, which needs the package pydicom; "
            "run pip install 'torchsaliency[dicom]'."
        ) from error
    try:
        dataset = pydicom.dcmread(path)
    except InvalidDicomError as error:
        raise DataError(
            f"{path} is named as DICOM and is none; give a DICOM file or the right suffix."
        ) from error
    except Exception as error:  # a damaged header breaks its parser in many ways
        raise damaged(path, error) from error
    if "PixelData" not in dataset:
        raise DataError(f"{path} is a DICOM file without an image; give one with pixel data.")
    try:
        stored = pixel_array(dataset, index=0)
    except Exception as error:  # its decoders raise many types for damaged or packed pixels
        raise damaged(path, error) from error
    return _shown(stored, dataset)


def _shown(stored: NDArray[Any], dataset: Any) -> Image.Image:
    """Return the image as a viewer shows it."""
    from pydicom.pixels import apply_modality_lut, apply_voi  # noqa: PLC0415

    if stored.shape[-1] == _COLOUR_CHANNELS and dataset.SamplesPerPixel == _COLOUR_CHANNELS:
        return Image.fromarray(scaled_to_bytes(stored, 2.0**dataset.BitsStored - 1))
    rescaled = apply_modality_lut(stored, dataset)
    values = np.asarray(rescaled, dtype=np.float64)
    if "VOILUTSequence" in dataset:
        values = _stretched(np.asarray(apply_voi(rescaled, dataset), dtype=np.float64))
    elif "WindowCenter" in dataset and "WindowWidth" in dataset:
        values = _windowed(values, dataset)
    else:
        values = _stretched(values)
    if dataset.PhotometricInterpretation == "MONOCHROME1":
        values = 1 - values
    return Image.fromarray(scaled_to_bytes(values, 1.0)).convert("RGB")


def _windowed(values: NDArray[np.float64], dataset: Any) -> NDArray[np.float64]:
    """Apply the first window, to [0, 1]."""
    center, width = _first(dataset.WindowCenter), _first(dataset.WindowWidth)
    function = str(dataset.get("VOILUTFunction", "LINEAR"))
    if function == "SIGMOID":
        return 1 / (1 + np.exp(-4 * (values - center) / width))
    if function == "LINEAR":  # by the standard, a width counts values, and the centre lies between
        center, width = center - 0.5, width - 1
    if width <= 0:
        return (values > center).astype(np.float64)
    return ((values - center) / width + 0.5).clip(0, 1)


def _stretched(values: NDArray[np.float64]) -> NDArray[np.float64]:
    low, high = values.min(), values.max()
    return (values - low) / (high - low) if high > low else np.zeros_like(values)


def _first(value: Any) -> float:
    """Return the first of one or several values."""
    try:
        return float(value)
    except TypeError:
        return float(value[0])
