"""The extractors."""

from torchsaliency.compat.torchcam.methods.activation import *  # noqa: F403
from torchsaliency.compat.torchcam.methods.attention import *  # noqa: F403
from torchsaliency.compat.torchcam.methods.core import OutputTarget as OutputTarget
from torchsaliency.compat.torchcam.methods.gradient import *  # noqa: F403
