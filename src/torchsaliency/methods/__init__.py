"""Every saliency method, one short file a method or tight family; importing registers them all."""

from torchsaliency.methods import attention, attribution, cam, decomposition, masking, smoothing

__all__ = ["attention", "attribution", "cam", "decomposition", "masking", "smoothing"]
