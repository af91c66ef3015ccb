"""torchvision's video networks, built from code: a layer is found and the maps fit the clip."""

import pytest
import torch
from torchvision.models import video
from torchvision.models.video.mvit import MSBlockConfig, MViT
from torchvision.models.video.swin_transformer import SwinTransformer3d

from nets import assert_good_map
from torchsaliency import ChannelsLast, Grid, Tokens, explain

STEM = {"r3d_18": "layer4", "mc3_18": "layer4", "r2plus1d_18": "layer4"}


def mvit(*, second: bool) -> MViT:
    """MViT as torchvision builds it, of two blocks; the second version has no class residual."""
    width = 16 if second else 32
    query = ([3, 3, 3], [1, 1, 1]) if second else ([], [])
    blocks = [
        MSBlockConfig(1, 16, width, query[0], [3, 3, 3], query[1], [1, 2, 2]),
        MSBlockConfig(2, width, 32, [3, 3, 3], [3, 3, 3], [1, 2, 2], [1, 1, 1]),
    ]
    return MViT(
        spatial_size=(32, 48),
        temporal_size=8,
        block_setting=blocks,
        num_classes=5,
        residual_pool=second,
        residual_with_cls_embed=not second,
        rel_pos_embed=second,
        proj_after_attn=second,
    )


def swin() -> SwinTransformer3d:
    return SwinTransformer3d([2, 4, 4], 12, [2, 2], [2, 2], [4, 4, 4], num_classes=5)


NETWORKS = {
    **{name: (lambda name=name: getattr(video, name)(num_classes=5)) for name in STEM},
    "mvit_v1": lambda: mvit(second=False),
    "mvit_v2": lambda: mvit(second=True),
    "swin3d": swin,
}
LAYOUTS = {
    **{name: (layer, Grid()) for name, layer in STEM.items()},
    "mvit_v1": ("blocks.1.norm1", Tokens(1, (4, 8, 12))),
    "mvit_v2": ("blocks.1.norm1", Tokens(1, (4, 8, 12))),
    "swin3d": ("norm", ChannelsLast()),
}
GRIDS = {
    "r3d_18": (1, 2, 3),
    "mc3_18": (8, 2, 3),
    "r2plus1d_18": (1, 2, 3),
    "mvit_v1": (4, 8, 12),
    "mvit_v2": (4, 8, 12),
    "swin3d": (4, 4, 6),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_a_clip_is_explained_with_nothing_named(name):
    torch.manual_seed(0)
    net, clip = NETWORKS[name]().eval(), torch.rand(1, 3, 8, 32, 48)
    found = explain(net, clip, ["gradcam", "mtsm", "layercam"], 1)
    for made in found.values():
        assert_good_map(made, 1, (8, 32, 48))
        assert made.raw.shape[1:] == GRIDS[name]
        assert (made.layers[0], made.reshapes[0]) == LAYOUTS[name]
    assert found["mtsm"].status == ("ok",)


def test_tokens_after_pooling_lie_on_the_grid_that_their_block_hands_on():
    torch.manual_seed(0)
    net, clip = mvit(second=False).eval(), torch.rand(1, 3, 8, 32, 48)
    made = explain(net, clip, "mtsm", layer="blocks.1")["mtsm"]
    assert made.reshapes == (Tokens(1, (4, 4, 6)),)
    assert made.raw.shape == (1, 4, 4, 6)
