"""The result of a method on a batch: the maps, and everything needed to make them again."""

from __future__ import annotations

import hashlib
import importlib.metadata
import io
import itertools
import json
import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol, cast, final, runtime_checkable

import numpy as np
import torch
from torch import Tensor, nn

from torchsaliency.core.files import OutputFolder, file_name, file_names, finite
from torchsaliency.core.inputs import Inputs, InputsLike
from torchsaliency.core.layer import Reshape
from torchsaliency.core.maps import Fusion
from torchsaliency.core.masking import Masking
from torchsaliency.core.network import NetworkWrapper
from torchsaliency.core.scores import SOFTMAX, ScoreKind
from torchsaliency.core.target import Target
from torchsaliency.errors import InputError, OptionError


@runtime_checkable
class ExplainingMethod(Protocol):
    """What an explanation knows of its method, a `core.method.Method`."""

    @property
    def name(self) -> str:
        """The registered name."""

    @property
    def options(self) -> dict[str, Any]:
        """The hyper-parameters by name."""

    @property
    def entry(self) -> Any:
        """The registered entry: family, citation and needs."""


Renderer = Callable[["Explanation"], bytes]
"""Draws an explanation as a PNG; set by `torchsaliency.viz`, because core draws nothing."""

_renderers: list[Renderer] = []


_viewers: list[Callable[[Explanation], str]] = []


def set_renderer(renderer: Renderer) -> None:
    """Let `renderer` draw explanations in notebooks and for `Explanation.save`."""
    _renderers[:] = [renderer]


def set_viewer(viewer: Callable[[Explanation], str]) -> None:
    """Let `viewer` show explanations in notebooks, as HTML."""
    _viewers[:] = [viewer]


