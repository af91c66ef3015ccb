"""What the app explains: photographs, or scans and videos where the network takes volumes."""

from __future__ import annotations

import abc
import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

from PIL import Image
from torch import Tensor

from torchsaliency.core.explanation import Explanation
from torchsaliency.core.masking import Masking
from torchsaliency.data import Clip, Scan, open_clip, open_photo, open_scan
from torchsaliency.data.dicom import is_dicom
from torchsaliency.data.files import find_fault
from torchsaliency.data.media import Kind
from torchsaliency.errors import DataError
from torchsaliency.pages.jobs import Limits
from torchsaliency.pages.views import PhotoView, view_photo, view_volume
from torchsaliency.viz import animate
from torchsaliency.viz.overlay import png
from torchsaliency.zoo import Network
from torchsaliency.zoo.media import assume_volume_preprocessing, find_kind, takes_volumes
from torchsaliency.zoo.preprocessing import Preprocessing
from torchsaliency.zoo.volumes import ClipPreprocessing, ScanPreprocessing, VolumePreprocessing

Upload = str | Sequence[str]
"""A path, or those of the files of a DICOM series."""

Source = Image.Image | Scan | Clip
"""What was read of an upload."""


@final
@dataclass(frozen=True)
class Code:
    """Lines of Python that repeat what is shown.

    Attributes:
        preparation: what `preprocess` takes behind the file.
        frame: whose `baseline` is the masking's.
        drawing: lines that draw the map `explanation` of the method `name`.
        imports: that they need.
        setup: lines before the network's input is made.
    """

    preparation: str
    frame: str
    drawing: tuple[str, ...]
    imports: tuple[str, ...] = ()
    setup: tuple[str, ...] = ()


class Medium(abc.ABC):
    """How uploads are read for one network, become its input, and are shown.

    Attributes:
        network: the explained one.
        limits: what a visitor may ask for.
    """

    def __init__(self, network: Network, limits: Limits) -> None:
        self.network, self.limits = network, limits

    def read(self, upload: Upload | Path) -> Any:
        """Read an upload within the limits.

        Raises:
            DataError: it is of another kind, too large, or damaged; the message names no folder.
        """
        files = [Path(one) for one in ([upload] if isinstance(upload, str | Path) else upload)]
        with _without_folder(files):
            if sum(file.stat().st_size for file in files) > self.limits.megabytes * 1_000_000:
                raise DataError(
                    f"The file has more than {self.limits.megabytes} MB; {self.advice}."
                )
            return self.open(files)

    stem: str
    """How files of an archive begin."""

    advice: str
    """What to do with an upload that is too large."""

    @abc.abstractmethod
    def open(self, files: Sequence[Path]) -> Any:
        """Open files of bounded bytes."""

    @abc.abstractmethod
    def preparation(self, source: Any) -> Preprocessing | VolumePreprocessing:
        """Return how what was read becomes the network's input."""

    @abc.abstractmethod
    def view(
        self, source: Any, explanations: Mapping[str, Explanation], **more: Any
    ) -> list[PhotoView]:
        """Return maps over what was read; further arguments are those of `view_photo`."""

    @abc.abstractmethod
    def name_file(self, source: Any, name: str) -> str:
        """Return the file that lines of Python read; a name that photographs have in archives."""

    @abc.abstractmethod
    def write(
        self, source: Any, explanations: Mapping[str, Explanation], name: str
    ) -> dict[str, bytes]:
        """Return what an archive holds beside raw maps and their manifest, by name of the file."""

    @abc.abstractmethod
    def write_code(self, source: Any, *, signed: bool) -> Code:
        """Return what Python needs to repeat what is shown."""

    @final
    def prepare(self, source: Any) -> Tensor:
        """Return what was read as the network's input (1, C, *size)."""
        prepared: Any = self.preparation(source)
        made: Tensor = prepared(source)
        return made[None]

    @final
    def baseline(self, source: Any, name: str) -> Masking:
        """Return the masking of that name."""
        return self.preparation(source).baseline(name)


@final
class Photographs(Medium):
    """Photographs, each shown whole."""

    stem, advice = "photo", "scale the photograph down"

    def __init__(self, network: Network, limits: Limits, fit: str) -> None:
        super().__init__(network, limits)
        self.fit, self._preprocessing = fit, network.frame(fit)

    def open(self, files: Sequence[Path]) -> Image.Image:
        """Open a photograph."""
        return open_photo(files[0], max_pixels=self.limits.pixels)

    def preparation(self, source: Any) -> Preprocessing:  # noqa: ARG002 (one for all)
        """Return the network's preprocessing."""
        return self._preprocessing

    def view(
        self, source: Any, explanations: Mapping[str, Explanation], **more: Any
    ) -> list[PhotoView]:
        """Return the photograph with its maps."""
        return [view_photo(source, explanations, model=self.network, fit=self.fit, **more)]

    def name_file(self, source: Any, name: str) -> str:  # noqa: ARG002 (any photograph)
        """Return the name of a copy that is in the archive."""
        return f"{name}.png"

    def write(
        self, source: Any, explanations: Mapping[str, Explanation], name: str
    ) -> dict[str, bytes]:
        """Return the photograph."""
        del explanations
        return {self.name_file(source, name): png(source)}

    def write_code(self, source: Any, *, signed: bool) -> Code:  # noqa: ARG002 (any photograph)
        """Return code that draws overlays of the copy."""
        fit = json.dumps(self.fit)
        signs = ", signed=explanation.signed is not None" if signed else ""
        return Code(
            preparation=f"net, fit={fit}",
            frame=f"net.frame({fit})",
            drawing=(
                f'picture = torchsaliency.overlay("photo.png", explanation, net, fit={fit}{signs})',
                'picture.save(f"{name}.png")',
            ),
        )


