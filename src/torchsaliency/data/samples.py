"""Six real photographs that come with scikit-image and scikit-learn: something to explain, offline.

The files are found without importing either package, and nothing is downloaded.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from torchsaliency.data.photos import open_photo
from torchsaliency.errors import DataError, describe_unknown

_CC0 = "CC0 1.0"
_CC_BY = "CC BY 2.0"


@dataclass(frozen=True)
class SamplePhoto:
    """A photograph with a known subject.

    Attributes:
        name: short, for the command line.
        package: the installed package that carries the file.
        file: the file's path inside that package.
        class_index: its ImageNet class.
        class_name: that class's name.
        credit: who took it.
        licence: under what it may be used.
    """

    name: str
    package: str
    file: str
    class_index: int
    class_name: str
    credit: str
    licence: str

    @property
    def path(self) -> Path:
        """Where the file is installed.

        Raises:
            DataError: the package is missing, or came without the file.
        """
        spec = importlib.util.find_spec(self.package)
        for folder in (spec and spec.submodule_search_locations) or ():
            if (path := Path(folder, self.file)).is_file():
                return path
        raise DataError(
            f"The sample photograph {self.name!r} should lie in {self.package}/{self.file} and "
            "does "
            f"not; reinstall {self.package.replace('sklearn', 'scikit-learn')}."
        )

    def open(self) -> Image.Image:
        """Open the photograph as RGB."""
        return open_photo(self.path)


def sample_photos() -> dict[str, SamplePhoto]:
    """Return the six photographs by name."""
    return {photo.name: photo for photo in _SAMPLES}


def sample_photo(name: str) -> SamplePhoto:
    """Return one photograph by its name.

    Raises:
        DataError: there is none of that name.
    """
    photos = sample_photos()
    if name not in photos:
        raise DataError(describe_unknown("sample photograph", name, photos))
    return photos[name]


def sample_paths() -> dict[str, Path]:
    """Return the photographs' files by name."""
    return {name: photo.path for name, photo in sample_photos().items()}


_SAMPLES = (
    SamplePhoto(
        name="chelsea",
        package="skimage",
        file="data/chelsea.png",
        class_index=282,
        class_name="tiger cat",
        credit="Stefan van der Walt",
        licence=_CC0,
    ),
    SamplePhoto(
        name="coffee",
        package="skimage",
        file="data/coffee.png",
        class_index=967,
        class_name="espresso",
        credit="Rachel Michetti, courtesy of Pikolo Espresso Bar",
        licence=_CC0,
    ),
    SamplePhoto(
        name="camera",
        package="skimage",
        file="data/camera.png",
        class_index=872,
        class_name="tripod",
        credit="Lav Varshney",
        licence=_CC0,
    ),
    SamplePhoto(
        name="rocket",
        package="skimage",
        file="data/rocket.jpg",
        class_index=657,
        class_name="missile",
        credit="SpaceX",
        licence="public domain",
    ),
    SamplePhoto(
        name="china",
        package="sklearn",
        file="datasets/images/china.jpg",
        class_index=698,
        class_name="palace",
        credit="danielbuechele on Flickr",
        licence=_CC_BY,
    ),
    SamplePhoto(
        name="flower",
        package="sklearn",
        file="datasets/images/flower.jpg",
        class_index=985,
        class_name="daisy",
        credit="vultilion on Flickr",
        licence=_CC_BY,
    ),
)
