"""From a scan or a video to a network's input, (C, D, H, W) or (C, T, H, W)."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Literal, final

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from torchsaliency.core.maps import upsample
from torchsaliency.core.masking import BlackPixel, Blur, Masking, MeanColour
from torchsaliency.data.clips import Clip
from torchsaliency.data.scans import Scan
from torchsaliency.errors import DataError, OptionError
from torchsaliency.zoo.preprocessing import Fit, Preprocessing

Intensity = Literal["zscore", "range", "raw"]
Axes = Literal["zyx", "xyz"]
Number = float | int

KINETICS_MEAN = (0.43216, 0.394666, 0.37645)
KINETICS_STD = (0.22803, 0.22145, 0.216989)


@final
@dataclass(frozen=True)
class ScanPreprocessing:
    """How a network wants its volumes.

    Attributes:
        size: (D, H, W) that every scan is resized to, trilinearly; None leaves its size.
        spacing: millimetres along D, H and W that it is resampled to first; None leaves its own.
        window: the lowest and the highest value, to which others are cut, such as (-1000, 400)
            Hounsfield units; None cuts none.
        intensity: what becomes of the values: "zscore" subtracts the scan's mean and divides by its
            standard deviation, "range" stretches its range (or the window) to [0, 1], "raw" leaves
            them.
        channels: of the input; a scan with one is repeated.
        axes: order of the input's sides: "zyx" is (D, H, W), "xyz" the order of NIfTI's canonical
            RAS, as MONAI loads it.

    Example:
        >>> ScanPreprocessing(size=(32, 64, 64), window=(-1000, 400), intensity="range").axes
        'zyx'
    """

    size: tuple[int, int, int] | None = None
    spacing: tuple[Number, Number, Number] | None = None
    window: tuple[Number, Number] | None = None
    intensity: Intensity = "zscore"
    channels: int = 1
    axes: Axes = "zyx"

    def __post_init__(self) -> None:
        sides = (*(self.size or ()), *(self.spacing or ()), self.channels)
        low, high = self.window or (0, 1)
        known = self.intensity in ("zscore", "range", "raw") and self.axes in ("zyx", "xyz")
        if min(sides) <= 0 or not low < high or not known:
            raise OptionError(
                f"{self} was given; accepted are sizes, spacings and channels above 0, a rising "
                "window, the intensities zscore, range and raw, and the axes zyx and xyz."
            )

    def __call__(self, scan: Scan) -> Float[Tensor, "c d h w"]:
        """Return the scan as the network's input: float32, on the CPU.

        Raises:
            DataError: the scan has another number of channels.
        """
        voxels = torch.from_numpy(scan.voxels)
        voxels = voxels if voxels.ndim == 4 else voxels[None]  # noqa: PLR2004
        if len(voxels) not in (1, self.channels):
            raise DataError(
                f"{scan.path} has {len(voxels)} channels and the network takes {self.channels}; "
                "give a scan of as many, or of one."
            )
        if self.window is not None:
            voxels = voxels.clamp(*self.window)
        voxels = upsample(voxels, self._size_of(scan))
        if self.intensity == "zscore":
            deviation = voxels.std(correction=0)
            voxels = (voxels - voxels.mean()) / torch.where(deviation > 0, deviation, 1)
        elif self.intensity == "range":
            low, high = self.window or (float(voxels.min()), float(voxels.max()))
            voxels = (voxels - low) / ((high - low) or 1)
        voxels = voxels.expand(self.channels, -1, -1, -1)
        return (voxels.permute(0, 3, 2, 1) if self.axes == "xyz" else voxels).contiguous()

    def place_map(self, saliency: Float[Tensor, "a b c"]) -> Float[Tensor, "d h w"]:
        """Return a map over the network's input in the scan's order of sides."""
        return saliency.permute(2, 1, 0) if self.axes == "xyz" else saliency

    def baseline(self, name: str) -> Masking:
        """Return the masking "mean", "black" or "blur" of this network's inputs."""
        if name == "black" and self.intensity == "zscore":
            raise OptionError(
                "Black is not defined for intensities of a z-score, which differ from scan to "
                "scan; choose mean or blur."
            )
        return _baseline(name, BlackPixel((0.0,) * self.channels, (1.0,) * self.channels))

    def to_dict(self) -> dict[str, Any]:
        """Return the description as JSON-able values, for manifests."""
        return {
            "size": None if self.size is None else list(self.size),
            "spacing": None if self.spacing is None else list(self.spacing),
            "window": None if self.window is None else list(self.window),
            "intensity": self.intensity,
            "channels": self.channels,
            "axes": self.axes,
        }

    def _size_of(self, scan: Scan) -> tuple[int, int, int]:
        if self.size is not None or self.spacing is None:
            return self.size or scan.size
        pairs = zip(scan.size, scan.spacing, self.spacing, strict=True)
        depth, height, width = (max(1, round(side * own / new)) for side, own, new in pairs)
        return depth, height, width


@final
@dataclass(frozen=True)
class ClipPreprocessing:
    """How a network wants its videos.

    Attributes:
        frames: how many, evenly over the whole video.
        frame: how each is resized, cropped and normalised; by default as torchvision's networks for
            Kinetics want it: 128 x 171, 112 x 112 from the centre.

    Example:
        >>> ClipPreprocessing(frames=8).frame.size
        (112, 112)
    """

    frames: int = 16
    frame: Preprocessing = field(
        default_factory=lambda: Preprocessing(
            (112, 112), (128, 171), Fit.SQUASH, mean=KINETICS_MEAN, std=KINETICS_STD
        )
    )

    def __post_init__(self) -> None:
        if self.frames < 1:
            raise OptionError(f"A clip needs at least one frame, and {self.frames} were given.")
        if self.frame.size is None:
            raise OptionError("The frames of a clip need a size; give Preprocessing((H, W), …).")

    def __call__(self, clip: Clip) -> Float[Tensor, "3 t h w"]:
        """Return the video as the network's input: float32, normalised, on the CPU."""
        return torch.stack([self.frame(picture) for picture in self.choose_frames(clip)], 1)

    @property
    def input_size(self) -> tuple[int, int, int]:
        """(T, H, W) of the network's input."""
        assert self.frame.size is not None
        height, width = self.frame.size
        return self.frames, height, width

    def choose_frames(self, clip: Clip) -> list[Image.Image]:
        """Return the frames that the network sees; of a shorter video some more than once."""
        places = (np.arange(self.frames) + 0.5) * len(clip.frames) / self.frames
        return [clip.frames[math.floor(place)] for place in places]

    def place_map(self, saliency: Float[Tensor, "t h w"], clip: Clip) -> Float[Tensor, "t H W"]:
        """Return a map over the network's input on the whole frames that it saw."""
        where = self.frame.placement((clip.size[1], clip.size[2]))
        return torch.stack([where.to_photo(one.detach().float().cpu()) for one in saliency])

    def baseline(self, name: str) -> Masking:
        """Return the masking "mean", "black" or "blur" of this network's inputs."""
        return _baseline(name, self.frame.baseline("black"))

    def to_dict(self) -> dict[str, Any]:
        """Return the description as JSON-able values, for manifests."""
        return {"frames": self.frames, "frame": self.frame.to_dict()}


VolumePreprocessing = ScanPreprocessing | ClipPreprocessing


def _baseline(name: str, black: Masking) -> Masking:
    known: dict[str, Masking] = {"mean": MeanColour(), "black": black, "blur": Blur()}
    if name not in known:
        raise OptionError(f"The masking {name!r} was given; choose mean, black or blur.")
    return known[name]
