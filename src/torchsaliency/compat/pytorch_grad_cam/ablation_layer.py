"""The layers that the other library puts in the place of an ablated one: names without a body.

Here a layer stays where it is, and its output is replaced; how is read from `reshape_transform`.
"""

from __future__ import annotations


class AblationLayer:
    """Stands for the ablation of a layer of feature maps."""


class AblationLayerVit(AblationLayer):
    """Stands for the ablation of a layer of tokens."""


class AblationLayerFasterRCNN(AblationLayer):
    """Stands for the ablation of a feature pyramid."""
