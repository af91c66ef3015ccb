"""From a photograph to the network's input: resize, centre crop, normalise.

One description serves torchvision's, timm's and Hugging Face's conventions (their sources read
them) and gives their numbers exactly. It works on PIL images, whose resampling is always
antialiased.
"""

from __future__ import annotations

import enum
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float, Integer
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from torchsaliency.core.masking import BlackPixel, Blur, GivenImage, Masking, MeanColour
from torchsaliency.data.channels import picture_of, read_channels, show_channels
from torchsaliency.data.dataset import VOID
from torchsaliency.data.decoding import VARIABLE, pixel_limit
from torchsaliency.data.photos import Photo, to_rgb
from torchsaliency.errors import OptionError, describe_unknown
from torchsaliency.zoo.placement import Placement

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

PHOTOGRAPHIC = (1, 3)
"""The numbers of channels that any photograph can be shown in."""

_FRAMES = ("whole", "own", "crop", "squash", "fill", None)
_OPTIONAL = ("order", "longest", "stride")
"""Fields that a description may leave out."""

_LONGEST = 4  # sides of the box

_MOST_WASTE = 16  # resized pixels per pixel kept, beyond which only the visible window is resampled


class Fit(enum.StrEnum):
    """How a photograph is scaled to a box before the centre crop."""

    COVER = "cover"
    """Keep the aspect ratio; the shorter side fits, the longer one overhangs and is cropped."""
    CONTAIN = "contain"
    """Keep the aspect ratio; the longer side fits, the rest is padded with the mean colour."""
    SQUASH = "squash"
    """Scale to exactly the box; the aspect ratio changes and nothing is lost."""
    ASPECT = "aspect"
    """Keep the aspect ratio to within half a stride; the shorter side fits, nothing is cropped, and
    the longer side is at most four times the box's."""


