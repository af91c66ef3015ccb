"""One image explained: the predicted class, perhaps the expected one, and a folder of both."""

from __future__ import annotations

import importlib.metadata
import json
import platform
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, final

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from torchsaliency.compat.torchcam.methods import GradCAM
from torchsaliency.compat.torchcam.methods.core import Extractor
from torchsaliency.compat.torchcam.utils import overlay_mask
from torchsaliency.core.layer import LayerLike
from torchsaliency.errors import InputError, OptionError, TargetError

__all__ = ["PredictionExplanation", "explain"]


@final
@dataclass(frozen=True, eq=False)
class PredictionExplanation:
    """What a network says of one image, the maps of one or two classes, and how they were made.

    Attributes:
        logits: (1, K), on the processor.
        predicted_class_idx: the class of the largest logit.
        expected_class_idx: the class that was expected, if one was given.
        cams: by class, a map (h, w) of each layer.
        method: the extractor's name.
        target_layers: the layers' names.
        model: the network's class.
        input_shape: of the image.
        versions: of Python, torch and this library.
        class_names: the classes' names, if they were given.
    """

    logits: Tensor
    predicted_class_idx: int
    expected_class_idx: int | None
    cams: Mapping[int, tuple[Tensor, ...]]
    method: str
    target_layers: tuple[str, ...]
    model: str
    input_shape: tuple[int, ...]
    versions: Mapping[str, str]
    class_names: tuple[str, ...] | None = None

    def save(self, directory: str | Path, image: Image.Image, alpha: float = 0.5) -> Path:
        """Write maps (.npy), grey pictures, overlays, and last manifest.json to a new folder.

        Args:
            directory: it must not exist; it is removed again if anything fails.
            image: the photograph under the overlays.
            alpha: how much of the photograph shows, in [0, 1).

        Raises:
            TypeError: `image` is no PIL image.
            FileExistsError: the folder exists.
        """
        if not isinstance(image, Image.Image):
            raise TypeError(f"image must be a PIL image, not a {type(image).__name__}.")
        folder = Path(directory)
        folder.mkdir(parents=True)
        try:
            classes = {
                str(category): self._save_class(folder, category, image, alpha)
                for category in sorted(self.cams)
            }
            manifest = {
                "schema_version": 1,
                "prediction": self._name(self.predicted_class_idx),
                "expected": self._name(self.expected_class_idx),
                "classes": classes,
                "method": self.method,
                "target_layers": list(self.target_layers),
                "model": self.model,
                "input_shape": list(self.input_shape),
                "versions": dict(self.versions),
                "image_size": list(image.size),
                "alpha": alpha,
            }
            text = json.dumps(manifest, indent=2, sort_keys=True, allow_nan=False)
            (folder / "manifest.json").write_text(f"{text}\n", encoding="utf-8")
        except BaseException:
            shutil.rmtree(folder)
            raise
        return folder

    def _save_class(
        self, folder: Path, category: int, image: Image.Image, alpha: float
    ) -> dict[str, Any]:
        maps = self.cams[category]
        # an extractor that joins its layers gives one map of them all
        layers = [self.target_layers] if len(maps) == 1 else [(one,) for one in self.target_layers]
        artifacts = []
        for place, (names, cam) in enumerate(zip(layers, maps, strict=True)):
            stem = f"class-{category}-layer-{place}"
            files = {
                "map": f"{stem}.npy",
                "heatmap": f"{stem}-heatmap.png",
                "overlay": f"{stem}-overlay.png",
            }
            values = cam.numpy()
            np.save(folder / files["map"], values, allow_pickle=False)
            grey = Image.fromarray(np.round(255 * values).astype(np.uint8))
            grey.save(folder / files["heatmap"])
            drawn = overlay_mask(image, Image.fromarray(values), alpha=alpha)
            drawn.save(folder / files["overlay"])
            artifacts.append({"target_layers": list(names), **files})
        return {
            **(self._name(category) or {}),
            "logit": float(self.logits[0, category]),
            "probability": float(self.logits[0].softmax(0)[category]),
            "artifacts": artifacts,
        }

    def _name(self, category: int | None) -> dict[str, Any] | None:
        if category is None:
            return None
        name = None if self.class_names is None else self.class_names[category]
        return {"class_idx": category, "class_name": name}


