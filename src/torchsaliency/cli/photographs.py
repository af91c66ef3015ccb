"""From the options of `explain` to a run: methods, metrics, targets and photographs by name."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional as F

from torchsaliency.cli.answers import MaskFile, Target
from torchsaliency.cli.console import say
from torchsaliency.cli.folder import Folder
from torchsaliency.cli.grid import Grid
from torchsaliency.cli.media import choose_medium
from torchsaliency.cli.monitoring import name_network_errors
from torchsaliency.cli.options import ExplainCommandOptions, parse_settings, require_chosen
from torchsaliency.cli.progress import Meter
from torchsaliency.cli.run import ALL, Run
from torchsaliency.core.acceleration import accelerated
from torchsaliency.core.embedding import embeddings
from torchsaliency.core.files import file_name
from torchsaliency.core.method import METHODS, Method, Needs, require_signs
from torchsaliency.core.segmentation import Segment
from torchsaliency.core.target import parse_target
from torchsaliency.data import find_photos, sample_photo, sample_photos
from torchsaliency.data.dataset import Sample
from torchsaliency.data.media import find_volumes
from torchsaliency.data.side_inputs import SideInputs, list_images, read_side_inputs
from torchsaliency.errors import DataError, OptionError
from torchsaliency.methods.smoothing import smooth
from torchsaliency.viz import colourise
from torchsaliency.zoo import Network, load_model, similarity_to_text
from torchsaliency.zoo.inputs import given_facts
from torchsaliency.zoo.media import takes_volumes

if TYPE_CHECKING:
    from torchsaliency.metrics import SaliencyMetric

_SAMPLE = "sample:"
_DEFAULT, _WITHOUT_CLASSES = "opticam", "mtsm"
"""Methods where none is named: for targets, and for encoders without one."""

Settings = Mapping[str, Mapping[str, str]]
"""Options of methods and metrics by name."""


def explain_photos(options: ExplainCommandOptions) -> dict[str, Any]:
    """Explain photographs, write what was found, and return the manifest of the run.

    If it fails on the way, the manifest has what was written before.
    """
    run = prepare_run(options)
    with accelerated(options.accelerate):
        return run.explain_all(resume=True)


def prepare_run(options: ExplainCommandOptions) -> Run:
    """Return the run that options stand for, all of them checked, before the first pass."""
    # What costs least to check is checked first.
    settings = parse_settings(options.settings)
    methods = _choose_methods(options.method or [_DEFAULT], settings, signed=options.signed)
    metrics = _choose_metrics(options.score, settings)
    require_chosen(settings, [*methods, *metrics])
    colourise(torch.zeros(1, 1), options.colormap)  # raises if there is no such colormap
    if options.scale == "shared" and not options.raw:
        raise OptionError(
            "--scale shared reads the raw maps when all are known, and --no-raw was given; leave "
            "one of the two out."
        )
    subjects = {
        "--target": options.target,
        "--similar-to": options.similar_to,
        "--text": options.text,
    }
    given = [name for name, value in subjects.items() if value]
    if len(given) > 1:
        raise OptionError(
            f"{' and '.join(given)} were given; a class is explained, or the similarity to a "
            "photograph, or to a text: leave all but one out."
        )
    words = [*options.photos, *([options.similar_to] if options.similar_to else [])]
    photos = unique_names(choose_photos(words, options.output))
    network = load_model(
        options.model,
        weights=options.weights,
        device=options.device,
        dtype=getattr(torch, options.precision),
        given=given_facts(options),
    )
    if takes_volumes(network):  # a folder of DICOM files is then one scan
        photos = unique_names(choose_photos(words, options.output, series=True))
        network.source.pop("assumed", None)  # of pictures
    say_assumptions(network)
    medium = choose_medium(options, network, [*photos.values()])
    if network.encoder and not (options.method or options.similar_to or options.text):
        methods = _choose_methods([_WITHOUT_CLASSES], settings)
        say(
            f"{network.name} is an encoder without classes: explained by {_WITHOUT_CLASSES}, which "
            "needs none (--method takes any other; it then explains the image's own embedding)."
        )
    if metrics:
        from torchsaliency.evaluation.setting import require_classes

        require_classes(metrics, network, None)
    smoothed = [
        smooth(
            method,
            eigen=options.eigen_smooth,
            augmented=options.aug_smooth,
            noise=options.noise_tunnel,
        )
        for method in methods.values()
    ]
    for method in smoothed if options.signed else ():
        require_signs(method)
    facts = list_images(Sample(name, path) for name, path in photos.items())
    side = read_side_inputs(options.inputs, options.of, facts, network)
    folder = Folder(options.output)
    return Run(
        options,
        folder,
        photos,
        network,
        {method.name: method for method in smoothed},
        metrics,
        targets=_choose_targets(options.target, network),
        references=_references(options, network, photos, methods, side),
        pictures=Grid(folder, options.colormap, signed=options.signed) if options.grid else None,
        side_inputs=side,
        medium=medium,
    )


def say_assumptions(network: Network) -> None:
    """Say in a line each what of the network nobody said, and what of its weights was left out."""
    if assumed := network.source.get("assumed"):
        say(
            f"{network.name} does not say all of its input; assumed: {assumed} (--size, --mean and "
            "--std say otherwise)."
        )
    if stripped := network.source.get("stripped"):
        say(f"Of the weights' names was taken off: {stripped}.")


# --- from words to objects ------------------------------------------------------------------------


def split_names(words: Sequence[str]) -> list[str]:
    """Return the names of a repeatable option, each of which may hold several with commas."""
    return [name.strip() for word in words for name in word.split(",") if name.strip()]


def _choose_methods(
    words: Sequence[str], settings: Settings, *, signed: bool = False
) -> dict[str, Method]:
    names = split_names(words)
    if ALL in names:
        names = [entry.name for entry in METHODS.entries().values() if entry.signed >= signed]
    if not names:
        raise OptionError("No method was named; give --method NAME, or --method all.")
    return {METHODS.get(name).name: METHODS.create(name, settings.get(name)) for name in names}


def _choose_metrics(words: Sequence[str], settings: Settings) -> dict[str, SaliencyMetric]:
    names = split_names(words)
    if not names:
        return {}
    from torchsaliency.metrics import create_metric, metric_entry

    for name in names:
        if needed := metric_entry(name).annotations:
            raise OptionError(
                f"--score {name} needs {needed} of the objects, which a photograph does not have; "
                "choose metrics without (see `torchsaliency metrics`), or use "
                "torchsaliency.evaluation.score in Python."
            )
    return {name: create_metric(name, settings.get(name, {})) for name in names}


def choose_photos(words: Sequence[str], output: Path, *, series: bool = False) -> list[Path]:
    """Return the photographs that files, folders and sample names stand for, each once.

    Of a folder, what an earlier run wrote (all below `output`) is left out, or the library would
    explain its own pictures. Of one that holds scans or videos, these are taken; one of DICOM files
    is itself a scan if `series` says so.
    """
    below = Path(os.path.realpath(output.expanduser()))
    found: dict[str, Path] = {}
    for word in words:
        path = Path(word).expanduser()
        if word.startswith(_SAMPLE) or (word in sample_photos() and not path.exists()):
            path = sample_photo(word.removeprefix(_SAMPLE)).path
        if not path.exists():
            raise DataError(
                f"{word} does not exist; give image files, folders of them, or samples "
                f"({', '.join(sample_photos())})."
            )
        for photo in find_volumes(path, series=series) or find_photos(path):
            real = os.path.realpath(photo)  # not Path.resolve, which raises for a link to itself
            if not (path.is_dir() and Path(real).is_relative_to(below)):
                found.setdefault(real, photo)
    if not found:
        raise DataError(
            f"There are no photographs in {', '.join(words)} but those below {output}; give others."
        )
    return list(found.values())


def read_photos(
    network: Network, paths: Sequence[Path], fit: str | None, meter: Meter
) -> tuple[Tensor, list[Path], dict[str, str]]:
    """Return photographs as one batch, which of them could be read, and why others could not.

    Args:
        network: that they are prepared for.
        paths: of the photographs.
        fit: how they are cut to its input.
        meter: told how far it is.

    Raises:
        DataError: none can be used.
    """
    preprocessing = network.frame(fit)
    inputs: list[Tensor] = []
    read: list[Path] = []
    skipped: dict[str, str] = {}
    for done, path in enumerate(paths):
        meter.update(what="reading photos", unit="photos", done=done, total=len(paths))
        try:
            image, reason = preprocessing(path), ""
        except DataError as error:
            reason = str(error)
        else:
            if inputs and image.shape != inputs[0].shape:
                reason = (
                    f"{path} becomes an input of {tuple(image.shape)} and the first photograph one "
                    f"of {tuple(inputs[0].shape)}; give --size, so that all have one size."
                )
        if reason:
            skipped[str(path)] = reason
            say(f"Skipped: {reason}")
        else:
            inputs.append(image)
            read.append(path)
    if not inputs:
        raise DataError(f"None of the photographs can be used: {next(iter(skipped.values()))}")
    like = next(network.parameters(), inputs[0])
    return torch.stack(inputs).to(like.device, like.dtype), read, skipped


def unique_names(paths: Sequence[Path]) -> dict[str, Path]:
    """Give every file a name of its own: its stem, numbered where stems repeat.

    Capitals do not tell names apart, because on some systems they do not tell files apart.
    """
    named: dict[str, Path] = {}
    taken: set[str] = set()
    for path in paths:
        name = file_name(Path(path.name.removesuffix(".gz")).stem) or "photo"
        number, candidate = 1, name
        while candidate.casefold() in taken:
            number += 1
            candidate = f"{name}-{number}"
        taken.add(candidate.casefold())
        named[candidate] = path
    return named


def _choose_targets(words: Sequence[str], network: Network) -> dict[str, Target]:
    found: dict[str, Target] = {}
    for word in words:
        subject, option, file = word.partition(",mask=")
        target: Target = parse_target(subject, network.class_index)
        if option:
            if not isinstance(target, Segment) or target.category is None:
                raise OptionError(
                    f"--target {word} was given; a mask is for the class of a segmenter: "
                    "segment:CLASS,mask=FILE."
                )
            target = MaskFile(target.category, Path(file).expanduser())
        found[str(target) if isinstance(target, int) else word] = target
    return found or {"": None}


def _references(
    options: ExplainCommandOptions,
    network: Network,
    photos: Mapping[str, Path],
    methods: Mapping[str, Method],
    side: SideInputs | None,
) -> dict[str, tuple[Tensor, str]]:
    """Return the embedding that each photograph is compared with, and what that is of.

    The other photograph is compared with the mean direction of all of them, which for one is its
    own.
    """
    if options.similar_to is None and options.text is None:
        return {}
    for label, method in methods.items():
        if Needs.TARGET not in method.entry.needs:
            raise OptionError(
                f"{label} does not read the target, so it cannot tell what a photograph shares "
                "with another or with a text; choose a method that does, such as gradcam, scorecam "
                "or opticam."
            )
    if options.text is not None:
        reference = similarity_to_text(network, options.text).reference[0]
        return dict.fromkeys(photos, (reference, f"“{options.text}”"))
    assert options.similar_to is not None
    chosen = choose_photos([options.similar_to], options.output)
    if len(chosen) > 1 or len(photos) < 2:  # noqa: PLR2004
        raise DataError(
            f"--similar-to {options.similar_to} stands for {len(chosen)} photographs, beside "
            f"{len(photos) - len(chosen)} others; give one, and at least one other to compare."
        )
    preprocessing = network.frame(options.fit)
    found: dict[str, Tensor] = {}
    for name, path in photos.items():
        with name_network_errors(network.name):
            image = preprocessing(path)[None]
            x = image if side is None else side.beside(image, [name])
            found[name] = embeddings(network, x, chunk=options.chunk)[0]
    real = chosen[0].resolve()
    other = next(name for name, path in photos.items() if path.resolve() == real)
    rest = [name for name in photos if name != other]
    mean = F.normalize(torch.stack([found[name] for name in rest]), dim=1).mean(0)
    words = rest[0] if len(rest) == 1 else f"{len(rest)} photos"
    return {**dict.fromkeys(rest, (found[other], other)), other: (mean, words)}
