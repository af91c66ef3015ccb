"""Tars in WebDataset's form: indexed by their headers, read by place, never extracted."""

from __future__ import annotations

import io
import json
import os
import pickle
import tarfile
from contextlib import contextmanager

import fsspec
import numpy as np
import pytest
import torch
import webdataset
from PIL import Image

from torchsaliency.data import open_data, places, tar_index
from torchsaliency.errors import DataError, OptionError
from torchsaliency.evaluation import evaluate, make_plan
from torchsaliency.evaluation.batches import load_groups

RED, BLUE = (255, 0, 0), (0, 0, 255)


def png(colour=RED, size=(8, 6)):
    buffer = io.BytesIO()
    Image.new("RGB", size, colour).save(buffer, "PNG")
    return buffer.getvalue()


def mask(labels):
    buffer = io.BytesIO()
    image = Image.fromarray(np.asarray(labels, dtype=np.uint8), mode=None)
    image.save(buffer, "PNG")
    return buffer.getvalue()


def pack(path, members, **options):
    """Write members, contents by name (or a list of pairs), as a tar."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", **options) as tar:
        for name, content in members.items() if isinstance(members, dict) else members:
            info = tarfile.TarInfo(name)
            content = content if isinstance(content, bytes) else content.encode()
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def ids(data):
    return [sample.id for sample in data.samples]


def labels(data):
    return [sample.label for sample in data.samples]


def test_what_webdataset_writes_is_read_in_any_order(tmp_path):
    colours = np.random.default_rng(0).integers(0, 255, (7, 3))
    pattern = str(tmp_path / "shards" / "part-%03d.tar")
    (tmp_path / "shards").mkdir()
    with webdataset.ShardWriter(pattern, maxcount=3, verbose=0) as writer:
        for n, colour in enumerate(colours):
            image = Image.new("RGB", (5, 4), tuple(map(int, colour)))
            writer.write({"__key__": f"{n:04d}", "png": image, "cls": n % 3})
    for spec in (
        tmp_path / "shards",
        f"tar:{tmp_path}/shards",
        tmp_path / "shards" / "part-{000..002}.tar",
    ):
        data = open_data(str(spec))
        assert (data.name, len(data.shards)) == ("tar", 3)
        assert ids(data) == [f"{n:04d}" for n in range(7)]
        assert labels(data) == [n % 3 for n in range(7)]
        assert data.classes is None
        assert data.annotations == {"labels"}
        for n in (6, 0, 3):
            assert data[n][0].getpixel((2, 2)) == tuple(colours[n])
    one = open_data(tmp_path / "shards" / "part-001.tar")
    assert ids(one) == ["0003", "0004", "0005"]
    assert (
        one.fingerprint()
        == open_data(str(tmp_path / "shards" / "part-{001..001}.tar")).fingerprint()
    )
    assert one.check() == {}


def test_an_address_is_read_like_a_path(tmp_path):
    pack(tmp_path / "0.tar", {"a.png": png(BLUE), "a.cls": "2"})
    place = f"memory://{tmp_path.name}/0.tar"
    with fsspec.open(place, "wb") as file:
        file.write((tmp_path / "0.tar").read_bytes())
    data = open_data(f"memory://{tmp_path.name}/{{0..0}}.tar")
    assert data[0][0].getpixel((0, 0)) == BLUE
    assert data.fingerprint() == open_data(tmp_path / "0.tar").fingerprint()
    with pytest.raises(DataError, match=r"1\.tar cannot be read"):
        open_data(f"memory://{tmp_path.name}/{{0..1}}.tar")
    with pytest.raises(DataError, match=r"nowhere://0\.tar cannot be read \(.*check the address"):
        open_data("nowhere://0.tar")


def test_only_headers_and_labels_are_read_for_the_index(tmp_path, monkeypatch):
    path = pack(tmp_path / "0.tar", {"a.png": png() + bytes(1 << 20), "a.cls": "2", "b.png": png()})
    read = []
    original = tar_index.open_place

    class Counted(io.FileIO):
        def read(self, size=-1):
            content = super().read(size)
            read.append(len(content))
            return content

    @contextmanager
    def watch(place):
        with original(place), Counted(place) as file:
            yield file

    monkeypatch.setattr(tar_index, "open_place", watch)
    data = open_data(path)
    assert len(data) == 2
    assert sum(read) < 5 * 512 + 100  # three members and the end


def test_labels_and_their_precedence(tmp_path):
    members = {
        "by/cls.jpg": png(),
        "by/cls.cls": "dog",
        "by/cls.json": '{"label": "cat"}',
        "by/json.webp": png(),
        "by/json.json": '{"class": "cat", "width": 8}',
        "by/json.txt": "a cat",
        "by/none.jpeg": png(),
        "by/none.txt": "a caption",
    }
    data = open_data(pack(tmp_path / "0.tar", members))
    assert ids(data) == ["by/cls", "by/json", "by/none"]
    assert (data.classes, labels(data)) == (("cat", "dog"), [1, 0, None])
    assert data.annotations == {"labels"}
    # the text alone
    texts = {"1.jpg": png(), "1.txt": "dog\n", "2.jpg": png(), "2.txt": "cat", "3.jpg": png()}
    data = open_data(pack(tmp_path / "1.tar", texts))
    assert (data.classes, labels(data)) == (("cat", "dog"), [1, 0, None])
    data = open_data(pack(tmp_path / "2.tar", {**texts, "3.txt": "A photograph of a cat. " * 9}))
    assert (data.classes, labels(data), data.annotations) == (None, [None] * 3, frozenset())


def test_names_of_classes_lie_beside_the_tars(tmp_path):
    pack(tmp_path / "0.tar", {"1.jpg": png(), "1.cls": "1", "2.jpg": png(), "2.cls": "ant"})
    (tmp_path / "classes.txt").write_text("ant\nbee\ncat\n")
    data = open_data(tmp_path)
    assert (data.classes, labels(data)) == (("ant", "bee", "cat"), [1, 0])
    (tmp_path / "other.txt").write_text("ant\nbug\n")
    assert open_data(tmp_path, labels=tmp_path / "other.txt").classes == ("ant", "bug")
    (tmp_path / "other.txt").write_text("ant\n")
    with pytest.raises(DataError, match=r"no class '1' in .*0 to 0"):
        open_data(tmp_path, labels=tmp_path / "other.txt")


def test_several_labels_an_image(tmp_path):
    path = pack(
        tmp_path / "0.tar",
        {
            "1.png": png(),
            "1.json": '{"labels": ["cat", "dog"]}',
            "2.png": png(),
            "2.json": '{"labels": []}',
        },
    )
    data = open_data(path)
    assert ids(data) == ["1 (cat)", "1 (dog)", "2"]
    assert [sample.labels for sample in data.samples] == [(0, 1), (0, 1), ()]
    assert ids(data.by_image()) == ["1", "2"]


def test_boxes_and_masks(tmp_path):
    drawn = np.zeros((6, 8))
    drawn[1:3, 2:5] = 1
    path = pack(
        tmp_path / "0.tar",
        {
            "a.png": png(),
            "a.json": '{"label": 3, "boxes": [[2, 1, 5, 3]]}',
            "a.mask.png": mask(drawn),
            "b.png": png(),
            "b.json": '{"label": 3, "bbox": [[2, 1, 3, 2]]}',
            "b.seg.png": mask(drawn),
            "c.png": png(),
            "c.json": '{"label": 3}',
            "d.png": png(),
            "d.json": '{"label": 3, "boxes": [["x", 1]]}',
            "d.mask.png": mask(drawn[:3]),
        },
    )
    data = open_data(path)
    assert data.annotations == {"labels", "boxes", "masks"}
    for n in range(2):
        picture = data.picture(n)
        assert picture.boxes.tolist() == [[2, 1, 5, 3]]
        assert (picture.mask.numpy() == drawn).all()
    assert data.picture(2).boxes is data.picture(2).mask is None
    assert "no list of four numbers" in data.check()["d"]
    first = data.fingerprint()
    pack(path, [(name, content) for name, content in unpack(path) if name != "b.seg.png"])
    assert open_data(path).fingerprint() != first
    with pytest.raises(DataError, match="of which label a box is cannot be known"):
        open_data(
            pack(path, {"a.png": png(), "a.json": '{"labels": [1, 2], "boxes": [[0, 0, 1, 1]]}'})
        )


def unpack(path):
    with tarfile.open(path) as tar:
        return [(member.name, tar.extractfile(member).read()) for member in tar]


def test_images_that_cannot_be_used_are_said_and_cost_no_other(tmp_path):
    noise = mask(np.random.default_rng(0).integers(0, 255, (64, 64)))
    path = pack(
        tmp_path / "0.tar",
        [
            ("good.png", png()),
            ("good.cls", "1"),
            ("alone.cls", "1"),
            ("two.png", png()),
            ("two.jpg", png()),
            ("twice.png", png()),
            ("twice.png", png()),
            ("bad.png", noise[: len(noise) // 2]),
            ("empty.png", b""),
            ("text.jpg", "no image"),
        ],
    )
    broken = open_data(path).check()
    assert [*broken] == ["alone", "two", "twice", "bad", "empty", "text"]
    reasons = (
        "has a label or a mask and no image",
        "is the key of two members of one kind, the second .jpg",
        "the second .png",
        "truncated or damaged",
        "is empty",
        "accepted are JPEG, PNG, TIFF",
    )
    assert all(reason in said for reason, said in zip(reasons, broken.values(), strict=True))
    assert all(str(path) in said for said in broken.values())


@pytest.mark.parametrize("cut", [100, 512, 700, 1024 + 512, -1024, -10240])
def test_a_truncated_tar_is_an_error_wherever_it_ends(cut, tmp_path):
    path = pack(tmp_path / "0.tar", {"a.png": png(), "b.png": png()})
    content = path.read_bytes()
    last = 512 * 4  # two headers and two blocks; the rest is the end
    cut = cut if cut > 0 else {-1024: last, -10240: last - 100}[cut]
    path.write_bytes(content[:cut])
    with pytest.raises(DataError, match=r"0\.tar is truncated or damaged"):
        open_data(path)


def test_other_tars_that_cannot_be_read(tmp_path):
    path = tmp_path / "0.tar"
    for content, sentence in {
        b"": "is empty",
        b"no tar at all": "truncated or damaged, or no tar",
        bytes(10240): "has no images",
    }.items():
        path.write_bytes(content)
        with pytest.raises(DataError, match=sentence):
            open_data(path)
    content = bytearray(pack(path, {"a.png": png(), "b.png": png()}).read_bytes())
    content[1024 + 148] ^= 1  # the second header's checksum
    path.write_bytes(content)
    with pytest.raises(DataError, match="at byte 1024 there is neither a member nor a tar's end"):
        open_data(path)
    with tarfile.open(path, "w:gz"):
        pass
    with pytest.raises(DataError, match=r"0\.tar is compressed by gzip.*unpack it"):
        open_data(path)
    pack(path, {"readme.md": "x"})
    with pytest.raises(
        DataError, match=r"has no images, and the keys none; give tars with members"
    ):
        open_data(path)
    for text, sentence in {
        "{": "is no JSON that can be read",
        "[" * 100_000: "is no JSON",
        "[1]": "is a list and no object",
        '{"label": 0.5}': "has the label '0.5'; give a class number or a name",
        '{"label": -1}': "has the label -1; give class numbers",
        '{"labels": [true]}': "has the label 'True'",
    }.items():
        pack(path, {"a.png": png(), "a.json": text})
        with pytest.raises(DataError, match=sentence):
            open_data(path)
    pack(path, {"a.png": png(), "a.cls": b"\xff"})
    with pytest.raises(DataError, match=r"a\.cls is no text in UTF-8"):
        open_data(path)
    pack(path, {"a.png": png(), "a.txt": b"x" * (1 << 20 | 1)})
    with pytest.raises(DataError, match="give labels of at most 1048576"):
        open_data(path)


def test_shards_that_do_not_go_together(tmp_path):
    for number in (0, 1):
        pack(tmp_path / f"{number}.tar", {"a.png": png()})
    with pytest.raises(
        DataError, match=r"The key a is in .*0\.tar and in .*1\.tar; give every image"
    ):
        open_data(tmp_path)
    with pytest.raises(DataError, match=r"2 of 3 tars do not exist: .*2\.tar, .*3\.tar"):
        open_data(str(tmp_path / "{1..3}.tar"))
    with pytest.raises(DataError, match="stands for 0 names; count upwards"):
        open_data(str(tmp_path / "{3..1}.tar"))
    with pytest.raises(DataError, match="stands for 10000000000 names"):
        open_data(str(tmp_path / "{0..9999999999}.tar"))
    with pytest.raises(OptionError, match="name the split's tars"):
        open_data(str(tmp_path / "{1..1}.tar"), split="val")
    (tmp_path / "val").mkdir()
    with pytest.raises(OptionError, match=r"no split 'test' in .*known are val"):
        open_data(f"tar:{tmp_path}", split="test")
    with pytest.raises(DataError, match=r"holds no \.tar; expected is"):
        open_data(f"tar:{tmp_path}", split="val")
    pack(tmp_path / "val" / "0.tar", {"b.png": png()})
    data = open_data(f"tar:{tmp_path}", split="val")
    assert (ids(data), data.facts) == (["b"], ("split val",))


def test_a_folder_of_images_with_a_tar_in_it_stays_one(tmp_path):
    pack(tmp_path / "backup.tar", {"a.png": png()})
    (tmp_path / "cat").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "cat" / "1.png")
    assert ids(open_data(tmp_path)) == ["cat/1.png"]


def test_hostile_members_are_names_and_nothing_else(tmp_path):
    path = tmp_path / "in" / "0.tar"
    pack(
        path,
        [
            ("../../out.png", png()),
            ("/etc/out.png", png()),
            ("evil\x1b[2J\n.png", png()),
            ("caf\udce9.png", png()),
            (".hidden.png", png()),
            ("__MACOSX/._a.png", png()),
            ("./a/b.png", png()),
            ("a" * 300 + ".png", png()),
        ],
    )
    with tarfile.open(path, "a") as tar:
        for kind, name in (
            (tarfile.SYMTYPE, "link.png"),
            (tarfile.LNKTYPE, "hard.png"),
            (tarfile.CHRTYPE, "dev.png"),
            (tarfile.DIRTYPE, "dir.png"),
        ):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "/etc/passwd"
            tar.addfile(info)
    before = sorted(os.walk(tmp_path))
    data = open_data(path)
    assert ids(data) == [
        "../../out",
        "etc/out",
        r"evil\x1b[2J\x0a",
        r"caf\xe9",
        "a/b",
        "a" * 300,
    ]
    assert data.check() == {}
    assert sorted(os.walk(tmp_path)) == before
    evaluate(make_plan({**PLAN, "data": str(path), "maps": True}), tmp_path / "run")
    assert {str(name) for name in tmp_path.iterdir()} == {
        str(tmp_path / name) for name in ("in", "run")
    }


@pytest.mark.parametrize("size", [-512, -1024, 1 << 40])
def test_a_hostile_size_ends_the_reading(size, tmp_path):
    path = pack(tmp_path / "0.tar", {"a.png": png()})
    content = bytearray(path.read_bytes())
    content[124:136] = tarfile.itn(size, 12, tarfile.GNU_FORMAT)
    content[148:156] = b" " * 8
    content[148:156] = b"%06o\0 " % sum(content[:512])
    path.write_bytes(content)
    with pytest.raises(DataError, match="truncated or damaged"):
        open_data(path)


def test_a_tar_that_changed_since_it_was_listed(tmp_path):
    path = pack(tmp_path / "0.tar", {"a.png": png()})
    data = open_data(path)
    first = data.fingerprint()
    path.write_bytes(path.read_bytes()[:540])
    with pytest.raises(DataError, match="and was longer when it was listed; open the data again"):
        data.picture(0)
    assert data.fingerprint() != first
    path.unlink()
    with pytest.raises(DataError, match="does not exist"):
        data.picture(0)


PLAN = {
    "model": "builtin/shapes_cnn",
    "methods": "gradcam",
    "metrics": "ad",
    "batch_size": 4,
    "workers": 0,
}


def shapes_in_tars(folder, count=6):
    """The same shapes in tars as `shapes:6` draws them."""
    data = open_data(f"shapes:{count}")
    for number in range(count):
        buffer = io.BytesIO()
        data[number][0].save(buffer, "PNG")
        members = {f"{number}.png": buffer.getvalue(), f"{number}.cls": str(data[number][1])}
        pack(folder / f"{number}.tar", members)
    (folder / "classes.txt").write_text("\n".join(data.classes))
    return str(folder / f"{{0..{count - 1}}}.tar")


def test_an_evaluation_of_tars_is_one_of_the_images_and_goes_on(tmp_path):
    spec = shapes_in_tars(tmp_path / "tars")
    plan = make_plan({**PLAN, "data": spec})
    found = evaluate(plan, tmp_path / "run").frame
    drawn = evaluate(make_plan({**PLAN, "data": "shapes:6"}), tmp_path / "drawn").frame
    assert found["sample"].tolist() == [*map(str, range(6))]
    np.testing.assert_allclose(found["value"], drawn["value"], atol=1e-5)
    assert evaluate(plan, tmp_path / "run").frame.equals(found)
    facts = json.loads((tmp_path / "run" / "run.json").read_text())
    assert facts["plan"]["data"] == spec
    pack(tmp_path / "tars" / "3.tar", {"3.png": png(), "3.cls": "1"})
    with pytest.raises(OptionError, match="fingerprint of the data"):
        evaluate(plan, tmp_path / "run")


def test_workers_get_places_and_no_image(tmp_path):
    data = open_data(shapes_in_tars(tmp_path))
    sent = pickle.dumps(data)
    assert len(sent) < 4000
    groups = [[5, 0], [3]]
    read = [group for group, _ in load_groups(data, read_pixels, groups, workers=1)]
    for group, images in zip(groups, read, strict=True):
        for number, image in zip(group, images, strict=True):
            assert torch.equal(image, read_pixels(data.picture(number)))


def read_pixels(picture):
    return torch.from_numpy(np.asarray(picture.image).copy())


def test_a_pattern_is_expanded_in_order():
    assert places.expand_braces("a/{08..11}.tar") == [f"a/{n:02d}.tar" for n in range(8, 12)]
    assert places.expand_braces("{x,yz}{0..1}") == ["x0", "x1", "yz0", "yz1"]
    assert places.expand_braces("plain{}.tar") == ["plain{}.tar"]
    assert not places.is_pattern("plain{}.tar")
