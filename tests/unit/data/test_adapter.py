"""torch data sets of any origin: torchvision's, Hugging Face's, a user's own."""

from typing import ClassVar

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import (
    ConcatDataset,
    DataLoader,
    Dataset,
    IterableDataset,
    Subset,
    TensorDataset,
)
from torchvision.datasets import FakeData, ImageFolder, VisionDataset

from torchsaliency.data import DataSet, as_dataset, open_data
from torchsaliency.errors import DataError

CLASSES = ["cat", "dog", "owl"]


def picture(number):
    return Image.fromarray(np.full((6, 8, 3), 20 * number, np.uint8))


class Own(Dataset):
    """A user's data set, which counts how often it is read."""

    def __init__(self, items):
        self.items, self.read = items, 0

    def __len__(self):
        return len(self.items)

    def __getitem__(self, index):
        self.read += 1
        return self.items[index]


class Vision(VisionDataset):
    """Like CIFAR: labels are listed in `targets`."""

    classes, targets = CLASSES, (0, 1, 2, 1)

    def __len__(self):
        return len(self.targets)

    def __getitem__(self, index):
        image, label = picture(index), self.targets[index]
        return image, label if self.target_transform is None else self.target_transform(label)


class ClassLabel:
    names = CLASSES


class HuggingFace:
    """The interface of `datasets.Dataset`, as far as it is used."""

    def __init__(self, label="label"):
        self.features = {"image": object(), label: ClassLabel()}
        self.rows = [{"image": picture(n), label: n % 3, "id": n} for n in range(5)]

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, key):
        return [row[key] for row in self.rows] if isinstance(key, str) else self.rows[key]


def pairs(count=4):
    return [(picture(number), number % 3) for number in range(count)]


@pytest.mark.parametrize(
    ("source", "labels"),
    [
        (pairs(), [0, 1, 2, 0]),
        (Own(pairs()), [0, 1, 2, 0]),
        (Vision("."), [0, 1, 2, 1]),
        (Vision(".", target_transform=lambda label: 2 - label), [2, 1, 0, 1]),
        (Subset(Vision("."), [3, 2]), [1, 2]),
        (ConcatDataset([Vision("."), Vision(".")]), [0, 1, 2, 1, 0, 1, 2, 1]),
        (HuggingFace(), [0, 1, 2, 0, 1]),
        (TensorDataset(torch.zeros(2, 3, 4, 4, dtype=torch.uint8), torch.tensor([1, 0])), [1, 0]),
        ([(np.zeros((4, 5), np.uint8), np.int64(2))], [2]),
        ([(torch.rand(3, 4, 5), torch.tensor(1)), (torch.rand(1, 4, 5), 0)], [1, 0]),
        ([(picture(1), "owl", "more")], [2]),
    ],
)
def test_origins(source, labels):
    data = as_dataset(source, classes=CLASSES, name="mine")
    assert isinstance(data, DataSet)
    assert isinstance(data, Dataset)
    assert [sample.label for sample in data.samples] == labels
    assert [data[place][1] for place in range(len(data))] == labels
    assert {data.picture(place).image.mode for place in range(len(data))} == {"RGB"}
    assert data.samples[0].id == "mine/0"
    assert data.annotations == {"labels"}


def test_names_of_classes_come_along(tmp_path):
    (tmp_path / "a").mkdir()
    picture(1).save(tmp_path / "a" / "1.png")
    assert as_dataset(ImageFolder(tmp_path)).classes == ("a",)
    assert as_dataset(Subset(Vision("."), [0])).classes == tuple(CLASSES)
    assert as_dataset(HuggingFace()).classes == tuple(CLASSES)
    assert as_dataset(HuggingFace("kind"), columns=("image", "kind")).classes == tuple(CLASSES)
    assert as_dataset(pairs()).classes is None
    fake = as_dataset(FakeData(3, (3, 8, 8)))
    assert (fake.name, len(fake), fake.classes) == ("fakedata", 3, None)
    shapes = open_data("shapes:3")
    assert as_dataset(shapes) is shapes


def test_listed_labels_are_taken_without_reading_the_images():
    class Counted(Vision):
        read = 0

        def __getitem__(self, index):
            Counted.read += 1
            return super().__getitem__(index)

    as_dataset(Counted("."))
    assert Counted.read == 2  # the first image, to see whether it stays the same
    source = Own(pairs(9))
    as_dataset(source)
    assert source.read == 9 + 2


def test_pixels_are_those_of_the_source():
    values = np.arange(4 * 5 * 3, dtype=np.uint8).reshape(4, 5, 3)
    tensor = torch.from_numpy(values).permute(2, 0, 1)
    for image in (Image.fromarray(values), values, tensor, tensor / 255):
        data = as_dataset([(image, 0)])
        assert np.array_equal(np.asarray(data.picture(0).image), values)
    assert as_dataset([(values, 0)], name="a").fingerprint() == (
        as_dataset([(tensor, 0)], name="a").fingerprint()
    )


def test_boxes_and_masks():
    item = {
        "image": picture(2),
        "label": 1,
        "objects": [[1, 2, 5, 6]],
        "mask": picture(0).convert("L"),
    }
    data = as_dataset(
        [item],
        boxes=lambda item: item["objects"],
        masks=lambda item: item["mask"],
    )
    assert data.annotations == {"labels", "boxes", "masks"}
    assert data.picture(0).boxes.tolist() == [[1, 2, 5, 6]]
    assert tuple(data.picture(0).mask.shape) == (6, 8)
    other = as_dataset([item | {"objects": [[0, 2, 5, 6]]}], boxes=lambda item: item["objects"])
    assert other.fingerprint() != as_dataset([item], boxes=lambda i: i["objects"]).fingerprint()
    with pytest.raises(DataError, match="lies far outside"):
        as_dataset([item], boxes=lambda item: [0, 0, 1e9, 1]).picture(0)
    for mask in (torch.zeros(3, 3, dtype=torch.uint8), torch.zeros(6, 8), torch.full((6, 8), 300)):
        with pytest.raises(DataError, match=r"The mask of list/0 is .*image's size \(6, 8\)"):
            as_dataset([item], masks=lambda item, mask=mask: mask).picture(0)
    assert as_dataset([item], boxes=lambda item: None).picture(0).boxes is None


