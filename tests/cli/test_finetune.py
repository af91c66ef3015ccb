"""`torchsaliency finetune`, from folders of images to a network that is explained and evaluated."""

from __future__ import annotations

import json
from urllib.error import URLError

import numpy as np
import pytest
from PIL import Image

import trees

NET = """
from torch import nn
from torchsaliency import Preprocessing

def small(num_classes=5):
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU(),
        nn.Conv2d(8, 12, 3, 2, 1), nn.BatchNorm2d(12), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(12, num_classes),
    )

small.preprocessing = Preprocessing(size=(32, 32), resize=(36, 36))
"""


def images(folder, count, bright):
    folder.mkdir(parents=True)
    for number in range(count):
        rng = np.random.default_rng((number, bright))
        values = rng.normal(170 if bright else 80, 30, (44, 52)).clip(0, 255)
        Image.fromarray(values.astype(np.uint8)).save(folder / f"{number}.jpeg")


@pytest.fixture
def chest(place):
    """The chest X-rays' layout, grey, PNEUMONIA the brighter one."""
    for part, count in (("train", 8), ("val", 2), ("test", 4)):
        for bright, name in enumerate(("NORMAL", "PNEUMONIA")):
            images(place / "chest_xray" / part / name, count, bright)
    return place / "chest_xray"


@pytest.fixture
def finetune(command, place):
    (place / "small.py").write_text(NET)

    def run(*words):
        defaults = [] if "--arch" in words else ["--arch", "small.py:small"]
        stages = ["--head-epochs", 1, "--epochs", 6, "--head-rate", 0.1, "--rate", 0.1]
        stages = [] if "--epochs" in words else stages
        return command("finetune", *words, *defaults, *stages, "--batch-size", 4, "--workers", 0)

    return run


def test_from_folders_to_explained_and_evaluated(finetune, command, chest, place):
    ran = finetune("--data", chest, "--output", "run")
    assert ran.code == 0, ran.err
    told = json.loads((place / "run" / "report.json").read_text())
    assert told["accuracy"]["test"]["accuracy"] == 1
    assert told["accuracy"]["train"]["images"] == 16
    for said in ("train (16)", "val (4)", "test (8)", "PNEUMONIA", "100.0%", "all images"):
        assert said in ran.out
    assert "Epoch 7 of 7 (all): loss 0." in ran.err
    assert "--model small.py:small --weights run/model.safetensors" in ran.out

    network = ("--model", "small.py:small", "--weights", "run/model.safetensors")
    photo = chest / "test" / "PNEUMONIA" / "0.jpeg"
    ran = command("explain", photo, *network, "--method", "gradcam")
    assert ran.code == 0, ran.err
    assert "PNEUMONIA" in ran.out
    manifest = json.loads((place / "saliency" / "manifest.json").read_text())
    made = manifest["runs"][-1]["photos"][0]["maps"][0]
    assert made["target"]["name"] == "PNEUMONIA"

    ran = command(
        *("evaluate", "--data", chest, *network, "--methods", "gradcam", "--metrics", "ad"),
        *("--output", "scores", "--workers", 0, "--json"),
    )
    assert ran.code == 0, ran.err
    told = json.loads((place / "scores" / "run.json").read_text())
    assert told["identity"]["resolved target"] == "label"
    assert told["classes"] == ["NORMAL", "PNEUMONIA"]
    assert told["identity"]["preprocessing"]["fit"] == "squash"


def test_a_torchvision_network(finetune, command, chest):
    ran = finetune(
        *("--data", chest, "--arch", "mobilenet_v3_small", "--no-pretrained", "--output", "run"),
        *("--head-epochs", 1, "--epochs", 0),
    )
    assert ran.code == 0, ran.err
    ran = command(
        *("explain", chest / "test" / "NORMAL" / "1.jpeg", "--method", "gradcam"),
        *("--model", "torchvision/mobilenet_v3_small", "--weights", "run/model.safetensors"),
        *("--target", "normal"),
    )
    assert ran.code == 0, ran.err
    assert "NORMAL" in ran.out


def test_kvasir_as_json(finetune, place):
    for name in trees.KVASIR:
        images(place / "kvasir" / name, 8, "polyp" in name)
    ran = finetune("--data", "kvasir", "--epochs", 1, "--head-epochs", 0, "--json")
    assert ran.code == 0, ran.err
    assert ran.json["classes"] == list(trees.KVASIR)
    assert ran.json["settings"]["head_rate"] == 0.001
    assert ran.json["accuracy"]["test"]["images"] == 8
    assert np.array(ran.json["accuracy"]["train"]["confusion"]).sum(1).tolist() == [6] * 8
    assert ran.json["paper_accuracy"] is None


def test_it_goes_on(finetune, chest):
    short = ("--head-epochs", 1, "--data", chest, "--output", "run")
    assert finetune(*short, "--epochs", 1).code == 0
    ran = finetune(*short, "--epochs", 2)
    assert ran.code == 0
    assert "2 epochs were finished before; 1 are new." in ran.err
    ran = finetune(*short, "--epochs", 2, "--seed", 4)
    assert ran.code == 2
    assert "run was begun with seed = 0 and now 4 is given" in ran.err


def test_damaged_images_are_told(finetune, chest):
    (chest / "train" / "NORMAL" / "3.jpeg").write_bytes(b"no image")
    ran = finetune("--data", chest, "--epochs", 0)
    assert ran.code == 1
    assert "Skipped in train: train/NORMAL/3.jpeg: " in ran.err


def test_weights_that_cannot_be_fetched(finetune, chest, monkeypatch):
    def refuse(*_, **__):
        raise URLError("no route to host")

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", refuse)
    ran = finetune("--data", chest, "--arch", "resnet18")
    assert ran.code == 2
    assert "The weights of torchvision/resnet18 (IMAGENET1K_V1) could not be fetched" in ran.err
    assert "--weights FILE (--no-pretrained asks for random weights)." in ran.err
    assert len(ran.err.strip().splitlines()) == 1


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--arch", "resnot50"], "close names are resnet50"),
        (["--arch", "small.py:smal"], "no function 'smal'"),
        (["--data", "empty"], "kvasir-dataset-v2/ ├── dyed-lifted-polyps/*.jpg"),
        (["--data", "empty"], "chest_xray/ ├── test/NORMAL/*.jpeg"),
        (["--data", "missing"], "missing does not exist"),
        (["--data", "chest_xray", "--output", "chest_xray/run"], "lies in the data"),
        (["--data", "chest_xray", "--rate", "0", "--epochs", "1"], "rate: "),
        (["--data", "chest_xray", "--device", "abacus"], "device='abacus'"),
        (["--data", "chest_xray", "--weights", "missing.pt"], "missing.pt does not exist"),
        (["--data", "chest_xray", "--epochs", "0", "--head-epochs", "0"], "nothing is learnt"),
        ([], "--data"),
    ],
)
def test_mistakes(words, said, finetune, chest, place):
    (place / "empty").mkdir()
    data = [] if "--data" in words or not words else ["--data", chest]
    ran = finetune(*words, *data)
    assert ran.code == 2, ran.out
    assert said in " ".join(ran.err.split())
    assert "Traceback" not in ran.err
