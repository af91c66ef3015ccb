"""Hugging Face's data sets, by their name or from a disk: their columns as labels, boxes and masks.

What lies in Parquet files on this machine, and whatever is streamed, is read from these files by
row groups (`rows`); `datasets` finds them, knows their features, and reads all else.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from torchsaliency.data.dataset import Sample, spread_labels
from torchsaliency.data.files import list_names, printable, readable_id
from torchsaliency.data.opening import register_dataset
from torchsaliency.data.places import open_place
from torchsaliency.data.rows import ArrowRows, ParquetRows, Rows, RowSet, find_objects
from torchsaliency.data.tables import number_labels
from torchsaliency.errors import (
    DataError,
    OptionError,
    describe_error,
    describe_unknown,
    require_extra,
)

_LABELS = ("label", "labels", "class")
_IMAGES = ("image", "img", "picture")
_MASKS = ("mask", "segmentation_mask")
_OBJECTS = "objects"
_SAVED = ("state.json", "dataset_dict.json")
"""What `save_to_disk` writes for a data set and for one of several splits."""


@register_dataset("hf")
def hf_set(
    name: str = "",
    *,
    split: str | None = None,
    streaming: bool = False,
    image: str | None = None,
    label: str | None = None,
    mask: str | None = None,
) -> RowSet:
    """Hugging Face's data sets: `hf:OWNER/NAME[/CONFIG]:SPLIT`, or a path in place of the name.

    Args:
        name: on the Hub; or the path of a Parquet file, of what `save_to_disk` wrote, or of a
            folder that `datasets.load_dataset` reads. The split follows after a colon.
        split: which is read; may be left out where there is one.
        streaming: read Parquet files where they lie, and download nothing before it is needed.
        image: the column of the images, where it cannot be known.
        label: the column of the labels, where it cannot be known.
        mask: the column of masks; by default one named `mask`.

    Raises:
        DataError: there is no such data set, it has no images, or it can only be iterated over.
        MissingPackageError: the extra `hf` is not installed.
        OptionError: there is no such split or column, or a choice has to be made.
    """
    if not name:
        raise OptionError("hf needs a data set; give hf:OWNER/NAME:SPLIT, or hf:PATH:SPLIT.")
    require_extra("hf", "datasets", "pyarrow")
    name = os.path.expanduser(name)
    if not os.path.exists(name):
        name, _, after = name.partition(":")
        if split is not None and after:
            raise OptionError(f"The splits {after!r} and {split!r} were given; give one.")
        split = split or after or None
    where = f"hf:{printable(name)}"
    try:
        source, split = _find_source(name, split, streaming, where)
        title = Path(_divide_name(name)[0] if not os.path.exists(name) else name).name
        return _make_set(source, (image, label, mask), title.removesuffix(".parquet"), split, where)
    except (DataError, OptionError):
        raise
    except Exception as error:  # datasets raises many types, of networks and of files
        raise DataError(
            f"{where} cannot be opened ({describe_error(error)}); check its name, the split and "
            "the network."
        ) from error


def _find_source(
    path: str, split: str | None, streaming: bool, where: str
) -> tuple[Any, str | None]:
    """Return the places of Parquet files or a `datasets.Dataset`, and the split that it is."""
    import datasets  # noqa: PLC0415 (an extra, which takes seconds to import)

    is_local = os.path.exists(path)
    if os.path.isfile(path):
        _require_split(split, [], where)
        return [path], None
    if any(os.path.isfile(os.path.join(path, name)) for name in _SAVED):
        found = datasets.load_from_disk(path)
        splits = [*found] if isinstance(found, Mapping) else [str(found.split)][: bool(found.split)]
        split = _require_split(split, splits, where)
        return (found[split] if isinstance(found, Mapping) else found), split
    named, config = (path, "") if is_local else _divide_name(path)
    builder = datasets.load_dataset_builder(named, config or None)
    files = {
        str(key): [*map(str, value)] for key, value in (builder.config.data_files or {}).items()
    }
    split = _require_split(
        split, [*files] or [str(known) for known in builder.info.splits or ()], where
    )
    places = files.get(split or "", [])
    if (is_local or streaming) and places and all(place.endswith(".parquet") for place in places):
        return places, split
    if streaming:
        kinds = {Path(place).suffix for places in files.values() for place in places}
        raise DataError(
            f"{where} has files of {list_names(sorted(kinds))}, which can only be iterated over "
            "when they are streamed, and images are read by number; leave streaming out, and it is "
            "downloaded, or give the addresses of its tars (tar:hf://datasets/…/{00..49}.tar)."
        )
    return datasets.load_dataset(named, config or None, split=split), split


def _divide_name(name: str) -> tuple[str, str]:
    """Return OWNER/NAME and CONFIG of a name on the Hub; "" where none is given."""
    owner, _, rest = name.partition("/")
    named, _, config = rest.partition("/")
    return (f"{owner}/{named}", config) if config else (name, "")


def _require_split(split: str | None, known: Sequence[str], where: str) -> str | None:
    """Return the split that is read; parts of splits ("test[:100]") are left to datasets."""
    if split is None:
        if len(known) > 1:
            raise OptionError(
                f"{where} has the splits {list_names(known)}; choose one, such as "
                f"{where}:{known[-1]}."
            )
        return known[0] if known else None
    if split.isidentifier() and split not in known:
        raise OptionError(describe_unknown("split", split, known, where=f" in {where}"))
    return split


def _make_set(
    source: Any, given: Sequence[str | None], name: str, split: str | None, where: str
) -> RowSet:
    """Return the data set of Parquet files or of a `datasets.Dataset`."""
    import datasets  # noqa: PLC0415
    from pyarrow import parquet  # noqa: PLC0415

    if isinstance(source, list):
        with open_place(source[0]) as file:
            features = datasets.Features.from_arrow_schema(parquet.read_schema(file))
    else:
        features = source.features
    image, label, mask = _choose_columns(features, given, where)
    objects = _OBJECTS if find_feature(features.get(_OBJECTS), "bbox") is not None else None
    used = [column for column in (image, mask, objects) if column]
    rows: Rows
    if isinstance(source, list):
        rows = ParquetRows.open(source, used)
        words = rows.read_column(label) if label else []
        cells = rows.read_column(objects) if objects else []
    else:
        words = ArrowRows(source).read_column(label) if label else []
        cells = ArrowRows(source).read_column(objects) if objects else []
        source = source.select_columns(used)
        for column in filter(None, (image, mask)):
            if isinstance(features[column], datasets.Image):
                source = source.cast_column(column, datasets.Image(decode=False))
        rows = ArrowRows(source)
    if not len(rows):
        raise DataError(f"{where} has no rows in the split {split}; choose another one.")
    categories = find_feature(features.get(_OBJECTS), "category")
    names: Sequence[str] = getattr(categories, "names", None) or ()
    if label is None and names:
        words = [
            [category for category, _ in find_objects(cell, where) if category is not None]
            for cell in cells
        ]
        feature = categories
    else:
        feature = features.get(label)
    samples, classes = _list_samples(len(rows), words, feature, split or name, where)
    annotations = {
        "labels": any(sample.label is not None for sample in samples),
        "boxes": objects is not None,
        "masks": mask is not None,
    }
    return RowSet(
        name=name,
        samples=tuple(samples),
        classes=classes,
        annotations=frozenset(kind for kind, there in annotations.items() if there),
        facts=(f"split {split}",) if split else (),
        rows=rows,
        image=image,
        objects=objects,
        mask=mask,
        by_class=classes == tuple(map(readable_id, names)),
    )


def find_feature(feature: Any, name: str) -> Any:
    """Return what is in a list of objects, or an object of lists, by name; None without it."""
    feature = _unwrap(feature)
    return _unwrap(feature.get(name)) if isinstance(feature, Mapping) else None


def _unwrap(feature: Any) -> Any:
    """Return what the items of lists (of lists …) are."""
    while True:
        if isinstance(feature, list):
            feature = feature[0]
        elif hasattr(feature, "feature"):
            feature = feature.feature
        else:
            return feature


def _choose_columns(
    features: Mapping[str, Any], given: Sequence[str | None], where: str
) -> tuple[str, str | None, str | None]:
    """Return the columns of images, labels and masks."""
    images = [name for name, feature in features.items() if _holds_images(name, feature)]
    labels = [name for name, feature in features.items() if hasattr(_unwrap(feature), "names")]
    labels = labels or [name for name in _LABELS if hasattr(features.get(name), "dtype")]
    masks = [name for name in images if name in _MASKS]
    image = _choose(
        "image", given[0], (features, [n for n in images if n not in masks], _IMAGES), where
    )
    label = _choose("label", given[1], (features, labels, _LABELS), where)
    mask = _choose("mask", given[2], (features, masks, _MASKS), where)
    if image is None:
        raise DataError(
            f"{where} has no column of images, and the columns {list_names([*features])}; name the "
            "one that has their files with ?image=NAME."
        )
    return image, label, mask


def _choose(
    kind: str,
    given: str | None,
    of: tuple[Mapping[str, Any], Sequence[str], Sequence[str]],
    where: str,
) -> str | None:
    """Return the column that is given or cannot be mistaken; None without any."""
    features, found, usual = of
    if given is not None:
        if given not in features:
            raise OptionError(describe_unknown("column", given, features, where=f" in {where}"))
        return given
    preferred = [name for name in usual if name in found] or [*found]
    if len(found) > 1 and preferred == [*found]:
        raise OptionError(
            f"{where} has several columns for the {kind}, {list_names(found)}; choose one with "
            f"?{kind}=NAME."
        )
    return preferred[0] if preferred else None


def _holds_images(name: str, feature: Any) -> bool:
    if type(feature).__name__ == "Image" or (isinstance(feature, Mapping) and "bytes" in feature):
        return True
    return name in _IMAGES and getattr(feature, "dtype", "") in ("binary", "large_binary")


def _list_samples(
    count: int, words: Sequence[Any], feature: Any, name: str, where: str
) -> tuple[list[Sample], tuple[str, ...] | None]:
    """Return a sample for each row, or for each of its labels, and the names of the classes."""
    plain = [Sample(readable_id(f"{name}/{row}"), row) for row in range(count)]
    if not words:
        return plain, None
    names = getattr(_unwrap(feature), "names", None)
    lists = [word if isinstance(word, list) else [] if word is None else [word] for word in words]
    if names:
        classes: tuple[str, ...] | None = tuple(map(readable_id, names))
        index = {number: number for number in range(len(names))}  # -1 is a label that is kept back
    else:
        texts = {word: str(word) for found in lists for word in found}
        classes, numbers = number_labels(texts.values(), where)
        index = {word: numbers[text] for word, text in texts.items()}
    labels = [sorted({index[word] for word in found if word in index}) for found in lists]
    if not any(isinstance(word, list) for word in words):
        return [
            replace(sample, label=found[0] if found else None)
            for sample, found in zip(plain, labels, strict=True)
        ], classes
    spelt = classes or tuple(map(str, range(max(index.values(), default=0) + 1)))
    return [
        each
        for sample, found in zip(plain, labels, strict=True)
        for each in spread_labels(sample, found, spelt)
    ], spelt
