"""From samples to batches of network inputs, read by worker processes."""

from __future__ import annotations

import abc
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from torchsaliency.core.isolation import in_words
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
    for opened in loaded(_Reader(setting), groups, workers=count):
        failed = [one for one in opened if isinstance(one, Unreadable)]
        good = [one for one in opened if not isinstance(one, Unreadable)]
        yield (_batch(good) if good else None), failed


class Reader(TorchDataset[Any], abc.ABC):
    """Opens samples; what a worker process needs, and nothing of the networks."""

    def __getitem__(self, key: Any) -> Any:
        """Return what `open` gives, or why it gives nothing: one sample never ends a run."""
        try:
            return self.open(key)
        except Exception as error:  # a decoder may raise anything
            return Unreadable(self.name(key), in_words(error))

    @abc.abstractmethod
    def open(self, key: Any) -> Any:
        """Return a sample, or `Unreadable`."""

    @abc.abstractmethod
    def name(self, key: Any) -> str:
        """Return the id of a sample."""


def loaded(
    reader: Reader, groups: Sequence[Sequence[Any]], *, workers: int, pinned: bool = False
) -> Iterator[list[Any]]:
    """Read groups of samples in worker processes, in order.

    A worker that dies (killed by the system for its memory, or by a file that crashes a decoder)
    takes nothing along: the group is read again, each sample in a process of its own, and the one
    that kills that, too, is unreadable.
    """
    at = 0
    while at < len(groups):
        try:
            for opened in _loader(reader, groups[at:], workers, pinned):
                yield opened
                at += 1
        except RuntimeError as error:
            if not _worker_died(error):
                raise
        else:
            return
        yield [one for key in groups[at] for one in _alone(reader, key, pinned)]
        at += 1


def _alone(reader: Reader, key: Any, pinned: bool) -> list[Any]:
    try:
        return [one for opened in _loader(reader, [[key]], 1, pinned) for one in opened]
    except RuntimeError as error:
        if not _worker_died(error):
            raise
    name = reader.name(key)
    return [Unreadable(name, f"{name} cannot be read: the process that reads it is killed.")]


def _loader(
    reader: Reader, groups: Sequence[Sequence[Any]], workers: int, pinned: bool
) -> DataLoader[Any]:
    return DataLoader(
        reader,
        batch_sampler=groups,  # type: ignore[arg-type]  # any sequence of lists of keys
        collate_fn=list,
        num_workers=workers,
        pin_memory=pinned,
        generator=torch.Generator(),  # or it would move the caller's on
    )


def _worker_died(error: RuntimeError) -> bool:
    return "DataLoader worker" in str(error)


def _workers(images: int) -> int:
    if images <= _FEW:
        return 0
    return max(1, min(8, (os.cpu_count() or 1) // 4))


@final
class _Reader(Reader):
    """Opens samples with all that a plan's metrics need."""

    def __init__(self, setting: Setting) -> None:
        self.data = setting.data
        self.own, self.judge = setting.preprocessing, setting.judge_preprocessing
        self.classes = setting.class_of_label
        self.needed = setting.plan.needs.keys()

    def name(self, key: int) -> str:
        """Return the id of a sample."""
        return self.data.samples[key].id

    def open(self, key: int) -> dict[str, Any] | Unreadable:
        """Return a sample in the networks' numbers."""
        sample = self.data.samples[key]
        picture = self.data.picture(key)
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
