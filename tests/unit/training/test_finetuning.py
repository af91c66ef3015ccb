"""Fine-tuning: two stages, every file whole, a continued run bit by bit an undisturbed one."""

from __future__ import annotations

import json
import random
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

import trees
from torchsaliency.data import open_data
from torchsaliency.errors import CheckpointError, DataError, OptionError
from torchsaliency.training import (
    Accuracy,
    finetune,
    loop,
    make_finetuning,
    open_parts,
)
from torchsaliency.zoo import load_model

NET = """
from torch import nn
from torchsaliency import Preprocessing

def factory(num_classes=5):
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU(),
        nn.Conv2d(8, 12, 3, 2, 1), nn.BatchNorm2d(12), nn.ReLU(),
        nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Dropout(0.1), nn.Linear(48, num_classes),
    )

factory.preprocessing = Preprocessing(size=(32, 32), resize=(36, 36))
"""
HEAD = ("9.weight", "9.bias")


def pattern(path, label, seed):
    """Save an image that shows its class: a colour and the direction of its stripes."""
    rng = np.random.default_rng(seed)
    colour = 60 + 140 * np.array([label >> bit & 1 for bit in range(3)])
    values = rng.normal(colour, 25, (40, 48, 3))
    values[:: 4 if label % 2 else 7] *= 0.5
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values.clip(0, 255).astype(np.uint8)).save(path, quality=95)


def kvasir(root, each=16):
    for label, name in enumerate(trees.KVASIR):
        for number in range(each):
            pattern(root / name / f"{number}.jpg", label, (label, number))
    return root


def chest(root, counts=(("train", 9), ("val", 2), ("test", 4))):
    for part, count in counts:
        for label, name in enumerate(("NORMAL", "PNEUMONIA")):
            for number in range(count):
                pattern(root / part / name / f"{number}.jpeg", 7 * label, (label, number, count))
    return root


@pytest.fixture
def net(tmp_path):
    (tmp_path / "net.py").write_text(NET)
    return f"{tmp_path / 'net.py'}:factory"


@pytest.fixture
def settings(tmp_path, net):
    """Return settings for little chest data, with changes."""

    def make(**changes):
        if "data" not in changes and not (tmp_path / "chest").exists():
            chest(tmp_path / "chest")
        given = {
            "data": str(tmp_path / "chest"),
            "arch": net,
            "head_epochs": 2,
            "head_rate": 0.1,
            "epochs": 3,
            "rate": 0.05,
            "batch_size": 5,
            "workers": 0,
        }
        return make_finetuning({**given, **changes})

    return make


def weights(folder):
    return load_file(folder / "model.safetensors")


def same(one, other):
    """Whether two runs ended with the same files, but for times and how often they were begun."""

    def told(folder):
        facts = json.loads((folder / "report.json").read_text())
        for epoch in facts["epochs"]:
            del epoch["seconds"]
        return facts

    return weights_equal(one, other) and told(one) == told(other)


def weights_equal(one, other):
    return (one / "model.safetensors").read_bytes() == (other / "model.safetensors").read_bytes()


# --- learning ------------------------------------------------------------------------------------


def test_it_learns_kvasir(tmp_path, settings):
    asked = settings(data=str(kvasir(tmp_path / "kvasir")), head_epochs=3, epochs=9, batch_size=12)
    report = finetune(asked, tmp_path / "run")
    assert report.classes == trees.KVASIR
    assert {part: found.count for part, found in report.accuracy.items()} == {
        "train": 96,
        "val": 16,
        "test": 16,
    }
    assert report.accuracy["train"].overall > 0.9
    assert report.accuracy["test"].overall > 0.7
    losses = [one.loss for one in report.history]
    assert [one.stage for one in report.history] == ["head"] * 3 + ["all"] * 9
    assert losses[-1] < losses[2] < losses[0]
    assert report.history[-1].val == report.accuracy["val"].overall


def test_the_first_stage_changes_the_head_alone(tmp_path, settings):
    asked = settings(epochs=0)
    finetune(asked, tmp_path / "run")
    before, after = begun(asked), weights(tmp_path / "run")
    assert before.keys() == after.keys()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == set(HEAD)  # neither weights nor statistics of the frozen part


