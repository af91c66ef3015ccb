"""The noise tunnel: what a class says of noisy copies of the images, averaged."""

from __future__ import annotations

from typing import Any, final

import torch
from torch import Tensor

from torchsaliency.compat.captum.attr.base import Answer, Attribution, Given, refuse, take_only
from torchsaliency.errors import OptionError

_KINDS = ("smoothgrad", "smoothgrad_sq", "vargrad")


@final
class NoiseTunnel(Attribution):
    """Noise around any class.

    Args:
        attribution_method: the object that explains each copy.
    """

    def __init__(self, attribution_method: Attribution) -> None:
        super().__init__(attribution_method.forward_func)
        self.attribution_method = attribution_method
        self._complete_inside = attribution_method.has_convergence_delta()

    @property
    def multiplies_by_inputs(self) -> bool:
        """Whether the class inside does."""
        return self.attribution_method.multiplies_by_inputs

    def has_convergence_delta(self) -> bool:
        """Whether the class inside has one."""
        return self._complete_inside

    def attribute(
        self,
        inputs: Given,
        nt_type: str = "smoothgrad",
        nt_samples: int = 5,
        nt_samples_batch_size: int | None = None,
        stdevs: float | int | tuple[float | int, ...] = 1.0,
        draw_baseline_from_distrib: bool = False,
        **kwargs: Any,
    ) -> Answer:
        """Return the mean, the mean square or the variance of what is said of copies x + N(0, σ²).

        Args:
            inputs: the images (N, C, *size).
            nt_type: "smoothgrad" (the mean), "smoothgrad_sq" or "vargrad".
            nt_samples: copies of each image.
            nt_samples_batch_size: copies of each image that are explained at once; all by default.
            stdevs: σ, in the images' own unit.
            draw_baseline_from_distrib: False.
            kwargs: of the class inside.

        Returns:
            The attributions, and what they lack to the score if that was asked, of each copy
            (N · nt_samples,).

        Raises:
            OptionError: another kind.
        """
        if nt_type not in _KINDS:
            raise OptionError(f"nt_type is {nt_type!r}; give one of {', '.join(_KINDS)}.")
        if draw_baseline_from_distrib:
            raise refuse("draw_baseline_from_distrib", True, "give each image its baseline")
        images = take_only(inputs, "inputs")
        sigma = float(stdevs[0] if isinstance(stdevs, tuple) else stdevs)
        total = square = images.new_zeros(())
        lacks: list[Tensor] = []
        batch = nt_samples_batch_size or nt_samples
        for done in range(0, nt_samples, batch):
            count = min(batch, nt_samples - done)
            copies = images.detach().repeat_interleave(count, 0)
            copies = copies + sigma * torch.randn_like(copies)
            repeated = {name: _repeat(value, len(images), count) for name, value in kwargs.items()}
            found = self.attribution_method.attribute(copies, **repeated)
            if isinstance(found, tuple):
                found, lack = found
                lacks.append(lack.unflatten(0, (len(images), -1)))
            parts = found.unflatten(0, (len(images), count))
            total, square = total + parts.sum(1), square + parts.square().sum(1)
        mean, squares = total / nt_samples, square / nt_samples
        shown = {"smoothgrad": mean, "smoothgrad_sq": squares, "vargrad": squares - mean.square()}
        result: Answer = shown[nt_type]
        result = (result,) if isinstance(inputs, tuple) else result
        return (result, torch.cat(lacks, 1).flatten()) if lacks else result


def _repeat(value: Any, images: int, count: int) -> Any:
    """Return an argument of N images for `count` copies of each; others as they are."""
    if isinstance(value, Tensor) and value.ndim and len(value) == images and images > 1:
        return value.repeat_interleave(count, 0)
    if isinstance(value, list) and len(value) == images:
        return [one for one in value for _ in range(count)]
    if isinstance(value, tuple) and not all(isinstance(one, int) for one in value):
        return tuple(_repeat(one, images, count) for one in value)
    return value