@final
@dataclass(frozen=True, eq=False)
class Explanation:
    """Maps of one method for a batch of images, and how they were made.

    Attributes:
        map: (N, H, W) in [0, 1] at the size of the network's input; (N, D, H, W) for volumes,
            (N, T, H, W) for videos, (N, T) for signals.
        raw: (N, *grid) as the method gave it, at the layer's resolution.
        images: (N, C, *size) the explained images, as the network saw them.
        target: what was explained, resolved.
        score: (N,) the target's value on the clean images.
        output: the network's numbers on the clean images, (N, K) logits for a classifier.
        scores: what these numbers mean.
        inputs: all that the network takes, if that is more than images.
        place: where in what the network returns its numbers are, if that was said.
        layers: names of the layers read.
        reshapes: how each layer's output became feature maps.
        method: the method with its hyper-parameters.
        masking: the baseline of masked passes.
        status: one an image: "ok", "constant map", "no positive evidence"; "incomplete" where
            shares that must add up to the score are off by more than 1 % (`details["gap"]`); "not
            finite" where the network or the method gave NaN or infinite numbers.
        details: what else the method found out, by name, first dimension N.
        seconds: what the batch took: the shared pass, the shared backward pass if the method reads
            gradients, and the method's own work. Over several methods they add up to more than it
            took, since the passes are shared.
        passes: images that went through the network for the batch, the shared pass included.
        label: the key that `explain` gave the method; its name by default.
        signed: (N, *size), of a method that has signs (`method.entry.signed`): above 0 where the
            image speaks for the target, below 0 where it speaks against it, not normalised,
            upsampled from the layer. Of attributions their sum over the channels; of several layers
            the mean. None where the method has no signs.
        attributions: (N, C, *size), what each number of the images adds to the score, where the
            method says so; else None.
        fusion: how the maps of several layers became one, as `fuse` of `explain`.
    """

    map: Tensor
    raw: Tensor
    images: Tensor
    target: Target
    score: Tensor
    output: Any
    layers: tuple[str, ...]
    reshapes: tuple[Reshape | None, ...]
    method: ExplainingMethod
    masking: Masking
    status: tuple[str, ...]
    details: Mapping[str, Tensor] = field(default_factory=dict)
    seconds: float = 0.0
    passes: int = 0
    label: str = ""
    scores: ScoreKind = SOFTMAX
    inputs: Inputs | None = None
    place: int | str | None = None
    signed: Tensor | None = None
    attributions: Tensor | None = None
    fusion: Fusion = "mean"

    def __len__(self) -> int:
        return len(self.map)

    def __getitem__(self, index: int | slice) -> Explanation:
        """Return the explanation of one image, or of some, still as a batch."""
        where = torch.arange(len(self), device="cpu")[[index] if isinstance(index, int) else index]
        where = where.to(self.map.device)
        return replace(
            self,
            map=self.map[where],
            raw=self.raw[where],
            images=self.images[where],
            target=self.target.take(where),
            score=self.score[where],
            masking=self.masking.take(where, self.images.ndim - 2),
            output=_rows(self.output, where),
            inputs=None if self.inputs is None else self.inputs.take(where),
            status=tuple(self.status[i] for i in where.tolist()),
            details={name: value[where.to(value.device)] for name, value in self.details.items()},
            signed=None if self.signed is None else self.signed[where],
            attributions=None if self.attributions is None else self.attributions[where],
        )

    @property
    def given(self) -> InputsLike:
        """What the network was given: the images, or all inputs."""
        return self.images if self.inputs is None else self.inputs

    @property
    def convergence_delta(self) -> Tensor:
        """(N,) Σ attributions - (y(x) - y(b)): how far shares are from adding up as they must.

        b is what the method goes out from: the baseline, the blurred image; of LRP there is none,
        and y(b) is 0.

        Raises:
            OptionError: the method's attributions need not add up to anything.
        """
        rise = self.details.get("rise")
        if rise is None or self.attributions is None:
            raise OptionError(
                f"The attributions of {self.method.name} add up to no difference of scores; "
                "integrated-gradients, gradientshap, blur-ig, deeplift, deepshap and lrp have a "
                "convergence_delta."
            )
        return self.attributions.flatten(1).sum(1) - rise

    def wrap(self, net: nn.Module) -> NetworkWrapper:
        """Say of a network, or a copy of it, what was known of it when it was explained."""
        return NetworkWrapper(net, scores=self.scores, output=self.place)

    def __iter__(self) -> Iterator[Explanation]:
        return (self[i] for i in range(len(self)))

    def __repr__(self) -> str:
        size = "x".join(map(str, self.map.shape[1:]))
        return (
            f"Explanation({self.method.name}, {len(self)} maps of {size}, "
            f"layer {'+'.join(self.layers)}, status {', '.join(sorted(set(self.status)))})"
        )

    def _repr_png_(self) -> bytes | None:
        # a notebook would keep both, and the picture is the larger
        return _renderers[0](self) if _renderers and not _viewers else None

    def _repr_html_(self) -> str | None:
        return _viewers[0](self) if _viewers and len(self) else None

    def manifest(self) -> dict[str, Any]:
        """Return everything needed to make these maps again, in JSON types."""
        return {
            "method": self.method.name,
            "options": _jsonable(self.method.options),
            "layers": list(self.layers),
            **({} if self.fusion == "mean" else {"fuse": self.fusion}),
            "target": self.target.describe(),
            "score": finite(self.score.tolist()),
            "scores": self.scores.name,
            **({} if self.place is None else {"output": self.place}),
            **({} if self.inputs is None else {"inputs": self.inputs.describe()}),
            "masking": self.masking.describe(),
            "status": list(self.status),
            "versions": versions(),
        }

    def save(self, directory: str | Path, names: Sequence[str] | None = None) -> list[Path]:
        """Write for every image an overlay (PNG) and the raw map (.npy), and one manifest.json.

        And the signed values (.signed.npy), of a method that has signs.

        Several explanations can be saved into one folder, at once, too. Files are called
        `NAME.METHOD.npy`; a name that another explanation has taken (another label, class, layer
        or option of the same method) gets the label or a number behind it, and the same
        explanation saved again replaces itself. The manifest tells of the one saved last, and
        under "explanations" of all of them, with the names of their files.

        Args:
            directory: made if it does not exist.
            names: one an image, "/" for folders; image-0, image-1, … by default.

        Returns:
            The files written, manifest.json last.

        Raises:
            InputError: another number of names than images, or a name twice.
            OptionError: there is a file that no explanation wrote, or nothing can be written.
        """
        stems = list(names) if names is not None else [f"image-{i}" for i in range(len(self))]
        if len(set(stems)) != len(self) or len(stems) != len(self):
            raise InputError(
                f"{len(stems)} names were given for {len(self)} maps; give one different name each."
            )
        folder = OutputFolder(directory)
        with folder.lock(wait=_PATIENCE):
            return _save(self, folder, stems)


