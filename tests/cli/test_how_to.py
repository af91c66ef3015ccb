"""What `docs/own-networks.md` says is typed, typed: its sections run one after the other."""

from __future__ import annotations

import re
import shlex
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import nn
from typer.testing import CliRunner

from tiny_clip import write_clip
from torchsaliency.cli.main import app

PAGE = Path(__file__).parents[2] / "docs" / "own-networks.md"
XRAY = """
from torch import nn

def Net(width=4):
    layers = nn.Conv2d(1, width, 3, 2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    return nn.Sequential(*layers, nn.Linear(width, 2))
"""

NUMBERS = """
import torch
from torch import nn
from torchsaliency.zoo import imagenet

class Net(nn.Module):
    preprocessing = imagenet(16)

    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), nn.ReLU())
        self.classify = nn.Linear(4 + 2, 3)

    def forward(self, image, meta):
        return self.classify(torch.cat([self.features(image).mean((2, 3)), meta], 1))
"""


def run_section(title: str) -> None:
    """Write the files, run the commands and execute the Python of one section."""
    text = PAGE.read_text(encoding="utf-8").partition(f"\n## {title}\n")[2].partition("\n## ")[0]
    blocks = re.findall(r"```(bash|python)\n(.*?)```", text, re.DOTALL)
    assert blocks, title
    for kind, block in sorted(blocks, key=lambda found: not found[1].startswith("# ")):
        if block.startswith("# "):
            Path(block.splitlines()[0].removeprefix("# ")).write_text(block)
        elif kind == "python":
            exec(compile(block, title, "exec"), {})
        else:
            result = CliRunner().invoke(app, shlex.split(block.removeprefix("torchsaliency ")))
            assert result.exit_code == 0, result.output


def size_of(path: str) -> tuple[int, int]:
    with Image.open(path) as picture:
        return picture.size


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    Image.new("RGB", (60, 40), "red").save("photo.jpg")
    torch.manual_seed(0)


def test_a_folder_that_hugging_face_wrote():
    transformers = pytest.importorskip("transformers")
    config = transformers.SwinConfig(
        image_size=32, patch_size=2, embed_dim=8, depths=[1, 1], num_heads=[1, 2], window_size=4
    )
    transformers.SwinForImageClassification(config).save_pretrained("swin")
    size = {"height": 32, "width": 32}
    transformers.ViTImageProcessor(size=size).save_pretrained("swin")
    run_section("A folder that Hugging Face wrote")
    assert size_of("map.png") == (60, 40)


def test_a_lightning_checkpoint():
    Path("xray.py").write_text(XRAY)
    scope: dict[str, object] = {}
    exec(XRAY, scope)
    state = {f"model.{name}": value for name, value in scope["Net"](6).state_dict().items()}
    torch.save({"state_dict": state, "hyper_parameters": {"width": 6}}, "last.ckpt")
    Image.linear_gradient("L").resize((50, 40)).save("xray.png")
    run_section("A Lightning checkpoint of a grey network")
    assert size_of("map.png") == (50, 40)


def test_two_inputs():
    run_section("A network of two inputs")
    sys.modules.pop("two")
    assert size_of("map.png") == (60, 40)


def test_several_labels():
    Path("chest").mkdir()
    Image.new("RGB", (40, 40), "red").save("chest/1.png")
    Path("chest/labels.csv").write_text("image,labels\n1.png,Edema|Mass\n")
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3, 2), nn.ReLU(), nn.Identity(), nn.Flatten(), nn.Linear(8, 2)
    )
    torch.save(net.state_dict(), "labels.pth")
    run_section("Several labels an image")
    assert Path("run").is_dir()


def test_a_photograph_and_a_patient_s_numbers():
    Path("net.py").write_text(NUMBERS)
    Image.new("RGB", (60, 40), "red").save("skin.jpg")
    run_section("A photograph and a patient's numbers")
    assert {"skin.gradcam.png", "skin.rise.png"} <= {
        path.name for path in Path("saliency").iterdir()
    }


def test_clip():
    """Its folder stands where the hub's name is looked for first."""
    pytest.importorskip("transformers")
    write_clip(Path("openai/clip-vit-base-patch32"))
    run_section("CLIP and SigLIP")
    assert Path("saliency/photo.layercam.png").is_file()


def test_a_processor_that_crops_nothing():
    transformers = pytest.importorskip("transformers")
    config = transformers.ResNetConfig(
        embedding_size=4, hidden_sizes=[4, 8], depths=[1, 1], layer_type="basic", num_labels=2
    )
    transformers.ResNetForImageClassification(config).save_pretrained("net")
    transformers.CLIPImageProcessor(
        size={"shortest_edge": 32}, do_center_crop=False
    ).save_pretrained("net")
    words = ["explain", "photo.jpg", "--model", "./net", "--method", "gradcam", "--output", "out"]
    result = CliRunner().invoke(app, [*words, "--no-colour-bar"])
    assert result.exit_code == 0, result.output
    assert "assumed: size 32x32" in " ".join(result.output.split())
    assert size_of("out/photo.gradcam.png") == (60, 40)


def test_masks_of_queries_are_refused_in_a_sentence():
    pytest.importorskip("transformers")
    Path("net").mkdir()
    Path("net/config.json").write_text(
        '{"model_type": "mask2former", "architectures": ["Mask2FormerForUniversalSegmentation"]}'
    )
    result = CliRunner().invoke(app, ["explain", "photo.jpg", "--model", "./net"])
    assert result.exit_code == 2
    said = " ".join(result.output.split())
    assert "Mask2FormerForUniversalSegmentation" in said
    assert "ForSemanticSegmentation" in said
    assert "connect" not in said
