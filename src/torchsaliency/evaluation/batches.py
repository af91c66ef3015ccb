"""From samples to batches of network inputs, read by worker processes."""

from __future__ import annotations

import abc
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader
from torch.utils.data import Dataset as TorchDataset

from torchsaliency.core.isolation import describe_failure
from torchsaliency.evaluation.setting import Setting

_FEW = 64
"""Images for which no process is started."""


@final
@dataclass(frozen=True, eq=False)
class Batch:
    """Images that share a pass; None for what the data or the plan does not have."""

    ids: tuple[str, ...]
    images: Tensor  # (N, 3, H, W) for the explained network
    judged: Tensor | None  # (N, 3, H', W') for the judge; None if it takes the same images
    labels: tuple[int | None, ...]  # the network's classes
    boxes: tuple[Tensor, ...] | None  # (B, 4) each, in pixels of the network's input
    masks: Tensor | None  # (N, H, W), 0 background, 255 void

    def __len__(self) -> int:
        return len(self.ids)

    def part(self, rows: slice) -> Batch:
        """Return some of the images."""
        values: list[Any] = [None if v is None else v[rows] for v in vars(self).values()]
        return Batch(*values)

    @classmethod
    def join(cls, batches: Sequence[Batch]) -> Batch:
        """Return one batch of the images of several."""

        def join_values(values: tuple[Any, ...]) -> Any:
            if values[0] is None:
                return None
            return torch.cat(values) if isinstance(values[0], Tensor) else sum(values, ())

        columns = zip(*(vars(batch).values() for batch in batches), strict=True)
        return cls(*map(join_values, columns))


@final
@dataclass(frozen=True)
class Unreadable:
    """A sample that could not be opened."""

    id: str
    reason: str  # a sentence


def batches(
    setting: Setting,
    groups: Sequence[Sequence[int]] | None = None,
    workers: int | None = None,
) -> Iterator[tuple[Batch | None, list[Unreadable]]]:
    """Read groups of samples, each into one batch; None where no image of it can be read.

    Args:
        setting: gives data and preprocessing.
        groups: indices into the data; by default all of it, in batches of the plan's size.
        workers: processes that read; the plan's by default.
    """
    if groups is None:
        groups = cut(len(setting.data), setting.plan.batch_size)
    workers = setting.plan.workers if workers is None else workers
    for opened in load_groups(_PlanReader(setting), groups, workers=workers):
        failed = [item for item in opened if isinstance(item, Unreadable)]
        read = [item for item in opened if not isinstance(item, Unreadable)]
        yield (Batch.join(read) if read else None), failed


def cut(count: int, size: int) -> list[list[int]]:
    """Return the numbers below `count` in groups of `size`."""
    return list(BatchSampler(range(count), size, drop_last=False))


class SampleReader(TorchDataset[Any], abc.ABC):
    """Opens samples; what a worker process needs, and nothing of the networks."""

    def __getitem__(self, key: Any) -> Any:
        """Return what `open` gives, or `Unreadable` if it fails: no sample ends a run."""
        try:
            return self.open(key)
        except Exception as error:  # a decoder may raise anything
            return Unreadable(self.name(key), describe_failure(error))

    @abc.abstractmethod
    def open(self, key: Any) -> Any:
        """Return a sample, or `Unreadable`."""

    @abc.abstractmethod
    def name(self, key: Any) -> str:
        """Return the id of a sample."""


def load_groups(
    reader: SampleReader,
    groups: Sequence[Sequence[Any]],
    *,
    workers: int | None = None,
    pinned: bool = False,
) -> Iterator[list[Any]]:
    """Read groups of samples in worker processes, in order.

    If a worker dies (killed by the system for its memory, or by a file that crashes a decoder), the
    group is read again with a process for each sample. The sample that kills its process, too, is
    unreadable.

    Args:
        reader: opens a sample by its key.
        groups: keys of samples.
        workers: processes that read; None for as many as suit the machine.
        pinned: whether tensors lie in memory that a GPU copies from at once.
    """
    if workers is None:
        few = sum(map(len, groups)) <= _FEW
        workers = 0 if few else max(1, min(8, (os.cpu_count() or 1) // 2))
    start = 0
    while start < len(groups):
        try:
            for opened in _loader(reader, groups[start:], workers, pinned):
                yield opened
                start += 1
        except RuntimeError as error:
            if not _worker_died(error):
                raise
        else:
            return
        yield [_open_alone(reader, key, pinned) for key in groups[start]]
        start += 1


def _open_alone(reader: SampleReader, key: Any, pinned: bool) -> Any:
    try:
        ((opened,),) = _loader(reader, [[key]], 1, pinned)
    except RuntimeError as error:
        if not _worker_died(error):
            raise
        name = reader.name(key)
        return Unreadable(name, f"{name} cannot be read: the process that reads it is killed.")
    return opened


def _loader(
    reader: SampleReader, groups: Sequence[Sequence[Any]], workers: int, pinned: bool
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


@final
class _PlanReader(SampleReader):
    """Opens samples as batches of one image, with all that a plan's metrics need."""

    def __init__(self, setting: Setting) -> None:
        self.data, self.needs = setting.data, setting.plan.needs.keys()
        self.preprocessing, self.judge = setting.preprocessing, setting.judge_preprocessing
        self.labels = [setting.label(sample.label) for sample in setting.data.samples]

    def name(self, key: int) -> str:
        return self.data.samples[key].id

    def open(self, key: int) -> Batch | Unreadable:
        name, picture = self.name(key), self.data.picture(key)
        boxes = masks = None
        if "boxes" in self.needs:
            if picture.boxes is None or len(picture.boxes) == 0:
                return Unreadable(name, f"{name} has no box of its object.")
            place = self.preprocessing.placement((picture.image.height, picture.image.width))
            boxes = (place.boxes_to_input(picture.boxes, self.preprocessing.size),)
        if "masks" in self.needs:
            if picture.mask is None:
                return Unreadable(name, f"{name} has no mask of its objects.")
            masks = self.preprocessing.mask(picture.mask)[None]
        judged = None if self.judge is None else self.judge(picture.image)[None]
        image = self.preprocessing(picture.image)[None]
        return Batch((name,), image, judged, (self.labels[key],), boxes, masks)
