"""Folders are searched through links, never in circles; ids are text, whatever the names are."""

from __future__ import annotations

import os
import sys

import pytest
from PIL import Image

import trees
from torchsaliency.data import find_photos, open_data, open_photo
from torchsaliency.data.files import (
    files_below,
    folders_in,
    hash_of,
    images_below,
    images_in,
    printable,
    readable_id,
)
from torchsaliency.errors import DataError
from trees import FIRST, image, val

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="links and bytes as on Linux")


def ids(data):
    return [sample.id for sample in data.samples]


@pytest.fixture
def store(tmp_path):
    for name in ("a/1.png", "a/2.png", "b/1.png", "b/deep/2.png"):
        image(tmp_path / "store" / name)
    return tmp_path / "store"


def test_links_are_followed_everywhere(store, tmp_path):
    root = tmp_path / "root"
    image(root / "a" / "x.png")
    (root / "a" / "more").symlink_to(store / "a")
    (root / "b").symlink_to(store / "b")
    expected = ["a/more/1.png", "a/more/2.png", "a/x.png", "b/1.png", "b/deep/2.png"]
    (link := tmp_path / "link").symlink_to(root)
    for place in (root, link):
        assert folders_in(place) == ["a", "b"]
        assert images_below(place) == expected
        assert [path.relative_to(place).as_posix() for path in find_photos(place)] == expected
        data = open_data(place)
        assert ids(data) == expected
        assert [sample.label for sample in data.samples] == [0, 0, 0, 1, 1]
        assert data.check() == {}
    (root / "a" / "y.png").symlink_to(store / "a" / "1.png")
    assert images_in(root / "a") == ["x.png", "y.png"]


def test_two_links_to_one_folder_are_two_classes(store, tmp_path):
    for name in ("one", "two"):
        (tmp_path / "root" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "root" / name).symlink_to(store / "a")
    assert ids(open_data(tmp_path / "root")) == ["one/1.png", "one/2.png", "two/1.png", "two/2.png"]


def test_circles_end(store):
    (store / "a" / "up").symlink_to(store)
    (store / "b" / "deep" / "self").symlink_to(store / "b" / "deep")
    (store / "b" / "self").symlink_to("self")
    (store / "a" / "other").symlink_to(store / "b")
    found = images_below(store)
    assert found == [
        *("a/1.png", "a/2.png", "a/other/1.png", "a/other/deep/2.png"),
        *("b/1.png", "b/deep/2.png"),
    ]
    assert len(find_photos(store)) == len(found)
    (store / "c").symlink_to(".")
    (store / "d").symlink_to(store.parent)
    assert folders_in(store) == ["a", "b"]
    data = open_data(store)
    assert ids(data) == found
    assert data.classes == ("a", "b")


def test_a_circle_through_another_place_ends_at_the_root(store, tmp_path):
    image(tmp_path / "root" / "x" / "1.png")
    (tmp_path / "root" / "a").symlink_to(store / "a")
    (store / "a" / "back").symlink_to(tmp_path / "root")
    expected = ["a/1.png", "a/2.png", "x/1.png"]
    assert ids(open_data(tmp_path / "root")) == images_below(tmp_path / "root") == expected


@pytest.mark.parametrize("target", ["nowhere.png", "bad.png"], ids=["dangling", "to itself"])
def test_a_link_that_leads_nowhere_is_an_image_that_cannot_be_read(target, store):
    (store / "a" / "bad.png").symlink_to(target)
    assert images_in(store / "a") == ["1.png", "2.png", "bad.png"]
    assert store / "a" / "bad.png" in find_photos(store)
    data = open_data(store)
    broken = data.check()
    assert list(broken) == ["a/bad.png"]
    reason = "a link to a file that does not exist" if target == "nowhere.png" else "symbolic links"
    assert reason in broken["a/bad.png"]
    assert data.fingerprint() != ""


