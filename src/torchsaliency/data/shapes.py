"""The shapes data: drawn objects with exact masks and boxes, for truth without downloads.

Every image is drawn from a seed and its number alone, so that a data set of any size needs no files
and is the same on every machine. Its background can be made to betray the class (`context`), which
lets one ask whether a map shows the object or the habit.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, final

import numpy as np
import torch
from jaxtyping import Float, Int
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from torchsaliency.data.dataset import DataSet, Picture, Sample
from torchsaliency.data.decoding import HINT, pixel_limit
from torchsaliency.data.opening import register_dataset
from torchsaliency.errors import OptionError

CLASSES = ("circle", "square", "triangle", "star", "cross", "ring", "crescent", "bar")
"""The objects, in the order of their class numbers."""

SIDE = 64
"""Pixels of an image's side unless another is asked for."""

MAX_IMAGES = 10_000_000
"""Images of the largest data set that is drawn."""

_SMALL, _LARGE = 0.16, 0.27
"""Radius of an object that is alone, as a share of the side."""

_TILT = math.radians(20)
_FEWEST_PIXELS = 16


@final
@dataclass(frozen=True, eq=False)
class Shapes:
    """Drawn images and all that is known of them.

    Attributes:
        images: (N, 3, H, H) in [0, 1].
        labels: (N,) class of the first object.
        kinds: (N, M) class of each of the M objects, all different in an image.
        masks: (N, H, H) int64: 0 background, m + 1 the pixels of object m.
        boxes: (N, M, 4) tight boxes of the objects, x0 y0 x1 y1, x1 and y1 exclusive.
    """

    images: Tensor
    labels: Tensor
    kinds: Tensor
    masks: Tensor
    boxes: Tensor

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: Tensor | slice) -> Shapes:
        """Return some of the images."""
        return Shapes(*(getattr(self, field.name)[index] for field in fields(self)))


def shapes(
    count: int,
    *,
    start: int = 0,
    seed: int = 0,
    side: int = SIDE,
    objects: int = 1,
    context: float | int = 0.0,
    classes: Sequence[int] | None = None,
) -> Shapes:
    """Draw images of shapes on textured backgrounds.

    Args:
        count: how many images.
        start: number of the first; images start … start+count-1 are the same however they are asked
            for.
        seed: of the data set. Training and test data differ in it.
        side: of the images, in pixels, at least 16 and of no more pixels than `open_photo` decodes.
        objects: in each image: one, or two of different classes, side by side.
        context: probability that the background has the hue and the stripes of the (first) object's
            class; 0 means that it says nothing, 1 that it betrays the class.
        classes: of the first object, one an image; drawn evenly by default.

    Raises:
        OptionError: a number out of range.

    Example:
        >>> drawn = shapes(4, seed=1)
        >>> drawn.images.shape, drawn.masks.max().item()
        (torch.Size([4, 3, 64, 64]), 1)
    """
    if count < 0 or start < 0 or side < _FEWEST_PIXELS or objects not in (1, 2):
        raise OptionError(
            f"{count} images from number {start}, {side} pixels wide, with {objects} objects were "
            f"asked for; accepted are 0 and more, at least {_FEWEST_PIXELS} pixels, 1 or 2 objects."
        )
    _check_side(side)
    if not 0 <= context <= 1:
        raise OptionError(f"The context must be in [0, 1], and {context} was given.")
    if classes is not None and (
        len(classes) != count or not all(0 <= label < len(CLASSES) for label in classes)
    ):
        raise OptionError(
            f"{len(classes)} classes were given for {count} images; give one each, 0 to "
            f"{len(CLASSES) - 1}."
        )
    numbers, grids = _draws(count, start, seed, objects)
    kinds = _kinds(numbers[:, 0], objects, classes)
    covers = _covers(numbers[:, 1 : 1 + objects], kinds, side)
    hints = numbers[:, 0, 1] < context
    background = _background(numbers[:, 3], grids, side, torch.where(hints, kinds[:, 0], -1))
    images = _paint(background, covers, numbers[:, 1 : 1 + objects])
    masks = torch.zeros(count, side, side, dtype=torch.int64)
    for place in range(objects):
        masks[covers[:, place] >= 0.5] = place + 1  # noqa: PLR2004
    boxes = torch.stack([_boxes(masks == place + 1) for place in range(objects)], 1)
    return Shapes(images, kinds[:, 0], kinds, masks, boxes)


