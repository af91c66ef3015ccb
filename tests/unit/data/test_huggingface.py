"""Hugging Face's data sets, written by `datasets` itself and read without a network."""

from __future__ import annotations

import json
import pickle

import datasets
import huggingface_hub
import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from pyarrow import parquet

from torchsaliency.data import as_dataset, fingerprints, open_data, rows
from torchsaliency.errors import DataError, MissingPackageError, OptionError
from torchsaliency.evaluation import evaluate, make_plan
from torchsaliency.evaluation.batches import load_groups

COUNT = 7
NAMES = ["cat", "dog"]
PLAN = {
    "model": "builtin/shapes_cnn",
    "methods": "gradcam",
    "metrics": "ad",
    "batch_size": 4,
    "workers": 0,
}


@pytest.fixture(autouse=True)
def quiet(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    for offline in (datasets.config, huggingface_hub.constants):  # another test imported them
        monkeypatch.setattr(offline, "HF_HUB_OFFLINE", True)
    datasets.disable_progress_bars()


def images(count=COUNT):
    pixels = np.random.default_rng(0).integers(0, 255, (count, 6, 8, 3), dtype=np.uint8)
    return [*map(Image.fromarray, pixels)]


def table(more=None, **columns):
    """A data set of images and labels, or other columns with their features."""
    features = {"image": datasets.Image(), "label": datasets.ClassLabel(names=NAMES)}
    columns = {"image": images(), "label": [n % 2 for n in range(COUNT)], **columns}
    features = {
        name: feature for name, feature in {**features, **(more or {})}.items() if columns[name]
    }
    columns = {name: columns[name] for name in features}
    return datasets.Dataset.from_dict(columns, features=datasets.Features(features))


def write(data, folder, split="test", group=3):
    """Write it as the Hub has it: in two Parquet files, of several row groups each."""
    (folder / "data").mkdir(parents=True, exist_ok=True)
    for shard in range(2):
        path = folder / "data" / f"{split}-{shard:05d}-of-00002.parquet"
        data.shard(2, shard, contiguous=True).to_parquet(path, batch_size=group)
    return folder


def pixels(data):
    return [np.asarray(data[n][0]) for n in range(len(data))]


def labels(data):
    return [sample.label for sample in data.samples]


@pytest.fixture
def places(tmp_path):
    """The same data set in every form that is on a disk."""
    data = table()
    write(data, tmp_path / "parquet")
    data.to_parquet(tmp_path / "one.parquet")
    data.save_to_disk(tmp_path / "saved")
    datasets.DatasetDict({"test": data, "train": data.select([0])}).save_to_disk(
        tmp_path / "splits"
    )
    for n, image in enumerate(images()):
        path = tmp_path / "folder" / "test" / NAMES[n % 2] / f"{n}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        image.save(path)
    return tmp_path


@pytest.mark.parametrize(
    "spec",
    [
        "parquet:test",
        "parquet",
        "one.parquet",
        "saved",
        "splits:test",
        "parquet:test?streaming=true",
    ],
)
def test_every_form_is_the_same_data_set(spec, places):
    data = open_data(f"hf:{places}/{spec}")
    assert (len(data), data.classes, data.annotations) == (COUNT, ("cat", "dog"), {"labels"})
    assert labels(data) == [n % 2 for n in range(COUNT)]
    for read, image in zip(pixels(data), images(), strict=True):
        assert (read == np.asarray(image)).all()
    assert (np.asarray(data[5][0]) == np.asarray(images()[5])).all()  # in any order
    assert data.check() == {}
    sent = pickle.loads(pickle.dumps(data))
    assert (np.asarray(sent[2][0]) == np.asarray(images()[2])).all()
    assert sent.fingerprint() == data.fingerprint()


def test_an_image_folder_of_theirs(places):
    data = open_data(f"hf:{places}/folder:test")
    assert (labels(data), data.classes) == ([0] * 4 + [1] * 3, ("cat", "dog"))
    assert (pixels(data)[4] == np.asarray(images()[1])).all()
    assert data.samples[0].id == "test/0"
    with pytest.raises(DataError, match=r"files of \.png, which can only be iterated over"):
        open_data(f"hf:{places}/folder:test?streaming=true")


def test_streamed_and_mapped_have_one_fingerprint(tmp_path):
    boxes = [{"bbox": [[1, 1, 2, 2]], "category": [0]}] * COUNT
    data = table({"objects": OBJECTS}, objects=boxes)
    data.save_to_disk(tmp_path / "same")
    write(data, tmp_path / "in" / "same")
    first = open_data(f"hf:{tmp_path}/in/same:test")
    second = open_data(f"hf:{tmp_path}/same")
    assert type(first.rows) is not type(second.rows)
    marks = [[one.mark(sample) for sample in one.samples] for one in (first, second)]
    assert marks[0] == marks[1]


OBJECTS = {
    "bbox": datasets.List(datasets.List(datasets.Value("float32"))),
    "category": datasets.List(datasets.ClassLabel(names=["ant", "bee"])),
}
EACH = datasets.List(
    {
        "bbox": datasets.List(datasets.Value("float32")),
        "category": datasets.ClassLabel(names=["ant", "bee"]),
    }
)


@pytest.mark.parametrize("form", ["lists", "each"])
def test_objects_are_labels_and_boxes(form, tmp_path):
    found = [
        ([[1, 2, 3, 4]], [1]),
        ([[0, 0, 2, 2], [1, 1, 4, 3], [2, 2, 2, 2]], [0, 1, 0]),
        ([], []),
    ]
    cells = [
        {"bbox": boxes, "category": kinds}
        if form == "lists"
        else [{"bbox": box, "category": kind} for box, kind in zip(boxes, kinds, strict=True)]
        for boxes, kinds in found
    ]
    feature = OBJECTS if form == "lists" else EACH
    data = datasets.Dataset.from_dict(
        {"image": images(3), "objects": cells},
        features=datasets.Features({"image": datasets.Image(), "objects": feature}),
    )
    data.to_parquet(tmp_path / "0.parquet")
    data = open_data(f"hf:{tmp_path}/0.parquet")
    assert (data.classes, data.annotations) == (("ant", "bee"), {"labels", "boxes"})
    assert [sample.id for sample in data.samples] == ["0/0 (bee)", "0/1 (ant)", "0/1 (bee)", "0/2"]
    assert [
        None if (boxes := data.picture(n).boxes) is None else boxes.tolist() for n in range(4)
    ] == [[[1, 2, 4, 6]], [[0, 0, 2, 2], [2, 2, 4, 4]], [[1, 1, 5, 4]], None]


def test_boxes_beside_a_label_are_all_of_the_image(tmp_path):
    cells = [{"bbox": [[1, 1, 2, 2], [0, 0, 1, 1]], "category": [0, 1]}] * COUNT
    data = open_data(f"hf:{write(table({'objects': OBJECTS}, objects=cells), tmp_path)}")
    assert len(data.picture(0).boxes) == 2
    assert data.annotations == {"labels", "boxes"}


def test_masks(tmp_path):
    drawn = np.zeros((6, 8), dtype=np.uint8)
    drawn[2:4] = 1
    masks = [Image.fromarray(drawn)] * COUNT
    data = open_data(f"hf:{write(table({'mask': datasets.Image()}, mask=masks), tmp_path)}")
    assert data.annotations == {"labels", "masks"}
    assert (data.picture(3).mask.numpy() == drawn).all()


def test_labels_of_other_kinds(tmp_path):
    for number, (feature, values, expected) in enumerate(
        [
            (datasets.Value("int64"), [3, 0, 1], (None, [3, 0, 1])),
            (datasets.Value("string"), ["dog", "cat", "dog"], (("cat", "dog"), [1, 0, 1])),
            (datasets.Value("string"), ["dog", None, "dog"], (("dog",), [0, None, 0])),
            (datasets.ClassLabel(names=NAMES), [1, -1, 0], (("cat", "dog"), [1, None, 0])),
        ]
    ):
        path = tmp_path / f"{number}.parquet"
        table({"label": feature}, image=images(3), label=values).to_parquet(path)
        data = open_data(f"hf:{path}")
        assert (data.classes, labels(data)) == expected
    feature = datasets.List(datasets.ClassLabel(names=NAMES))
    table({"label": feature}, image=images(3), label=[[1, 0], [], [1]]).to_parquet(path)
    data = open_data(f"hf:{path}")
    assert [sample.labels for sample in data.samples] == [(0, 1), (0, 1), (), (1,)]
    table(label=None).to_parquet(path)
    assert open_data(f"hf:{path}").annotations == frozenset()


def test_parquet_of_others_has_bytes_and_no_features(tmp_path):
    content = table().cast_column("image", datasets.Image(decode=False))[0]["image"]["bytes"]
    path = tmp_path / "plain.parquet"
    parquet.write_table(pa.table({"image": [content, b"no image", None], "label": [4, 5, 6]}), path)
    data = open_data(f"hf:{path}")
    assert labels(data) == [4, 5, 6]
    assert (
        pixels(data.subset(count=3).subset(ids=["plain/0"]))[0] == np.asarray(images()[0])
    ).all()
    broken = data.check()
    assert "plain/1 is no image that can be read; accepted are JPEG" in broken["plain/1"]
    assert "plain/2 has no bytes of an image" in broken["plain/2"]


def test_columns_that_have_to_be_chosen(tmp_path):
    both = {"left": datasets.Image(), "right": datasets.Image()}
    more = {
        **both,
        "coarse": datasets.ClassLabel(names=NAMES),
        "fine": datasets.ClassLabel(names=NAMES),
    }
    kinds = [0] * COUNT
    data = table(
        more, image=None, label=None, left=images(), right=images(), coarse=kinds, fine=kinds
    )
    path = tmp_path / "0.parquet"
    data.to_parquet(path)
    with pytest.raises(
        OptionError, match=r"several columns for the image, left, right; choose one with \?image"
    ):
        open_data(f"hf:{path}")
    with pytest.raises(
        OptionError, match=r"for the label, coarse, fine; choose one with \?label=NAME"
    ):
        open_data(f"hf:{path}?image=left")
    assert len(open_data(f"hf:{path}?image=left&label=fine")) == COUNT
    with pytest.raises(OptionError, match=r"no column 'centre' in .*known are left, right"):
        open_data(f"hf:{path}?image=centre")
    parquet.write_table(pa.table({"text": ["a"]}), path)
    with pytest.raises(
        DataError, match=r"no column of images, and the columns text; .*\?image=NAME"
    ):
        open_data(f"hf:{path}")


def test_splits_that_do_not_exist(places):
    write(table(), places / "parquet", "train")
    with pytest.raises(
        OptionError, match=r"has the splits train, test; choose one, such as hf:.*:test"
    ):
        open_data(f"hf:{places}/parquet")
    for spec in ("parquet:exam", "splits:exam"):
        with pytest.raises(OptionError, match=r"no split 'exam' in hf:.*known are"):
            open_data(f"hf:{places}/{spec}")
    with pytest.raises(OptionError, match="no split 'exam'"):
        open_data(f"hf:{places}/one.parquet", split="exam")
    with pytest.raises(OptionError, match="The splits 'test' and 'train' were given"):
        open_data(f"hf:{places}/parquet:test", split="train")
    assert len(open_data(f"hf:{places}/parquet", split="train")) == COUNT
    with pytest.raises(OptionError, match="hf needs a data set; give hf:OWNER/NAME:SPLIT"):
        open_data("hf")
    with pytest.raises(DataError, match=r"hf:nobody/nothing cannot be opened .*check its name"):
        open_data("hf:nobody/nothing:test")


def test_files_that_are_no_parquet(tmp_path):
    path = tmp_path / "0.parquet"
    path.write_bytes(b"no parquet")
    with pytest.raises(DataError, match="cannot be opened"):
        open_data(f"hf:{path}")
    data = open_data(f"hf:{write(table(), tmp_path / 'two')}")
    second = next((tmp_path / "two").rglob("*-00001-*"))
    second.write_bytes(second.read_bytes()[:-100])
    assert set(data.check()) == {f"test/{n}" for n in range(4, COUNT)}
    with pytest.raises(DataError, match="cannot be read as Parquet"):
        open_data(f"hf:{tmp_path}/two")
    second.unlink()
    with pytest.raises(DataError, match="does not exist"):
        data.picture(5)


def test_a_row_group_is_read_once_for_its_rows(tmp_path, monkeypatch):
    data = open_data(f"hf:{write(table(), tmp_path, group=2)}:test")
    read = []
    original = parquet.ParquetFile.read_row_group

    def watch(self, number, columns):
        read.append(number)
        return original(self, number, columns=columns)

    monkeypatch.setattr(parquet.ParquetFile, "read_row_group", watch)
    monkeypatch.setattr(rows._kept, "key", None, raising=False)
    pixels(data)
    assert read == [0, 1, 0, 1]  # four rows of the first file, three of the second
    monkeypatch.setattr(rows, "LARGEST_GROUP", 10)
    with pytest.raises(DataError, match="more than 2 GiB; write it again with row_group_size"):
        open_data(f"hf:{tmp_path}:test")


def test_the_fingerprint_draws_row_groups(tmp_path, monkeypatch):
    data = open_data(f"hf:{write(table(), tmp_path, group=2)}:test")
    monkeypatch.setattr(fingerprints, "FEWEST_READ", 1)
    monkeypatch.setattr(fingerprints, "READ_WHOLE", 1)
    sizes = {sample.id: data.outline(sample)[0] for sample in data.samples}
    drawn = [sample.source for sample in fingerprints._draw(data, sizes)]
    assert drawn in ([0, 1], [2, 3], [4, 5], [6])
    assert data.fingerprint().startswith("sampled:")


def test_an_evaluation_goes_on(tmp_path):
    drawn = open_data("shapes:6")
    features = {"image": datasets.Image(), "label": datasets.ClassLabel(names=[*drawn.classes])}
    data = datasets.Dataset.from_dict(
        {"image": [drawn[n][0] for n in range(6)], "label": [drawn[n][1] for n in range(6)]},
        features=datasets.Features(features),
    )
    spec = f"hf:{write(data, tmp_path / 'data')}:test"
    plan = make_plan({**PLAN, "data": spec})
    found = evaluate(plan, tmp_path / "run").frame
    of_shapes = evaluate(make_plan({**PLAN, "data": "shapes:6"}), tmp_path / "drawn").frame
    assert found["sample"].tolist() == [f"test/{n}" for n in range(6)]
    np.testing.assert_allclose(found["value"], of_shapes["value"], atol=1e-5)
    assert evaluate(plan, tmp_path / "run").frame.equals(found)
    assert json.loads((tmp_path / "run" / "run.json").read_text())["plan"]["data"] == spec
    groups = [[5, 0], [3]]
    read = [group for group, _ in load_groups(open_data(spec), read_size, groups, workers=1)]
    assert read == [[(64, 64)] * 2, [(64, 64)]]


def read_size(picture):
    return picture.image.size


def test_what_can_only_be_iterated_over_is_said():
    with pytest.raises(
        DataError, match=r"is a IterableDataset, which has no length.*streaming=true"
    ):
        as_dataset(table().to_iterable_dataset())


def test_without_datasets_the_extra_is_named(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingPackageError, match=r"torchsaliency\[hf\]"):
        open_data("hf:owner/name:test")