@dataclass(frozen=True)
class Preprocessing:
    """How a network wants its photographs.

    A network has as many channels as its mean: one reads photographs as grey, three as colours, and
    any other number reads the channels of the file (`torchsaliency.data.read_channels`).

    Attributes:
        size: (height, width) of the network's input, in pixels, cropped from the centre; None crops
            nothing: inputs differ in size as the photographs do.
        resize: (height, width) of the box the photograph is scaled to before the crop; None leaves
            its size.
        fit: how the photograph fills that box.
        interpolation: PIL's resampling filter.
        mean: per channel, on values in [0, 1]; of other than one or three channels, on the numbers
            of the file.
        std: as `mean`.
        order: of the three colours, "rgb" or "bgr"; mean and std are in this order.
        longest: how long the longer side may get, where nothing is cropped; None for any length.
        stride: of the fit "aspect": the scaled sides are multiples of it, so that the cells of the
            network's maps tile the image.

    Example:
        >>> from PIL import Image
        >>> Preprocessing(size=(224, 224), resize=(256, 256))(Image.new("RGB", (640, 480))).shape
        torch.Size([3, 224, 224])
    """

    size: tuple[int, int] | None
    resize: tuple[int, int] | None
    fit: Fit = Fit.COVER
    interpolation: Image.Resampling = Image.Resampling.BILINEAR
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    order: Literal["rgb", "bgr"] = "rgb"
    longest: int | None = None
    stride: int | None = None

    def __post_init__(self) -> None:
        if len(self.mean) != len(self.std) or not self.mean:
            raise OptionError(
                f"Preprocessing was given mean {self.mean} and std {self.std}; give one number of "
                "each for every channel."
            )
        if self.order == "bgr" and self.channels != len(self.order):
            raise OptionError(
                f"Preprocessing was given the order bgr for {self.channels} channels; it is one of "
                "three colours."
            )
        if (self.fit is Fit.ASPECT) != (self.stride is not None) or self.stride == 0:
            raise OptionError(
                f"Preprocessing was given fit {self.fit.value} and stride {self.stride}; give a "
                "stride of at least 1 with the fit aspect, and with no other."
            )
        if self.fit is Fit.ASPECT and (self.size is not None or self.resize is None):
            raise OptionError(
                f"Preprocessing was given fit aspect, size {self.size} and resize {self.resize}; "
                "with this fit give a box in resize and size None, for nothing is cropped."
            )
        numbers = (*self.mean, *self.std)
        sides = (*(self.size or (1, 1)), *(self.resize or ()), self.stride or 1)
        if min(sides) < 1 or min(self.std) <= 0 or not all(map(math.isfinite, numbers)):
            raise OptionError(
                f"Preprocessing was given size {self.size}, resize {self.resize}, mean {self.mean} "
                f"and std {self.std}; sizes must be at least one pixel, means finite and standard "
                "deviations finite and positive."
            )
        limit = pixel_limit()
        if max(math.prod(self.size or ()), math.prod(self.resize or ())) > limit:
            raise OptionError(
                f"Preprocessing was given size {self.size} and resize {self.resize}; accepted are "
                f"at most {limit} pixels, or as many as {VARIABLE} says."
            )

    @property
    def channels(self) -> int:
        """How many channels the network's input has."""
        return len(self.mean)

    def __call__(self, photo: Photo) -> Float[Tensor, "c height width"]:
        """Return the photograph as the network's input: float32, normalised, on the CPU.

        Raises:
            DataError: the photograph cannot be read, or has other channels than the network.
        """
        mean, std = self._statistics(torch.device("cpu"))
        if self.channels not in PHOTOGRAPHIC:
            return self._crop_channels(read_channels(photo, self.channels)).sub_(mean).div_(std)
        picture = self.crop(photo)
        if self.channels == 1:
            picture = picture.convert("L")
        pixels = torch.from_numpy(np.array(picture))
        pixels = pixels.reshape(picture.height, picture.width, self.channels)
        pixels = pixels.permute(2, 0, 1).contiguous()
        if self.order == "bgr":
            pixels = pixels.flip(0)
        return (pixels.to(torch.float32) / 255).sub_(mean).div_(std)

    def picture(self, photo: Photo) -> Image.Image:
        """Return the whole photograph as an RGB picture, upright.

        An image that PIL opened as RGB is a picture of other channels already.

        Raises:
            DataError: the photograph cannot be read, or has other channels than the network.
        """
        shown = isinstance(photo, Image.Image) and photo.mode == "RGB"
        if shown or self.channels in PHOTOGRAPHIC:
            return to_rgb(photo)
        return picture_of(read_channels(photo, self.channels))

    def input_size(self, photo_size: tuple[int, int]) -> tuple[int, int]:
        """Return (height, width) of the network's input of a photograph of (H, W) pixels."""
        return self.size or self._scaled(photo_size)

    def crop(self, photo: Photo) -> Image.Image:
        """Return what the network sees, as an upright RGB picture of the input's size."""
        photo = self.picture(photo)
        scaled, (top, left) = self._layout((photo.height, photo.width))
        size = self.input_size((photo.height, photo.width))
        canvas = Image.new("RGB", size[::-1], self._padding())
        if math.prod(scaled) > _MOST_WASTE * math.prod(size):
            window = self._visible(photo, scaled, (top, left), size)
            canvas.paste(window, (max(-left, 0), max(-top, 0)))
        else:
            canvas.paste(photo.resize(scaled[::-1], self.interpolation), (-left, -top))
        return canvas

    def _crop_channels(self, values: NDArray[np.float32]) -> Tensor:
        """Return what the network sees of an image (H, W, C) of any channels: (C, height, width).

        Padding has the mean of each channel.
        """
        photo_size = (values.shape[0], values.shape[1])
        scaled, (top, left) = self._layout(photo_size)
        (height, width), resized = self.input_size(photo_size), scaled[::-1]
        found = torch.empty(self.channels, height, width)
        for channel, mean in enumerate(self.mean):
            canvas = Image.new("F", (width, height), mean)
            plane = Image.fromarray(np.ascontiguousarray(values[..., channel]))
            canvas.paste(plane.resize(resized, self.interpolation), (-left, -top))
            found[channel] = torch.from_numpy(np.array(canvas))
        return found

    def placement(self, photo_size: tuple[int, int]) -> Placement:
        """Return where the network's input lies on a photograph of (H, W) pixels."""
        scaled, (top, left) = self._layout(photo_size)
        height, width = self.input_size(photo_size)
        vertical, horizontal = photo_size[0] / scaled[0], photo_size[1] / scaled[1]
        return Placement(
            photo_size=photo_size,
            top=top * vertical,
            left=left * horizontal,
            height=height * vertical,
            width=width * horizontal,
        )

    def mask(self, mask: Integer[Tensor, "H W"]) -> Integer[Tensor, "h w"]:
        """Return a photograph's mask of labels as it lies on the network's input.

        Nearest neighbour, so that labels stay labels.

        Args:
            mask: labels of the photograph's pixels, of a type that holds 255.

        Returns:
            The labels of the input's pixels, of the same type; 255 (void) where the input is
            padding.
        """
        photo_size = (mask.shape[0], mask.shape[1])
        scaled, start = self._layout(photo_size)
        (rows, inside), (columns, within) = (
            _nearest(*line, mask.device)
            for line in zip(photo_size, scaled, start, self.input_size(photo_size), strict=True)
        )
        labels = mask[rows[:, None], columns]
        return labels.masked_fill(~(inside[:, None] & within), VOID)

    def squash(self) -> Preprocessing:
        """Return the variant that shows the whole photograph, its aspect ratio changed."""
        return self if self.size is None else replace(self, resize=self.size, fit=Fit.SQUASH)

    def denormalise(self, x: Float[Tensor, "*batch c h w"]) -> Float[Tensor, "*batch 3 h w"]:
        """Return network inputs as RGB values in [0, 1].

        Grey is repeated; of other channels those are shown that `torchsaliency.data.show_channels`
        shows.
        """
        mean, std = self._statistics(x.device)
        values = x.detach().float() * std + mean
        if self.channels not in PHOTOGRAPHIC:
            return show_channels(values)
        if self.order == "bgr":
            values = values.flip(-3)
        return values.clamp(0, 1).expand(*values.shape[:-3], 3, -1, -1)

    def whole(self, stride: int | None = None) -> Preprocessing:
        """Return the variant that shows the whole photograph, its aspect ratio kept.

        With the stride of a network that takes any aspect, inputs have the photograph's own, their
        shorter side the network's; else the photograph is letterboxed in the mean colour.
        """
        if self.size is None:
            return self
        if stride is None:
            return replace(self, resize=self.size, fit=Fit.CONTAIN)
        return replace(self, size=None, resize=self.size, fit=Fit.ASPECT, stride=stride)

    def frame(self, fit: str | None, stride: int | None = None) -> Preprocessing:
        """Return a variant: one that crops the middle ("crop") or shows all ("whole", "squash").

        "fill" crops no more than the longer side's overhang: Opti-CAM's localisation numbers are
        those of the shorter side at 224, and 224 cropped. "own" and None change nothing. Where
        nothing is cropped, all are one.

        Args:
            fit: "whole", "crop", "squash", "fill", "own" or None.
            stride: for "whole", of a network that takes any aspect.

        Raises:
            OptionError: another fit.
        """
        if fit not in _FRAMES:
            raise OptionError(describe_unknown("fit", str(fit), [name for name in _FRAMES if name]))
        if self.size is None or fit in (None, "own"):
            return self
        if fit == "whole":
            return self.whole(stride)
        if fit == "squash":
            return self.squash()
        if fit == "fill":
            return replace(self, resize=self.size, fit=Fit.COVER)
        return replace(self, fit=Fit.COVER)

    def skip_normalisation(self) -> Preprocessing:
        """Return the variant whose output stays in [0, 1] (Opti-CAM's Table A.14)."""
        return replace(self, mean=(0.0,) * self.channels, std=(1.0,) * self.channels)

    def baseline(self, name: str) -> Masking:
        """Return the masking "mean", "black" or "blur" of this network's inputs.

        Black depends on the normalisation.

        Raises:
            OptionError: another name.
        """
        if name == "black":
            return BlackPixel(self.mean, self.std)
        known: dict[str, Masking] = {"mean": self._mean_colour(), "blur": Blur()}
        if name not in known:
            raise OptionError(f"The masking {name!r} was given; choose mean, black or blur.")
        return known[name]

    def _mean_colour(self) -> Masking:
        """Return zero, or ImageNet's mean where the network itself normalises whole photographs."""
        if self.size is None and self.stride is None and not any(self.mean):
            return GivenImage(torch.tensor(IMAGENET_MEAN)[:, None, None])
        return MeanColour()

    def to_dict(self) -> dict[str, Any]:
        """Return the description as JSON-able values, for manifests."""
        return {
            "size": None if self.size is None else list(self.size),
            "resize": None if self.resize is None else list(self.resize),
            "fit": self.fit.value,
            "interpolation": self.interpolation.name.lower(),
            "mean": list(self.mean),
            "std": list(self.std),
            **({} if self.order == "rgb" else {"order": self.order}),
            **({} if self.longest is None else {"longest": self.longest}),
            **({} if self.stride is None else {"stride": self.stride}),
        }

    @classmethod
    def from_dict(cls, facts: Mapping[str, Any]) -> Preprocessing:
        """Return the preprocessing that `to_dict` described.

        Raises:
            KeyError: something is missing, or there is no such interpolation.
            ValueError: a value is of another type or out of range.
        """
        from pydantic import TypeAdapter, ValidationError  # noqa: PLC0415 (slow, seldom needed)

        given = {
            field.name: facts[field.name]
            for field in fields(cls)
            if field.name not in _OPTIONAL or field.name in facts
        }
        given["interpolation"] = Image.Resampling[str(given["interpolation"]).upper()].value
        try:
            found: Preprocessing = TypeAdapter(cls).validate_json(json.dumps(given), strict=True)
        except ValidationError as error:
            first = error.errors()[0]
            raise ValueError(f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from None
        return found

    def _statistics(self, device: torch.device) -> tuple[Tensor, Tensor]:
        mean, std = torch.tensor([self.mean, self.std], device=device)[..., None, None]
        return mean, std

    def _padding(self) -> tuple[int, int, int]:
        """Return the colour of padding: timm pads with the mean, torchvision with black."""
        if self.fit is not Fit.CONTAIN:
            return (0, 0, 0)
        mean = self.mean[:: -1 if self.order == "bgr" else 1]
        red, green, blue = (round(255 * value) for value in as_triple(mean))
        return red, green, blue

    def _layout(self, photo_size: tuple[int, int]) -> tuple[tuple[int, int], tuple[int, int]]:
        """Return the scaled photograph's (H, W) and where the crop begins (negative: padding)."""
        scaled = self._scaled(photo_size)
        top, left = (
            round((have - want) / 2) if have >= want else -((want - have) // 2)
            for have, want in zip(scaled, self.size or scaled, strict=True)
        )
        return scaled, (top, left)

    def _scaled(self, photo_size: tuple[int, int]) -> tuple[int, int]:
        if self.stride is not None and self.resize is not None:
            return _scale_in_strides(photo_size, self.resize, self.stride)
        scaled = photo_size if self.resize is None else _scale(photo_size, self.resize, self.fit)
        if self.size is not None or self.longest is None or max(scaled) <= self.longest:
            return scaled
        height, width = photo_size  # as DETR's processors round
        side = self.longest * min(photo_size) / max(photo_size)
        other = int(side * max(photo_size) / min(photo_size))
        return (round(side), other) if height < width else (other, round(side))

    def _visible(
        self,
        photo: Image.Image,
        scaled: tuple[int, int],
        start: tuple[int, int],
        size: tuple[int, int],
    ) -> Image.Image:
        """Resample only what the crop keeps: a panorama scaled whole could fill the memory."""
        spans = []
        for have, begin, want, source in zip(
            scaled, start, size, (photo.height, photo.width), strict=True
        ):
            first, last = max(begin, 0), min(begin + want, have)
            spans.append((last - first, first * source / have, min(last * source / have, source)))
        (height, top, bottom), (width, left, right) = spans
        return photo.resize((width, height), self.interpolation, box=(left, top, right, bottom))


def imagenet(size: int = 224) -> Preprocessing:
    """Return ImageNet's standard: shorter side to size / 0.875, centre crop, its statistics.

    Args:
        size: side of the network's square input, in pixels.

    Example:
        >>> imagenet(224).resize
        (256, 256)
    """
    side = round(size / 0.875)
    return Preprocessing(size=(size, size), resize=(side, side))


def _scale(photo_size: tuple[int, int], box: tuple[int, int], fit: Fit) -> tuple[int, int]:
    """Return the (H, W) a photograph is scaled to, rounded as torchvision and timm round."""
    if fit is Fit.SQUASH:
        return box
    height, width = photo_size
    if fit is Fit.COVER and box[0] == box[1]:
        short = min(height, width)
        return int(box[0] * height / short), int(box[0] * width / short)
    ratios = height / box[0], width / box[1]
    ratio = min(ratios) if fit is Fit.COVER else max(ratios)
    return max(1, round(height / ratio)), max(1, round(width / ratio))


def _scale_in_strides(
    photo_size: tuple[int, int], box: tuple[int, int], stride: int
) -> tuple[int, int]:
    """Return the (H, W) of which the shorter fits the box, rounded to multiples of the stride.

    What is longer than four boxes is scaled to four, for it would fill the memory.
    """
    ratios = [have / want for have, want in zip(photo_size, box, strict=True)]
    ratio = max(min(ratios), max(ratios) / _LONGEST)
    height, width = (max(1, math.floor(have / ratio / stride + 0.5)) for have in photo_size)
    return height * stride, width * stride


def _nearest(
    pixels: int, scaled: int, start: int, wanted: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Return the photo's pixel at each of a line's input pixels, and whether there is one.

    In whole numbers: the centre of a scaled pixel often falls between two of the photograph's.
    """
    place = torch.arange(wanted, device=device) + start
    source = ((2 * place + 1) * pixels).div(2 * scaled, rounding_mode="floor")
    return source.clamp(0, pixels - 1), (place >= 0) & (place < scaled)


def as_pair(size: Any) -> tuple[int, int]:
    """Return (height, width) of a side or two."""
    values = [int(size)] if isinstance(size, int | float) else [int(value) for value in size]
    return values[0], values[-1]


def as_triple(values: Any) -> tuple[float, float, float]:
    """Return a mean or a standard deviation of one channel or three as three numbers."""
    first, second, third = as_channels(values, 3)
    return first, second, third


def as_channels(values: Any, channels: int) -> tuple[float, ...]:
    """Return a mean or a standard deviation with a number for each channel.

    One number stands for all channels; of three, one channel gets the mean.

    Raises:
        OptionError: there is another number of them.
    """
    spread = [float(v) for v in ([values] if isinstance(values, int | float) else values)]
    if len(spread) == channels:
        return tuple(spread)
    if len(spread) == 1:
        return tuple(spread * channels)
    if len(spread) == len("RGB") and channels == 1:
        return (sum(spread) / 3,)
    raise OptionError(
        f"{len(spread)} numbers were given for {channels} channels; give one for each, or one for "
        "all."
    )
