"""Draw every method on the same two photographs, for docs/methods.md: docs/images/methods/*.jpg.

Networks and pictures come with the library. Methods that read attention need a transformer: the
built-in one, which knows drawn shapes, on two drawings. `python scripts/method_pictures.py` draws
all in some 15 minutes, `python scripts/method_pictures.py gradcam lrp` these two.
"""

import sys
from functools import cache
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

import torchsaliency as ts
from torchsaliency.core.method import MethodEntry, Needs, methods
from torchsaliency.data import open_data, sample_photo
from torchsaliency.viz import overlay
from torchsaliency.viz.notebook import denormalise_images
from torchsaliency.zoo import Network, load_model

FOLDER = Path(__file__).parents[1] / "docs" / "images" / "methods"
PHOTOS, DRAWINGS = ("chelsea", "coffee"), "shapes:2?seed=3"
SIDE, GAP = 200, 8


def choose_pair(entry: MethodEntry) -> str | None:
    """Return which network and pictures a method is drawn on, as the pictures' file is called.

    None of methods for detectors: none comes with the library.
    """
    if Needs.DETECTIONS in entry.needs:
        return None
    return "drawings" if Needs.ATTENTION in entry.needs else "photos"


def choose_options(entry: MethodEntry) -> dict[str, int]:
    """Return a method's options: maps of single pixels are too sparse for a small picture."""
    sparse = "clip" in entry.options and "segments" not in entry.options
    return {"smooth": 9, "clip": 99} if sparse else {}


@cache
def load_pair(pair: str) -> tuple[Network, Tensor]:
    """Return a network, and its two inputs (2, 3, H, W)."""
    network = load_model("builtin/efficientnet_lite0" if pair == "photos" else "builtin/shapes_vit")
    if pair == "photos":
        pictures = [sample_photo(name).open() for name in PHOTOS]
    else:
        pictures = [image for image, _ in open_data(DRAWINGS)]
    return network, torch.cat([ts.preprocess(one, network) for one in pictures])


def draw_pictures(pair: str) -> list[Image.Image]:
    """Return what the inputs show."""
    network, x = load_pair(pair)
    facts = network.preprocessing
    shown = (denormalise_images(one, facts.mean, facts.std).numpy() for one in x)
    return [Image.fromarray(pixels) for pixels in shown]


def draw_maps(entry: MethodEntry, pair: str) -> list[Image.Image]:
    """Return a method's maps of the predicted classes over both pictures."""
    network, x = load_pair(pair)
    method = entry.factory(**choose_options(entry))
    torch.manual_seed(0)
    maps = ts.explain(network, x, method)[entry.name].map
    return [overlay(one, saliency) for one, saliency in zip(draw_pictures(pair), maps, strict=True)]


def save(pictures: list[Image.Image], name: str) -> None:
    """Write two pictures side by side."""
    sheet = Image.new("RGB", (2 * SIDE + GAP, SIDE), "white")
    for place, picture in enumerate(pictures):
        small = picture.resize((SIDE, SIDE), Image.Resampling.LANCZOS)
        sheet.paste(small, (place * (SIDE + GAP), 0))
    sheet.save(FOLDER / f"{name}.jpg", quality=80, optimize=True)


if __name__ == "__main__":
    FOLDER.mkdir(parents=True, exist_ok=True)
    for known in ("photos", "drawings"):
        save(draw_pictures(known), known)
    for name in sys.argv[1:] or methods():
        entry = methods()[name]
        if chosen := choose_pair(entry):
            save(draw_maps(entry, chosen), name)
            sys.stdout.write(f"{name}\n")
            sys.stdout.flush()