def test_the_second_stage_changes_everything(tmp_path, settings):
    asked = settings(head_epochs=0, epochs=1)
    finetune(asked, tmp_path / "run")
    before, after = begun(asked), weights(tmp_path / "run")
    assert all(not torch.equal(before[name], after[name]) for name in before)


def begun(asked):
    torch.manual_seed(asked.seed)
    network, paths = loop.with_new_head(asked.model, ("a", "b"))
    assert paths == ("9",)
    return network.module.state_dict()


def test_the_recipe_is_the_papers():
    def rates(data, arch):
        asked = make_finetuning({"data": "x", "arch": arch}).for_data(data)
        assert (asked.rate, asked.epochs, asked.momentum) == (1e-5, 50, 0.9)
        return asked.head_rate

    assert rates("chest-xray", "resnet50") == rates("chest-xray", "vgg16_bn") == 1e-3
    assert rates("kvasir", "resnet50") == rates("kvasir", "torchvision/resnet50") == 1e-4
    assert rates("kvasir", "vgg16_bn") == 5e-3
    asked = make_finetuning({"data": "x"})
    assert asked.model == "torchvision/resnet50.imagenet1k_v1"
    assert asked.for_data("kvasir").fit == "squash"
    assert asked.for_data("folder").fit is None
    given = make_finetuning({"data": "x", "head_rate": 0.2, "fit": "crop"}).for_data("kvasir")
    assert (given.head_rate, given.fit) == (0.2, "crop")


def test_every_image_comes_once_in_an_epoch_and_no_batch_is_left_with_one(tmp_path, settings):
    seen = []

    def watch(now):
        if now.ended is None and now.what in ("head", "all"):
            seen.append((now.epoch, now.done))

    finetune(settings(batch_size=17), tmp_path / "run", watch=watch)  # of 18 images
    assert seen == [(epoch, done) for epoch in range(1, 6) for done in (9, 18)]


# --- continuing ----------------------------------------------------------------------------------


class StoppedError(Exception):
    pass


@pytest.mark.parametrize("where", ["ended", "within"])
def test_stopped_in_every_epoch_it_ends_bit_by_bit_the_same(tmp_path, settings, where):
    finetune(settings(), tmp_path / "undisturbed")

    def stopping(now):
        if (now.ended is not None) == (where == "ended") and now.done > 6 and now.epoch > last[0]:
            last[0] = now.epoch
            raise StoppedError

    last = [0]
    for _ in range(5):
        torch.manual_seed(random.randrange(1000))  # nothing depends on the caller's numbers
        with pytest.raises(StoppedError):
            finetune(settings(), tmp_path / "stopped", watch=stopping)
    report = finetune(settings(), tmp_path / "stopped")
    assert report.before == (5 if where == "ended" else 4)
    assert same(tmp_path / "undisturbed", tmp_path / "stopped")
    again = finetune(settings(), tmp_path / "stopped")
    assert again.before == 5
    assert same(tmp_path / "undisturbed", tmp_path / "stopped")


def test_torn_writing_leaves_the_last_checkpoint(tmp_path, settings, monkeypatch):
    run, save, written = tmp_path / "run", torch.save, []

    def tear(state, file):
        written.append(1)
        if len(written) == 3:
            file.write(b"half of it")
            raise OSError(28, "No space left on device")
        save(state, file)

    monkeypatch.setattr(torch, "save", tear)
    with pytest.raises(OSError, match="No space"):
        finetune(settings(), run)
    assert torch.load(run / "checkpoint.pt", weights_only=True)["done"] == 2
    finetune(settings(), run)
    finetune(settings(), tmp_path / "undisturbed")
    assert same(run, tmp_path / "undisturbed")


def test_workers_change_nothing(tmp_path, settings):
    finetune(settings(epochs=1, head_epochs=1), tmp_path / "one")
    finetune(settings(epochs=1, head_epochs=1, workers=2), tmp_path / "other")
    assert weights_equal(tmp_path / "one", tmp_path / "other")


