"""Volumes and videos as the viewer shows them: stacks of slices that a slider goes through."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, final

import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor

from torchsaliency.data import Clip, Scan
from torchsaliency.pages.pictures import GRID
from torchsaliency.zoo.volumes import ClipPreprocessing, ScanPreprocessing

SLICES = 32
"""Slices that a stack has at most; of more, so many are shown, evenly over all."""

PLANES = ("slice", "row", "column")
FRAMES = ("frame",)


@final
@dataclass(frozen=True, eq=False)
class Stack:
    """The slices of a volume along one of its sides, or the frames of a video.

    Attributes:
        name: of one of them, such as "slice".
        pictures: what is shown, all of one size.
        places: of each, its number in the whole, from 0.
        total: how many the whole has.
        first: which of `pictures` is shown at first.
    """

    name: str
    pictures: tuple[Image.Image, ...]
    places: tuple[int, ...]
    total: int
    first: int

    @property
    def words(self) -> str:
        """Where the first one lies."""
        return f"{self.name} {self.places[self.first] + 1} of {self.total}"


@final
@dataclass(frozen=True, eq=False)
class Volume:
    """What a volume looks like.

    Attributes:
        size: (D, H, W).
        cut: draws the cut through one place of one side, as RGB or grey.
        names: of a cut along each of the sides that are shown.
        upright: whether the rows of a cut are drawn from the last one down, as of a `Scan`.
    """

    size: tuple[int, int, int]
    cut: Callable[[int, int], Image.Image]
    names: tuple[str, ...] = PLANES
    upright: bool = False

    def stacks(
        self, maps: Sequence[Float[Tensor, "d h w"]], most: int = SLICES
    ) -> list[tuple[Stack, list[Float[Tensor, "n _ _"]]]]:
        """Return a stack for each side that is shown, with the same slices of all maps.

        Each begins at the maximum of the first map.

        Args:
            maps: over the whole volume, on grids of their own.
            most: slices of a stack.
        """
        shape = maps[0].shape
        peak = torch.unravel_index(maps[0].abs().argmax(), shape)
        found = []
        for side, name in enumerate(self.names):
            total = self.size[side]
            here = min(total - 1, int((int(peak[side]) + 0.5) * total / shape[side]))
            places = _choose_places(total, here, most)
            pictures = tuple(self._draw(side, place) for place in places)
            stack = Stack(name, pictures, tuple(places), total, places.index(here))
            cuts = [_take(one, side, places, total) for one in maps]
            found.append((stack, [one.flip(1) if self.upright else one for one in cuts]))
        return found

    def _draw(self, side: int, place: int) -> Image.Image:
        picture = self.cut(side, place).convert("RGB")
        return picture.transpose(Image.Transpose.FLIP_TOP_BOTTOM) if self.upright else picture


def look_at_pixels(pixels: UInt8[Tensor, "d h w 3"], names: tuple[str, ...] = PLANES) -> Volume:
    """Return a volume of colours as it is."""
    depth, height, width, _ = pixels.shape
    return Volume(
        (depth, height, width),
        lambda side, place: Image.fromarray(pixels.select(side, place).contiguous().numpy()),
        names,
    )


def look_at_scan(
    scan: Scan, maps: Sequence[Float[Tensor, "a b c"]], preprocessing: ScanPreprocessing
) -> tuple[Volume, list[Float[Tensor, "_ _ _"]]]:
    """Return a scan with maps over the network's input of it: the head and the front are above."""
    pixels, steps = scan.picture(), scan.spacing

    def cut(side: int, place: int) -> Image.Image:
        drawn = _draw_cut(pixels, side, place)
        down, across = (step for axis, step in enumerate(steps) if axis != side)
        finest = min(down, across)
        size = round(drawn.width * across / finest), round(drawn.height * down / finest)
        return drawn.resize((max(1, size[0]), max(1, size[1])), Image.Resampling.BILINEAR)

    placed = [preprocessing.place_map(one) for one in maps]
    return Volume(scan.size, cut, upright=True), placed


def look_at_clip(
    clip: Clip, maps: Sequence[Float[Tensor, "t h w"]], preprocessing: ClipPreprocessing
) -> tuple[Volume, list[Float[Tensor, "t _ _"]]]:
    """Return the frames of a video that the network saw, with maps over them."""
    frames = preprocessing.choose_frames(clip)
    scale = min(1.0, GRID / max(frames[0].size))
    width, height = (max(1, round(side * scale)) for side in frames[0].size)
    grid = Clip((Image.new("RGB", (width, height)),) * len(frames), clip.seconds, clip.path)
    placed = [preprocessing.place_map(one, grid) for one in maps]
    size = (len(frames), frames[0].height, frames[0].width)
    return Volume(size, lambda _, place: frames[place], FRAMES), placed


def _draw_cut(pixels: Tensor, side: int, place: int) -> Image.Image:
    values = pixels.select(side + 1, place)
    if len(values) != 3:  # noqa: PLR2004 (red, green, blue)
        values = values.mean(0, keepdim=True).expand(3, -1, -1)
    levels: Any = values.clamp(0, 1).mul(255).round().to(torch.uint8)
    return Image.fromarray(levels.permute(1, 2, 0).contiguous().numpy())


def _choose_places(total: int, here: int, most: int) -> list[int]:
    """Return places evenly over all; the nearest one gives way to the one that must be there."""
    if total <= most:
        return list(range(total))
    places = torch.linspace(0, total - 1, most).round().int().tolist()
    places[min(range(most), key=lambda one: abs(places[one] - here))] = here
    return places


def _take(values: Tensor, side: int, places: Sequence[int], total: int) -> Tensor:
    """Return the slices of a map at places of the whole, linearly between those that it has."""
    count = values.shape[side]
    at = ((torch.tensor(places) + 0.5) * count / total - 0.5).clamp(0, count - 1)
    low = at.floor().int()
    high = (low + 1).clamp_max(count - 1)
    share = (at - low).view(-1, 1, 1)
    taken = [values.index_select(side, one).movedim(side, 0) for one in (low, high)]
    mixed: Tensor = taken[0] * (1 - share) + taken[1] * share
    return mixed