_PROGRAM, _MANIFEST, _PATIENCE = "torchsaliency", "manifest.json", 600.0


def _save(explanation: Explanation, folder: OutputFolder, stems: Sequence[str]) -> list[Path]:
    kept = folder.read_manifest(_MANIFEST, _fits)
    label = explanation.label or explanation.method.name
    facts = {"images": list(stems), "label": label, **explanation.manifest()}
    ids = {stem: _identity(facts, one) for stem, one in zip(stems, explanation, strict=True)}
    # the maps of the same explanation saved earlier are replaced
    earlier = [
        {
            **other,
            "files": {s: n for s, n in other["files"].items() if _ids(other)[s] != ids.get(s)},
        }
        for other in kept.get("explanations", [])
    ]
    taken = set(_names(earlier))
    contents: dict[str, Renderer] = {".npy": lambda one: _npy(one.raw[0])}
    if explanation.signed is not None:
        contents[".signed.npy"] = lambda one: _npy(cast("Tensor", one.signed)[0])
    if _renderers:
        contents[".png"] = _renderers[0]
    files = {
        stem: _free(path, facts["method"], label, [*contents], taken)
        for stem, path in file_names(stems).items()
    }
    written = [name for stem in stems for name in files[stem]]
    folder.require_own([*written, _MANIFEST])
    for stem, one in zip(stems, explanation, strict=True):
        for name, draw in zip(files[stem], contents.values(), strict=True):
            folder.write(name, draw(one))
    facts |= {"files": files, "identities": ids}
    explanations = [*(other for other in earlier if other["files"]), facts]
    manifest = {"program": _PROGRAM, "schema": 1, **facts, "explanations": explanations}
    folder.write_manifest(_MANIFEST, manifest, _names(explanations))
    folder.dissolve()
    return [folder.path / name for name in [*written, _MANIFEST]]


def _ids(facts: Mapping[str, Any]) -> dict[str, str]:
    return dict(facts["identities"])


def _names(explanations: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    return (name for facts in explanations for files in facts["files"].values() for name in files)


def _fits(manifest: Mapping[str, Any]) -> bool:
    return manifest["program"] == _PROGRAM and isinstance(manifest["explanations"], list)


def _identity(facts: Mapping[str, Any], one: Explanation) -> str:
    """Return what tells explanations of an image apart, as a digest."""
    kept = [facts[name] for name in ("label", "method", "options", "layers", "masking")]
    kept += [facts["fuse"]] if "fuse" in facts else []
    text = json.dumps([*kept, one.target.describe()], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _free(
    path: str, method: str, label: str, suffixes: Sequence[str], taken: set[str]
) -> list[str]:
    """Return the names of one image's files, the first that no other explanation has taken."""
    stem = f"{path}.{file_name(method)}"
    candidates = itertools.chain(
        [stem],
        [f"{stem}.{file_name(label)}"] if label != method else [],
        (f"{stem}-{number}" for number in itertools.count(2)),
    )
    names = ([candidate + suffix for suffix in suffixes] for candidate in candidates)
    return next(files for files in names if taken.isdisjoint(files))


def _npy(values: Tensor) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, values.detach().float().cpu().numpy())
    return buffer.getvalue()


def versions() -> dict[str, str]:
    """Return the versions that decide a result."""
    return {
        "torchsaliency": importlib.metadata.version("torchsaliency"),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
    }


def _rows(output: Any, where: Tensor) -> Any:
    if isinstance(output, Tensor):
        return output[where.to(output.device)]
    return [output[i] for i in where.tolist()]


def _jsonable(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _jsonable(part) for key, part in value.items()}
    if isinstance(value, tuple | list):
        return [_jsonable(part) for part in value]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    described = getattr(value, "options", None)
    if described is not None:
        return {"method": value.name, "options": _jsonable(described)}
    return str(value)
