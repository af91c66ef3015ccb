"""Train the tiny networks on the shapes data: `python scripts/train_tiny.py [NAME …]`.

Each takes a few minutes on two cores. Weights and a log go to src/torchsaliency/zoo/tiny/.
"""

import json
import os
import sys
import time
from dataclasses import replace
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch
from safetensors.torch import save_file
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn
from torch.nn import functional as F

from torchsaliency.data.shapes import CLASSES, Shapes, backgrounds, shapes
from torchsaliency.zoo.tiny import (
    BUILDERS,
    FOLDER,
    MEAN,
    PERMUTED,
    STD,
    TRAINED,
    permuted_labels,
)

TEST = 2
"""Seed of the test data: no test image is ever drawn in training."""

CACHE = Path(os.environ.get("SHAPES_CACHE", "/tmp/shapes.pt"))

_PROBED = 4000
_PROBE = f"linear probe on {_PROBED} training images, after the last epoch on all of them"

_OFTEN = 10
"""Epochs between two looks at a network that learns by heart."""

RECIPES = {
    "shapes_cnn": {"images": 24_000, "epochs": 3, "batch": 128, "lr": 3e-3, "decay": 0.05},
    "shapes_cnn_permuted": {"images": PERMUTED, "epochs": 120, "batch": 50, "lr": 3e-3, "decay": 0},
    "shapes_vit": {"images": 24_000, "epochs": 24, "batch": 128, "lr": 1.5e-3, "decay": 0.05},
    "shapes_ssl": {"images": 24_000, "epochs": 5, "batch": 256, "lr": 3e-3, "decay": 1e-4},
}


def data(count: int) -> tuple[Shapes, Tensor]:
    """Return training images and as many backgrounds, kept between runs."""
    if CACHE.exists():
        kept = torch.load(CACHE, weights_only=True)
        if len(kept[0]) >= count:
            return Shapes(*kept[:5])[:count], kept[5][:count]
    drawn, empty = shapes(count, seed=TRAINED), backgrounds(count, seed=TRAINED)
    parts = (drawn.images, drawn.labels, drawn.kinds, drawn.masks, drawn.boxes, empty)
    torch.save(parts, CACHE)
    return drawn, empty


def normalise(images: Tensor) -> Tensor:
    """Return the networks' input."""
    mean, std = (torch.tensor(values)[:, None, None] for values in (MEAN, STD))
    return (images - mean) / std


def jitter(images: Tensor) -> Tensor:
    """Mirror at random, and permute and scale the colours."""
    flip = torch.randint(2, (len(images),)).bool()
    images = torch.where(flip[:, None, None, None], images.flip(3), images)
    order = torch.rand(len(images), 3).argsort(1)
    images = images.gather(1, order[:, :, None, None].expand_as(images))
    gain = 0.7 + 0.6 * torch.rand(len(images), 3, 1, 1)
    return (images * gain).clamp(0, 1)


def crop(images: Tensor, smallest: float = 0.7) -> Tensor:
    """Crop a random square and resize it to the full size."""
    scale = smallest + (1 - smallest) * torch.rand(len(images))
    shift = (2 * torch.rand(len(images), 2) - 1) * (1 - scale)[:, None]
    zero = torch.zeros_like(scale)
    rows = torch.stack(
        [
            torch.stack([scale, zero, shift[:, 0]], 1),
            torch.stack([zero, scale, shift[:, 1]], 1),
        ],
        1,
    )
    grid = F.affine_grid(rows, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, align_corners=False, padding_mode="reflection")


def accuracy(net: nn.Module, drawn: Shapes) -> float:
    """Return the share of correct predictions."""
    net.eval()
    with torch.no_grad():
        parts = [net(normalise(part)).argmax(1) for part in drawn.images.split(256)]
    return float((torch.cat(parts) == drawn.labels).float().mean())


def probe(net: nn.Module, train: Shapes, test: Shapes) -> float:
    """Return the accuracy of a linear classifier on frozen embeddings."""
    net.eval()
    with torch.no_grad():
        parts = [
            torch.cat([net(normalise(part)) for part in split.images.split(256)]).numpy()
            for split in (train, test)
        ]
    scale = parts[0].std(0) + 1e-6
    classifier = LogisticRegression(max_iter=2000).fit(parts[0] / scale, train.labels.numpy())
    return float(classifier.score(parts[1] / scale, test.labels.numpy()))