def shape_labels(count: int, *, start: int = 0, seed: int = 0, objects: int = 1) -> list[int]:
    """Return the labels of drawn images without drawing them; arguments are those of `shapes`."""
    numbers, _ = _draws(count, start, seed, objects)
    labels: list[int] = _kinds(numbers[:, 0], 1, None)[:, 0].tolist()
    return labels


def backgrounds(
    count: int, *, start: int = 0, seed: int = 0, side: int = SIDE
) -> Float[Tensor, "n 3 h w"]:
    """Draw backgrounds without any object, in [0, 1].

    Args:
        count: how many.
        start: number of the first.
        seed: of the data set.
        side: of the images, in pixels.

    Raises:
        OptionError: an image has more pixels than `open_photo` decodes.

    Example:
        >>> backgrounds(2).shape
        torch.Size([2, 3, 64, 64])
    """
    _check_side(side)
    numbers, grids = _draws(count, start, seed, 0)
    nothing = torch.full((count,), -1)
    return _background(numbers[:, 3], grids, side, nothing)


@final
@dataclass(frozen=True, eq=False, kw_only=True)
class ShapesSet(DataSet):
    """Drawn shapes; an image is drawn when it is opened.

    Attributes:
        settings: `seed`, `objects`, `context` and `side`, as in `shapes`.
    """

    settings: Mapping[str, Any]

    def picture(self, index: int) -> Picture:
        """Draw one image: the box is of the labelled object, the mask of all."""
        sample = self.samples[index]
        drawn = shapes(1, start=int(str(sample.source)), **self.settings)
        pixels = (drawn.images[0] * 255).round().byte().permute(1, 2, 0)
        return Picture(
            sample,
            Image.fromarray(np.ascontiguousarray(pixels.numpy())),
            boxes=drawn.boxes[0, :1],
            mask=drawn.masks[0].to(torch.uint8),
        )

    def mark(self, sample: Sample) -> str:
        """Return the settings it is drawn with."""
        return " ".join(map(str, (sample.source, *self.settings.values())))


@register_dataset("shapes")
def shapes_set(
    count: int = 1000,
    *,
    seed: int = 2,
    objects: int = 1,
    context: float | int = 0.0,
    side: int = SIDE,
) -> ShapesSet:
    """Return drawn shapes with boxes and masks; arguments are those of `shapes`.

    The seed is 2 by default: the built-in networks were trained on seed 1.

    Raises:
        OptionError: a number out of range.
    """
    if not 1 <= count <= MAX_IMAGES:
        raise OptionError(f"{count} shapes were asked for; give 1 to {MAX_IMAGES}.")
    settings: dict[str, Any] = {
        "seed": seed,
        "objects": objects,
        "context": float(context),
        "side": side,
    }
    shapes(0, **settings)  # refuses what is wrong
    labels = shape_labels(count, seed=seed, objects=objects)
    return ShapesSet(
        name="shapes",
        samples=tuple(
            Sample(f"shapes/{number}", number, label) for number, label in enumerate(labels)
        ),
        classes=CLASSES,
        annotations=frozenset({"labels", "boxes", "masks"}),
        facts=(f"seed {seed}", f"objects {objects}", f"context {float(context)}"),
        settings=settings,
    )