class Stream(IterableDataset):
    def __iter__(self):
        yield from pairs()


class Broken(Own):
    def __getitem__(self, index):
        if index == 1:
            raise OSError("no such file\nsecond line")
        return super().__getitem__(index)

    targets = (0, 1, 2, 0)


class Restless(Own):
    def __getitem__(self, index):
        self.read += 1
        return picture(self.read), 0


class Relabelled(Own):
    targets = (0, 2)


@pytest.mark.parametrize(
    ("source", "sentence"),
    [
        (Stream(), "is a Stream, which has no length or no order, and images .*; give a map-style"),
        (iter(pairs()), "is a list_iterator, which has no length"),
        ([], "an empty list"),
        ({"train": pairs()}, "is a dict with the keys train; give one data set"),
        ([picture(1)], r"Item 0 .*Image.* has no image or no label; give \(image, label\)"),
        ([(picture(1),)], "tuple.* has no image or no label"),
        ([(picture(1), None)], "has no image or no label"),
        ([{"img": picture(1), "label": 1}], "dict with the keys img, label. has no image"),
        ([{"image": picture(1)}], "dict with the keys image. has no image"),
        ([(picture(1), -1)], "has the label -1; give 0 to 2"),
        ([(picture(1), 3)], "has the label 3; give 0 to 2"),
        ([(picture(1), 1.0)], r"has the label 1\.0; give 0 to 2"),
        ([(picture(1), True)], "has the label True"),
        ([(picture(1), torch.tensor([1, 0]))], "has the label tensor"),
        ([(picture(1), "caat")], r"no class 'caat' \(item 0\); close names are cat"),
        (Restless(pairs()), "another image each time it is read; leave its random transforms out"),
    ],
)
def test_what_cannot_be_listed(source, sentence):
    with pytest.raises(DataError, match=sentence) as error:
        as_dataset(source, classes=CLASSES)
    assert str(error.value).count("\n") == 0


@pytest.mark.parametrize(
    ("image", "sentence"),
    [
        (
            torch.randn(3, 4, 4, generator=torch.Generator().manual_seed(0)),
            "values of float32 from",
        ),
        (torch.full((3, 4, 4), 255.0), r"float32 from 255 to 255, which do not say what white is"),
        (torch.zeros(3, 4, 4, dtype=torch.int64), "values of int64 from 0 to 0"),
        (np.zeros((4, 4), np.int32), "values of int32"),
        (np.full((4, 4), np.nan), "values of float64 from nan"),
        (np.zeros((0, 4, 3)), "values of float64, which"),
        ("cat.png", "is a str; give an image of PIL"),
        (torch.zeros(2, 3, 4, 4, dtype=torch.uint8), r"shape \(2, 3, 4, 4\)"),
    ],
)
def test_images_whose_range_is_not_known(image, sentence):
    with pytest.raises(DataError, match=sentence):
        as_dataset([(image, 0)]).picture(0)


def test_items_that_cannot_be_read_are_told():
    data = as_dataset(Broken(pairs()))
    assert data.check() == {
        "broken/1": "broken/1 cannot be read (no such file); make the data set give it."
    }
    data = as_dataset(Relabelled(pairs(2)))
    with pytest.raises(DataError, match="has the label 1, and 2 is listed for it"):
        data.picture(1)


def small(image):
    return torch.from_numpy(np.array(image.resize((4, 4)))).permute(2, 0, 1) / 255


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("source", [lambda: as_dataset(pairs(5)), lambda: open_data("shapes:5")])
def test_a_data_set_is_one_of_torch(source, workers):
    data = source()
    image, label = data[-1]
    assert isinstance(image, Image.Image)
    assert label == data.samples[-1].label
    with pytest.raises(IndexError):
        data[5]
    prepared = data.with_transform(small)
    assert prepared.fingerprint() == data.fingerprint()
    batches = [*DataLoader(prepared, batch_size=2, num_workers=workers)]
    assert [tuple(images.shape) for images, _ in batches] == [(2, 3, 4, 4)] * 2 + [(1, 3, 4, 4)]
    assert torch.cat([labels for _, labels in batches]).tolist() == [
        sample.label for sample in data.samples
    ]
    assert torch.equal(torch.cat([images for images, _ in batches])[3], small(data[3][0]))
    assert len(prepared.subset(count=2)[0]) == 2


def test_images_without_labels_have_the_label_minus_one(tmp_path):
    picture(1).save(tmp_path / "1.png")
    assert open_data(tmp_path)[0][1] == -1


def test_a_column_without_images_is_noticed_although_the_labels_are_listed():
    class Faces:
        features: ClassVar = {"label": None, "image": None}
        rows: ClassVar = [{"image": picture(1), "label": n % 2} for n in range(4)]

        def __len__(self):
            return 4

        def __getitem__(self, place):
            if isinstance(place, str):
                return [row[place] for row in self.rows]
            return self.rows[place]

    assert len(as_dataset(Faces())) == 4
    with pytest.raises(DataError, match="has no image or no label; give"):
        as_dataset(Faces(), columns=("img", "label"))


def test_a_data_set_that_has_features_and_gives_items_only():
    class Items(list):
        features: ClassVar = {"label": None}

    assert len(as_dataset(Items(pairs(3)))) == 3
