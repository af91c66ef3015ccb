"""Many passes of one network made faster, on a copy that is known to be the same network.

Masking methods, insertion and deletion, sensitivity: hundreds of passes that differ only in the
image. The user's network is not touched, and whatever hooks into it runs on the network itself.
"""

from torchsaliency.core.acceleration import auto as auto
from torchsaliency.core.acceleration import engines as engines
from torchsaliency.core.acceleration import fast as fast
from torchsaliency.core.acceleration import onnx as onnx
from torchsaliency.core.acceleration.cache import accelerated, run, stand_in, step_aside
from torchsaliency.core.acceleration.copies import copy_network
from torchsaliency.core.acceleration.engine import ENGINES, Engine, register_engine

__all__ = [
    "ENGINES",
    "Engine",
    "accelerated",
    "copy_network",
    "register_engine",
    "run",
    "stand_in",
    "step_aside",
]