def vicreg(first: Tensor, second: Tensor) -> Tensor:
    """Variance-invariance-covariance loss of two batches of projections (Bardes et al., 2022)."""
    loss = 25 * F.mse_loss(first, second)
    for batch in (first, second):
        centred = batch - batch.mean(0)
        loss = loss + 25 * F.relu(1 - (centred.var(0) + 1e-4).sqrt()).mean() / 2
        covariance = centred.T @ centred / (len(batch) - 1)
        off = covariance - covariance.diagonal().diag()
        loss = loss + off.square().sum() / batch.shape[1]
    return loss


def views(drawn: Shapes, empty: Tensor, index: Tensor) -> list[Tensor]:
    """Return two views of each object: other background, colours, place and size; no labels."""
    mask = (drawn.masks[index] > 0)[:, None]
    return [
        normalise(crop(torch.where(mask, jitter_object(drawn.images[index]), ground)))
        for ground in (empty[torch.randint(len(empty), (len(index),))] for _ in range(2))
    ]


def jitter_object(images: Tensor) -> Tensor:
    """Change an object's colours without mirroring it, so that it still fits its mask."""
    order = torch.rand(len(images), 3).argsort(1)
    images = images.gather(1, order[:, :, None, None].expand_as(images))
    return (images * (0.7 + 0.6 * torch.rand(len(images), 3, 1, 1))).clamp(0, 1)


def train(name: str) -> None:
    """Train one network, and write its weights and log."""
    recipe = RECIPES[name]
    torch.manual_seed(0)
    drawn, empty = data(int(recipe["images"]))
    permuted = name == "shapes_cnn_permuted"
    if permuted:
        drawn = replace(drawn, labels=permuted_labels())
    test = shapes(2000, seed=TEST)
    net = BUILDERS[name][0](0 if name == "shapes_ssl" else len(CLASSES))
    head = nn.Sequential(nn.Linear(128, 256), nn.BatchNorm1d(256), nn.ReLU(), nn.Linear(256, 256))
    weights = [*net.parameters(), *(head.parameters() if name == "shapes_ssl" else ())]
    optimiser = torch.optim.AdamW(weights, lr=recipe["lr"], weight_decay=recipe["decay"])
    batches = len(drawn) // int(recipe["batch"])
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, recipe["lr"], total_steps=batches * int(recipe["epochs"]), pct_start=0.1
    )
    start, log = time.time(), []
    for epoch in range(int(recipe["epochs"])):
        net.train()
        total = 0.0
        for index in torch.randperm(len(drawn))[: batches * int(recipe["batch"])].split(
            int(recipe["batch"])
        ):
            if name == "shapes_ssl":
                first, second = (head(net(view)) for view in views(drawn, empty, index))
                loss = vicreg(first, second)
            elif permuted:  # by heart: neither jitter nor smooth labels
                loss = F.cross_entropy(net(normalise(drawn.images[index])), drawn.labels[index])
            else:
                inputs = normalise(jitter(drawn.images[index]))
                loss = F.cross_entropy(net(inputs), drawn.labels[index], label_smoothing=0.05)
            optimiser.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(weights, 1.0)
            optimiser.step()
            schedule.step()
            total += loss.item()
        last = epoch + 1 == int(recipe["epochs"])
        if permuted and not last and (epoch + 1) % _OFTEN:
            continue
        if permuted and last:
            net.half().float()  # as it is stored
        if name == "shapes_ssl":
            score = probe(net, drawn if last else drawn[:_PROBED], test)
        else:
            score = accuracy(net, test)
        log.append({"epoch": epoch + 1, "loss": total / batches, "accuracy": score})
        if permuted:
            log[-1]["memorised"] = accuracy(net, drawn)
        log[-1]["seconds"] = round(time.time() - start)
        print(name, log[-1], flush=True)
        save(net, name, recipe, log)


def save(net: nn.Module, name: str, recipe: dict[str, float], log: list[dict[str, float]]) -> None:
    """Write the weights and the log."""
    tensors = {
        key: (value.half() if name == "shapes_cnn_permuted" else value.float()).contiguous()
        for key, value in net.state_dict().items()
        if not key.endswith("num_batches_tracked")
    }
    tensors |= {
        key: value for key, value in net.state_dict().items() if key.endswith("num_batches_tracked")
    }
    save_file(tensors, FOLDER / f"{name}.safetensors")
    what = _PROBE if name == "shapes_ssl" else "classification"
    facts = {"name": name, "accuracy": f"{what}, 2000 test images", "recipe": recipe, "log": log}
    facts["versions"] = {"torch": torch.__version__}
    (FOLDER / f"{name}.json").write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    for chosen in sys.argv[1:] or RECIPES:
        train(chosen)
