"""Pictures in and out: NumPy arrays, as photographs lie in memory, and heatmaps over them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from torchsaliency.compat._shared import Array, to_numpy
from torchsaliency.core.maps import minmax, upsample
from torchsaliency.errors import InputError, OptionError

COLORMAP_JET = 2
"""OpenCV's number for jet, whose colours are not matplotlib's."""

_NAMES = {
    **{0: "autumn", 1: "bone", 3: "winter", 6: "summer", 7: "spring", 8: "cool", 13: "magma"},
    **{14: "inferno", 15: "plasma", 16: "viridis", 17: "cividis", 18: "twilight"},
    **{19: "twilight_shifted", 20: "turbo"},
}
"""OpenCV's numbers of the colormaps that matplotlib has, too."""


def preprocess_image(
    img: Array,
    mean: Sequence[float] = (0.5, 0.5, 0.5),
    std: Sequence[float] = (0.5, 0.5, 0.5),
) -> Tensor:
    """Return a photograph (H, W, C) or (H, W) as a normalised batch (1, C, H, W).

    Args:
        img: uint8, which is divided by 255, or floats.
        mean: of each colour.
        std: of each colour.

    Raises:
        InputError: it is no photograph, or of another number of colours.
    """
    colours = _to_floats(img)
    if colours.ndim != 3 or colours.shape[2] != len(mean) or len(mean) != len(std):  # noqa: PLR2004
        raise InputError(
            f"An image of {np.shape(img)} was given with {len(mean)} means and {len(std)} "
            "deviations; give (H, W, C), and a mean and a deviation for each of C colours."
        )
    values = (colours - np.array(mean, np.float32)) / np.array(std, np.float32)
    return torch.from_numpy(values).permute(2, 0, 1)[None].contiguous()


def deprocess_image(img: Array) -> Array:
    """Return any numbers as a picture: mean at half brightness, a tenth of it a deviation."""
    values = np.asarray(img, dtype=np.float64)
    spread = (values - values.mean()) / (values.std() + 1e-5)
    return (255 * np.clip(0.5 + 0.1 * spread, 0, 1)).astype(np.uint8)


def show_cam_on_image(
    img: Array,
    mask: Array,
    use_rgb: bool = False,
    colormap: int | str = COLORMAP_JET,
    image_weight: float | int = 0.5,
) -> Array:
    """Lay a map over its photograph: w · photo + (1 - w) · colours, its brightest value at 255.

    Args:
        img: (H, W, 3), grey (H, W) or (H, W, 1); floats in [0, 1], or uint8.
        mask: (H, W) in [0, 1].
        use_rgb: whether the photograph is red, green, blue, and not blue, green, red.
        colormap: OpenCV's number of a colormap, or a matplotlib name.
        image_weight: w in [0, 1].

    Returns:
        (H, W, 3), in the photograph's order of colours.

    Raises:
        InputError: the photograph or the map is of another range or size.
        OptionError: the weight is out of range, or the colormap does not exist.
    """
    if not 0 <= image_weight <= 1:
        raise OptionError(f"image_weight lies in [0, 1], and {image_weight} was given.")
    photo, values = _to_floats(img), np.asarray(mask, dtype=np.float32)
    if photo.ndim != 3 or photo.shape[2] not in (1, 3) or values.shape != photo.shape[:2]:  # noqa: PLR2004
        raise InputError(
            f"A photograph of {np.shape(img)} and a map of {values.shape} were given; give "
            "(H, W, 3) or (H, W), and a map (H, W) of the same size."
        )
    for name, given in (("photograph", photo), ("map", values)):
        if not (given.min() >= 0 and given.max() <= 1):
            raise InputError(
                f"The {name} reaches from {given.min():.4g} to {given.max():.4g}; give floats in "
                "[0, 1], or a photograph of uint8."
            )
    heat = _colours(colormap)[np.uint8(255 * values)]
    heat = heat if use_rgb else heat[..., ::-1]
    mixed = (1 - image_weight) * heat + image_weight * photo
    return (255 * mixed / (mixed.max() or 1)).astype(np.uint8)


def scale_cam_image(
    cam: Sequence[Array] | Array, target_size: Sequence[int] | None = None
) -> Array:
    """Stretch maps (N, *grid) to [0, 1] and resize them linearly.

    Args:
        cam: the maps; a constant one becomes zeros.
        target_size: (width, height), (…, width, height) of volumes; None leaves their size.
    """
    maps = minmax(torch.from_numpy(np.asarray(cam, np.float32)))
    size = None if target_size is None else tuple(int(side) for side in reversed(target_size))
    return to_numpy(maps if size is None else upsample(maps, size))


def scale_accross_batch_and_channels(tensor: Array, target_size: Sequence[int]) -> Array:
    """Stretch and resize each channel (N, C, *grid) by itself; see `scale_cam_image`."""
    flat = tensor.reshape(-1, *tensor.shape[2:])
    return scale_cam_image(flat, target_size).reshape(*tensor.shape[:2], *reversed(target_size))


