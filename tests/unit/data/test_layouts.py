"""Each published layout is recognised and read; any other gets a sentence and the expected tree."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
import scipy.io
import torch
from PIL import Image

import trees
from torchsaliency.data import open_data
from torchsaliency.data.imagenet_annotations import synset_names, synsets
from torchsaliency.errors import DataError, OptionError
from trees import FIRST, LAST, SECOND, image, val


def ids(data):
    return [sample.id for sample in data.samples]


def labels(data):
    return [sample.label for sample in data.samples]


# --- folders of one's own ------------------------------------------------------------------------


def test_a_folder_for_each_class(tmp_path):
    image(tmp_path / "dog" / "b.PNG")
    image(tmp_path / "dog" / "deeper" / "a.jpg", size=(5, 9))
    image(tmp_path / "ant" / "c.webp")
    image(tmp_path / ".hidden" / "c.png")
    image(tmp_path / "__MACOSX" / "c.png")
    (tmp_path / "bee").mkdir()
    (tmp_path / "dog" / "notes.txt").touch()
    data = open_data(tmp_path)
    assert data.name == "folder"
    assert ids(data) == ["ant/c.webp", "dog/b.PNG", "dog/deeper/a.jpg"]
    assert data.classes == ("ant", "bee", "dog")
    assert labels(data) == [0, 2, 2]
    assert data.annotations == {"labels"}
    picture = data.picture(2)
    assert picture.image.size == (5, 9)
    assert picture.image.mode == "RGB"
    assert picture.boxes is picture.mask is None


def test_images_alone(tmp_path):
    image(tmp_path / "b.png")
    image(tmp_path / "a.png")
    data = open_data(str(tmp_path))
    assert ids(data) == ["a.png", "b.png"]
    assert labels(data) == [None, None]
    assert data.annotations == frozenset()
    assert data.classes is None


def test_a_csv_of_labels_and_boxes(tmp_path):
    for name in ("in/a.png", "b.png", "c.png"):
        image(tmp_path / name)
    (tmp_path / "labels.csv").write_text(
        "path,class,x0,y0,x1,y1\nin/a.png,owl,1,2,3.5,4\nb.png,bat,,,,\nin/a.png,owl,0,0,8,6\n"
    )
    data = open_data(tmp_path)
    assert ids(data) == ["in/a.png", "b.png"]
    assert data.classes == ("bat", "owl")
    assert labels(data) == [1, 0]
    assert data.annotations == {"labels", "boxes"}
    assert data.picture(0).boxes.tolist() == [[1, 2, 3.5, 4], [0, 0, 8, 6]]
    assert data.picture(1).boxes is None
    assert ids(open_data(tmp_path / "labels.csv")) == ids(data)


def test_a_csv_of_numbers_elsewhere(tmp_path):
    image(tmp_path / "photos" / "a.png")
    # a byte order mark, as spreadsheets write it
    (tmp_path / "table.csv").write_text(
        "\ufefffile,class_index,xmin,ymin,xmax,ymax\na.png,65,0,0,4,4\n"
    )
    data = open_data(tmp_path / "photos", labels=tmp_path / "table.csv")
    assert labels(data) == [65]
    assert data.classes is None
    assert data.picture(0).boxes.tolist() == [[0, 0, 4, 4]]
    assert len(data.subset(classes=[65])) == 1
    with pytest.raises(DataError, match="no class 'cat' in the data set folder; known are 65"):
        data.subset(classes=["cat"])


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (
            "file,label\na.png,cat\na.png,dog\n",
            "row 3, labels a.png 'dog' and an earlier one 'cat'",
        ),
        ("file,label\na.png,\n", "row 2, has no file or no label"),
        (
            "file,label,x0,y0,x1,y1\na.png,1,2,3,,4\n",
            "row 2, has the box 2, 3, , 4; give four numb",
        ),
        ("name,label\na.png,1\n", r"has the columns name, label and 1 rows; give file"),
        ("file,label\n", "a row for each image"),
        ("", "is empty"),
    ],
    ids=range(6),
)
def test_wrong_tables(text, sentence, tmp_path):
    image(tmp_path / "a.png")
    (tmp_path / "labels.csv").write_text(text)
    with pytest.raises(DataError, match=sentence):
        open_data(tmp_path)


def test_a_box_without_area_is_told_when_opened(tmp_path):
    image(tmp_path / "a.png")
    (tmp_path / "labels.csv").write_text("file,label,x0,y0,x1,y1\na.png,1,3,3,3,5\n")
    data = open_data(tmp_path)
    assert list(data.check()) == ["a.png"]
    with pytest.raises(DataError, match=r"No box of a\.png has an area"):
        data.picture(0)


def test_two_ways_to_read_a_folder(tmp_path):
    image(tmp_path / "cats" / "a.png")
    image(tmp_path / "b.png")
    with pytest.raises(DataError, match=r"holds 1 images beside folders of images \(cats\)"):
        open_data(tmp_path)
    for name in ("one.csv", "two.csv"):
        (tmp_path / name).write_text("file,label\nb.png,1\n")
    with pytest.raises(DataError, match=r"2 CSV files with images, one\.csv, two\.csv; choose one"):
        open_data(tmp_path)
    assert ids(open_data(tmp_path, labels=tmp_path / "one.csv")) == ["b.png"]


def test_splits_of_a_folder(tmp_path):
    image(tmp_path / "train" / "cat" / "a.png")
    image(tmp_path / "val" / "cat" / "b.png")
    assert ids(open_data(tmp_path, split="val")) == ["cat/b.png"]
    with pytest.raises(OptionError, match="has the splits train, val; choose one with split"):
        open_data(tmp_path)
    with pytest.raises(OptionError, match="no folder 'test'; it has train, val"):
        open_data(tmp_path, split="test")


# --- ImageNet ------------------------------------------------------------------------------------


def test_the_synsets_are_those_of_the_outputs():
    assert len(synsets()) == len(synset_names()) == 1000
    assert list(synsets()) == sorted(synsets())
    known = {0: "tench", 65: "sea snake", 282: "tiger cat", 999: "toilet tissue"}
    assert all(synset_names()[index].startswith(name) for index, name in known.items())


@pytest.mark.parametrize("place", ["", "ILSVRC/Data/CLS-LOC"])
def test_a_folder_for_each_synset(place, tmp_path):
    trees.foldered_imagenet(tmp_path / place)
    image(tmp_path / place / "val" / SECOND / "x.JPEG")
    data = open_data(tmp_path)
    assert data.name == "imagenet"
    # indices are of all 1000 classes, though three are there; official names say enough
    assert dict(zip(ids(data), labels(data), strict=True)) == {
        f"val/{val(2)}.JPEG": 0,
        f"val/{SECOND}/x.JPEG": 1,
        f"val/{val(1)}.JPEG": 999,
        f"val/{val(3)}.JPEG": 999,
    }
    assert data.classes[999].startswith("toilet tissue")
    assert ids(open_data(tmp_path / place / "val")) == ids(data)
    assert len(data.subset(classes=[LAST])) == len(data.subset(classes=["toilet tissue"])) == 2
    with pytest.raises(OptionError, match="tells labels by its folders"):
        open_data(tmp_path, labels=tmp_path / "val.txt")


def test_splits_of_imagenet(tmp_path):
    image(tmp_path / "train" / SECOND / "n01443537_10.JPEG")
    data = open_data(tmp_path, split="train")
    assert (data.name, ids(data)) == ("imagenet", [f"train/{SECOND}/n01443537_10.JPEG"])
    assert labels(data) == [1]
    assert ids(open_data(tmp_path / "train")) == ids(data)
    trees.xml(tmp_path / "bbox" / "val" / f"{val(1)}.xml", (8, 6), (LAST, 1, 1, 5, 5))
    assert open_data(tmp_path, split="train").annotations == {"labels"}  # those boxes are of val
    for path, split in ((tmp_path, None), (tmp_path / "train", "val")):
        with pytest.raises(DataError, match=r"no ImageNet images \(split val\); expected is"):
            open_data(path, split=split)


def devkit(folder: Path) -> Path:
    folder.mkdir(parents=True)
    kinds = [("ILSVRC2012_ID", object), ("WNID", object), ("words", object)]
    rows = [
        (1, LAST, "paper"),
        (2, FIRST, "tench"),
        (3, SECOND, "goldfish"),
        (1001, "n00001740", ""),
    ]
    scipy.io.savemat(folder / "meta.mat", {"synsets": np.array(rows, dtype=kinds)})
    truth = folder / "ILSVRC2012_validation_ground_truth.txt"
    truth.write_text("1\n2\n1\n")
    return truth


FORMS = {
    "class_labels.txt": "val/{}.JPEG,999\nval/{}.JPEG,0\nval/{}.JPEG,999\n",
    "labels.csv": "{}.JPEG,999\n{}.JPEG,0\n{}.JPEG,999\n",
    "val.txt": "{}.JPEG 999\n{}.JPEG 0\n{}.JPEG 999\n",
    "synsets.txt": "image,synset\n{}.JPEG,n15075141\n{}.JPEG,n01440764\n{}.JPEG,n15075141\n",
    "table.csv": "file,label,name\n{}.JPEG,999,paper\n{}.JPEG,0,tench\n{}.JPEG,999,paper\n",
    "LOC_val_solution.csv": "ImageId,PredictionString\n{},n15075141 1 2 3 4 \n"
    "{},n01440764 0 0 5 5 n01440764 1 1 7 6 \n{},n15075141 2 2 4 4 \n",
}


@pytest.mark.parametrize("name", FORMS)
def test_label_files_of_a_flat_folder(name, tmp_path):
    trees.flat_imagenet(tmp_path)
    file = tmp_path / name
    file.write_text(FORMS[name].format(val(1), val(2), val(3)))
    data = open_data(tmp_path, labels=file)
    assert labels(data) == [999, 0, 999]
    assert ids(data) == [f"val/{val(number)}.JPEG" for number in (1, 2, 3)]
    if name not in ("synsets.txt", "table.csv"):
        assert open_data(tmp_path).fingerprint() == open_data(tmp_path / "val").fingerprint()
        assert labels(open_data(f"imagenet:{tmp_path}")) == [999, 0, 999]
    foldered = open_data(trees.foldered_imagenet(tmp_path / "foldered"))
    assert set(ids(foldered)) == set(ids(data))
    for seed in range(5):  # the drawn images do not depend on the layout
        drawn = [ids(one.subset(count=2, seed=seed)) for one in (data, foldered)]
        assert set(drawn[0]) == set(drawn[1])


def test_the_devkit_needs_its_meta(tmp_path):
    trees.flat_imagenet(tmp_path)
    truth = devkit(tmp_path / "ILSVRC2012_devkit_t12" / "data")
    assert labels(open_data(tmp_path)) == [999, 0, 999]
    truth.with_name("meta.mat").write_bytes(b"MATLAB 5.0, or so it says" * 9)
    with pytest.raises(DataError, match=r"meta\.mat is truncated or damaged"):
        open_data(tmp_path)
    truth.with_name("meta.mat").unlink()
    with pytest.raises(DataError, match=r"the devkit's own order, which only its meta\.mat tells"):
        open_data(tmp_path)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("{}.JPEG,1000\n", "names the class '1000'; give 0 to 999"),
        ("{}.JPEG,n00000001\n", "names the class 'n00000001'"),
        ("{}.JPEG,5\n", "has no label for 2 of 3 images"),
        (
            "{}.JPEG,5\nsomething else entirely\n",
            "line 2, is 'something else entirely'; give lines",
        ),
        ("ImageId,PredictionString\n{},n15075141 1 2 3\n", "line 2, has the prediction string"),
    ],
    ids=range(5),
)
def test_wrong_label_files(text, sentence, tmp_path):
    trees.flat_imagenet(tmp_path)
    (tmp_path / "val.txt").write_text(text.format(val(1)))
    with pytest.raises(DataError, match=sentence):
        open_data(tmp_path)


def test_a_flat_folder_without_labels_shows_the_tree(tmp_path):
    trees.flat_imagenet(tmp_path)
    with pytest.raises(DataError, match=r"no labels; expected is(.|\n)*class_labels\.txt"):
        open_data(tmp_path)


BOXES = [[1.0, 2.0, 7.0, 6.0], [0.0, 0.0, 3.0, 4.0]]


def boxed(form: str, root: Path) -> Path:
    """Write two boxes of the second image, whose class is the first."""
    corners = [[int(end) for end in box] for box in BOXES]
    if form == "xml":
        other = (SECOND, 0, 0, 1, 1)  # of another class, and so none of the sample's boxes
        trees.xml(root / f"{val(2)}.xml", (8, 6), *((FIRST, *box) for box in corners), other)
        trees.xml(root / f"{val(1)}.xml", (8, 6), (LAST, 5, 5, 6, 6))
        return root
    root.mkdir()
    if form == "table":
        path = root / "boxes.csv"
        lines = [f"{val(2)}.JPEG,0,{','.join(map(str, box))}" for box in corners]
        lines.append(f"{val(1)}.JPEG,{LAST},5,5,6,6")
        path.write_text("\n".join(["file,class,xmin,ymin,xmax,ymax", *lines]))
        return path
    if form == "kaggle":
        path = root / "LOC_val_solution.csv"
        groups = " ".join(f"{FIRST} {' '.join(map(str, box))}" for box in corners)
        rows = [[val(2), f"{groups} {SECOND} 0 0 1 1 "], [val(1), f"{LAST} 5 5 6 6"]]
        with path.open("w", newline="") as file:
            csv.writer(file).writerows([["ImageId", "PredictionString"], *rows])
        return path
    path = root / "localization.txt"
    lines = [f"val/{val(2)}.JPEG,{','.join(map(str, box))}" for box in corners]
    path.write_text("\n".join([*lines, f"val/{val(1)}.JPEG,5,5,6,6"]))
    (root / "image_sizes.txt").write_text(f"val/{val(2)}.JPEG,8,6\nval/{val(1)}.JPEG,8,6\n")
    return path


@pytest.mark.parametrize("form", ["xml", "kaggle", "localization", "table"])
def test_boxes_in_every_form(form, tmp_path):
    root = trees.foldered_imagenet(tmp_path / "data")
    plain = open_data(root)
    assert plain.annotations == {"labels"}
    data = open_data(root, boxes=boxed(form, tmp_path / "boxes"))
    assert data.annotations == {"labels", "boxes"}
    assert data.fingerprint() != plain.fingerprint()
    found = {one.sample.id: one.boxes for one in map(data.picture, range(3))}
    # the numbers as they are written, the maximum side exclusive: the published evaluations
    assert found[f"val/{val(2)}.JPEG"].tolist() == BOXES
    assert found[f"val/{val(1)}.JPEG"].tolist() == [[5, 5, 6, 6]]
    assert found[f"val/{val(3)}.JPEG"] is None
    small = data.subset(classes=[0])
    assert small.picture(0).boxes.tolist() == BOXES


@pytest.mark.parametrize("form", ["xml", "localization"])
def test_boxes_of_an_image_at_another_scale(form, tmp_path):
    root = trees.foldered_imagenet(tmp_path / "data")
    image(root / "val" / FIRST / f"{val(2)}.JPEG", size=(16, 12))
    data = open_data(root, boxes=boxed(form, tmp_path / "boxes"))
    assert data.picture(0).boxes.tolist() == [[2 * end for end in box] for box in BOXES]
    image(root / "val" / FIRST / f"{val(2)}.JPEG", size=(60, 80))
    with pytest.raises(DataError, match="are of an image of 8x6 pixels, and the image has 60x80"):
        data.picture(0)


@pytest.mark.parametrize("form", ["kaggle", "table", "xml"])
def test_a_label_file_that_tells_boxes_too(form, tmp_path):
    root = trees.flat_imagenet(tmp_path / "data", 2)
    data = open_data(root, labels=boxed(form, tmp_path / "boxes"))
    assert labels(data) == [999, 0]
    assert data.annotations == {"labels", "boxes"}
    assert data.picture(1).boxes.tolist() == BOXES


def test_labels_from_the_xml_tree(tmp_path):
    root = trees.flat_imagenet(tmp_path / "ILSVRC" / "Data" / "CLS-LOC").parents[2]
    for number, synset in ((1, LAST), (2, FIRST), (3, SECOND)):
        file = root / "ILSVRC" / "Annotations" / "CLS-LOC" / "val" / f"{val(number)}.xml"
        trees.xml(file, (8, 6), (synset, 1, 1, 5, 5))
    data = open_data(root)
    assert labels(data) == [999, 0, 1]
    assert data.annotations == {"labels", "boxes"}
    assert data.check() == {}


def test_damaged_xml(tmp_path):
    root = trees.foldered_imagenet(tmp_path / "data")
    folder = boxed("xml", tmp_path / "boxes")
    file = folder / f"{val(2)}.xml"
    data = open_data(root, boxes=folder)
    whole = file.read_text()
    for text, sentence in (
        ("", "truncated or damaged"),
        (whole[:-20], "truncated or damaged"),
        (whole.replace("<ymax>6</ymax>", ""), "truncated or damaged"),
        ("<annotation></annotation>", f"has no object of class {FIRST}"),
        (whole.replace(FIRST, SECOND), f"has no object of class {FIRST}"),
    ):
        file.write_text(text)
        with pytest.raises(DataError, match=sentence):
            data.picture(0)
        assert list(data.check()) == [f"val/{val(2)}.JPEG"]
    with pytest.raises(DataError, match="holds no XML files"):
        open_data(root, boxes=root)


# --- Pascal VOC ----------------------------------------------------------------------------------


@pytest.mark.parametrize("place", ["", "VOC2012", "VOCdevkit/VOC2012"])
def test_voc_reads_palette_indices(place, tmp_path):
    trees.voc(tmp_path / place)
    data = open_data(tmp_path)
    assert data.name == "voc2012"
    assert ids(data) == ["2007_000042", "2007_000033"]
    assert data.annotations == {"masks"}
    assert (len(data.classes), data.classes[15 - 1]) == (20, "person")
    picture = data.picture(0)
    expected = torch.zeros(6, 8, dtype=torch.uint8)
    expected[1:4, 2:6], expected[4], expected[5, 0] = 15, 255, 20
    assert picture.mask.dtype == torch.uint8
    assert picture.mask.tolist() == expected.tolist()
    assert ids(open_data(tmp_path, split="train")) == ["2007_000033"]
    assert ids(open_data(f"voc:{tmp_path}", split="all")) == ["2007_000033", "2007_000042"]
    with pytest.raises(
        DataError, match=r"no list test\.txt(.|\n)*SegmentationClass/2007_000033\.png"
    ):
        open_data(tmp_path, split="test")


def test_wrong_masks(tmp_path):
    data = open_data(trees.voc(tmp_path))
    file = tmp_path / "SegmentationClass" / "2007_000042.png"
    whole = file.read_bytes()
    trees.mask(file, np.zeros((8, 6)))
    with pytest.raises(DataError, match="has 6x8 pixels and its image 8x6"):
        data.picture(0)
    trees.mask(file, np.full((6, 8), 21))
    with pytest.raises(DataError, match="holds the label 21; give 0 to 20, and 255"):
        data.picture(0)
    Image.new("RGB", (8, 6)).save(file)
    with pytest.raises(DataError, match=r"an image of colours \(mode RGB\); give the original PNG"):
        data.picture(0)
    file.write_bytes(whole[:-30])
    with pytest.raises(DataError, match="truncated or damaged"):
        data.picture(0)
    file.unlink()
    with pytest.raises(DataError, match="does not exist; give every image its mask"):
        data.picture(0)
    assert list(data.check()) == ["2007_000042"]


# --- medical data --------------------------------------------------------------------------------


@pytest.mark.parametrize("place", ["", "chest_xray", "chest_xray/chest_xray"])
def test_chest_xrays_by_split(place, tmp_path):
    trees.chest(tmp_path / place)
    data = open_data(tmp_path)
    assert data.name == "chest-xray"
    assert data.classes == ("NORMAL", "PNEUMONIA")
    assert ids(data) == [
        *(f"test/NORMAL/NORMAL-{number}.jpeg" for number in (0, 1)),
        *(f"test/PNEUMONIA/PNEUMONIA-{number}.jpeg" for number in (0, 1)),
    ]
    assert labels(data) == [0, 0, 1, 1]
    assert len(open_data(tmp_path, split="train")) == 6
    assert len(open_data(tmp_path, split="all")) == 10
    with pytest.raises(DataError, match=r"has no val/NORMAL; expected is\n\nchest_xray/"):
        open_data(tmp_path, split="val")
    with pytest.raises(OptionError, match="no split 'dev'; give train, val, test or all"):
        open_data(tmp_path, split="dev")


def test_a_grey_xray_opens_as_rgb(tmp_path):
    trees.chest(tmp_path)
    Image.new("L", (30, 20), 77).save(tmp_path / "test" / "NORMAL" / "NORMAL-0.jpeg")
    assert open_data(tmp_path).picture(0).image.getpixel((3, 3)) == (77, 77, 77)


def test_kvasir_is_split_in_each_class(tmp_path):
    trees.kvasir(tmp_path, 16)
    parts = {split: open_data(tmp_path, split=split) for split in ("train", "val", "test", "all")}
    assert {split: len(data) for split, data in parts.items()} == {
        "train": 8 * 12,
        "val": 8 * 2,
        "test": 8 * 2,
        "all": 8 * 16,
    }
    assert all(
        np.bincount(labels(data)).tolist() == [len(data) // 8] * 8 for data in parts.values()
    )
    split = [set(ids(parts[name])) for name in ("train", "val", "test")]
    assert set.union(*split) == set(ids(parts["all"]))
    assert ids(open_data(tmp_path)) == ids(parts["test"])
    assert ids(open_data(tmp_path, seed=1)) != ids(parts["test"])
    assert parts["all"].classes == trees.KVASIR
    assert "128 images: Kvasir, neither v1 nor v2 by its count" in parts["all"].facts
    for name in trees.KVASIR:  # what cannot be divided goes to the test images
        for number in range(2, 16):
            (tmp_path / name / f"{name}-{number}.jpg").unlink()
    assert [len(open_data(tmp_path, split=one)) for one in ("train", "test")] == [8, 8]
    with pytest.raises(DataError, match="the right folders and no images in the split val"):
        open_data(tmp_path, split="val")


@pytest.mark.parametrize(("each", "version"), [(500, "v1"), (1000, "v2")])
def test_kvasir_knows_its_version(each, version, tmp_path):
    data = open_data(trees.kvasir(tmp_path / "kvasir-dataset-v2", each).parent)
    assert data.name == "kvasir"
    assert any(version in fact for fact in data.facts)
    assert len(data) == {"v1": 8 * 63, "v2": 1000}[version]
    if version == "v2":
        assert [len(open_data(tmp_path, split=one)) for one in ("train", "val")] == [6000, 1000]


# --- opening -------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["imagenet", "voc", "chest-xray", "kvasir", "folder"])
def test_a_forced_kind_that_is_not_there_shows_its_tree(kind, tmp_path):
    with pytest.raises(DataError, match=r"; expected is\n\n") as caught:
        open_data(f"{kind}:{tmp_path}")
    assert "├──" in str(caught.value) or "└──" in str(caught.value)
    (tmp_path / "notes.txt").touch()
    with pytest.raises(
        DataError, match="no images in a known layout; expected is one of"
    ) as caught:
        open_data(tmp_path)
    assert all(name in str(caught.value) for name in ("JPEGImages", "PNEUMONIA", "polyps", "n0144"))


def test_a_kind_can_be_forced(tmp_path):
    trees.chest(tmp_path)
    data = open_data(f"folder:{tmp_path / 'test'}")
    assert (data.name, len(data)) == ("folder", 4)
    assert open_data(tmp_path / "test").name == "folder"


def test_paths_that_are_none(tmp_path, monkeypatch):
    with pytest.raises(DataError, match="does not exist; give samples, shapes, hf, a folder"):
        open_data(tmp_path / "nowhere")
    with pytest.raises(DataError, match=r"is a file; give the folder"):
        open_data(image(tmp_path / "a.png"))
    with pytest.raises(OptionError, match="folder has no option 'boxes'; it has labels, split"):
        open_data(tmp_path, boxes=tmp_path)
    monkeypatch.chdir(tmp_path)
    image(tmp_path / "samples" / "mine.png")
    assert ids(open_data("./samples")) == ["mine.png"]
    assert open_data("samples").name == "samples"