def _check_side(side: int) -> None:
    if side**2 > (limit := pixel_limit()):
        raise OptionError(
            f"Images of {side}x{side} pixels were asked for, and at most {limit} are drawn; give a "
            f"smaller side, or {HINT}."
        )


def _draws(count: int, start: int, seed: int, objects: int) -> tuple[Tensor, Tensor]:
    """Draw all random numbers of images: a table of 4 rows, and coarse noise for textures, each."""
    numbers, grids = torch.zeros(count, 4, 10), torch.zeros(count, 4, 9, 9)
    for place in range(count):
        key = seed * 2_654_435_761 + (start + place) * 40_503 + objects
        draw = torch.Generator().manual_seed(key % 2**63)
        numbers[place] = torch.rand(4, 10, generator=draw)
        grids[place] = torch.rand(4, 9, 9, generator=draw)
    return numbers, grids


def _kinds(numbers: Tensor, objects: int, classes: Sequence[int] | None) -> Int[Tensor, "n m"]:
    count = len(CLASSES)
    first = (numbers[:, 0] * count).long() if classes is None else torch.tensor(list(classes))
    other = (first + 1 + (numbers[:, 2] * (count - 1)).long()) % count
    return torch.stack([first, other], 1)[:, :objects]


def _covers(numbers: Tensor, kinds: Tensor, side: int) -> Float[Tensor, "n m h w"]:
    objects = kinds.shape[1]
    shrink = 1.0 if objects == 1 else 0.75
    radius = shrink * (_SMALL + (_LARGE - _SMALL) * numbers[..., 0])
    lowest, highest = radius, 1 - radius
    across = lowest + (highest - lowest) * numbers[..., 1]
    down = lowest + (highest - lowest) * numbers[..., 2]
    if objects == 2:  # noqa: PLR2004 (each in a half of its own, the first left or right)
        half = 0.5 * (numbers[:, :1, 3] < 0.5).to(numbers) + torch.zeros_like(radius)  # noqa: PLR2004
        half[:, 1] = 0.5 - half[:, 0]
        across = half + radius + (0.5 - 2 * radius) * numbers[..., 1]
    angle = _TILT * (2 * numbers[..., 4] - 1)
    ticks = (torch.arange(side) + 0.5) / side
    x = (ticks[None, None, None, :] - across[..., None, None]).expand(-1, -1, side, -1)
    y = (ticks[None, None, :, None] - down[..., None, None]).expand(-1, -1, -1, side)
    cos, sin = angle.cos()[..., None, None], angle.sin()[..., None, None]
    scale = radius[..., None, None]
    u, v = (cos * x + sin * y) / scale, (cos * y - sin * x) / scale
    away = torch.stack([distance(u, v) for distance in _DISTANCES])
    chosen = away.gather(0, kinds[None, ..., None, None].expand(1, -1, -1, side, side))[0]
    # the edge is a pixel wide
    return (0.5 - chosen * scale * side).clamp(0, 1)


def _background(numbers: Tensor, grids: Tensor, side: int, hints: Tensor) -> Tensor:
    hinted = hints >= 0
    hue = torch.where(hinted, (hints + 0.5) / len(CLASSES), numbers[:, 0])
    turn = torch.where(hinted, hints.float() / len(CLASSES), numbers[:, 1]) * math.pi
    base = _colour(hue, 0.25 + 0.3 * numbers[:, 2], 0.3 + 0.4 * numbers[:, 3])
    smooth = F.interpolate(grids[:, :3, :4, :4], (side, side), mode="bicubic") - 0.5
    fine = F.interpolate(grids[:, 3:], (side, side), mode="bilinear") - 0.5
    ticks = torch.arange(side) / side
    along = ticks[None, None] * turn.cos()[:, None, None]
    along = along + ticks[None, :, None] * turn.sin()[:, None, None]
    waves = 2 + 5 * torch.where(hinted, torch.full_like(turn, 0.5), numbers[:, 4])
    stripes = (2 * math.pi * (waves[:, None, None] * along + numbers[:, 5, None, None])).sin()
    depth = torch.where(hinted, torch.full_like(turn, 0.12), 0.12 * numbers[:, 6])
    texture = 0.3 * smooth + 0.25 * fine + (depth[:, None, None] * stripes)[:, None]
    return (base[..., None, None] + texture).clamp(0, 1)


