"""Methods that read the attention of vision transformers."""

from torchsaliency.methods.attention.generic import AttentionGradCAM, GenericAttention
from torchsaliency.methods.attention.legrad import LeGrad
from torchsaliency.methods.attention.rollout import AttentionRollout, RawAttention
from torchsaliency.registry import make_moved_getattr

__getattr__ = make_moved_getattr(__name__)

__all__ = ["AttentionGradCAM", "AttentionRollout", "GenericAttention", "LeGrad", "RawAttention"]
