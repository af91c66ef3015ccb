"""What all class activation maps have in common."""

import pytest
import torch

from nets import convnet, images, quick
from torchsaliency import tracing
from torchsaliency.core.method import ChannelCAM, as_saliency, methods

CAMS = [name for name, entry in methods().items() if issubclass(entry.factory, ChannelCAM)]


@pytest.mark.parametrize("name", CAMS)
def test_contributions_of_the_channels_add_up_to_the_map(name):
    method = quick(name)
    with tracing(convnet(), images(2), 1, ["relu3"]) as trace:
        view = trace["relu3"]
        added = method.contributions(view).sum(1)
        made = as_saliency(method.saliency(view)).raw
    torch.testing.assert_close(made, added.relu() if method.rectified else added)