def test_more_epochs_go_on_as_a_longer_run(tmp_path, settings):
    finetune(settings(epochs=1), tmp_path / "raised")
    finetune(settings(epochs=3), tmp_path / "raised")
    finetune(settings(epochs=3), tmp_path / "at once")
    assert weights_equal(tmp_path / "raised", tmp_path / "at once")
    with pytest.raises(OptionError, match="has learnt for 5 epochs and 4 are asked for"):
        finetune(settings(epochs=2), tmp_path / "raised")


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"rate": 0.01}, "rate = 0.05 and now 0.01"),
        ({"seed": 1}, "seed = 0 and now 1"),
        ({"head_epochs": 3}, "head_epochs = 2 and now 3"),
        ({"flip": False}, "flip = true and now false"),
        ({"batch_size": 4}, "batch_size = 5 and now 4"),
        ({"fit": "crop"}, 'fit = "squash" and now "crop"'),
    ],
)
def test_mixing_runs_is_refused(tmp_path, settings, changes, named):
    finetune(settings(epochs=0), tmp_path / "run")
    with pytest.raises(OptionError, match=named):
        finetune(settings(epochs=0, **changes), tmp_path / "run")


def test_other_images_are_refused(tmp_path, settings):
    finetune(settings(epochs=0), tmp_path / "run")
    pattern(tmp_path / "chest" / "train" / "NORMAL" / "new.jpeg", 0, 5)
    with pytest.raises(OptionError, match="begun with train images = "):
        finetune(settings(epochs=0), tmp_path / "run")


def test_folders_that_cannot_be_used(tmp_path, settings):
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "model.safetensors").touch()
    with pytest.raises(OptionError, match="safetensors exists and no earlier run wrote it"):
        finetune(settings(), tmp_path / "other")
    with pytest.raises(OptionError, match="lies in the data"):
        finetune(settings(), tmp_path / "chest" / "run")
    (tmp_path / "torn").mkdir()
    for content in (b"", b"torn", b"PK\x03\x04"):
        (tmp_path / "torn" / "checkpoint.pt").write_bytes(content)
        with pytest.raises(DataError, match="is damaged or no checkpoint"):
            finetune(settings(), tmp_path / "torn")


def test_the_callers_random_numbers_stay(tmp_path, settings):
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    finetune(settings(epochs=0), tmp_path / "run")
    assert torch.equal(torch.rand(1), expected)


# --- what is wrong -------------------------------------------------------------------------------


def test_damaged_images_are_listed_and_skipped(tmp_path, settings):
    data = chest(tmp_path / "chest")
    (data / "train" / "NORMAL" / "0.jpeg").write_bytes(b"no image")
    whole = (data / "test" / "PNEUMONIA" / "1.jpeg").read_bytes()
    (data / "test" / "PNEUMONIA" / "1.jpeg").write_bytes(whole[:300])
    report = finetune(settings(batch_size=1, epochs=0), tmp_path / "run")  # a batch of none
    assert {part: list(found) for part, found in report.skipped.items()} == {
        "train": ["train/NORMAL/0.jpeg"],
        "test": ["test/PNEUMONIA/1.jpeg"],
    }
    assert report.accuracy["train"].count == 17
    assert report.accuracy["test"].count == 7
    told = json.loads((tmp_path / "run" / "report.json").read_text())
    assert "no image that can be read" in told["skipped"]["train"]["train/NORMAL/0.jpeg"]


def test_no_readable_image_at_all(tmp_path, settings):
    data = chest(tmp_path / "chest", (("train", 2), ("test", 1)))
    for path in data.glob("train/*/*"):
        path.write_bytes(b"no image")
    with pytest.raises(DataError, match="None of the 4 training images can be used"):
        finetune(settings(), tmp_path / "run")


def test_a_loss_that_explodes(tmp_path, settings):
    with pytest.raises(OptionError, match=r"in epoch \d with the learning rate 1e\+30; .* rate"):
        finetune(settings(head_epochs=0, rate=1e30), tmp_path / "run")


@pytest.mark.parametrize(
    ("facts", "said"),
    [
        ({"data": "x", "epoch": 3}, "no field 'epoch' of fine-tuning; close names are epochs"),
        ({"data": "x", "rate": 0}, "rate: Input should be greater than 0"),
        ({"data": "x", "fit": "stretch"}, "fit: Input should be 'crop' or 'squash'"),
        ({"data": "x", "epochs": 0, "head_epochs": 0}, "nothing is learnt"),
    ],
)
def test_settings_that_do_not_fit(facts, said):
    with pytest.raises(OptionError, match=said):
        make_finetuning(facts)


