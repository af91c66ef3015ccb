"""What tells a data set from others, by reading a bounded part of it.

Of data up to `READ_WHOLE` bytes, every byte counts. Of larger data all ids, labels and sizes count,
and the content of as many samples as the bound holds. Which ones is drawn by a hash of their ids,
so that every machine reads the same. If k of N samples change, and neither a name nor a size does,
and n are read, none of the changed ones is among them with probability

    (1 - n/N) (1 - n/(N-1)) … (1 - n/(N-k+1))  <=  (1 - n/N)^k.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain, groupby, islice
from typing import Any, Protocol, TypeVar, runtime_checkable

READ_WHOLE = 1 << 28
"""Bytes of the largest data of which every byte counts, and about those read of larger data."""

FEWEST_READ = 16
"""Samples that are read however large they are."""

COUNTS_FOR = 1 << 17
"""Bytes of an image whose size is not known: of such, 2048 are read."""

SAMPLED = "sampled:"
"""What a fingerprint begins with if a part of the content counts."""

_THREADS = 8
_AT_ONCE = 64

T = TypeVar("T")


@runtime_checkable
class Sample(Protocol):
    """What is listed of a sample, see `torchsaliency.data.Sample`."""

    @property
    def id(self) -> str:
        """Its name."""

    @property
    def label(self) -> int | None:
        """Its class."""


@runtime_checkable
class DataSet(Protocol):
    """What is listed, see `torchsaliency.data.DataSet`, whose module imports this one."""

    @property
    def name(self) -> str:
        """Of the data set."""

    @property
    def samples(self) -> Sequence[Any]:
        """All of them."""

    @property
    def classes(self) -> Sequence[str] | None:
        """Names of the classes."""

    @property
    def codes(self) -> Sequence[str]:
        """Other names of the classes."""

    @property
    def annotations(self) -> Collection[str]:
        """Kinds of annotation."""

    def mark(self, sample: Any) -> str:
        """Return a hash of the content."""

    def outline(self, sample: Any) -> tuple[int, str]:
        """Return size, and what else is known of the content."""

    def block(self, sample: Any) -> str:
        """Return what is read with it."""


def make_fingerprint(data: DataSet, like: str = "") -> str:
    """Return the fingerprint of a data set, see `DataSet.fingerprint`."""
    head = json.dumps((data.name, data.classes, data.codes, sorted(data.annotations)))
    digest = hashlib.sha256(head.encode())
    if like and not like.startswith(SAMPLED):
        return _add_content(digest, data, data.samples)
    outlines = [*_map_samples(data.outline, data, data.samples)]
    if not like and sum(size for size, _ in outlines) <= READ_WHOLE:
        return _add_content(digest, data, data.samples)
    for sample, (size, text) in zip(data.samples, outlines, strict=True):
        digest.update(b"\n" + json.dumps((sample.id, sample.label, size, text)).encode())
    sizes = {sample.id: size for sample, (size, _) in zip(data.samples, outlines, strict=True)}
    return SAMPLED + _add_content(digest, data, [*_draw(data, sizes)])


def is_same_kind(first: str, second: str) -> bool:
    """Whether two fingerprints count the same part of the content, or one is not known."""
    return not (first and second) or first.startswith(SAMPLED) is second.startswith(SAMPLED)


def draw_key(seed: int, name: str) -> bytes:
    """Return what a name is sorted by to draw from a list: no generator, so no version of one."""
    return hashlib.sha256(f"{seed}:{name}".encode()).digest()


def _draw(data: DataSet, sizes: Mapping[str, int]) -> Iterator[Sample]:
    """Yield the samples that are read: the drawn blocks that the bound holds, in their order."""
    blocks: dict[str, list[Sample]] = {}
    for sample in data.samples:
        blocks.setdefault(data.block(sample), []).append(sample)
    total = count = 0
    for block in sorted(blocks, key=lambda name: draw_key(0, name)):
        total += sum(sizes[sample.id] for sample in blocks[block])
        if count >= FEWEST_READ and total > READ_WHOLE:
            return
        count += len(blocks[block])
        yield from blocks[block]


def _add_content(digest: hashlib._Hash, data: DataSet, samples: Iterable[Sample]) -> str:
    samples = [*samples]
    for sample, mark in zip(samples, _map_samples(data.mark, data, samples), strict=True):
        digest.update(b"\n" + json.dumps((sample.id, sample.label, mark)).encode())
    return digest.hexdigest()


def _map_samples(
    look: Callable[[Sample], T], data: DataSet, samples: Iterable[Sample]
) -> Iterator[T]:
    """Yield what is found of each sample; reading and hashing let other threads run."""
    parts = _cut(data, samples)
    with ThreadPoolExecutor(_THREADS) as pool:
        while begun := [*islice(parts, 4 * _THREADS)]:  # not all at once: samples may be millions
            yield from chain.from_iterable(pool.map(lambda part: [*map(look, part)], begun))


def _cut(data: DataSet, samples: Iterable[Sample]) -> Iterator[list[Sample]]:
    """Yield samples in parts, each for a thread; what is read together is in one part."""
    part: list[Sample] = []
    for _, together in groupby(samples, data.block):
        part += together
        if len(part) >= _AT_ONCE:
            yield part
            part = []
    if part:
        yield part
