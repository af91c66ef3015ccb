"""Every saliency method, one short file a method or tight family; importing registers them all."""

from torchsaliency.methods import (
    attention,
    attribution,
    cam,
    masking,
    propagation,
    smoothing,
    tucker,
)

__all__ = ["attention", "attribution", "cam", "masking", "propagation", "smoothing", "tucker"]
