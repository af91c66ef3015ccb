"""Layer-wise relevance propagation."""

from torchsaliency.methods.attribution.lrp.method import LRP

__all__ = ["LRP"]
