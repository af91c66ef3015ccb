"""From samples to batches for training, mirrored where asked, read by worker processes."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import Any, final

import torch
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from torchsaliency.core.errors import DataError
from torchsaliency.data import DataSet
from torchsaliency.evaluation.batches import Unreadable
from torchsaliency.zoo import Preprocessing

Key = tuple[int, bool]
"""Which sample, and whether it is mirrored."""

_FEW = 64
"""Images for which no process is started."""


def read(
    data: DataSet,
    preprocessing: Preprocessing,
    groups: Sequence[Sequence[Key]],
    *,
    workers: int | None = None,
    pinned: bool = False,
) -> Iterator[tuple[Tensor, Tensor, list[Unreadable]]]:
    """Read groups of samples, each into one batch: images, labels and what cannot be read.

    Args:
        data: with labels.
        preprocessing: of the network.
        groups: samples that share a batch.
        workers: processes that read; None for as many as the machine bears.
        pinned: in memory that a GPU copies from at once.
    """
    loader: DataLoader[Any] = DataLoader(
        _Reader(data, preprocessing),
        batch_sampler=groups,  # type: ignore[arg-type]  # any sequence of lists of keys
        collate_fn=_collated,
        num_workers=_workers(sum(map(len, groups))) if workers is None else workers,
        pin_memory=pinned,
        generator=torch.Generator(),  # or it would move on the one that draws dropout
    )
    yield from loader


@final
class _Reader(TorchDataset[Any]):
    """Opens samples, mirrored where asked; what a worker process needs."""

    def __init__(self, data: DataSet, preprocessing: Preprocessing) -> None:
        self.data, self.preprocessing = data, preprocessing

    def __getitem__(self, key: tuple[int, bool]) -> tuple[Tensor, int] | Unreadable:
        index, mirrored = key
        sample = self.data.samples[index]
        try:
            image = self.preprocessing(self.data.picture(index).image)
        except DataError as error:
            return Unreadable(sample.id, str(error))
        assert sample.label is not None  # `open_parts` insists on labels
        return (image.flip(-1) if mirrored else image), sample.label


def _collated(
    opened: Sequence[tuple[Tensor, int] | Unreadable],
) -> tuple[Tensor, Tensor, list[Unreadable]]:
    good = [one for one in opened if not isinstance(one, Unreadable)]
    failed = [one for one in opened if isinstance(one, Unreadable)]
    images = torch.stack([image for image, _ in good]) if good else torch.empty(0)
    return images, torch.tensor([label for _, label in good], dtype=torch.int64), failed


def _workers(images: int) -> int:
    return 0 if images <= _FEW else max(1, min(8, (os.cpu_count() or 1) // 2))
