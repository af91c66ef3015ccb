"""The four long commands on something small, to be killed, raced and compared."""

import json
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from torchsaliency.cli.options import ExplainCommandOptions
from torchsaliency.cli.photographs import explain_photos
from torchsaliency.evaluation import evaluate, load_results, make_plan, runner
from torchsaliency.papers.reproduce import reproduce
from torchsaliency.training import finetune, make_finetuning

NET = """
import torch
from torch import nn
from torchsaliency import Preprocessing

def factory(num_classes=5):
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, 2, 1), nn.BatchNorm2d(6), nn.ReLU(),
        nn.Conv2d(6, 8, 3, 2, 1), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, num_classes),
    )

factory.preprocessing = Preprocessing(size=(32, 32), resize=(36, 36))
"""


def photographs(folder, count, size=(48, 40)):
    """Save noise of some colour, a file each."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        draw = np.random.default_rng(number)
        values = draw.normal(draw.uniform(60, 200, 3), 40, (size[1], size[0], 3))
        image = Image.fromarray(values.clip(0, 255).astype(np.uint8))
        image.save(folder / f"{number:03d}.png")
    return folder


def request(photos, output, **changes):
    given = {
        "photos": (str(photos),),
        "model": "builtin/shapes_cnn",
        "method": ("gradcam", "mtsm"),
        "score": ("ad",),
        "batch_size": 2,
        "output": output,
        "grid": True,
    }
    return ExplainCommandOptions(**{**given, **changes})


class Explaining:
    """`explain` of a folder of photographs."""

    def __init__(self, place):
        self.photos = photographs(place / "photos", 12)

    def __call__(self, folder):
        torch.set_num_threads(1)
        explain_photos(request(self.photos, folder))

    def found(self, folder):
        content = json.loads((folder / "manifest.json").read_text())
        (run,) = content["runs"]
        kept = {one: run[one] for one in ("photos", "methods", "scores", "grids")}
        files = {
            one.name: one.read_bytes()
            for one in folder.iterdir()
            if one.is_file() and one.suffix in {".png", ".npy"}
        }
        assert set(content["files"]) == set(files)
        return kept, files

    def whole(self, folder):
        for one in folder.glob("*.png"):
            Image.open(one).load()
        for one in folder.glob("*.npy"):
            np.load(one)
        for one in folder.glob("manifest.json"):
            json.loads(one.read_text())


class Evaluating:
    """`evaluate` of two methods, maps kept."""

    def __init__(self, place):
        del place
        self.plan = make_plan(
            {
                "data": "shapes:20?seed=5",
                "model": "builtin/shapes_cnn",
                "methods": ["gradcam", {"opticam": {"iterations": 12}}],
                "metrics": "ad,ag",
                "batch_size": 2,
                "workers": 0,
                "maps": True,
            }
        )

    def __call__(self, folder):
        runner.FLUSH_SECONDS = 0.0
        torch.set_num_threads(1)
        evaluate(self.plan, folder)

    def found(self, folder):
        frame = load_results(folder).frame.drop(columns=["seconds"])
        frame = frame.assign(row=[tuple(row) for row in frame["row"]])
        maps = {str(one.relative_to(folder)): one.read_bytes() for one in folder.glob("maps/**/*")
                if one.is_file()}  # fmt: skip
        return frame.to_dict("list"), maps

    def whole(self, folder):
        if list(folder.glob("rows/*.parquet")):
            load_results(folder)


class Finetuning:
    """`finetune` for two classes."""

    def __init__(self, place):
        (place / "net.py").write_text(NET)
        for part in ("train", "test"):
            for label in ("a", "b"):
                photographs(place / "data" / part / label, 6)
        self.settings = make_finetuning(
            {
                "data": str(place / "data"),
                "arch": f"{place / 'net.py'}:factory",
                "head_epochs": 3,
                "head_rate": 0.1,
                "epochs": 5,
                "rate": 0.05,
                "batch_size": 4,
                "workers": 0,
            }
        )

    def __call__(self, folder):
        torch.set_num_threads(1)
        finetune(self.settings, folder)

    def found(self, folder):
        facts = json.loads((folder / "report.json").read_text())
        for epoch in facts["epochs"]:
            del epoch["seconds"]
        return facts, (folder / "model.safetensors").read_bytes()

    def whole(self, folder):
        for one in folder.glob("checkpoint.pt"):
            torch.load(one, weights_only=True)


class Reproducing:
    """`reproduce` of a small table."""

    def __init__(self, place):
        del place

    def __call__(self, folder):
        runner.FLUSH_SECONDS = 0.0
        torch.set_num_threads(1)
        changes = {"batch_size": 1, "workers": 0}
        reproduce("tmlr-fig7", folder, limit=6, changes=changes)

    def found(self, folder):
        return {
            one.name: one.read_bytes() for one in folder.iterdir() if one.suffix in {".txt", ".csv"}
        }

    def whole(self, folder):
        for one in folder.glob("reproduction.json"):
            json.loads(one.read_text())


COMMANDS = {
    "evaluate": Evaluating,
    "explain": Explaining,
    "finetune": Finetuning,
    "reproduce": Reproducing,
}


def leftovers(folder: Path) -> list[str]:
    """Return files that are not whole yet, which nothing may leave behind."""
    return [str(one) for one in folder.glob("**/.torchsaliency/new-*")]