def explain(
    model: nn.Module,
    input_tensor: Tensor,
    *,
    expected_class_idx: int | None = None,
    class_names: Sequence[str] | None = None,
    method: type[Extractor] = GradCAM,
    target_layer: LayerLike | Sequence[LayerLike] | None = None,
    method_kwargs: Mapping[str, Any] | None = None,
) -> PredictionExplanation:
    """Explain the class predicted of one image, and the expected class if that is another.

    Args:
        model: a classifier in evaluation mode.
        input_tensor: (1, C, H, W), preprocessed.
        expected_class_idx: the class that should have been predicted.
        class_names: one a class.
        method: an extractor of this package.
        target_layer: as the extractor takes it.
        method_kwargs: its further arguments.

    Raises:
        InputError: these are not one image and a network in evaluation mode.
        TargetError: the output is not (1, K), not finite, or has no such class or names.
        OptionError: `method_kwargs` names the layer.
    """
    _check_request(model, input_tensor, expected_class_idx, method, method_kwargs)
    options = dict(method_kwargs or {})
    if "target_layer" in options:
        raise OptionError("Give target_layer directly, not in method_kwargs.")
    options |= {"target_layer": target_layer, "input_shape": tuple(input_tensor.shape[1:])}
    image = input_tensor.detach()
    with torch.inference_mode(mode=False), torch.enable_grad(), method(model, **options) as cam:
        logits = _require_logits(model(image), expected_class_idx, class_names)
        predicted = int(logits[0].argmax())
        wanted = {predicted, predicted if expected_class_idx is None else expected_class_idx}
        found = {category: cam(category, logits) for category in sorted(wanted)}
    return PredictionExplanation(
        logits=logits.detach().cpu(),
        predicted_class_idx=predicted,
        expected_class_idx=expected_class_idx,
        cams=MappingProxyType(
            {
                category: tuple(one[0].detach().cpu().float().contiguous() for one in maps)
                for category, maps in found.items()
            }
        ),
        method=method.__name__,
        target_layers=tuple(cam.target_names),
        model=f"{type(model).__module__}.{type(model).__qualname__}",
        input_shape=tuple(input_tensor.shape),
        versions=MappingProxyType(
            {
                "python": platform.python_version(),
                "torch": str(torch.__version__),
                "torchsaliency": importlib.metadata.version("torchsaliency"),
            }
        ),
        class_names=None if class_names is None else tuple(class_names),
    )


def _check_request(model: Any, image: Any, expected: Any, method: Any, options: Any) -> None:
    for name, given, kind in (
        ("model", model, nn.Module),
        ("input_tensor", image, Tensor),
        ("method_kwargs", {} if options is None else options, Mapping),
        ("expected_class_idx", 0 if expected is None else expected, int),
    ):
        if not isinstance(given, kind) or isinstance(given, bool):
            raise TypeError(f"{name} is a {kind.__name__}, and {type(given).__name__} was given.")
    if not isinstance(method, type) or not hasattr(method, "compute_cams"):
        raise TypeError(f"method is an extractor class of this package, not {method!r}.")
    if any(module.training for module in model.modules()):
        raise InputError("The model is not in evaluation mode; call model.eval() first.")
    if image.ndim != 4 or len(image) != 1 or not image.is_floating_point():  # noqa: PLR2004
        raise InputError(
            f"One image has the shape (1, C, H, W) and a floating-point type, and "
            f"{tuple(image.shape)} of {image.dtype} was given."
        )


def _require_logits(output: Any, expected: int | None, class_names: Sequence[str] | None) -> Tensor:
    if not isinstance(output, Tensor) or output.ndim != 2 or len(output) != 1:  # noqa: PLR2004
        given = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
        raise TargetError(f"The model output must have the shape (1, K), and it gave {given}.")
    if not bool(output.isfinite().all()):
        raise TargetError("The model gave non-finite logits; check its weights and the image.")
    classes = output.shape[1]
    if expected is not None and not 0 <= expected < classes:
        raise TargetError(
            f"expected_class_idx {expected} is outside the output range 0 to {classes - 1}."
        )
    if class_names is not None and (isinstance(class_names, str) or len(class_names) != classes):
        raise TargetError(f"class_names must be {classes} names, one for each class.")
    return output
