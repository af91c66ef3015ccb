"""MONAI's `visualize.OcclusionSensitivity`, in two and three dimensions."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, final

import torch
from torch import Tensor, nn

from torchsaliency.core.maps import minmax
from torchsaliency.core.network import NetworkWrapper
from torchsaliency.errors import InputError, OptionError, TargetError
from torchsaliency.measures.judge import judging
from torchsaliency.methods.masking.occlusion import multiply_outer


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
