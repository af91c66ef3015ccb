"""Data sets of several labels an image: read, evaluated and learnt."""

import json
import math

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import torchsaliency
from nets import convnet
from torchsaliency import Network, Preprocessing
from torchsaliency.cli.finetune import _print_report
from torchsaliency.data import open_data
from torchsaliency.data.voc import CLASSES
from torchsaliency.errors import DataError
from torchsaliency.evaluation import evaluate, make_plan
from torchsaliency.training import LabelAccuracy, finetune, make_finetuning, open_parts
from torchsaliency.training.report import average_precision

TABLES = {
    "in one cell": "file,labels\n0.png,dog|cat\n1.png,cat\n2.png,\n3.png,bird|dog\n",
    "by semicolons": 'file,labels\n0.png,"cat; dog"\n1.png,cat\n2.png,\n3.png,dog;bird;dog\n',
    "a column each": "file,bird,cat,dog,age\n0.png,0,1,1,31\n1.png,,1.0,0,40\n2.png,0,0,0,7\n"
    "3.png,1,0,1,64\n",
    "as chest X-rays": "Image Index,Finding Labels,Age\n0.png,cat|dog,3\n1.png,cat,4\n"
    "2.png,No Finding,5\n3.png,bird|dog,6\n",
}


def photographs(folder, count=4):
    """Save images whose red, green and blue tell which of three labels are true."""
    folder.mkdir(exist_ok=True)
    for number in range(count):
        draw = np.random.default_rng(number)
        pixels = draw.integers(0, 90, (16, 16, 3), dtype=np.uint8)
        for label in range(3):
            pixels[..., label] += 150 * (number >> label & 1)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    return folder


def test_a_column_of_one_label_may_hold_anything(tmp_path):
    (photographs(tmp_path, 2) / "labels.csv").write_text("file,label\n0.png,cat|dog\n1.png,a;b\n")
    data = open_data(tmp_path)
    assert data.classes == ("a;b", "cat|dog")
    assert not data.several_labels


@pytest.mark.parametrize("kind", TABLES)
def test_a_table_of_several_labels(tmp_path, kind):
    (photographs(tmp_path) / "labels.csv").write_text(TABLES[kind])
    data = open_data(tmp_path)
    assert data.classes == ("bird", "cat", "dog")
    assert data.several_labels
    assert [(s.id, s.label, s.labels) for s in data.samples] == [
        ("0.png (cat)", 1, (1, 2)),
        ("0.png (dog)", 2, (1, 2)),
        ("1.png (cat)", 1, (1,)),
        ("2.png", None, ()),
        ("3.png (bird)", 0, (0, 2)),
        ("3.png (dog)", 2, (0, 2)),
    ]
    assert [s.id for s in data.by_image().samples] == [f"{n}.png" for n in range(4)]
    assert [s.id for s in data.subset(classes=["dog"]).samples] == ["0.png (dog)", "3.png (dog)"]
    assert data.picture(1).image.size == (16, 16)
    assert data.check() == {}
    assert open_data(tmp_path / "labels.csv").fingerprint() == data.fingerprint()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("file,labels,x0,y0,x1,y1\n0.png,cat|dog,1,1,5,5\n", "of which label a box is"),
        ("file,a,b\n0.png,1,0\n0.png,0,1\n", "once more"),
        ("file,label\n0.png,\n", "no file or no label"),
    ],
)
def test_tables_that_contradict_themselves(tmp_path, text, words):
    (photographs(tmp_path) / "labels.csv").write_text(text)
    with pytest.raises(DataError, match=words):
        open_data(tmp_path)


def test_one_label_an_image_is_as_ever(tmp_path):
    (photographs(tmp_path) / "labels.csv").write_text("file,label,age\n0.png,cat,1\n1.png,dog,0\n")
    data = open_data(tmp_path)
    assert [(s.id, s.label, s.labels) for s in data.samples] == [
        ("0.png", 0, None),
        ("1.png", 1, None),
    ]
    assert data.by_image() is data


def test_the_classes_of_voc(tmp_path):
    lists = tmp_path / "VOC2012" / "ImageSets" / "Main"
    lists.mkdir(parents=True)
    for name in CLASSES:
        there = {"a": 1 if name in ("cat", "dog") else -1, "b": 0 if name == "cat" else -1}
        text = "".join(f"{image} {value:2d}\n" for image, value in there.items())
        (lists / f"{name}_val.txt").write_text(text)
    data = open_data(f"voc-classes:{tmp_path}")
    assert [(s.id, s.labels) for s in data.samples] == [
        ("a (cat)", (7, 11)),
        ("a (dog)", (7, 11)),
        ("b", ()),
    ]
    assert data.samples[0].source == tmp_path / "VOC2012" / "JPEGImages" / "a.jpg"
    with pytest.raises(DataError, match="no lists of its classes in train"):
        open_data(f"voc-classes:{tmp_path}", split="train")


