"""From samples to batches of network inputs, read by worker processes."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from torchsaliency.core.errors import DataError
from torchsaliency.evaluation.setting import Setting

_FEW = 64
"""Images for which no process is started."""


@final
@dataclass(frozen=True, eq=False)
class Batch:
    """Images that share a pass.

    Attributes:
        ids: of the samples.
        images: (N, 3, H, W) for the explained network.
        judged: (N, 3, H', W') for the judge; None if it takes the same images.
        labels: the network's class of each; None where unknown.
        boxes: (B, 4) each, in pixels of the network's input; None if the data has none.
        masks: (N, H, W) each, 0 background, 255 void; None if the data has none.
    """

    ids: tuple[str, ...]
    images: Tensor
    judged: Tensor | None
    labels: tuple[int | None, ...]
    boxes: tuple[Tensor, ...] | None
    masks: Tensor | None

    def __len__(self) -> int:
        return len(self.ids)

    def part(self, rows: slice) -> Batch:
        """Return some of the images."""
        return Batch(
            self.ids[rows],
            self.images[rows],
            None if self.judged is None else self.judged[rows],
            self.labels[rows],
            None if self.boxes is None else self.boxes[rows],
            None if self.masks is None else self.masks[rows],
        )


@final
@dataclass(frozen=True)
class Unreadable:
    """A sample that could not be opened.

    Attributes:
        id: of the sample.
        reason: a sentence.
    """

    id: str
    reason: str


def batches(
    setting: Setting, groups: Sequence[Sequence[int]], workers: int | None = None
) -> Iterator[tuple[Batch | None, list[Unreadable]]]:
    """Read groups of samples, each into one batch; None where no image of it can be read.

    Args:
        setting: tells data and preprocessing.
        groups: indices into the data.
        workers: processes that read; None for as many as the machine bears.
    """
    count = _workers(sum(map(len, groups))) if workers is None else workers
    loader: DataLoader[Any] = DataLoader(
        _Reader(setting),
        batch_sampler=groups,  # type: ignore[arg-type]  # any sequence of lists of indices
        collate_fn=list,
        num_workers=count,
        generator=torch.Generator(),  # or it would move the caller's on
    )
    for opened in loader:
        failed = [one for one in opened if isinstance(one, Unreadable)]
        good = [one for one in opened if not isinstance(one, Unreadable)]
        yield (_batch(good) if good else None), failed


def _workers(images: int) -> int:
    if images <= _FEW:
        return 0
    return max(1, min(8, (os.cpu_count() or 1) // 4))


@final
class _Reader(TorchDataset[Any]):
    """Opens samples; what a worker process needs, and nothing of the networks."""

    def __init__(self, setting: Setting) -> None:
        self.data = setting.data
        self.own, self.judge = setting.preprocessing, setting.judge_preprocessing
        self.classes = setting.class_of_label
        self.needed = setting.plan.needs.keys()

    def __getitem__(self, index: int) -> dict[str, Any] | Unreadable:
        sample = self.data.samples[index]
        try:
            picture = self.data.picture(index)
        except DataError as error:
            return Unreadable(sample.id, str(error))
        label = sample.label
        size = (picture.image.height, picture.image.width)
        found: dict[str, Any] = {
            "id": sample.id,
            "image": self.own(picture.image),
            "judged": None if self.judge is None else self.judge(picture.image),
            "label": None if label is None or self.classes is None else self.classes[label],
            "boxes": None,
            "mask": None,
        }
        if "boxes" in self.needed:
            if picture.boxes is None or len(picture.boxes) == 0:
                return Unreadable(sample.id, f"{sample.id} has no box of its object.")
            place = self.own.placement(size)
            found["boxes"] = place.boxes_to_input(picture.boxes, self.own.size)
        if "masks" in self.needed:
            if picture.mask is None:
                return Unreadable(sample.id, f"{sample.id} has no mask of its objects.")
            found["mask"] = self.own.mask(picture.mask)
        return found


def _batch(opened: Sequence[dict[str, Any]]) -> Batch:
    first = opened[0]

    def stacked(name: str) -> Tensor | None:
        return None if first[name] is None else torch.stack([one[name] for one in opened])

    images = stacked("image")
    assert images is not None
    return Batch(
        ids=tuple(one["id"] for one in opened),
        images=images,
        judged=stacked("judged"),
        labels=tuple(one["label"] for one in opened),
        boxes=None if first["boxes"] is None else tuple(one["boxes"] for one in opened),
        masks=stacked("mask"),
    )
