"""Scales pixel values of any range to 8 bits."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_FLOAT_SCALES = (1.0, 255.0)
_INTEGER_SCALES = (65535.0,)


def scaled_to_bytes(values: NDArray[np.generic], full: float | None) -> NDArray[np.uint8]:
    """Scale values linearly to 0..255.

    Args:
        values: of any shape and number type; those that are not finite become black.
        full: the value that becomes 255, where zero stays zero; None lets the range decide.
            Floating-point values in [0, 1] scale by 1 and in [0, 255] by 255, integers in
            [0, 65535] by 65535, any others from their lowest to their highest.
    """
    exact = values.astype(np.float64)
    finite = exact[np.isfinite(exact)]
    low, high = (finite.min(), finite.max()) if finite.size else (0.0, 1.0)
    if full is not None:
        low, high = 0.0, full
    else:
        integers = np.issubdtype(values.dtype, np.integer)
        scales = _INTEGER_SCALES if integers else _FLOAT_SCALES
        fitting = [scale for scale in scales if low >= 0 and high <= scale]
        if fitting:
            low, high = 0.0, fitting[0]
    exact = np.where(np.isfinite(exact), exact, low)
    unit = (exact - low) / (high - low) if high > low else np.zeros_like(exact)
    scaled: NDArray[np.uint8] = np.rint(unit.clip(0, 1) * 255).astype(np.uint8)
    return scaled
