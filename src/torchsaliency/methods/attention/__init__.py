"""Methods that read the attention of vision transformers."""

from torchsaliency.methods.attention.generic import AttentionGradCAM, GenericAttention
from torchsaliency.methods.attention.rollout import AttentionRollout, RawAttention

__all__ = ["AttentionGradCAM", "AttentionRollout", "GenericAttention", "RawAttention"]