def test_memory_that_ends(tmp_path, settings, monkeypatch):
    def full(*_, **__):
        raise MemoryError

    monkeypatch.setattr("torch.nn.functional.cross_entropy", full)
    with pytest.raises(OptionError, match="give a smaller batch size"):
        finetune(settings(), tmp_path / "run")


# --- parts ---------------------------------------------------------------------------------------


class TestParts:
    def test_chest_xrays_have_their_own(self, tmp_path):
        parts = open_parts(str(trees.chest(tmp_path)))
        assert {part: len(data) for part, data in parts.sets.items()} == {"train": 6, "test": 4}
        assert parts.classes == ("NORMAL", "PNEUMONIA")
        assert not parts.drawn

    def test_kvasirs_test_images_are_those_of_the_evaluation(self, tmp_path):
        root = trees.kvasir(tmp_path, 16)
        parts = open_parts(f"kvasir:{root}")
        test = [one.id for one in open_data(root).samples]
        assert [one.id for one in parts.sets["test"].samples] == test

    def test_folders_of_ones_own(self, tmp_path):
        for name in ("training/b", "training/a", "valid/b", "test/a", "test/b"):
            trees.image(tmp_path / name / "1.png")
        parts = open_parts(str(tmp_path))
        assert list(parts.sets) == ["train", "val", "test"]
        assert parts.classes == parts.sets["val"].classes == ("a", "b")
        assert [one.label for one in parts.sets["val"].samples] == [1]  # which has no folder a
        trees.image(tmp_path / "valid" / "c" / "1.png")
        with pytest.raises(DataError, match="The part val has the class 'c'"):
            open_parts(str(tmp_path))
        (tmp_path / "val").mkdir()
        with pytest.raises(DataError, match="two for the same part"):
            open_parts(str(tmp_path))

    def test_undivided_data_are_drawn_in_each_class(self, tmp_path):
        for name in "ab":
            for number in range(16):
                trees.image(tmp_path / name / f"{number}.png")
        parts = open_parts(str(tmp_path))
        assert parts.drawn
        assert {part: len(data) for part, data in parts.sets.items()} == {
            "train": 24,
            "val": 4,
            "test": 4,
        }
        ids = [one.id for data in parts.sets.values() for one in data.samples]
        assert len(set(ids)) == 32
        assert sum(one.label == 0 for one in parts.train.samples) == 12

    @pytest.mark.parametrize(
        ("files", "said"),
        [
            ([], "holds no images in a known layout; expected is one of"),
            (["1.png"], "has no labels to learn"),
            (["a/1.png", "a/2.png"], "has one class, a"),
            (["a/1.png", "a/2.png", "b/1.png"], "1 of 2 classes have no training image: b"),
            (["val/a/1.png", "test/a/1.png"], "has val, test, and no image in train"),
            (["train/PNEUMONIA/1.jpeg"], r"has no train/NORMAL; expected is\n\nchest_xray/"),
        ],
    )
    def test_data_that_cannot_be_learnt(self, tmp_path, files, said):
        for name in files:
            trees.image(tmp_path / name)
        with pytest.raises(DataError, match=said):
            open_parts(str(tmp_path))

    def test_no_folder(self, tmp_path):
        with pytest.raises(DataError, match="does not exist"):
            open_parts(str(tmp_path / "missing"))

    def test_numbered_labels(self, tmp_path):
        lines = [f"{number}.png,{number % 3}" for number in range(12)]
        for number in range(12):
            trees.image(tmp_path / f"{number}.png")
        (tmp_path / "labels.csv").write_text("\n".join(["file,label", *lines]))
        assert open_parts(str(tmp_path)).classes == ("0", "1", "2")

    def test_the_drawn_test_images_are_listed_as_data_sets_are_read(self, tmp_path, settings):
        for label, name in enumerate(("a", 'b, "c"')):
            for number in range(8):
                pattern(tmp_path / "data" / name / f"{number}.png", label, (label, number))
        data = str(tmp_path / "data")
        finetune(settings(data=data, epochs=0, head_epochs=1), tmp_path / "run")
        listed = open_data(data, labels=tmp_path / "run" / "test.csv")
        test = open_parts(data).sets["test"]
        assert [(one.id, one.label) for one in listed.samples] == [
            (one.id, one.label) for one in test.samples
        ]
        assert listed.classes == test.classes


