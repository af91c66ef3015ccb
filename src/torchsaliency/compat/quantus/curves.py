"""Quantus' metrics that give a curve, or that have no equal here."""

from __future__ import annotations

from typing import Any, final

import numpy as np
import torch
from torch import Tensor

from torchsaliency.compat.quantus.explaining import read_maps
from torchsaliency.compat.quantus.metric import Asked, Metric, Spec, count_step, keep_value
from torchsaliency.core.maps import normalise
from torchsaliency.errors import InputError, OptionError
from torchsaliency.measures import perturbation_curve, region_curve
from torchsaliency.metrics.functional import focus


@final
class PixelFlipping(Metric):
    """The probability as the most salient pixels disappear: a curve an image, or its area."""

    _spec = Spec("", order=True, options={"features_in_step": (1, "step", count_step)})

    def __init__(self, *, return_auc_per_sample: bool = False, **options: Any) -> None:
        super().__init__(**options)
        self.return_auc_per_sample = return_auc_per_sample

    def _evaluate(self, asked: Asked) -> Tensor:
        made = asked.made
        if asked.softmax is False:
            raise self._needs_probabilities()
        curve = perturbation_curve(
            asked.model,
            made.images,
            made.map,
            made.target,
            order="deletion",
            step=count_step(self.options["features_in_step"], tuple(made.images.shape)),
            masking=self.masking,
            chunk=asked.batch_size,
        ).probabilities[:, 1:]
        return torch.trapezoid(curve, dim=1) if self.return_auc_per_sample else curve


@final
class RegionPerturbation(Metric):
    """How far the probability has fallen after each region: a curve an image."""

    _spec = Spec(
        "",
        order=True,
        options={
            "patch_size": (8, "patch", keep_value),
            "regions_evaluation": (100, "regions", keep_value),
            "order": ("morf", "order", keep_value),
        },
    )

    def _evaluate(self, asked: Asked) -> Tensor:
        made = asked.made
        if asked.softmax is False:
            raise self._needs_probabilities()
        orders = {"morf": "most", "lerf": "least"}
        if self.options["order"] not in orders:
            raise OptionError(f"order is {self.options['order']!r}; give morf or lerf.")
        patch, regions = self.options["patch_size"], self.options["regions_evaluation"]
        most = int(np.prod([side // patch for side in made.images.shape[2:]]))
        curve = region_curve(
            asked.model,
            made.images,
            made.map,
            made.target,
            patch=patch,
            regions=min(regions, most),
            placement="grid",
            order=orders[self.options["order"]],  # type: ignore[arg-type]
            masking=self.masking,
            chunk=asked.batch_size,
        ).probabilities
        return curve[:, :1] - curve[:, 1:]


@final
class PointingGame(Metric):
    """Whether a largest pixel lies on the object: 1 or 0."""

    _spec = Spec("", order=True)

    @property
    def _reads_maps_alone(self) -> bool:
        return True

    def _evaluate_maps(self, maps: Tensor, masks: Tensor | None) -> Tensor:
        if masks is None or masks.shape != maps.shape:
            raise InputError(
                f"PointingGame needs masks of {tuple(maps.shape)} as s_batch; "
                f"{None if masks is None else tuple(masks.shape)} was given."
            )
        maps = maps.flatten(1)
        largest = maps == maps.amax(1, keepdim=True)
        return (largest & (masks.to(maps.device).flatten(1) > 0)).any(1).double()


@final
class Focus(Metric):
    """The share of a mosaic's map on the tiles of the class that is explained.

    Called with mosaics as `x_batch`, and where in each the class is as `custom_batch`: 1 or 0 for
    top left, top right, bottom left and bottom right.
    """

    _spec = Spec("")

    def __call__(self, *args: Any, custom_batch: Any = None, **kwargs: Any) -> list[Any]:
        """Return the share of each mosaic, in [0, 1]; other arguments as `Metric`.

        Raises:
            OptionError: `custom_batch` is missing, or not of four numbers a mosaic.
        """
        found = np.asarray(() if custom_batch is None else custom_batch)
        if found.ndim != 2 or found.shape[1] != 4:  # noqa: PLR2004
            raise OptionError(
                "Focus needs custom_batch=, four numbers a mosaic that say which tiles are of its "
                f"class, such as (1, 0, 0, 1); {found.shape} was given."
            )
        self._tiles = torch.as_tensor(found).bool()
        return super().__call__(*args, **kwargs)

    def _scale(self, maps: Any, images: Tensor) -> Tensor:
        """Return what is above 0 of given maps: no other relevance counts."""
        return normalise(read_maps(maps, tuple(images.shape)).clamp_min(0), "max")

    @property
    def _reads_maps_alone(self) -> bool:
        return True

    def _evaluate_maps(self, maps: Tensor, masks: Tensor | None) -> Tensor:
        del masks
        height, width = maps.shape[1:]
        middle_row, middle_column = height // 2, width // 2
        tiles = torch.tensor(
            [
                (0, 0, middle_column, middle_row),
                (middle_column, 0, width, middle_row),
                (0, middle_row, middle_column, height),
                (middle_column, middle_row, width, height),
            ]
        )
        shares = [
            focus(one[None], tiles[kept][None])
            for one, kept in zip(maps.cpu(), self._tiles, strict=True)
        ]
        return torch.cat(shares) / 100
