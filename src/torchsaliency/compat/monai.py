"""MONAI's names and calls: `from torchsaliency.compat.monai import GradCAM, OcclusionSensitivity`.

They stand for `monai.visualize`. What changes, and what is corrected, is in docs/from-monai.md.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar, final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from torchsaliency.core.maps import minmax
from torchsaliency.core.method import ChannelCAM, create
from torchsaliency.core.network import NetworkWrapper
from torchsaliency.core.target import Logit
from torchsaliency.core.trace import View, tracing
from torchsaliency.errors import InputError, LayerError, OptionError, TargetError
from torchsaliency.measures.judge import judging
from torchsaliency.methods.masking.occlusion import multiply_outer

__all__ = [
    "CAM",
    "GradCAM",
    "GradCAMpp",
    "OcclusionSensitivity",
    "default_normalizer",
    "default_upsampler",
]

Resize = Callable[[Tensor], Tensor]
"""Stretches maps (N, 1, *grid) to the images' size."""

Labels = None | int | Sequence[int] | Tensor
"""A class of all images, or one of each; None for the best scored of each."""

_LINEAR = {1: "linear", 2: "bilinear", 3: "trilinear"}


def default_upsampler(spatial_size: Sequence[int], align_corners: bool = False) -> Resize:
    """Return what stretches maps linearly to a size."""
    size = tuple(spatial_size)

    def stretch(maps: Tensor) -> Tensor:
        return F.interpolate(maps, size, mode=_LINEAR[len(size)], align_corners=align_corners)

    return stretch


def default_normalizer(x: Tensor) -> Tensor:
    """Return each image's maps (N, 1, *size) turned round: 0 at the largest, 1 at the smallest.

    A map without differences becomes 1: nothing in it is important.
    """
    return 1 - minmax(x.flatten(1)).view_as(x)


