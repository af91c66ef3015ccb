"""From samples to batches for training, mirrored where asked, read by worker processes."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import final

import torch
from torch import Tensor

from torchsaliency.data import DataSet
from torchsaliency.evaluation.batches import Reader, Unreadable, loaded
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
    count = _workers(sum(map(len, groups))) if workers is None else workers
    reader = _Reader(data, preprocessing)
    yield from map(_collated, loaded(reader, groups, workers=count, pinned=pinned))


@final
class _Reader(Reader):
    """Opens samples, mirrored where asked."""

    def __init__(self, data: DataSet, preprocessing: Preprocessing) -> None:
        self.data, self.preprocessing = data, preprocessing

    def name(self, key: Key) -> str:
        """Return the id of a sample."""
        return self.data.samples[key[0]].id

    def open(self, key: Key) -> tuple[Tensor, int] | Unreadable:
        """Return an image and its label."""
        index, mirrored = key
        sample = self.data.samples[index]
        image = self.preprocessing(self.data.picture(index).image)
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
