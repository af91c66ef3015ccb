"""Every saliency method, one short file a method or tight family; importing registers them all."""

from torchsaliency.methods import cam, decomposition, smoothing

__all__ = ["cam", "decomposition", "smoothing"]
