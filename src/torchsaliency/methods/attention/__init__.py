"""Methods that read the attention of vision transformers."""

from torchsaliency.methods.attention.generic import AttentionGradCAM, GenericAttention
from torchsaliency.methods.attention.rollout import AttentionRollout, RawAttention
from torchsaliency.methods.attention.tibav import TIBAV

__all__ = ["TIBAV", "AttentionGradCAM", "AttentionRollout", "GenericAttention", "RawAttention"]