@final
class _Explained:
    """A network, and the classes that were last explained.

    Attributes:
        model: the network.
        class_idx: the class of each image, or None.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.class_idx: Tensor | None = None

    def get_wrapped_net(self) -> nn.Module:
        """Return the network."""
        return self.model


class _Maps:
    """A class activation map of a layer.

    Args:
        nn_module: the network.
        target_layers: the layer's name, or several.
        upsampler: makes, of the images' size, what stretches maps to it.
        postprocessing: of the stretched maps.
        register_backward: nothing is made of it.
    """

    _method: ClassVar[str] = ""

    def __init__(
        self,
        nn_module: nn.Module,
        target_layers: str | Sequence[str],
        upsampler: Callable[..., Resize] = default_upsampler,
        postprocessing: Callable[[Tensor], Any] = default_normalizer,
        register_backward: bool = True,
    ) -> None:
        del register_backward
        self.nn_module = _Explained(nn_module)
        self.target_layers = (
            (target_layers,) if isinstance(target_layers, str) else tuple(target_layers)
        )
        self.upsampler, self.postprocessing = upsampler, postprocessing

    def compute_map(
        self,
        x: Tensor,
        class_idx: Labels = None,
        retain_graph: bool = False,
        layer_idx: int = -1,
        **kwargs: Any,
    ) -> Tensor:
        """Return the maps at the layer's own size (N, 1, *grid), not stretched.

        Args:
            x: images (N, C, *size).
            class_idx: the class; the best scored of each image by default.
            retain_graph: nothing is kept.
            layer_idx: which of several layers.
            kwargs: of the network's forward.
        """
        del retain_graph
        with self._trace(x, class_idx, layer_idx, kwargs) as view:
            return self._map(view)

    def feature_map_size(
        self, input_size: Sequence[int], device: Any = "cpu", layer_idx: int = -1, **kwargs: Any
    ) -> torch.Size:
        """Return the shape of the maps of images of a shape."""
        images = torch.zeros(*input_size, device=device)
        return self.compute_map(images, layer_idx=layer_idx, **kwargs).shape

    def __call__(
        self,
        x: Tensor,
        class_idx: Labels = None,
        layer_idx: int = -1,
        retain_graph: bool = False,
        **kwargs: Any,
    ) -> Any:
        """Return the maps (N, 1, *size), stretched and processed; see `compute_map`."""
        maps = self.compute_map(x, class_idx, retain_graph, layer_idx, **kwargs)
        return self.postprocessing(self.upsampler(x.shape[2:])(maps))

    @contextmanager
    def _trace(
        self, x: Tensor, class_idx: Labels, layer_idx: int, kwargs: dict[str, Any]
    ) -> Iterator[View]:
        labels = class_idx
        if isinstance(labels, Sequence) and len(labels) == 1:  # one for all, as in MONAI's
            labels = labels[0]
        name = self.target_layers[layer_idx]
        network = NetworkWrapper(
            self.nn_module.model, scores="regression", forward_kwargs=kwargs or None
        )
        gradients = self._method != ""
        with tracing(network, x, Logit(labels), [name], gradients=gradients) as view:
            self.nn_module.class_idx = view.target.labels  # type: ignore[attr-defined]
            yield view[[name]]

    def _map(self, view: View) -> Tensor:
        method = create(self._method)
        assert isinstance(method, ChannelCAM)
        return method.contributions(view).sum(1, keepdim=True).relu().detach()


@final
class GradCAM(_Maps):
    """Grad-CAM, each image by its own class."""

    _method = "gradcam"


@final
class GradCAMpp(_Maps):
    """Grad-CAM++, each image by its own class."""

    _method = "gradcam++"


@final
class CAM(_Maps):
    """The classifier at every position of the layer before its pooling.

    Args:
        nn_module: the network.
        target_layers: the layer's name, or several.
        fc_layers: the classifier's name, or a function that returns it.
        upsampler: makes, of the images' size, what stretches maps to it.
        postprocessing: of the stretched maps.
    """

    def __init__(
        self,
        nn_module: nn.Module,
        target_layers: str | Sequence[str],
        fc_layers: str | Callable[[nn.Module], nn.Module] = "fc",
        upsampler: Callable[..., Resize] = default_upsampler,
        postprocessing: Callable[[Tensor], Any] = default_normalizer,
    ) -> None:
        super().__init__(nn_module, target_layers, upsampler, postprocessing)
        self.fc_layers = fc_layers

    def compute_map(  # type: ignore[override]
        self, x: Tensor, class_idx: Labels = None, layer_idx: int = -1, **kwargs: Any
    ) -> Tensor:
        """Return the class's scores at each position (N, 1, *grid), with their signs.

        Args:
            x: images (N, C, *size).
            class_idx: the class; the best scored of each image by default.
            layer_idx: which of several layers.
            kwargs: of the network's forward.

        Raises:
            LayerError: there is no such classifier, or it does not take the layer's features.
        """
        with self._trace(x, class_idx, layer_idx, kwargs) as view:
            features, classify = view.activations, self._find_classifier()
            try:
                with torch.no_grad():
                    scores = classify(features.movedim(1, -1).flatten(0, -2))
            except RuntimeError as error:
                raise LayerError(
                    f"fc_layers {self.fc_layers!r} does not take the {features.shape[1]} channels "
                    f"of {view.layers[0]} ({error}); name the layer before its pooling."
                ) from error
            grid = features.shape[2:]
            rows = scores.unflatten(0, (len(features), math.prod(grid)))
            labels = view.target.labels.view(-1, 1, 1).expand(-1, rows.shape[1], 1)  # type: ignore[attr-defined]
            return rows.gather(2, labels).view(len(x), 1, *grid)

    def __call__(  # type: ignore[override]
        self, x: Tensor, class_idx: Labels = None, layer_idx: int = -1, **kwargs: Any
    ) -> Any:
        """Return the maps (N, 1, *size), stretched and processed; see `compute_map`."""
        maps = self.compute_map(x, class_idx, layer_idx, **kwargs)
        return self.postprocessing(self.upsampler(x.shape[2:])(maps))

    def _find_classifier(self) -> nn.Module:
        if callable(self.fc_layers):
            return self.fc_layers(self.nn_module.model)
        try:
            return self.nn_module.model.get_submodule(self.fc_layers)
        except AttributeError:
            raise LayerError(
                f"fc_layers is {self.fc_layers!r}, which the network does not have; name the "
                "linear layer after its pooling, or give a function of the network."
            ) from None


@final
class OcclusionSensitivity:
    """What the network gives when a window of one image is hidden.

    Args:
        nn_module: the network.
        mask_size: sides of the window, or one for all.
        n_batch: windows in one pass.
        verbose: nothing is shown.
        mode: what is in the window: the image times 1 - a Gaussian ("gaussian"), the mean of the
            window ("mean_patch") or of the image ("mean_img"), a number, or what a function makes
            of the image and its window.
        overlap: share of a window that the next one covers, at least 0 and below 1.
        activate: True for probabilities, by softmax (of one output by sigmoid); False for the
            outputs themselves; or a function of them.

    Raises:
        OptionError: there is no such mode, or windows do not overlap so.
    """

    def __init__(
        self,
        nn_module: nn.Module,
        mask_size: int | Sequence[int] = 16,
        n_batch: int = 16,
        verbose: bool = True,
        mode: str | float | int | Callable[[Tensor, Tensor], Tensor] = "gaussian",
        overlap: float | int = 0.6,
        activate: bool | Callable[[Tensor], Tensor] = True,
    ) -> None:
        del verbose
        if isinstance(mode, str) and mode not in ("gaussian", "mean_patch", "mean_img"):
            raise OptionError(
                f"mode is {mode!r}; give gaussian, mean_patch, mean_img, a number or a function."
            )
        if not 0 <= overlap < 1:
            raise OptionError(f"overlap is {overlap}; it is at least 0 and below 1.")
        self.nn_module, self.mask_size, self.n_batch = nn_module, mask_size, n_batch
        self.mode, self.overlap, self.activate = mode, overlap, activate

    def __call__(
        self, x: Tensor, b_box: Sequence[int] | None = None, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Return the outputs under each position's windows, averaged, and the best class there.

        Args:
            x: one image (1, C, *size).
            b_box: of each side the first place and that after the last, -1 for all of it.
            kwargs: of the network's forward.

        Returns:
            (1, K, *size), and (1, 1, *size) int64; of the box alone, if one was given.

        Raises:
            InputError: there are several images, or the window is larger than the image.
            TargetError: the network does not give (N, K).
        """
        if len(x) > 1:
            raise InputError(f"{len(x)} images were given; give one, (1, C, *size).")
        size = tuple(x.shape[2:])
        given = self.mask_size
        sides = (given,) * len(size) if isinstance(given, int) else tuple(given)
        starts, ends = self._find_box(b_box, size, sides)
        room = [end - start for start, end in zip(starts, ends, strict=True)]
        if b_box is not None:
            sides = tuple(map(min, sides, room))
        if any(side > most for side, most in zip(sides, room, strict=True)):
            raise InputError(
                f"The window is {sides} and the image {size}; give a mask_size that fits."
            )
        lines = [
            start + _place_windows(side, most, self.overlap)
            for start, side, most in zip(starts, sides, room, strict=True)
        ]
        weights = self._weigh(sides, x)
        places = [len(line) for line in lines]
        scores = self._score(x, sides, lines, kwargs)
        total = x.new_zeros(scores.shape[1], *size, dtype=torch.float64)
        count = x.new_zeros(size, dtype=torch.float64)
        for place, row in enumerate(scores):
            at = torch.unravel_index(torch.tensor(place), places)
            window = tuple(
                slice(int(line[one]), int(line[one]) + side)
                for line, one, side in zip(lines, at, sides, strict=True)
            )
            total[(slice(None), *window)] += row.view(-1, *[1] * len(size)) * weights
            count[window] += weights
        found = (total / count).to(x.dtype)[None]
        if b_box is not None:
            crop = [
                slice(max(low, 0), high if high > 0 else side)
                for low, high, side in zip(b_box[::2], b_box[1::2], size, strict=True)
            ]
            found = found[(slice(None), slice(None), *crop)]
        return found, found.argmax(1, keepdim=True)

    @staticmethod
    def _find_box(
        b_box: Sequence[int] | None, size: tuple[int, ...], sides: tuple[int, ...]
    ) -> tuple[list[int], list[int]]:
        """Return where windows begin and end: half a window around the box."""
        if b_box is None:
            return [0] * len(size), [*size]
        if len(b_box) != 2 * len(size):
            raise InputError(
                f"b_box has {len(b_box)} numbers; give two for each of {len(size)} sides."
            )
        edges = [(side - 1) // 2 for side in sides]
        low = [max(one - edge, 0) for one, edge in zip(b_box[::2], edges, strict=True)]
        high = [
            most if one == -1 else min(one + edge, most)
            for one, edge, most in zip(b_box[1::2], edges, size, strict=True)
        ]
        return low, high

    def _score(
        self, x: Tensor, sides: tuple[int, ...], lines: list[Tensor], kwargs: dict[str, Any]
    ) -> Tensor:
        """Return the outputs under each window (P, K), activated, in float64."""
        places = [len(line) for line in lines]
        fade = self._fade(sides, x)

        def build(index: Tensor) -> Tensor:
            variants = x.to(images).expand(len(index), *x.shape[1:]).clone()
            at = torch.unravel_index(index.cpu(), places)
            for row, corner in enumerate(zip(*at, strict=True)):
                window = tuple(
                    slice(int(line[one]), int(line[one]) + side)
                    for line, one, side in zip(lines, corner, sides, strict=True)
                )
                part = variants[(slice(row, row + 1), slice(None), *window)]
                variants[(slice(row, row + 1), slice(None), *window)] = self._fill(x, part, fade)
            return variants

        network = NetworkWrapper(self.nn_module, scores="regression", forward_kwargs=kwargs or None)
        with judging(network, x, chunk=self.n_batch) as judge:
            images = judge.images
            count = math.prod(places)
            outputs = judge.session.run_variants(count, build, count)
        if not isinstance(outputs, Tensor) or outputs.ndim != 2:  # noqa: PLR2004
            raise TargetError("The network must give (N, K), a number for each class.")
        if callable(self.activate):
            outputs = self.activate(outputs)
        elif self.activate:
            outputs = outputs.sigmoid() if outputs.shape[1] == 1 else outputs.softmax(1)
        return outputs.double().to(x.device)

    def _fill(self, x: Tensor, part: Tensor, fade: Tensor) -> Tensor:
        """Return what a window (1, C, *sides) shows instead."""
        mode = self.mode
        if callable(mode):
            return mode(x, part)
        if mode == "gaussian":
            return part * fade.to(part)
        if mode == "mean_patch":
            return part.mean().expand_as(part)
        value = x.mean() if mode == "mean_img" else torch.as_tensor(float(mode))
        return value.to(part).expand_as(part)

    @staticmethod
    def _fade(sides: tuple[int, ...], x: Tensor) -> Tensor:
        """Return 1 - a Gaussian around the middle, σ a quarter of each side, from 0 to 1."""
        lines = []
        for side in sides:
            offset = torch.arange(side, dtype=torch.float64, device="cpu") - side // 2
            scale = 1 / (math.sqrt(2) * 0.25 * side)
            bell = torch.erf(scale * (offset + 0.5)) - torch.erf(scale * (offset - 0.5))
            lines.append(bell[None])
        found: Tensor = minmax(-multiply_outer(lines))[0]
        return found.to(x.device)

    def _weigh(self, sides: tuple[int, ...], x: Tensor) -> Tensor:
        """Return what each place of a window counts in the mean of overlapping windows."""
        if self.mode != "gaussian":
            return torch.ones(sides, dtype=torch.float64, device=x.device)
        lines = []
        for side in sides:
            offset = torch.arange(side, dtype=torch.float64, device="cpu") - (side - 1) / 2
            lines.append(torch.exp(-(offset**2) / (2 * (0.125 * side) ** 2))[None])
        bell = multiply_outer(lines)[0]
        return bell.clamp_min(max(float(bell.min()), 1e-3)).to(x.device)


def _place_windows(side: int, room: int, overlap: float | int) -> Tensor:
    """Return where the windows of one side begin; the last ends with the room there is."""
    step = side if side == room else max(1, int(side * (1 - overlap)))
    count = math.ceil((room - side) / step) + 1
    return torch.arange(count, device="cpu").mul(step).clamp_max(room - side)