def test_each_label_of_each_image_is_a_row_of_an_evaluation(tmp_path):
    (photographs(tmp_path / "data") / "labels.csv").write_text(TABLES["in one cell"])
    net = convnet()
    net.fc = nn.Linear(8, 3)
    torch.manual_seed(1)
    nn.init.normal_(net.fc.weight, std=4)
    network = Network(
        net.eval(),
        name="labels",
        preprocessing=Preprocessing(size=(16, 16), resize=None),
        classes=("bird", "cat", "dog"),
        scores="sigmoid",
    )
    plan = make_plan(
        {"data": str(tmp_path / "data"), "methods": ["gradcam"], "metrics": ["ad"], "batch_size": 2}
    )
    found = evaluate(plan, tmp_path / "run", model=network)
    frame = found.frame.set_index("sample")["value"]
    assert len(frame) == 5
    data = open_data(tmp_path / "data")
    for place, sample in enumerate(data.samples):
        if sample.label is None:
            continue
        x = torchsaliency.preprocess(data.picture(place).image, network)
        made = torchsaliency.explain(network, x, "gradcam", sample.label)["gradcam"]
        with torch.no_grad():
            p = net(x).sigmoid()[0, sample.label]
            o = net(x * made.map[:, None]).sigmoid()[0, sample.label]
        drop = 100 * float((p - o).clamp_min(0) / p)
        assert frame[sample.id] == pytest.approx(drop, abs=1e-3)
    assert json.loads((tmp_path / "run" / "run.json").read_text())["scores"] == "sigmoid"
    plan = make_plan({**json.loads(plan.model_dump_json()), "keep": "correct"})
    kept = {*evaluate(plan, tmp_path / "kept", model=network).frame["sample"]}
    with torch.no_grad():
        right = {
            s.id
            for place, s in enumerate(data.samples)
            if s.label is not None
            and net(torchsaliency.preprocess(data.picture(place).image, network))[0, s.label] >= 0
        }
    assert kept == right


# --- training -------------------------------------------------------------------------------------

NET = """
import torch
from torch import nn
from torchsaliency import Preprocessing

def factory(num_classes=5):
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
                         nn.Linear(8, num_classes))

factory.preprocessing = Preprocessing(size=(16, 16), resize=None)
"""


def test_several_labels_are_learnt(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.py").write_text(NET)
    names = ("red", "green", "blue")
    words = ["|".join(n for b, n in enumerate(names) if i >> b & 1) for i in range(64)]
    lines = "".join(f"{i}.png,{word}\n" for i, word in enumerate(words))
    (photographs(tmp_path / "data", 64) / "labels.csv").write_text(f"file,labels\n{lines}")
    parts = open_parts("data")
    assert parts.several_labels
    assert sum(map(len, parts.sets.values())) == 64
    settings = make_finetuning(
        {"data": "data", "arch": "net.py:factory", "pretrained": False, "head_epochs": 0}
        | {"epochs": 6, "rate": 0.5, "batch_size": 8, "workers": 0}
    )
    report = finetune(settings, "run")
    losses = [epoch.loss for epoch in report.history]
    assert losses[-1] < 0.75 * losses[0]
    found = report.accuracy["test"]
    assert isinstance(found, LabelAccuracy)
    assert found.balanced > 0.8
    _print_report(report)
    assert "average precision" in capsys.readouterr().out
    network = torchsaliency.load_model("net.py:factory", weights="run/model.safetensors")
    assert network.scores.name == "sigmoid"
    assert set(network.classes) == {*names}
    test = open_data("data", labels="run/test.csv")
    assert {s.id for s in test.by_image().samples} == {s.id for s in parts.sets["test"].samples}


def test_average_precision_by_hand():
    def of(scores, truth):
        return average_precision(torch.tensor(scores), torch.tensor(truth))

    assert of([3.0, 2.0, 1.0], [1, 0, 1]) == pytest.approx((1 + 2 / 3) / 2)
    assert of([3.0, 2.0, 1.0], [0, 0, 1]) == pytest.approx(1 / 3)
    assert of([1.0, 1.0, 1.0, 1.0], [1, 0, 0, 1]) == pytest.approx(0.5)  # one tie: no order in it
    assert of([1.0, 2.0], [0, 0]) is None
    sklearn = pytest.importorskip("sklearn.metrics")
    draw = np.random.default_rng(0)
    for _ in range(5):
        scores, truth = draw.integers(0, 9, 40) / 4, draw.integers(0, 2, 40)
        expected = sklearn.average_precision_score(truth, scores)
        assert math.isclose(of(scores, truth), expected, rel_tol=1e-12)
