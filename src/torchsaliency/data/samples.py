"""Six real photographs that come with scikit-image and scikit-learn: something to explain, offline.

The files are found without importing either package, and nothing is downloaded.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from torchsaliency.data.dataset import Sample
from torchsaliency.data.imagenet_annotations import synset_names, synsets
from torchsaliency.data.opening import register_dataset
from torchsaliency.data.photos import open_photo
from torchsaliency.data.photosets import PhotoSet
from torchsaliency.errors import DataError, describe_unknown


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
            f"does not; reinstall {self.package.replace('sklearn', 'scikit-learn')}."
        )

    def open(self) -> Image.Image:
        """Open the photograph as RGB."""
        return open_photo(self.path)


def sample_photos() -> dict[str, SamplePhoto]:
    """Return the six photographs by name.

    Example:
        >>> "coffee" in sample_photos()
        True
    """
    return {photo.name: photo for photo in _SAMPLES}


def sample_photo(name: str) -> SamplePhoto:
    """Return one photograph by its name.

    Raises:
        DataError: there is none of that name.

    Example:
        >>> sample_photo("chelsea").class_index
        282
    """
    photos = sample_photos()
    if name not in photos:
        raise DataError(describe_unknown("sample photograph", name, photos))
    return photos[name]


def sample_paths() -> dict[str, Path]:
    """Return the photographs' files by name.

    Example:
        >>> "chelsea" in sample_paths()
        True
    """
    return {name: photo.path for name, photo in sample_photos().items()}


@register_dataset("samples")
def sample_set() -> PhotoSet:
    """Return the six sample photographs with their ImageNet classes.

    Raises:
        DataError: a package came without its photographs.
    """
    return PhotoSet(
        name="samples",
        samples=tuple(
            Sample(f"samples/{photo.name}", photo.path, photo.class_index)
            for photo in sample_photos().values()
        ),
        classes=synset_names(),
        codes=synsets(),
        annotations=frozenset({"labels"}),
    )


_CC0, _CC_BY = "CC0 1.0", "CC BY 2.0"
_FLICKR = "on Flickr"
_SKLEARN = "datasets/images"
_PIKOLO = "Rachel Michetti, courtesy of Pikolo Espresso Bar"
_SAMPLES = tuple(
    SamplePhoto(*facts)
    for facts in (
        ("chelsea", "skimage", "data/chelsea.png", 282, "tiger cat", "Stefan van der Walt", _CC0),
        ("coffee", "skimage", "data/coffee.png", 967, "espresso", _PIKOLO, _CC0),
        ("camera", "skimage", "data/camera.png", 872, "tripod", "Lav Varshney", _CC0),
        ("rocket", "skimage", "data/rocket.jpg", 657, "missile", "SpaceX", "public domain"),
        (
            "china",
            "sklearn",
            f"{_SKLEARN}/china.jpg",
            698,
            "palace",
            "danielbuechele on Flickr",
            _CC_BY,
        ),
        (
            "flower",
            "sklearn",
            f"{_SKLEARN}/flower.jpg",
            985,
            "daisy",
            "vultilion on Flickr",
            _CC_BY,
        ),
    )
)
