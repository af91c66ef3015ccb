"""Extractors whose weights need no gradient of the scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from torchsaliency.compat._shared import draw_seed
from torchsaliency.compat.torchcam.methods.core import Extractor
from torchsaliency.core.layer import LayerLike
from torchsaliency.errors import OptionError

__all__ = ["CAM", "ISCAM", "SSCAM", "ScoreCAM"]

Layers = LayerLike | Sequence[LayerLike] | None


class CAM(Extractor):
    """CAM, `cam`: channels weighted by the linear classifier behind global average pooling.

    Args:
        model: as `Extractor`.
        target_layer: one layer.
        fc_layer: accepted: the classifier is found by what it does, and where it is not behind
            global average pooling, the network is refused.
        input_shape: as `Extractor`.
        **kwargs: as `Extractor`.
    """

    method_name, reads_scores = "cam", False

    def __init__(
        self,
        model: nn.Module,
        target_layer: Layers = None,
        fc_layer: nn.Module | str | None = None,
        input_shape: Sequence[int] = (3, 224, 224),
        **kwargs: Any,
    ) -> None:
        if fc_layer is not None and not isinstance(fc_layer, nn.Module | str):
            raise TypeError(f"fc_layer is a module or a name, and {fc_layer!r} was given.")
        if isinstance(target_layer, list | tuple) and len(target_layer) > 1:
            raise OptionError(
                f"CAM is of one layer, and {len(target_layer)} were given; use GradCAM."
            )
        super().__init__(model, target_layer, input_shape, **kwargs)


class ScoreCAM(Extractor):
    """Score-CAM, `scorecam`: channels weighted by the score of the image that they mask.

    Args:
        model: as `Extractor`.
        target_layer: as `Extractor`.
        batch_size: masked images in one pass.
        input_shape: as `Extractor`.
        **kwargs: as `Extractor`.
    """

    method_name, reads_scores = "scorecam", False

    def __init__(
        self,
        model: nn.Module,
        target_layer: Layers = None,
        batch_size: int = 32,
        input_shape: Sequence[int] = (3, 224, 224),
        **kwargs: Any,
    ) -> None:
        super().__init__(model, target_layer, input_shape, **kwargs)
        self.batch_size = batch_size

    def _options(self) -> Mapping[str, Any]:
        return {"align_corners": False}

    def _extra_repr(self) -> str:
        return f"batch_size={self.batch_size}"


class SSCAM(ScoreCAM):
    """SS-CAM, `sscam`: Score-CAM whose scores are means over noise on the masks.

    Args:
        model: as `Extractor`.
        target_layer: as `Extractor`.
        batch_size: masked images in one pass.
        num_samples: draws of the noise.
        std: its standard deviation.
        input_shape: as `Extractor`.
        **kwargs: as `Extractor`.
    """

    method_name = "sscam"

    def __init__(
        self,
        model: nn.Module,
        target_layer: Layers = None,
        batch_size: int = 32,
        num_samples: int = 35,
        std: float = 2.0,
        input_shape: Sequence[int] = (3, 224, 224),
        **kwargs: Any,
    ) -> None:
        super().__init__(model, target_layer, batch_size, input_shape, **kwargs)
        self.num_samples, self.std = num_samples, std

    def _options(self) -> Mapping[str, Any]:
        return {"samples": self.num_samples, "spread": self.std, "seed": draw_seed()}

    def _extra_repr(self) -> str:
        return f"{super()._extra_repr()}, num_samples={self.num_samples}, std={self.std}"


class ISCAM(ScoreCAM):
    """IS-CAM, `iscam`: Score-CAM whose scores are means over masks that grow to themselves.

    Args:
        model: as `Extractor`.
        target_layer: as `Extractor`.
        batch_size: masked images in one pass.
        num_samples: how many steps they grow in.
        input_shape: as `Extractor`.
        **kwargs: as `Extractor`.
    """

    method_name = "iscam"

    def __init__(
        self,
        model: nn.Module,
        target_layer: Layers = None,
        batch_size: int = 32,
        num_samples: int = 10,
        input_shape: Sequence[int] = (3, 224, 224),
        **kwargs: Any,
    ) -> None:
        super().__init__(model, target_layer, batch_size, input_shape, **kwargs)
        self.num_samples = num_samples

    def _options(self) -> Mapping[str, Any]:
        return {"steps": self.num_samples}
