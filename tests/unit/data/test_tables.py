"""Tables of labels as spreadsheets and people write them: read right, or one sentence."""

from __future__ import annotations

import time

import pytest

from torchsaliency.data import open_data
from torchsaliency.data.imagenet_annotations import read_labels
from torchsaliency.data.tables import is_table, read_table
from torchsaliency.errors import DataError
from trees import image, val

ROWS = [("a.png", "cat", 1, 2, 3.5, 4), ("b.png", "dog", 0, 0, 5, 5)]
HEAD = ("file", "label", "x0", "y0", "x1", "y1")


def text(delimiter=",", end="\n", rows=(HEAD, *ROWS)):
    return "".join(delimiter.join(map(str, row)) + end for row in rows)


@pytest.fixture
def write(tmp_path):
    def written(content):
        path = tmp_path / "labels.csv"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return written


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"], ids=["plain", "BOM"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"], ids=["LF", "CRLF", "CR"])
@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_delimiters_ends_of_lines_and_marks(delimiter, end, mark, write):
    table = read_table(write(mark + text(delimiter, end).encode()))
    assert table.labels == {"a.png": "cat", "b.png": "dog"}
    assert table.boxes == {"a.png": ((1, 2, 3.5, 4),), "b.png": ((0, 0, 5, 5),)}
    assert is_table(delimiter.join(HEAD))


@pytest.mark.parametrize(
    ("content", "labels"),
    [
        ('file,label\n"a, b.png",cat\n', {"a, b.png": "cat"}),
        ('file,label\n"a\nb.png",cat\n', {"a\nb.png": "cat"}),
        ('file,label\r\n"a ""b"".png","x,y"\r\n', {'a "b".png': "x,y"}),
        ('"file";"label"\n"a,b.png";"cat, tabby"\n', {"a,b.png": "cat, tabby"}),
        ("\n\n file , label \n\na.png , cat \n,,\n\n", {"a.png": "cat"}),
        (",file,label\n0,a.png,cat\n1,b.png,cat\n", {"a.png": "cat", "b.png": "cat"}),
        ("file,label\n./in//a.png,1\n../b.png,2\n", {"in/a.png": "1", "../b.png": "2"}),
        ("file,label,,\na.png,1,,\n", {"a.png": "1"}),
        ("file,label\na.png,1,,\n", {"a.png": "1"}),
        ("file,note;label\na.png,cat\n", {"a.png": None}),
        ("file\na.png\n", {"a.png": None}),
        ("file,label\n日本.png,ねこ\n", {"日本.png": "ねこ"}),
    ],
    ids=range(12),
)
def test_cells(content, labels, write):
    assert read_table(write(content)).labels == labels


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"file,label\na.png,c\0t\n", "has a NUL byte"),
        ("file,label\na.png,cat\n".encode("utf-16"), "is no text in UTF-8"),
        ("file,label\né.png,cat\n".encode("latin-1"), "is no text in UTF-8"),
        (f"file,label\na.png,{'x' * 131_073}\n", r"no CSV that can be read \(field larger"),
        (f"file,{'x' * 131_073}\na.png,1\n", r"no CSV that can be read \(field larger"),
        ('file,label\n"a.png,cat\nb.png,dog\n', "no CSV that can be read"),
        ("file,label,label\na.png,cat,dog\n", "has the column label twice"),
        ("file,x0,label,x0\na.png,1,cat,2\n", "has the column x0 twice"),
        ("file,label\na,b.png,cat\n", "has 3 cells and the file 2 columns; put quotes"),
        ("file,label\na.png\n", "has no file or no label"),
        ("file,label\na.png,cat\na.png,dog\n", "and an earlier one 'cat'"),
        ("file,label,x0,y0,x1,y1\na.png,1,1,2,3\n", "has the box 1, 2, 3, ; give four"),
        ("file;label;x0;y0;x1;y1\na.png;1;1,5;2;3;4\n", "has the box 1,5, 2, 3, 4; give four"),
        ("file,label\n", "and 0 rows"),
        ("", "is empty"),
        ("\ufeff \r\n\r\n", "is empty"),
        ("nothing known\nx\n", "has the columns nothing known"),
        (b"\x89PNG\r\n\x1a\n", "is no text in UTF-8"),
    ],
    ids=range(18),
)
def test_what_cannot_be_read(content, sentence, write):
    path = write(content)
    with pytest.raises(DataError, match=sentence) as caught:
        read_table(path)
    assert "\n" not in str(caught.value)
    image(path.parent / "a.png")
    with pytest.raises(DataError):
        open_data(path)


