"""The grammar of a network's further inputs: numbers, columns of a table, files with rows."""

import json

import numpy as np
import pytest
import torch
from torch import nn

from torchsaliency.data import open_data
from torchsaliency.data.side_inputs import ImageFacts, list_images, read_side_inputs
from torchsaliency.errors import DataError, InputError, OptionError


class Net(nn.Module):
    def forward(self, scan, meta, dose=None):
        raise NotImplementedError


IMAGES = [ImageFacts(f"p{n}", (f"p{n}.png",), {"age": f"{20 + n}", "sex": "1"}) for n in range(3)]


def read(*words, of=None, images=IMAGES, net=None):
    return read_side_inputs(words, of, images, Net() if net is None else net)


def save(path, values):
    if path.suffix == ".json":
        path.write_text(json.dumps(values))
    elif path.suffix == ".pt":
        torch.save(values, path)
    else:
        (np.savez(path, **values) if path.suffix == ".npz" else np.save(path, values))
    return f"meta={path}"


@pytest.mark.parametrize(
    ("value", "rows"),
    [
        ("63", [[63.0]] * 3),
        ("0.5,1e2", [[0.5, 100.0]] * 3),
        ("sex, age", [[1, 20], [1, 21], [1, 22]]),
    ],
)
def test_numbers_are_of_all_images_and_columns_of_each(value, rows):
    side = read(f"meta={value}")
    assert side.of == "scan"
    assert torch.equal(side.rows["meta"], torch.tensor(rows, dtype=torch.float32))
    given = side.beside(torch.rand(2, 1, 4, 4), ["p2", "p0"])
    assert given.values["meta"].tolist() == [rows[2], rows[0]]
    assert given.follows == {"meta"}
    assert side.describe_row("p1") == {"meta": rows[1]}


@pytest.mark.parametrize(
    ("name", "values", "dtype", "shape"),
    [
        ("rows.npy", np.arange(6).reshape(3, 2), torch.int64, (3, 2)),
        ("rows.npy", np.arange(3), torch.int64, (3,)),
        ("one.npy", np.ones((1, 2, 4), np.float32), torch.float32, (3, 2, 4)),
        ("rows.npz", {"p1.png": np.ones(2), "p0.png": np.zeros(2), "p2": np.zeros(2)},
         torch.float64, (3, 2)),
        ("rows.npz", {"any": np.ones((3, 5))}, torch.float64, (3, 5)),
        ("rows.pt", torch.ones(3, 2), torch.float32, (3, 2)),
        ("rows.pt", {"p0": torch.tensor(1), "p1": torch.tensor(2), "p2": torch.tensor(2)},
         torch.int64, (3,)),
        ("rows.json", [1, 2, 3], torch.float32, (3, 1)),
        ("rows.json", {"p0": [1, 2], "p1": [3, 4], "p2.png": [5, 6]}, torch.float32, (3, 2)),
    ],
)  # fmt: skip
def test_files_have_a_row_for_each_image_or_one_for_all(tmp_path, name, values, dtype, shape):
    rows = read(save(tmp_path / name, values)).rows["meta"]
    assert (rows.dtype, tuple(rows.shape)) == (dtype, shape)
    if isinstance(values, dict) and len(values) == 3:
        assert [rows[n].tolist() for n in range(3)] == [
            values.get(f"p{n}", values.get(f"p{n}.png"))
            if name.endswith("json")
            else values.get(f"p{n}", values.get(f"p{n}.png")).tolist()
            for n in range(3)
        ]


def test_what_the_network_is_given_decides_its_identity(tmp_path):
    first, second = (read(save(tmp_path / "rows.npy", np.full((3, 2), n))) for n in (0, 1))
    assert first.describe() == second.describe()
    assert first.identity() != second.identity()


@pytest.mark.parametrize(
    ("words", "kind", "says"),
    [
        (["meta"], OptionError, "NAME=VALUE"),
        (["meta=1", "meta=2"], OptionError, "twice"),
        (["meta=nan,1"], DataError, "no column 'nan'"),
        (["meta=inches"], DataError, "they have age, sex"),
        (["meta=none.npy"], DataError, "does not exist"),
        (["mata=1"], InputError, "forward takes scan, meta, dose"),
        (["dose=1"], InputError, "forward takes scan, meta, dose"),
        ([], InputError, "forward takes scan, meta, dose"),
    ],
)
def test_what_does_not_fit_is_a_sentence(words, kind, says):
    with pytest.raises(kind, match=says):
        read(*words)


def test_rows_must_be_finite_and_there(tmp_path):
    for values, says in (
        (np.ones((2, 2)), "there are 3 images"),
        (np.full((3, 1), np.nan), "NaN"),
        ({"p0": np.ones(1), "p1": np.ones(1)}, "no row for p2"),
    ):
        name = "rows.npz" if isinstance(values, dict) else "rows.npy"
        with pytest.raises(DataError, match=says):
            read(save(tmp_path / name, values))
    with pytest.raises(DataError, match=r"'\?' in the column age"):
        read("meta=age", images=[ImageFacts("p0", (), {"age": "?"})])
    with pytest.raises(DataError, match="a number and also a column"):
        read("meta=7", images=[ImageFacts("p0", (), {"7": "1"})])


def test_the_argument_that_is_missing_is_named():
    with pytest.raises(InputError, match="say --input meta=VALUE"):
        read("dose=1", of="scan")
    assert read_side_inputs([], None, IMAGES, nn.Identity()) is None
    assert read("meta=1", of="scan").of == "scan"
    assert read("meta=1", of="image", net=nn.Identity()).of == "image"  # one dict


def test_a_table_keeps_its_other_columns(tmp_path):
    (tmp_path / "labels.csv").write_text(
        "file,label,x0,y0,x1,y1,age,side\n1.png,cat,0,0,1,1,60,left\n1.png,cat,1,1,2,2,61,left\n"
    )
    (image,) = list_images(open_data(tmp_path).samples)
    assert image.columns == {"age": "60 and 61", "side": "left"}
    (tmp_path / "labels.csv").write_text("file,labels,age\n1.png,a|b,60\n2.png,,61\n")
    images = list_images(open_data(tmp_path).samples)
    assert [image.columns["age"] for image in images] == ["60", "60", "61"]
    assert images[1].aliases == ("1.png",)
    (tmp_path / "labels.csv").write_text("file,a,b,age\n1.png,1,1,60\n2.png,0,0,61\n")
    assert [i.columns for i in list_images(open_data(tmp_path).samples)] == [
        {"age": "60"}, {"age": "60"}, {"age": "61"}
    ]  # fmt: skip