@final
class Volumes(Medium):
    """Scans, whose slices are shown along three sides, and videos, whose frames are."""

    stem = "volume"
    advice = "scale it down, or start the app with a larger --max-megabytes"

    def open(self, files: Sequence[Path]) -> Scan | Clip:
        """Open a NIfTI file, the files of a DICOM series, or a video."""
        if len(files) > 1 or _is_dicom(files[0]):
            with tempfile.TemporaryDirectory(prefix="torchsaliency-") as folder:
                for place, file in enumerate(files):
                    Path(folder, f"{place}.dcm").symlink_to(file.resolve())
                with _without_folder([Path(folder)]):
                    return open_scan(folder, max_voxels=self.limits.pixels)
        kind = find_kind(files, self.network)
        if kind == "scans":
            return open_scan(files[0], max_voxels=self.limits.pixels)
        if kind == "clips":
            return open_clip(files[0], max_pixels=self.limits.pixels)
        raise DataError(
            "The file is neither a scan nor a video, and the network takes volumes; choose a NIfTI "
            "file, all files of a DICOM series, an animation or a video."
        )

    def preparation(self, source: Any) -> VolumePreprocessing:
        """Return the network's preprocessing, or what is assumed."""
        kind: Kind = "scans" if isinstance(source, Scan) else "clips"
        return assume_volume_preprocessing(self.network, kind)[0]

    def view(
        self, source: Any, explanations: Mapping[str, Explanation], **more: Any
    ) -> list[PhotoView]:
        """Return the slices along each side, or the frames, with their maps."""
        more = {"classes": self.network.classes, **more}
        return view_volume(source, explanations, self.preparation(source), **more)

    def name_file(self, source: Any, name: str) -> str:  # noqa: ARG002 (as it was uploaded)
        """Return the file's own name; an archive has no copy of it."""
        path: Path = source.path
        return "series" if path.is_dir() or not path.exists() else path.name

    def write(
        self, source: Any, explanations: Mapping[str, Explanation], name: str
    ) -> dict[str, bytes]:
        """Return each map as NIfTI over the scan, or as an animation of the video."""
        preparation, found = self.preparation(source), {}
        for method, one in explanations.items():
            if isinstance(source, Scan):
                assert isinstance(preparation, ScanPreprocessing)
                placed = preparation.place_map(one.map[0])
                found[f"{name}.{method}.nii.gz"] = source.nifti(placed)
            else:
                assert isinstance(preparation, ClipPreprocessing)
                frames = preparation.choose_frames(source)
                placed = preparation.place_map(one.map[0], source)
                found[f"{name}.{method}.gif"] = animate(frames, placed)
        return found

    def write_code(self, source: Any, *, signed: bool) -> Code:  # noqa: ARG002 (without signs)
        """Return code that writes NIfTI files or animations."""
        file = json.dumps(self.name_file(source, ""))
        kind = "Scan" if isinstance(source, Scan) else "Clip"
        preparation, opener = "net.volumes", f"open_{kind.lower()}"
        imports = ["from pathlib import Path", f"from torchsaliency.data import {opener}"]
        if not isinstance(self.network.volumes, type(self.preparation(source))):
            preparation = f"{kind}Preprocessing()"
            if isinstance(assumed := self.preparation(source), ScanPreprocessing):
                preparation = f"{kind}Preprocessing(channels={assumed.channels})"
            imports.append(f"from torchsaliency.zoo import {kind}Preprocessing")
        scan = (
            "saliency = volumes.place_map(explanation.map[0])",
            'Path(f"{name}.nii.gz").write_bytes(source.nifti(saliency))',
        )
        clip = (
            "saliency = volumes.place_map(explanation.map[0], source)",
            "frames = volumes.choose_frames(source)",
            'Path(f"{name}.gif").write_bytes(animate(frames, saliency))',
        )
        if kind == "Clip":
            imports.append("from torchsaliency.viz import animate")
        return Code(
            imports=tuple(imports),
            setup=(f"source, volumes = {opener}({file}), {preparation}",),
            preparation="volumes",
            frame="volumes",
            drawing=scan if kind == "Scan" else clip,
        )


def choose_medium(network: Network, limits: Limits, fit: str) -> Medium:
    """Return how a network's uploads are read and shown."""
    if takes_volumes(network):
        return Volumes(network, limits)
    return Photographs(network, limits, fit)


def _is_dicom(file: Path) -> bool:
    return not find_fault(file) and is_dicom(file)


@contextmanager
def _without_folder(files: Sequence[Path]) -> Iterator[None]:
    """Name no folder of the server in an error."""
    try:
        yield
    except DataError as error:
        words = str(error)
        for file in files:
            words = words.replace(f"The folder {file}", "The upload").replace(str(file), "The file")
        raise DataError(words) from None
    except OSError:
        raise DataError("The file cannot be read; choose it again.") from None