def test_a_folder_that_may_not_be_read(store, monkeypatch):
    real = os.scandir

    def scandir(path):  # root may read anything
        if os.fspath(path).endswith("deep"):
            raise PermissionError(13, "Permission denied", os.fspath(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    for call in (find_photos, images_below, open_data):
        with pytest.raises(DataError, match=r"The folder .*deep cannot be read \(Permission den"):
            call(store)
    with pytest.raises(DataError, match="cannot be read"):
        open_data(store / "b" / "deep")


def test_what_systems_leave_is_no_class(store):
    image(store / "lost+found" / "x.png")
    image(store / "__MACOSX" / "x.png")
    image(store / ".git" / "x.png")
    assert open_data(store).classes == ("a", "b")
    assert len(find_photos(store)) == 4


def test_a_very_deep_folder(tmp_path):
    folder = tmp_path
    for _ in range(600):  # deeper than a recursion in Python could follow
        folder = folder / "d"
    if len(os.fspath(folder)) > 4000:
        pytest.skip("longer than a path may be")
    os.makedirs(folder)
    image(folder / "x.png")
    assert len(images_below(tmp_path)) == 1


def test_links_in_published_layouts(tmp_path):
    trees.voc(tmp_path / "real")
    (tmp_path / "voc").mkdir()
    for part in ("JPEGImages", "SegmentationClass", "ImageSets"):
        (tmp_path / "voc" / part).symlink_to(tmp_path / "real" / part)
    assert open_data(tmp_path / "voc").check() == {}
    # a flat ImageNet whose XML tree has a link for the synset
    root = trees.flat_imagenet(tmp_path / "data", 1)
    trees.xml(tmp_path / "elsewhere" / f"{val(1)}.xml", (8, 6), (FIRST, 1, 1, 5, 5))
    (tmp_path / "boxes").mkdir()
    (tmp_path / "boxes" / FIRST).symlink_to(tmp_path / "elsewhere")
    data = open_data(root, labels=tmp_path / "boxes")
    assert [sample.label for sample in data.samples] == [0]
    assert data.check() == {}
    assert files_below(tmp_path / "boxes", {".xml"}) == [f"{FIRST}/{val(1)}.xml"]


NAMES = {
    b"caf\xe9.png": r"caf\xe9.png",
    rb"caf\xe9.png": r"caf\\xe9.png",
    "café.png".encode(): "café.png",
    b"a\x1b[31mred.png": r"a\x1b[31mred.png",
    b"a\nb\r.png": r"a\x0ab\x0d.png",
    "a\u0085b\u2028.png".encode(): r"a\u0085b\u2028.png",
    "a\u202egnp.exe.png".encode(): r"a\u202egnp.exe.png",
    b"\x85.png": r"\x85.png",
    b"tab\there.png": r"tab\x09here.png",
    "日本 語\u3000.png".encode(): "日本 語\u3000.png",
    b"\xff\xfe\x80.png": r"\xff\xfe\x80.png",
    "👩\u200d🔬.png".encode(): "👩\u200d🔬.png",
}


def test_every_name_has_an_id_of_its_own(tmp_path):
    folder = os.fsencode(tmp_path / "cl\udce9ss")
    os.mkdir(folder)
    image(tmp_path / "x.png")
    for name in NAMES:
        with open(os.path.join(folder, name), "wb") as file:
            file.write((tmp_path / "x.png").read_bytes())
    (tmp_path / "x.png").unlink()
    data = open_data(tmp_path)
    assert data.classes == (r"cl\xe9ss",)
    found = {os.path.basename(os.fsencode(one.source)): one.id for one in data.samples}
    assert found == {name: rf"cl\xe9ss/{expected}" for name, expected in NAMES.items()}
    for sample in data.samples:
        sample.id.encode()
        assert not any(letter in sample.id for letter in "\x1b\n\r\t\x85\u2028\u202e")
    assert data.check() == {}
    assert len(data.fingerprint()) == 64
    assert len(data.subset(count=3)) == 3
    assert len(find_photos(tmp_path)) == len(NAMES)


@pytest.mark.parametrize("name", NAMES, ids=NAMES.values())
def test_messages_show_a_name_in_one_line(name, tmp_path):
    path = tmp_path / os.fsdecode(name)
    with pytest.raises(DataError, match="does not exist") as caught:
        open_photo(path)
    said = str(caught.value)
    said.encode()
    assert "\n" not in said
    assert "\x1b" not in said
    path.write_bytes(b"no image")
    with pytest.raises(DataError, match="no image that can be read") as caught:
        open_photo(path)
    str(caught.value).encode()
    assert "\n" not in str(caught.value)


def test_ids_differ_where_names_do():
    parts = ["\\", "x", "e", "9", "\udce9", "\x1b", "u", "0", "\u0085", "\ud800"]
    names = {one + two + three for one in parts for two in parts for three in parts}
    assert len({readable_id(name) for name in names}) == len(names)
    assert printable("a\\b\udce9\n") == r"a\b\xe9\x0a"


def test_paths_that_no_system_has(tmp_path):
    for path in ("x" * 5000, "a\0b", tmp_path / ("y/" * 3000) / "z.png"):
        with pytest.raises(DataError) as caught:
            open_photo(path)
        assert "\n" not in str(caught.value)
        with pytest.raises(DataError, match="does not exist"):
            find_photos(path)
        with pytest.raises(DataError, match="does not exist"):
            open_data(path)
    with pytest.raises(DataError, match="does not exist"):
        open_data("~nobody-of-this-name/photos")


def test_pipes_and_devices_are_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    for path in (tmp_path / "pipe.png", "/dev/zero"):
        with pytest.raises(DataError, match="is a pipe, a socket or a device"):
            open_photo(path)
    assert hash_of(tmp_path / "none.png") == "missing"


def test_a_hash_is_of_the_content(tmp_path):
    Image.new("L", (3, 3)).save(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes((tmp_path / "a.png").read_bytes())
    same = hash_of(tmp_path / "a.png")
    assert same == hash_of(tmp_path / "b.png")
    assert len(same) == 32
    content = bytearray((tmp_path / "a.png").read_bytes())
    content[-1] ^= 1  # of the same size
    (tmp_path / "b.png").write_bytes(content)
    assert hash_of(tmp_path / "b.png") != same