@pytest.mark.parametrize(
    "words", [["1.5"], ["-3"], ["+1"], ["1e3"], [".5"], ["0", "1", "2.0"], ["9" * 5000], ["1" * 10]]
)
def test_labels_that_are_numbers_and_no_class(words, write):
    path = write(text(rows=[("file", "label"), *((f"{n}.png", w) for n, w in enumerate(words))]))
    with pytest.raises(DataError, match="give class numbers from 0, or names") as caught:
        open_data(path)
    assert len(str(caught.value)) < 300


def test_names_among_numbers_are_names(write):
    data = open_data(write("file,label\na.png,1.5\nb.png,model T\nc.png,-3\n"))
    assert data.classes == ("-3", "1.5", "model T")
    assert [sample.label for sample in data.samples] == [1, 2, 0]


def test_control_characters_stay_out_of_ids_and_classes(write):
    data = open_data(write('file,label\n"a\x1b[2J.png","c\x07t"\n"b\n.png",dog\n'))
    assert [sample.id for sample in data.samples] == [r"a\x1b[2J.png", r"b\x0a.png"]
    assert data.classes == (r"c\x07t", "dog")


def test_files_in_one_folder_beside_the_table(tmp_path, write):
    write(text())
    for name in ("a.png", "b.png"):
        image(tmp_path / "pictures" / name)
    data = open_data(tmp_path)
    assert [sample.id for sample in data.samples] == ["a.png", "b.png"]
    assert data.picture(1).boxes.tolist() == [[0, 0, 5, 5]]
    image(tmp_path / "a.png")  # what lies beside the table comes first
    assert open_data(tmp_path).samples[0].source == tmp_path / "a.png"


def test_files_elsewhere_keep_their_text_as_id(tmp_path):
    outside = image(tmp_path / "outside" / "c.png")
    (inside := tmp_path / "in").mkdir()
    rows = [("file", "label", "x0", "y0", "x1", "y1")]
    rows += [("../outside/c.png", 0, 1, 1, 4, 4), (outside, 1, 0, 0, 2, 2)]
    (inside / "labels.csv").write_text(text(rows=rows))
    data = open_data(inside)
    assert [sample.id for sample in data.samples] == ["../outside/c.png", outside.as_posix()]
    assert data.check() == {}
    assert data.picture(1).boxes.tolist() == [[0, 0, 2, 2]]


@pytest.mark.parametrize("each", [1, 100_000], ids=["an image a row", "all rows of one image"])
def test_a_hundred_thousand_rows(each, write):
    count = 100_000
    rows = [HEAD, *((f"{n // each}.png", "cat", 0, 0, n + 1, 9) for n in range(count))]
    path = write(text(rows=rows))
    begun = time.process_time()
    table = read_table(path)
    assert time.process_time() - begun < 60  # a search of all rows for each would take an hour
    assert len(table.labels) == count // each
    assert sum(map(len, table.boxes.values())) == count


@pytest.mark.parametrize("end", ["1e30", "inf", "-inf", "nan", "-5000"])
def test_a_box_far_outside_is_told_for_its_image_alone(end, write):
    path = write(text(rows=[HEAD, ("a.png", "cat", 0, 0, 3, end), *ROWS[1:]]))
    for name in ("a.png", "b.png"):
        image(path.parent / name)
    data = open_data(path)
    broken = data.check()
    assert list(broken) == ["a.png"]
    assert "lies far outside its image of 8x6 pixels" in broken["a.png"]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("labels.txt", f"{val(1)}.JPEG {'9' * 5000}\n"),
        ("truth.txt", "9" * 5000 + "\n"),
        ("LOC_val_solution.csv", f"ImageId,PredictionString\n{val(1)},{'n' * 140_000} 1 2 3 4\n"),
        ("LOC_val_solution.csv", f'ImageId,PredictionString\n"{val(1)},n01440764 1 2 3 4\n'),
    ],
    ids=range(4),
)
def test_odd_label_files_of_imagenet(name, content, tmp_path):
    (tmp_path / name).write_text(content)
    (tmp_path / "meta.mat").write_bytes(b"nothing")
    with pytest.raises(DataError) as caught:
        read_labels(tmp_path / name)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500
