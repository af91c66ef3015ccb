"""Layer-wise relevance propagation."""

from torchsaliency.methods.propagation.lrp.method import LRP

__all__ = ["LRP"]