# --- heads, accuracy, notes ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "paths"),
    [
        ("torchvision/resnet18", ("fc",)),
        ("torchvision/mobilenet_v3_small", ("classifier.3",)),
        ("torchvision/squeezenet1_1", ("classifier.1",)),
        ("timm/resnet10t", ("fc",)),
    ],
)
def test_any_classifier_is_found(name, paths):
    network, found = loop.with_new_head(name, tuple("abc"), pretrained=False)
    assert found == paths
    assert network.classes == tuple("abc")
    assert network(torch.zeros(1, 3, 64, 64)).shape == (1, 3)


def test_a_classifier_of_as_many_classes_is_new_too():
    own = load_model("builtin/shapes_cnn")
    network, paths = loop.with_new_head("builtin/shapes_cnn", own.classes)
    assert paths == ("fc",)
    before, after = own.module.state_dict(), network.module.state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"fc.weight", "fc.bias"}


def test_networks_whose_classifier_cannot_be_replaced(tmp_path):
    (tmp_path / "net.py").write_text(
        "import torch\nfrom torch import nn\n"
        "def deaf(num_classes=3):\n    return nn.Sequential(nn.Flatten(), nn.Linear(4, 3))\n"
        "class Bare(nn.Module):\n    def __init__(self, n):\n        super().__init__()\n"
        "        self.w = nn.Parameter(torch.zeros(n))\n"
        "def bare(num_classes=3):\n    return Bare(num_classes)\n"
        "def fixed():\n    return deaf()\n"
    )
    for name, said in (
        ("deaf", "is not to be found"),
        ("bare", "is a bare parameter"),
        ("fixed", "let the factory have a parameter num_classes"),
    ):
        with pytest.raises(CheckpointError, match=said):
            loop.with_new_head(f"{tmp_path / 'net.py'}:{name}", tuple("ab"))


def test_accuracy_by_hand():
    found = Accuracy(("a", "b", "c"), ((3, 1, 0), (2, 4, 0), (0, 0, 0)))
    assert found.count == 10
    assert found.overall == 0.7
    assert found.per_class == {"a": 0.75, "b": 4 / 6, "c": None}
    assert found.balanced == pytest.approx((0.75 + 4 / 6) / 2)
    assert found.to_dict()["images_per_class"] == {"a": 4, "b": 6, "c": 0}
    assert Accuracy(("a",), ((0,),)).overall is None


def test_the_weights_carry_class_names_and_preprocessing(tmp_path, settings, net):
    report = finetune(settings(epochs=0), tmp_path / "run")
    network = load_model(net, weights=tmp_path / "run" / "model.safetensors")
    assert network.classes == ("NORMAL", "PNEUMONIA")
    assert network.preprocessing == load_model(net).preprocessing.squash()
    confusion = torch.zeros(2, 2, dtype=int)
    for index, sample in enumerate((test := open_data(tmp_path / "chest")).samples):
        x = network.preprocessing(test.picture(index).image)
        confusion[sample.label, network(x[None]).argmax()] += 1
    assert tuple(map(tuple, confusion.tolist())) == report.accuracy["test"].confusion


def test_metadata_of_others(tmp_path, net):
    tensors = dict(load_model(net).module.state_dict())
    plain = load_model(net)
    save_file(tensors, path := tmp_path / "weights.safetensors", metadata={"format": "pt"})
    network = load_model(net, weights=path)
    assert (network.classes, network.preprocessing) == (plain.classes, plain.preprocessing)
    for text in ("no JSON", "[]", '{"classes": ["a"], "preprocessing": {"size": 3}}'):
        save_file(tensors, path, metadata={"torchsaliency": text})
        with pytest.raises(CheckpointError, match=r"The metadata of .* cannot be understood"):
            load_model(net, weights=path)


def test_preprocessings_come_back():
    from torchsaliency.zoo import Fit, Preprocessing  # noqa: PLC0415

    one = Preprocessing(size=(4, 5), resize=(6, 7), fit=Fit.CONTAIN)
    for other in (one, replace(one, resize=None), one.skip_normalisation(), one.squash()):
        assert Preprocessing.from_dict(json.loads(json.dumps(other.to_dict()))) == other
