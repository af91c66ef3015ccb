"""Draw the pictures of docs/start.md, docs/explanations.md and docs/papers.md.

The network and the photographs come with the library, so that the pictures can be drawn again
anywhere: `python scripts/explanation_figures.py`.
"""

from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

import torchsaliency as ts
from torchsaliency.data import sample_photo
from torchsaliency.viz import Panel, Row, grid, overlay
from torchsaliency.zoo import load_model

FOLDER = Path(__file__).parents[1] / "docs" / "images"
NETWORK = load_model("builtin/efficientnet_lite0")


def read(name: str) -> tuple[Image.Image, Tensor]:
    """Return a photograph of the library as a square of 224 x 224, and as the network's input."""
    photo = sample_photo(name).open()
    x = ts.preprocess(photo, NETWORK)
    return show(x), x


def show(x: Tensor) -> Image.Image:
    """Return the picture that an input (1, 3, H, W) is."""
    facts = NETWORK.preprocessing
    mean, std = (torch.tensor(part).view(3, 1, 1) for part in (facts.mean, facts.std))
    pixels = ((x[0] * std + mean).clamp(0, 1) * 255).round().byte()
    return Image.fromarray(pixels.permute(1, 2, 0).numpy())


def probability(x: Tensor, label: int) -> float:
    """Return what the network says of a class, in percent."""
    found = ts.explain(NETWORK, x, "edges", label)["edges"]
    return 100 * float(found.output.softmax(1)[0, label])


def save(rows: list[Row], name: str, *, colour_bar: bool = True) -> None:
    """Write a picture."""
    picture = grid(rows, width=200, colour_bar=colour_bar)
    picture.save(FOLDER / name, quality=85, optimize=True)


def draw_methods() -> None:
    """Draw one photograph by methods of different families."""
    photo, x = read("chelsea")
    gradients = ts.IntegratedGradients(smooth=9, clip=99)  # else too sparse for a small picture
    methods = ["gradcam", "opticam", "mtsm", gradients]
    rise = ts.RISE(samples=1000, control="linear", sampler="antithetic")
    found = ts.explain(NETWORK, x, [*methods, rise])
    label = int(found["gradcam"].output[0].argmax())
    says = f"{NETWORK.classes[label]}\n{probability(x, label):.0f} %"
    maps = {name: one.map[0] for name, one in found.items()}
    save([Row.of(photo, maps, subtitle=says)], "methods-on-a-photo.jpg")


def draw_masking() -> None:
    """Draw what the network sees of a photograph behind one map, by baseline."""
    photo, x = read("chelsea")
    found = ts.explain(NETWORK, x, "gradcam")["gradcam"]
    label = int(found.output[0].argmax())
    drawn = overlay(photo, found.map[0])
    panels = [Panel(drawn, "the map", "Grad-CAM")]
    kinds = {"black": ts.BlackPixel(), "mean colour": ts.MeanColour(), "blurred": ts.Blur()}
    for name, masking in kinds.items():
        masked = masking(x, found.map)
        panels.append(Panel(show(masked), name, f"{probability(masked, label):.0f} %"))
    says = f"{NETWORK.classes[label]}\n{probability(x, label):.0f} %"
    save([Row(tuple(panels), Panel(photo, "photo", says))], "masking.jpg", colour_bar=False)


def draw_opticam() -> None:
    """Draw Opti-CAM's map and the masked photograph after ever more passes."""
    photo, x = read("chelsea")
    overlays, masked = [], []
    label = None
    for passes in (1, 5, 20, 100):
        method = ts.OptiCAM(iterations=passes)
        found = ts.explain(NETWORK, x, method, masking=ts.BlackPixel())["opticam"]
        label = int(found.output[0].argmax())
        seen = ts.BlackPixel()(x, found.map)
        heading = f"{passes} steps" if passes > 1 else "1 step"
        overlays.append(Panel(overlay(photo, found.map[0]), heading))
        masked.append(Panel(show(seen), "", f"{probability(seen, label):.0f} %"))
    says = f"{NETWORK.classes[label]}\n{probability(x, label):.0f} %"
    rows = [Row(tuple(overlays), Panel(photo, "photo", says)), Row(tuple(masked))]
    save(rows, "opticam-steps.jpg")


def draw_tucker() -> None:
    """Draw four of a layer's feature maps, and the one image that most of them are made of."""
    photo, x = read("flower")
    layer = ts.default_layer(NETWORK, x)
    with ts.tracing(NETWORK, x, layers=[layer]) as trace:
        features = trace[layer].activations[0].detach()
    strongest = features.flatten(1).std(1).argsort(descending=True)[:4]
    maps = {f"channel {int(number)}": scale(features[number]) for number in strongest}
    found = ts.explain(NETWORK, x, ["tsm", "mtsm"])
    maps |= {name: one.map[0] for name, one in found.items()}
    save([Row.of(photo, maps)], "tucker.jpg")


def scale(values: Tensor) -> Tensor:
    """Bring a feature map to [0, 1]."""
    return (values - values.min()) / (values.max() - values.min())


if __name__ == "__main__":
    for draw in (draw_methods, draw_masking, draw_opticam, draw_tucker):
        draw()
