"""Videos as frames: GIF, WebP and PNG animations by Pillow, others by PyAV (extra: `video`)."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import final

from PIL import Image, ImageSequence

from torchsaliency.data.decoding import VARIABLE, name_decoder_errors, pixel_limit
from torchsaliency.data.files import find_fault, printable
from torchsaliency.errors import DataError, require_extra

VIDEO_SUFFIXES = (".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg")
ANIMATION_SUFFIXES = (".gif", ".webp", ".png", ".apng")

_ACCEPTED = "accepted are GIF, WebP and PNG animations, and with the extra `video` MP4 and others"
_SECONDS = 0.1  # of a frame of an animation that says none


@final
@dataclass(frozen=True, eq=False)
class Clip:
    """The frames of a video.

    Attributes:
        frames: RGB pictures of one size.
        seconds: that a frame is shown, on average.
        path: of the file.
    """

    frames: tuple[Image.Image, ...]
    seconds: float
    path: Path

    @property
    def size(self) -> tuple[int, int, int]:
        """(T, H, W)."""
        return len(self.frames), self.frames[0].height, self.frames[0].width


def open_clip(path: str | os.PathLike[str], *, max_pixels: int | None = None) -> Clip:
    """Open a video or an animation as RGB frames.

    Args:
        path: of the file.
        max_pixels: of all frames together; None takes the environment variable
            TORCHSALIENCY_MAX_PIXELS, or 64 million. Of a longer video, every second, third, …
            frame is kept.

    Raises:
        DataError: the file is missing, damaged, or no video, or one frame is too large.
        MissingPackageError: the extra `video` is not installed, and the file needs it.

    Example:
        >>> from PIL import Image
        >>> frames = [Image.new("RGB", (8, 6), colour) for colour in ("red", "blue")]
        >>> frames[0].save("clip.gif", save_all=True, append_images=frames[1:], duration=500)
        >>> clip = open_clip("clip.gif")
        >>> len(clip.frames), clip.seconds
        (2, 0.5)
    """
    path, limit = Path(path), pixel_limit(max_pixels)
    if fault := find_fault(path):
        raise DataError(f"{printable(path)} {fault}; give a video file.")
    animated = path.name.lower().endswith(ANIMATION_SUFFIXES)
    if not animated:
        require_extra("video", "av")
    with name_decoder_errors(path, limit, _ACCEPTED):
        read = _animation_frames if animated else _video_frames
        return _keep(path, read(path), limit)


def _keep(path: Path, frames: Iterator[tuple[Image.Image, float]], limit: int) -> Clip:
    """Return so many frames as the limit allows, evenly over the whole video."""
    kept: list[Image.Image] = []
    every, count, seconds = 1, 0, 0.0
    for frame, duration in frames:
        if frame.width * frame.height > limit:
            raise DataError(
                f"{printable(path)} has frames of {frame.width}x{frame.height} pixels and at most "
                f"{limit} are decoded; scale it down, or set the environment variable {VARIABLE} "
                "higher."
            )
        if count % every == 0:
            kept.append(frame)
        count, seconds = count + 1, seconds + duration
        if len(kept) > 1 and len(kept) * frame.width * frame.height > limit:
            kept, every = kept[::2], 2 * every
    if not kept:
        raise DataError(f"{printable(path)} has no frame; {_ACCEPTED}.")
    return Clip(tuple(kept), seconds / len(kept), path)


def _animation_frames(path: Path) -> Iterator[tuple[Image.Image, float]]:
    with Image.open(path) as file:
        for frame in ImageSequence.Iterator(file):
            yield frame.convert("RGB"), frame.info.get("duration", 0) / 1000 or _SECONDS


def _video_frames(path: Path) -> Iterator[tuple[Image.Image, float]]:
    import av  # noqa: PLC0415 (an extra)

    with av.open(str(path)) as container:
        if not container.streams.video:
            raise DataError(f"{printable(path)} has no video in it; {_ACCEPTED}.")
        stream = container.streams.video[0]
        rate = float(stream.average_rate or 1 / _SECONDS)
        for frame in container.decode(stream):
            yield frame.to_image(), 1 / rate