def create_labels_legend(
    concept_scores: Array, labels: Mapping[int, str], top_k: int = 2
) -> list[str]:
    """Return for each concept the names and scores of its best classes, a line each.

    Args:
        concept_scores: (concepts, classes).
        labels: the classes' names; of synonyms the first three are written.
        top_k: how many classes.
    """
    best = np.argsort(-np.asarray(concept_scores), axis=1, kind="stable")[:, :top_k]
    return [
        "\n".join(
            f"{','.join(labels[int(place)].split(',')[:3])}:{scores[place]:.2f}" for place in places
        )
        for scores, places in zip(np.asarray(concept_scores), best, strict=True)
    ]


def show_factorization_on_image(
    img: Array,
    explanations: Array,
    colors: Sequence[Array] | Array | None = None,
    image_weight: float | int = 0.5,
    concept_labels: Sequence[str] | None = None,
) -> Array:
    """Draw every pixel in the colour of its strongest concept, as bright as the concept is there.

    Args:
        img: (H, W, 3), red, green, blue; floats in [0, 1], or uint8.
        explanations: (concepts, H, W) in [0, 1].
        colors: red, green and blue of each concept in [0, 1]; a rainbow by default.
        image_weight: how much of the photograph shows, in [0, 1].
        concept_labels: a legend of these lines is drawn to the right, if given.

    Raises:
        InputError: the sizes do not fit.
    """
    photo, maps = _to_floats(img), np.asarray(explanations, dtype=np.float32)
    if maps.ndim != 3 or maps.shape[1:] != photo.shape[:2]:  # noqa: PLR2004
        raise InputError(
            f"A photograph of {photo.shape} and concepts of {maps.shape} were given; give "
            "(H, W, 3) and (concepts, H, W)."
        )
    chosen = _rainbow(len(maps)) if colors is None else [one[:3] for one in colors]
    paint = np.asarray(chosen, np.float32)
    strongest = maps.argmax(0)
    heat = paint[strongest] * maps.max(0)[..., None]
    mixed = np.clip(photo * image_weight + heat * (1 - image_weight), 0, 1)
    picture = (255 * mixed).astype(np.uint8)
    if concept_labels is None:
        return picture
    return np.hstack([picture, _draw_legend(picture.shape[:2], paint, concept_labels)])


def _draw_legend(size: tuple[int, int], paint: Array, lines: Sequence[str]) -> Array:
    from PIL import Image, ImageDraw, ImageFont  # noqa: PLC0415

    drawn = Image.new("RGB", (size[1], size[0]), "white")
    draw = ImageDraw.Draw(drawn)
    row = size[0] / max(1, len(lines))
    font = ImageFont.load_default(max(8.0, min(row / 3, size[1] / 18)))
    for place, (colour, line) in enumerate(zip(paint, lines, strict=False)):
        top = round(place * row)
        filled = tuple(int(255 * part) for part in colour)
        draw.rectangle((row / 8, top + row / 8, row / 4, top + 7 * row / 8), fill=filled)
        draw.multiline_text((3 * row / 8, top + row / 8), line, fill="black", font=font)
    return np.asarray(drawn)


def _rainbow(count: int) -> Array:
    import matplotlib  # noqa: PLC0415 (importing the module must not cost matplotlib)

    return np.asarray(matplotlib.colormaps["gist_rainbow"](np.arange(count) / count))[:, :3]


def _colours(colormap: int | str) -> Array:
    """Return the table (256, 3) of a colormap, red, green, blue."""
    if colormap == COLORMAP_JET:
        ramp = np.arange(256) / 255
        peaks = [1.5 - np.abs(4 * ramp - centre) for centre in (3, 2, 1)]
        jet = np.floor(255 * np.clip(np.stack(peaks, 1), 0, 1) + 0.5)
        return (jet / 255).astype(np.float32)
    import matplotlib  # noqa: PLC0415

    name = colormap if isinstance(colormap, str) else _NAMES.get(colormap, "")
    if name not in matplotlib.colormaps:
        raise OptionError(
            f"The colormap {colormap!r} was given; give OpenCV's number of one of jet (2), "
            f"{', '.join(f'{one} ({number})' for number, one in _NAMES.items())}, or any name of "
            "matplotlib's."
        )
    table = matplotlib.colormaps[name](np.linspace(0, 1, 256), bytes=True)[:, :3]
    return np.asarray(table / 255, np.float32)


def _to_floats(img: Array) -> Array:
    """Return a photograph as floats (H, W, C)."""
    values = np.asarray(img)
    floats = values.astype(np.float32) / (255 if values.dtype == np.uint8 else 1)
    return floats[..., None] if floats.ndim == 2 else floats  # noqa: PLR2004
