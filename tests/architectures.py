"""The catalogue of architectures whose default layer is found without naming one.

Read by tests/architecture, which proves it, and by scripts/architecture_table.py, which prints it
into docs/architectures.md.
"""

from __future__ import annotations

import hashlib
import warnings
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import timm
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torchvision import models
from transformers import AutoConfig, AutoModelForImageClassification

import torchsaliency
from torchsaliency.core.discovery import default_layer
from torchsaliency.core.layer import Layer
from torchsaliency.methods.cam import OptiCAM
from torchsaliency.zoo.code import drop_comments
from torchsaliency.zoo.sources.huggingface import feed_images

PAPERS = "the paper's"
"""How the table calls the layout of a layer that `paper_layer` names."""

METHODS = {"gradcam": "gradcam", "mtsm": "mtsm", "opticam": OptiCAM(iterations=2)}

# Family: (timm name, input side, options). Small members of many families.
TIMM: dict[str, tuple[str, int, dict[str, object]]] = {
    "BEiT": ("beit_base_patch16_224", 64, {"depth": 2, "img_size": 64}),
    "BoTNet": ("botnet26t_256", 256, {}),
    "CaiT": ("cait_xxs24_224", 64, {"img_size": 64}),
    "CoaT": ("coat_lite_tiny", 224, {}),
    "CoAtNet": ("coatnet_nano_rw_224", 224, {}),
    "ConvFormer": ("convformer_s18", 64, {}),
    "ConViT": ("convit_tiny", 224, {}),
    "ConvMixer": ("convmixer_768_32", 64, {}),
    "ConvNeXt": ("convnext_atto", 64, {}),
    "ConvNeXt V2": ("convnextv2_atto", 64, {}),
    "CrossViT": ("crossvit_tiny_240", 240, {}),
    "CSPNet": ("cspresnet50", 64, {}),
    "DarkNet": ("darknet53", 64, {}),
    "DaViT": ("davit_tiny", 64, {}),
    "DeiT": ("deit_tiny_patch16_224", 64, {"img_size": 64}),
    "DeiT distilled": ("deit_tiny_distilled_patch16_224", 64, {"img_size": 64}),
    "DeiT III": ("deit3_small_patch16_224", 64, {"img_size": 64}),
    "DenseNet": ("densenet121", 64, {}),
    "DINOv2 with registers": (
        "vit_small_patch14_reg4_dinov2",
        70,
        {"img_size": 70, "num_classes": 10},
    ),
    "DLA": ("dla34", 64, {}),
    "DPN": ("dpn48b", 64, {}),
    "ECA-ResNet": ("ecaresnet26t", 64, {}),
    "EdgeNeXt": ("edgenext_xx_small", 64, {}),
    "EfficientFormer V2": ("efficientformerv2_s0", 224, {}),
    "EfficientNet": ("efficientnet_b0", 64, {}),
    "EfficientNet V2": ("efficientnetv2_rw_t", 64, {}),
    "EfficientNet-Lite": ("tf_efficientnet_lite0", 64, {}),
    "EfficientViT": ("efficientvit_b0", 64, {}),
    "EVA-02": ("eva02_tiny_patch14_224", 70, {"img_size": 70}),
    "FasterNet": ("fasternet_t0", 64, {}),
    "FastViT": ("fastvit_t8", 64, {}),
    "FocalNet": ("focalnet_tiny_srf", 64, {}),
    "GhostNet": ("ghostnet_100", 64, {}),
    "gMLP": ("gmlp_ti16_224", 224, {}),
    "HardCoReNAS": ("hardcorenas_a", 64, {}),
    "HGNet": ("hgnetv2_b0", 64, {}),
    "Hiera": ("hiera_tiny_224", 224, {}),
    "HRNet": ("hrnet_w18_small", 64, {}),
    "Inception-NeXt": ("inception_next_atto", 64, {}),
    "Inception V3": ("inception_v3", 160, {}),
    "Inception V4": ("inception_v4", 160, {}),
    "LCNet": ("lcnet_050", 64, {}),
    "LeViT": ("levit_128s", 224, {}),
    "MambaOut": ("mambaout_femto", 64, {}),
    "MaxViT": ("maxvit_rmlp_pico_rw_256", 256, {}),
    "MixNet": ("mixnet_s", 64, {}),
    "MLP-Mixer": ("mixer_s16_224", 224, {}),
    "MNASNet": ("mnasnet_small", 64, {}),
    "MobileNet V2": ("mobilenetv2_050", 64, {}),
    "MobileNet V3": ("mobilenetv3_small_050", 64, {}),
    "MobileNet V4": ("mobilenetv4_conv_small_035", 64, {}),
    "MobileOne": ("mobileone_s0", 64, {}),
    "MobileViT": ("mobilevit_xxs", 64, {}),
    "MobileViT V2": ("mobilevitv2_050", 64, {}),
    "MViT V2": ("mvitv2_tiny", 224, {}),
    "NASNet": ("nasnetalarge", 96, {}),
    "NFNet": ("dm_nfnet_f0", 64, {}),
    "NesT": ("nest_tiny", 224, {}),
    "PiT": ("pit_ti_224", 224, {}),
    "PNASNet": ("pnasnet5large", 96, {}),
    "PoolFormer": ("poolformer_s12", 64, {}),
    "PVT V2": ("pvt_v2_b0", 64, {}),
    "RegNet": ("regnety_002", 64, {}),
    "RepVGG": ("repvgg_a0", 64, {}),
    "RepViT": ("repvit_m0_9", 64, {}),
    "Res2Net": ("res2net50_14w_8s", 64, {}),
    "ResMLP": ("resmlp_12_224", 224, {}),
    "ResNeSt": ("resnest14d", 64, {}),
    "ResNet": ("resnet18", 64, {}),
    "ResNeXt": ("resnext50_32x4d", 64, {}),
    "ReXNet": ("rexnetr_200", 64, {}),
    "SelecSLS": ("selecsls42b", 64, {}),
    "SENet": ("legacy_seresnet18", 64, {}),
    "Sequencer": ("sequencer2d_s", 224, {}),
    "SKNet": ("skresnet18", 64, {}),
    "StarNet": ("starnet_s050", 64, {}),
    "Swin": ("swin_tiny_patch4_window7_224", 224, {}),
    "Swin V2": ("swinv2_tiny_window8_256", 256, {}),
    "SwiftFormer": ("swiftformer_xs", 64, {}),
    "TinyViT": ("tiny_vit_5m_224", 224, {}),
    "TinyNet": ("tinynet_e", 64, {}),
    "TNT": ("tnt_s_legacy_patch16_224", 224, {}),
    "TResNet": ("tresnet_m", 64, {}),
    "Twins": ("twins_svt_small", 224, {}),
    "VGG": ("vgg11_bn", 64, {}),
    "VGG16-BN": ("vgg16_bn", 64, {}),
    "Visformer": ("visformer_tiny", 224, {}),
    "ViT": ("vit_tiny_patch16_224", 64, {"img_size": 64}),
    "ViT with GAP": ("vit_base_patch16_gap_224", 64, {"img_size": 64, "depth": 2}),
    "ViT, SigLIP head": ("vit_base_patch16_siglip_gap_224", 64, {"img_size": 64, "depth": 2}),
    "VOLO": ("volo_d1_224", 224, {}),
    "VoVNet": ("ese_vovnet19b_dw", 64, {}),
    "Xception": ("legacy_xception", 96, {}),
    "XCiT": ("xcit_nano_12_p16_224", 64, {}),
    "Aligned Xception": ("xception41", 96, {}),
    "BiT": ("resnetv2_50", 64, {}),
    "CPUBone": ("cpubone_b0_bfrobust", 224, {}),
    "CSATv2": ("csatv2", 512, {}),
    "CSPNeXt": ("cspnext_tiny", 64, {}),
    "DeepSeek ViT": ("deepseek_vit_412m", 70, {"depth": 2, "img_size": 70}),
    "DINOv3": ("vit_small_patch16_dinov3", 64, {"depth": 2, "num_classes": 10}),
    "EfficientFormer": ("efficientformer_l1", 224, {}),
    "EfficientViM": ("efficientvim_m1", 224, {}),
    "EfficientViT of MSRA": ("efficientvit_m0", 224, {}),
    "GCViT": ("gcvit_xxtiny", 224, {}),
    "Gemma 4 ViT": ("gemma4_vit_167m", 96, {"depth": 2, "img_size": 96}),
    "Hiera of SAM 2": ("sam2_hiera_tiny", 224, {"num_classes": 10}),
    "iFormer": ("iformer_m", 224, {}),
    "Inception-ResNet V2": ("inception_resnet_v2", 160, {}),
    "LCNet V2": ("lcnetv2_small", 64, {}),
    "LowFormer": ("lowformer_b0", 224, {}),
    "NaFlexViT": (
        "naflexvit_base_patch16_gap",
        64,
        {"depth": 2, "embed_dim": 64, "num_heads": 2},
    ),
    "Next-ViT": ("nextvit_small", 64, {}),
    "Qwen3 ViT": ("qwen3_vit_88m", 64, {"depth": 2, "img_size": 64}),
    "RDNet": ("rdnet_tiny", 64, {}),
    "RepGhost": ("repghostnet_050", 64, {}),
    "SAM ViT": ("samvit_base_patch16_224", 224, {"depth": 2, "num_classes": 10}),
    "SHViT": ("shvit_s1", 224, {}),
    "Swin V2-CR": ("swinv2_cr_tiny_ns_224", 224, {}),
    "ViT, hybrid": ("vit_base_r50_s16_224", 224, {"depth": 2}),
    "ViT, relative positions": ("vit_relpos_small_patch16_224", 224, {"depth": 2}),
    "ViTamin": ("vitamin_small_224", 224, {}),
}