def _paint(background: Tensor, covers: Tensor, numbers: Tensor) -> Tensor:
    """Paint the objects, of any hue, in a colour that stands out from the background."""
    image = background
    for place in range(covers.shape[1]):
        drawn, cover = numbers[:, place], covers[:, place, None]
        behind = (background * cover).sum((1, 2, 3)) / (3 * cover.sum((1, 2, 3))).clamp_min(1e-6)
        light = torch.where(behind < 0.5, 0.8 + 0.2 * drawn[:, 5], 0.08 + 0.17 * drawn[:, 5])  # noqa: PLR2004
        colour = _colour(drawn[:, 6], 0.2 + 0.6 * drawn[:, 7], light)
        image = image * (1 - cover) + colour[..., None, None] * cover
    return image.clamp(0, 1)


def _colour(hue: Tensor, saturation: Tensor, value: Tensor) -> Float[Tensor, "n 3"]:
    sector = (hue[:, None] * 6 + torch.tensor([5.0, 3.0, 1.0])) % 6
    dip = torch.minimum(sector, 4 - sector).clamp(0, 1)
    return value[:, None] * (1 - saturation[:, None] * dip)


def _boxes(masks: Tensor) -> Float[Tensor, "n 4"]:
    columns, rows = masks.any(1), masks.any(2)
    size = masks.shape[1]

    def ends(line: Tensor) -> tuple[Tensor, Tensor]:
        found = line.int()
        return found.argmax(1), size - found.flip(1).argmax(1)

    (left, right), (top, bottom) = ends(columns), ends(rows)
    return torch.stack([left, top, right, bottom], 1).float()


def _triangle(u: Tensor, v: Tensor) -> Tensor:
    sides = [v - 0.5]
    sides += [sign * 0.866 * u - 0.5 * v - 0.5 for sign in (1, -1)]
    return torch.stack(sides).amax(0)


def _star(u: Tensor, v: Tensor) -> Tensor:
    """Five points: in each sector the line from an outer corner to an inner one."""
    sector = 2 * math.pi / 5
    angle = torch.atan2(u, -v).remainder(sector)
    angle = torch.minimum(angle, sector - angle)
    length = torch.sqrt(u.square() + v.square())
    x, y = length * angle.sin(), length * angle.cos()
    inner_x, inner_y = 0.45 * math.sin(sector / 2), 0.45 * math.cos(sector / 2)
    normal_x, normal_y = 1 - inner_y, inner_x
    return (normal_x * x + normal_y * (y - 1)) / math.hypot(normal_x, normal_y)


def _cross(u: Tensor, v: Tensor) -> Tensor:
    across = torch.maximum(u.abs() - 1, v.abs() - 0.33)
    return torch.minimum(across, torch.maximum(u.abs() - 0.33, v.abs() - 1))


def _length(u: Tensor, v: Tensor) -> Tensor:
    return torch.sqrt(u.square() + v.square())


_DISTANCES: tuple[Callable[[Tensor, Tensor], Tensor], ...] = (
    lambda u, v: _length(u, v) - 0.95,
    lambda u, v: torch.maximum(u.abs(), v.abs()) - 0.8,
    _triangle,
    _star,
    _cross,
    lambda u, v: (_length(u, v) - 0.72).abs() - 0.24,
    lambda u, v: torch.maximum(_length(u, v) - 0.95, 0.75 - _length(u - 0.5, v)),
    lambda u, v: torch.maximum(u.abs() - 0.3, v.abs() - 1),
)
"""Signed distance to the edge of each class's shape, negative inside."""
