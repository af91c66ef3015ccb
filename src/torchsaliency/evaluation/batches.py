"""From samples to batches of network inputs, read by worker processes."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Collection, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar, final

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader
from torch.utils.data import Dataset as TorchDataset

from torchsaliency.core.isolation import describe_failure
from torchsaliency.data import DataSet
from torchsaliency.data.dataset import Picture
from torchsaliency.errors import DataError
from torchsaliency.evaluation.setting import Setting
from torchsaliency.zoo import Preprocessing
from torchsaliency.zoo.volumes import VolumePreprocessing

T = TypeVar("T")

_FEW = 64
"""Images for which no process is started."""


@final
@dataclass(frozen=True, eq=False)
class Batch:
    """Images that share a pass; None for what the data or the plan does not have."""

    ids: tuple[str, ...]
    images: Tensor  # (N, C, *size) for the explained network
    judged: Tensor | None  # (N, C', *size) for the judge; None if it takes the same images
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
) -> Generator[tuple[Batch | None, list[Unreadable]], None, None]:
    """Read groups of samples, each into one batch; None where no image of it can be read.

    By default all of the data is read, in batches of the plan's size, by the plan's workers.
    """
    if groups is None:
        groups = cut(len(setting.data), setting.batch_size)
    workers = setting.plan.workers if workers is None else workers
    prepare = functools.partial(
        _prepare,
        tuple(setting.plan.needs),
        setting.preprocessing,
        setting.judge_preprocessing,
        setting.class_of_label,
    )
    for read, failed in load_groups(setting.data, prepare, groups, workers=workers):
        yield (Batch.join(read) if read else None), failed


def _prepare(
    needs: Collection[str],
    preprocessing: Preprocessing | VolumePreprocessing,
    judge: Preprocessing | VolumePreprocessing | None,
    class_of_label: Mapping[int | None, int],
    picture: Picture,
) -> Batch:
    """Return a batch of one image, with all that a plan's metrics need."""
    name, image = picture.sample.id, picture.image
    boxes = masks = None
    if "boxes" in needs:
        if picture.boxes is None or len(picture.boxes) == 0:
            raise DataError(f"{name} has no box of its object.")
        assert isinstance(preprocessing, Preprocessing)  # boxes are of photographs
        photo_size = image.shape[:2] if isinstance(image, np.ndarray) else image.size[::-1]
        place = preprocessing.placement(photo_size)
        boxes = (place.boxes_to_input(picture.boxes, preprocessing.input_size(photo_size)),)
    if "masks" in needs:
        if picture.mask is None:
            raise DataError(f"{name} has no mask of its objects.")
        assert isinstance(preprocessing, Preprocessing)  # masks are, too
        masks = preprocessing.mask(picture.mask)[None]
    judged = None if judge is None else judge(image)[None]
    label = class_of_label.get(picture.sample.label)
    return Batch((name,), preprocessing(image)[None], judged, (label,), boxes, masks)


def cut(count: int, size: int) -> list[list[int]]:
    """Return the numbers below `count` in groups of `size`."""
    return list(BatchSampler(range(count), size, drop_last=False))


def load_groups(
    data: DataSet,
    prepare: Callable[[Picture], T],
    groups: Sequence[Sequence[int]],
    *,
    workers: int | None = None,
    pinned: bool = False,
) -> Iterator[tuple[list[T], list[Unreadable]]]:
    """Read groups of samples in worker processes, in order; no sample ends a run.

    `prepare` is sent to the workers, and returns what is kept of a sample. There are as many
    workers as suit the machine by default. Pinned tensors lie in memory from which a GPU copies.

    If a worker dies (killed by the system for its memory, or by a file that crashes a decoder), the
    group is read again with a process for each sample. The sample that kills its process, too, is
    unreadable.
    """
    if workers is None:
        few = sum(map(len, groups)) <= _FEW
        workers = 0 if few else max(1, min(8, (os.cpu_count() or 1) // 2))
    start = 0
    reader = _Reader(data, prepare)
    while start < len(groups):
        try:
            for opened in _loader(reader, groups[start:], workers, pinned):
                yield _divide(opened)
                start += 1
        except RuntimeError as error:
            if not _worker_died(error):
                raise
        else:
            return
        yield _divide([_open_alone(reader, index, pinned) for index in groups[start]])
        start += 1


@final
class _Reader(TorchDataset[Any]):
    """Opens samples; what a worker process needs, and nothing of the networks."""

    def __init__(self, data: DataSet, prepare: Callable[[Picture], Any]) -> None:
        self.data, self.prepare = data, prepare

    def __getitem__(self, index: int) -> Any:
        try:
            return self.prepare(self.data.picture(index))
        except Exception as error:  # a decoder may raise anything
            return Unreadable(self.data.samples[index].id, describe_failure(error))


def _divide(opened: Sequence[Any]) -> tuple[list[Any], list[Unreadable]]:
    failed = [item for item in opened if isinstance(item, Unreadable)]
    return [item for item in opened if not isinstance(item, Unreadable)], failed


def _open_alone(reader: _Reader, index: int, pinned: bool) -> Any:
    try:
        ((opened,),) = _loader(reader, [[index]], 1, pinned)
    except RuntimeError as error:
        if not _worker_died(error):
            raise
        name = reader.data.samples[index].id
        return Unreadable(name, f"{name} cannot be read: the process that reads it is killed.")
    return opened


def _loader(
    reader: _Reader, groups: Sequence[Sequence[int]], workers: int, pinned: bool
) -> DataLoader[Any]:
    return DataLoader(
        reader,
        batch_sampler=groups,  # type: ignore[arg-type]  # any sequence of lists of indices
        collate_fn=list,
        num_workers=workers,
        pin_memory=pinned,
        generator=torch.Generator(),  # or it would move the caller's on
    )


def _worker_died(error: RuntimeError) -> bool:
    return "DataLoader worker" in str(error)