_STAGES = {"hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 1, 1]}
_HEADS = {**_STAGES, "num_attention_heads": [1, 2, 2, 2]}
_VIT = {
    "image_size": 64,
    "patch_size": 16,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
}
_SWIN = {"image_size": 64, "embed_dim": 8, "depths": [1, 1], "num_heads": [2, 2], "window_size": 4}
_REGNET = {"embedding_size": 8, "hidden_sizes": [8, 16, 16, 16], "depths": [1, 1, 1, 1]}
_FOCAL = {"focal_levels": [1, 1, 1, 1], "focal_windows": [3, 3, 3, 3]}

# Family: (model type, options of its config). What transformers classifies images with, made small;
# all but LeViT take 64 pixels. Not here: DiNAT (needs natten), ImageGPT (reads numbers of colours)
# and ShieldGemma 2 (reads texts beside images).
TRANSFORMERS: dict[str, tuple[str, dict[str, object]]] = {
    "BEiT": ("beit", _VIT),
    "BiT": ("bit", {**_REGNET, "hidden_sizes": [16, 16, 32, 32], "num_groups": 4}),
    "CLIP": ("clip", {"vision_config": _VIT}),
    "ConvNeXt": ("convnext", _STAGES),
    "ConvNeXt V2": ("convnextv2", _STAGES),
    "Data2Vec": ("data2vec-vision", _VIT),
    "DeiT": ("deit", {**_VIT, "architectures": ["DeiTForImageClassification"]}),
    "DINOv2": ("dinov2", _VIT),
    "DINOv2 with registers": ("dinov2_with_registers", _VIT),
    "Donut": ("donut-swin", _SWIN),
    "EfficientNet": (
        "efficientnet",
        {"width_coefficient": 0.25, "depth_coefficient": 0.25, "hidden_dim": 320},
    ),
    "FocalNet": (
        "focalnet",
        {
            **_FOCAL,
            "image_size": 64,
            "embed_dim": 8,
            "hidden_sizes": [8, 16, 32, 64],
            "depths": [1, 1, 1, 1],
        },
    ),
    "HGNet V2": ("hgnet_v2", {}),
    "Hiera": (
        "hiera",
        {"image_size": [64, 64], "embed_dim": 8, "depths": [1, 1, 2, 1], "num_heads": [1, 2, 4, 8]},
    ),
    "I-JEPA": ("ijepa", _VIT),
    "MetaCLIP 2": ("metaclip_2", {"vision_config": _VIT}),
    "MobileNet V1": ("mobilenet_v1", {"depth_multiplier": 0.25}),
    "MobileNet V2": ("mobilenet_v2", {"depth_multiplier": 0.35}),
    "MobileViT": (
        "mobilevit",
        {
            "image_size": 64,
            "hidden_sizes": [16, 24, 32],
            "neck_hidden_sizes": [8, 8, 16, 24, 32, 40, 64],
            "num_attention_heads": 2,
        },
    ),
    "MobileViT V2": ("mobilevitv2", {"image_size": 64, "width_multiplier": 0.25}),
    "PoolFormer": ("poolformer", _STAGES),
    "PVT": ("pvt", {**_HEADS, "image_size": 64}),
    "PVT V2": ("pvt_v2", {**_HEADS, "image_size": 64}),
    "RegNet": ("regnet", {**_REGNET, "groups_width": 8}),
    "ResNet": ("resnet", _REGNET),
    "SegFormer": ("segformer", _HEADS),
    "SigLIP": ("siglip", {"vision_config": _VIT}),
    "SwiftFormer": (
        "swiftformer",
        {"image_size": 64, "embed_dims": [16, 16, 24, 32], "depths": [1, 1, 1, 1]},
    ),
    "Swin": ("swin", _SWIN),
    "Swin V2": ("swinv2", _SWIN),
    "TextNet": ("textnet", {}),
    "ViT": ("vit", _VIT),
    "ViT MSN": ("vit_msn", _VIT),
    "CvT": ("cvt", {"embed_dim": [8, 16, 32], "num_heads": [1, 2, 2], "depth": [1, 2, 3]}),
    "LeViT": (
        "levit",
        {
            "image_size": 256,
            "hidden_sizes": [16, 32, 48],
            "num_attention_heads": [2, 2, 2],
            "depths": [1, 1, 1],
            "key_dim": [8, 8, 8],
            "architectures": ["LevitForImageClassification"],
        },
    ),
    "Perceiver": (
        "perceiver",
        {
            "image_size": 64,
            "d_latents": 32,
            "num_latents": 118,  # no square, which could be taken for a grid
            "num_self_attends_per_block": 1,
            "num_self_attention_heads": 2,
            "num_cross_attention_heads": 1,
            "architectures": ["PerceiverForImageClassificationConvProcessing"],
        },
    ),
    "PP-LCNet": ("pp_lcnet", {}),
    "SigLIP 2": ("siglip2", {"vision_config": {**_VIT, "num_patches": 16}}),
    "timm's ResNet": ("timm_wrapper", {"architecture": "resnet18"}),
}

# torchvision networks that insist on a larger image than 64 pixels.
TORCHVISION_SIDES = {
    "alexnet": 96,
    "inception_v3": 160,
    "googlenet": 64,
    "maxvit_t": 224,
}


# Random weights may speak against their own top class everywhere: Grad-CAM is then rightly empty.
SEEDS = {"vit_b_16": 1, "xcit_nano_12_p16_224": 1}


NORMAL, UNIFORM = torch.ops.aten.normal_.default, torch.ops.aten.uniform_.default


class _DrawnOnce(TorchDispatchMode):
    """Fill large tensors with numbers drawn once, from a random place in them on.

    The catalogue has seven thousand million weights, many of them drawn twice: by the layer and by
    the network. Building it so takes 43 seconds of a processor instead of 143.
    """

    COUNT = 1_000_003  # a prime, so that no two rows of a weight are the same numbers
    LARGE = 10_000

    @classmethod
    @cache
    def drawn(cls) -> dict[object, torch.Tensor]:
        draw = torch.Generator().manual_seed(0)
        return {
            NORMAL: torch.randn(cls.COUNT, generator=draw),
            UNIFORM: torch.rand(cls.COUNT, generator=draw),
        }

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        drawn = self.drawn().get(func)
        if drawn is None or kwargs or not self._is_large(args[0]):
            return func(*args, **(kwargs or {}))
        filled, *given = args
        first, second = (*given, *(0.0, 1.0)[len(given) :])
        scale = second - first if func is UNIFORM else second
        left, start = filled.view(-1), int(torch.randint(self.COUNT, ()))
        while len(left):
            part = left[: self.COUNT - start]
            torch.mul(drawn[start : start + len(part)], scale, out=part).add_(first)
            left, start = left[len(part) :], 0
        return filled

    def _is_large(self, tensor: torch.Tensor) -> bool:
        fits = tensor.dtype == torch.float32 and tensor.is_contiguous()
        return fits and tensor.numel() > self.LARGE


@dataclass(frozen=True)
class Case:
    """One architecture.

    Attributes:
        source: "torchvision", "timm" or "transformers".
        family: as people call it.
        name: as in the source.
        side: of the square input.
    """

    source: str
    family: str
    name: str
    side: int

    def build(self) -> nn.Module:
        """Make the network with random weights."""
        with _DrawnOnce():
            net = self.create()
        # Heads and residual branches that start at zero would leave nothing to look at.
        with torch.no_grad():
            for parameter in net.parameters():
                # the first row tells it of nearly all, and the largest have 100 million numbers
                if parameter.ndim > 1 and self.source == "transformers":
                    nn.init.kaiming_normal_(parameter)  # its own leave nothing of an image
                elif parameter.ndim > 1 and not (parameter[0].any() or parameter.any()):
                    nn.init.normal_(parameter, std=0.02)
            for module in net.modules():
                scale = getattr(module, "weight", None)
                if isinstance(scale, nn.Parameter) and scale.ndim == 1 and not scale.any():
                    nn.init.ones_(scale)
                if isinstance(module, nn.Linear) and module.bias is not None:
                    nn.init.zeros_(module.bias)  # the top logit is then positive evidence
                if isinstance(module, nn.BatchNorm2d) and self.source == "transformers":
                    module.momentum = None  # the mean over all passes, which is one
            if self.source == "transformers":
                net.train()(photo_like(4, self.side))  # so that no feature dies or overflows
        return net

    def create(self) -> nn.Module:
        """Make the network as its source makes it."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # deprecations inside the sources are theirs
            if self.source == "timm":
                return timm.create_model(self.name, pretrained=False, **TIMM[self.family][2])
            if self.source == "transformers":
                options = {**TRANSFORMERS[self.family][1], "num_labels": 10}
                config = AutoConfig.for_model(self.name, **options)
                return feed_images(AutoModelForImageClassification.from_config(config))
            more = {"image_size": self.side} if self.name.startswith("vit_") else {}
            if self.name in ("googlenet", "inception_v3"):
                more = {"init_weights": False, "aux_logits": False}
            return models.get_model(self.name, weights=None, **more)


def cases() -> list[Case]:
    """Return the catalogue: torchvision's classification networks, families of the others."""
    names = models.list_models(module=models)
    found = [Case("torchvision", name, name, _torchvision_side(name)) for name in sorted(names)]
    found += [Case("timm", family, name, side) for family, (name, side, _) in TIMM.items()]
    for family, (name, options) in TRANSFORMERS.items():
        side = options.get("image_size", 64)
        found.append(Case("transformers", family, name, side if isinstance(side, int) else 64))
    return found


def _torchvision_side(name: str) -> int:
    if name.startswith("vit_"):
        return 70 if name == "vit_h_14" else 64
    return TORCHVISION_SIDES.get(name, 64)


def layout_of(layer: Layer) -> str:
    """Return how a layer is read, as the table names it."""
    return PAPERS if layer.reshape is None else type(layer.reshape).__name__


def code_of_layers() -> str:
    """Return a fingerprint of the code that finds layers: of what it does, not of its comments."""
    folder = Path(torchsaliency.__file__).parent
    names = ("core/discovery", "core/layer", "core/layout", "zoo/layers", "zoo/sources/huggingface")
    files = [folder / f"{name}.py" for name in names]
    digest = hashlib.sha256()
    for file in files:
        digest.update(drop_comments(file.read_text(encoding="utf-8")).encode())
    return digest.hexdigest()[:16]


def photo_like(count: int, side: int) -> torch.Tensor:
    """Return smooth random images: blobs of colour rather than noise."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.randn(count, 3, 8, 8, generator=generator)
    return nn.functional.interpolate(coarse, (side, side), mode="bicubic")


def explained(case: Case) -> tuple[Layer, dict[str, torchsaliency.Explanation]]:
    """Explain two images by three methods without naming a layer."""
    torch.manual_seed(SEEDS.get(case.name, 0))
    net, x = case.build().eval(), photo_like(2, case.side)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return default_layer(net, x), torchsaliency.explain(net, x, METHODS)
