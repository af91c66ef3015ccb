"""Every option once: its type, default, limits and description, as a field of a pydantic model.

The command line, plans in YAML, the tables in docs/cli.md and forms are made from these models.
This module does not import torch, so that `--help` is fast.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from torchsaliency.errors import OptionError, describe_unknown

DEFAULT_MODEL = "builtin/efficientnet_lite0"
"""The network that is used when none is named; its weights come from the package registry."""

NETWORK, DATA, EXPLAINED, SCORED = "Network", "Data", "What is explained", "How it is scored"
RUNNING, TRAINING, WRITTEN = "How it runs", "Training", "What is written"
GROUPS = ("", DATA, EXPLAINED, NETWORK, SCORED, TRAINING, RUNNING, WRITTEN)
"""The order in which help and the tables show them; positional arguments have none."""


Framing = Literal["crop", "squash", "fill"]
PhotoFraming = Literal["whole", "own", "crop", "squash", "fill"]
Fusion = Literal["mean", "max", "product", "grid-mean", "grid-max", "grid-product"]
Baseline = Literal["mean", "black", "blur"]
Precision = Literal["float32", "bfloat16", "float16"]
NoiseKind = Literal["mean", "squares", "variance"]


def option(
    default: Any,
    group: str,
    description: str,
    *,
    metavar: str = "",
    spelling: str = "",
    values: str = "",
    **limits: Any,
) -> Any:
    """Return a field of a model of options.

    It must be given if the default is `...`. Help and forms list it under the group, which is empty
    for a positional argument. By default the metavar is what the type says, and the spelling on the
    command line `--` and the field's name. `values` says whose names shells complete, see
    `cli.completing`. `limits` are those of pydantic: `ge`, `min_length` …
    """
    extra: Any = {"group": group, "metavar": metavar, "spelling": spelling, "values": values}
    return Field(default, description=description, json_schema_extra=extra, **limits)


class Options(BaseModel):
    """Base of all models of options."""

    model_config = ConfigDict(frozen=True, extra="forbid")


OptionsT = TypeVar("OptionsT", bound=Options)


def validate_options(
    model: type[OptionsT],
    facts: Mapping[str, Any],
    *,
    where: str = "",
    spell: Callable[[str], str] = str,
) -> OptionsT:
    """Return a model whose every field exists and fits; `spell` is how the user writes a field.

    Raises:
        OptionError: naming the field, what was given, and what is close to it.
    """
    for key in facts:
        if key not in model.model_fields:
            raise OptionError(describe_unknown("field", key, model.model_fields, where=where))
    try:
        return model.model_validate(dict(facts))
    except ValidationError as error:
        first = error.errors()[0]
        field, *inside = first["loc"] or ("options",)
        place = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in inside)
        reason = first["msg"].removeprefix("Value error, ").rstrip(".")
        raise OptionError(f"{spell(str(field))}{place}: {reason}.") from None


# --- options of several commands ------------------------------------------------------------------

WEIGHTS = option(None, NETWORK, "Weights of the network, safetensors or torch.", metavar="FILE")
PERMUTED = option(
    None,
    NETWORK,
    "The same network trained on permuted labels, for sanity metrics with mode=labels.",
    metavar="NAME",
    values="networks",
)
PERMUTED_WEIGHTS = option(None, NETWORK, "Its weights.", metavar="FILE")
INPUTS = option(
    (),
    NETWORK,
    "What else the network's forward takes: NAME=63 or NAME=0.2,1.5, the same for all images; "
    "NAME=age,sex, columns of the data set's labels table; or NAME=rows.npy (.npz, .pt, .json), a "
    "row for each image or one for all. Repeatable.",
    metavar="NAME=VALUE",
    spelling="--input",
)
OF = option(
    None,
    NETWORK,
    "The argument of the network's forward that takes the images, if it has several; the one that "
    "no --input gives by default.",
    metavar="NAME",
)
DEVICE = option("cpu", RUNNING, "cpu, cuda, cuda:1, mps …", metavar="NAME")
PRECISION = option("float32", RUNNING, "The network's number type.")
FIT = option(
    None,
    NETWORK,
    "Crop the middle of an image, squash the whole, or fill the network's square with its "
    "shorter side; the network's own way by default.",
)
MASKING = option(
    "mean", EXPLAINED, "What replaces hidden parts of an image, for methods and metrics alike."
)
LAYERS = option(
    (),
    EXPLAINED,
    "Where maps are read, see `torchsaliency layers MODEL`; the network's default layer if "
    "none is given. Repeatable: the maps are fused, see --fuse.",
    metavar="NAME",
    spelling="--layer",
)
FUSE = option(
    "mean",
    EXPLAINED,
    "How the maps of several layers become one: each is resized and then stretched to [0, 1]; or, "
    "grid-…, stretched and then resized, as in pytorch-grad-cam (grid-mean) and torchcam "
    "(grid-max).",
)
SETTINGS = option(
    (),
    EXPLAINED,
    "An option of a method or metric, such as opticam.iterations=50. Repeatable.",
    metavar="NAME.OPTION=VALUE",
    spelling="--set",
    values="settings",
)
BATCH_SIZE = option(8, RUNNING, "Images that share a pass.", ge=1, lt=2**63)
CHUNK = option(
    None,
    RUNNING,
    "Images in one pass of masked or ablated copies; found from the network by default, halved "
    "where memory ends.",
    ge=1,
)
ACCELERATE = option(
    "off",
    RUNNING,
    "How masked and other derived passes run: off, auto, or an engine such as onnx; a name "
    "that does not exist is answered with the list. bf16 and fast change the numbers.",
    metavar="NAME",
)
WORKERS = option(
    None,
    RUNNING,
    "Processes that read images; as many as the machine allows by default.",
    ge=0,
    le=512,
)
SEED = option(0, RUNNING, "Seed of all that is drawn.", ge=-(2**63), lt=2**64)


class NetworkOptions(Options):
    """Which network, and what its numbers and inputs mean."""

    model: str = option(
        DEFAULT_MODEL,
        NETWORK,
        "The explained network: builtin/, torchvision/, timm/ or hf/NAME, ./folder (of Hugging "
        "Face's save_pretrained), a program (net.pt2, net.torchscript, net.onnx), or "
        "file.py:factory, with options in brackets: file.py:factory(depth=3).",
        metavar="NAME",
        values="networks",
    )
    weights: Path | None = WEIGHTS
    size: str | None = option(
        None,
        NETWORK,
        "Pixels of the network's input, one side or HEIGHTxWIDTH; what the network, its file or "
        "its weights say by default.",
        metavar="SIDE|HxW",
    )
    mean: str | None = option(
        None,
        NETWORK,
        "What is subtracted, a number or one a channel: of values in [0, 1], or of pixels in "
        "0…255 if a mean or std is above 1; as --size by default.",
        metavar="NUMBER,…",
    )
    std: str | None = option(None, NETWORK, "By what is divided, as --mean.", metavar="NUMBER,…")
    channels: int | None = option(
        None,
        NETWORK,
        "Of the network's input: 1 reads photographs as grey, 3 as colours, others the channels "
        "of a TIFF or .npy file; those of the first convolution by default.",
        ge=1,
        le=65_536,
    )
    class_names: Path | None = option(
        None,
        NETWORK,
        "Names of the network's classes: a text with one a line, or JSON.",
        metavar="FILE",
        spelling="--classes",
    )
    scores: str | None = option(
        None,
        NETWORK,
        "What the network's numbers mean: softmax (one class is true), sigmoid (independent "
        "labels), binary (one logit), probabilities, regression or embedding; what the network "
        "or its file says by default, or else what it shows.",
        metavar="KIND",
    )
    output_key: str | None = option(
        None,
        NETWORK,
        "Where its numbers are in what the network returns: an index, a key, or a path such as "
        "heads.main; found by default.",
        metavar="PATH",
    )


# --- explain --------------------------------------------------------------------------------------


class ExplainOptions(NetworkOptions):
    """How photographs are explained."""

    method: tuple[str, ...] = option(
        (),
        EXPLAINED,
        "Methods, see `torchsaliency methods`; opticam by default, mtsm for an encoder without "
        "classes. One that `all` includes and that does not fit the network is reported and "
        "left out; one that is named must fit.",
        metavar="NAME,NAME|all",
        values="methods",
    )
    settings: tuple[str, ...] = SETTINGS
    score: tuple[str, ...] = option(
        (),
        EXPLAINED,
        "Metrics that score the maps, such as ad,ai,ag,insertion,deletion; see `torchsaliency "
        "metrics`.",
        metavar="NAME,NAME",
        values="metrics",
    )
    target: tuple[str, ...] = option(
        (),
        EXPLAINED,
        "A class by number or name; or a target, see `torchsaliency targets`, such as margin, "
        "margin:tabby or regression:index=2; of a detector box:0 or box:dog, of a segmenter "
        "segment:cat; the predicted class, or the surest detection, by default. Repeatable: one "
        "map each.",
        metavar="CLASS|NAME",
        values="targets",
    )
    similar_to: str | None = option(
        None,
        EXPLAINED,
        "Show what the photos share with this photo, in all of them, by their embeddings.",
        metavar="PHOTO",
    )
    text: str | None = option(
        None,
        EXPLAINED,
        "Show what of the photos matches a text, by a CLIP network.",
        metavar="WORDS",
    )
    layer: tuple[str, ...] = LAYERS
    fuse: Fusion = FUSE
    masking: Baseline = MASKING
    aug_smooth: bool = option(
        False, EXPLAINED, "Average the maps over mirrored and brightened copies."
    )
    eigen_smooth: bool = option(
        False, EXPLAINED, "Keep the first principal component of the channels."
    )
    noise_tunnel: NoiseKind | None = option(
        None,
        EXPLAINED,
        "Explain ten noisy copies of each photo; keep the mean of the maps, of their squares, or "
        "their variance.",
    )
    inputs: tuple[str, ...] = INPUTS
    of: str | None = OF
    fit: PhotoFraming = option(
        "whole",
        NETWORK,
        "Show the network the whole photo, at its own aspect or letterboxed; or prepare it in the "
        "network's own way, crop its middle, squash it, or fill the network's square with its "
        "shorter side.",
    )
    device: str = DEVICE
    precision: Precision = PRECISION
    batch_size: int = BATCH_SIZE
    chunk: int | None = CHUNK
    accelerate: str = ACCELERATE
    alpha: float | None = option(
        None, WRITTEN, "Strength of the overlay; 0.6 by default, 0.8 with --signed.", ge=0, le=1
    )
    signed: bool = option(
        False,
        WRITTEN,
        "Draw what speaks for the class in red and what speaks against it in blue, over the photo "
        "in grey; of methods that have signs, see `torchsaliency methods`.",
    )
    colormap: str | None = option(
        None,
        WRITTEN,
        "A colormap of matplotlib; plasma by default, bwr with --signed.",
        metavar="NAME",
    )
    scale: Literal["own", "shared"] = option(
        "own",
        WRITTEN,
        "Stretch the colours over each map's own range, or over one range of the raw values of all "
        "methods and photos, so that pictures can be compared.",
    )
    colour_bar: bool = option(
        True, WRITTEN, "Draw the colour scale on the right of each overlay, beside the photo."
    )
    raw: bool = option(True, WRITTEN, "Write raw maps as .npy, too.")
    grid: bool = option(False, WRITTEN, "Draw photos and methods into one labelled picture.")


# --- evaluate -------------------------------------------------------------------------------------


class Choice(Options):
    """A method or metric with its options.

    Attributes:
        name: as registered.
        label: what its rows are called; the name by default, so that one may be there twice.
        options: by name.
        augmented: methods only: average over mirrored and brightened copies.
        eigen: methods only: keep the first principal component.
        noise: methods only: "mean", "squares" or "variance" over noisy copies.

    Example:
        >>> Choice(name="rise", label="few", options={"samples": 100}).label
        'few'
    """

    name: str
    label: str = ""
    options: dict[str, Any] = Field(default_factory=dict)
    augmented: bool = False
    eigen: bool = False
    noise: NoiseKind | None = None

    @model_validator(mode="before")
    @classmethod
    def _read(cls, value: Any) -> Any:
        """Read "gradcam", {"opticam": {"iterations": 50}} and {"name": …, "label": …} alike."""
        if isinstance(value, str):
            value = {"name": value.strip()}
        elif isinstance(value, Mapping) and len(value) == 1 and "name" not in value:
            (name, options), *_ = value.items()
            value = {"name": name, "options": options or {}}
        if isinstance(value, Mapping) and not value.get("label"):
            value = {**value, "label": value.get("name", "")}
        return value


def read_choice(kind: str, given: Any) -> Choice:
    """Return a method or metric with its options, written as in a plan.

    Args:
        kind: "method" or "metric", for the error.
        given: "gradcam", {"rise": {"samples": 100}} or the fields of `Choice`.

    Raises:
        OptionError: it is none of these.

    Example:
        >>> read_choice("method", {"rise": {"samples": 100}}).options
        {'samples': 100}
    """
    try:
        return Choice.model_validate(given)
    except ValidationError:
        raise OptionError(
            f"{given!r} was given as a {kind}; give its name, {{name: {{option: value}}}}, or a "
            f"{kind} object."
        ) from None


class PlanOptions(NetworkOptions):
    """What is evaluated, and how."""

    data: str = option(
        "samples",
        DATA,
        "A folder in a known layout, a .tar or a pattern of them, hf:NAME:SPLIT, samples, "
        "shapes:COUNT, or kind:FOLDER.",
        metavar="FOLDER|NAME",
        min_length=1,
        values="datasets",
    )
    split: str | None = option(
        None, DATA, "A split of the data, where there are several.", metavar="NAME"
    )
    boxes: Path | None = option(None, DATA, "Where the objects' boxes are.", metavar="FILE|FOLDER")
    labels: Path | None = option(None, DATA, "Where the images' labels are.", metavar="FILE")
    count: int | None = option(None, DATA, "At most so many images, drawn by `subset_seed`.", ge=1)
    subset_seed: int = option(0, DATA, "Seed of the draw of images.", ge=-(2**63), lt=2**64)
    classes: tuple[int | str, ...] = option(
        (),
        DATA,
        "Only images of this class of the data, by number or name. Repeatable.",
        metavar="CLASS",
        spelling="--class",
    )
    keep: Literal["all", "correct", "misclassified"] = option(
        "all", DATA, "Which images, by what the explained network predicts."
    )
    inputs: tuple[str, ...] = INPUTS
    of: str | None = OF
    judge: str | None = option(
        None,
        NETWORK,
        "The network that scores, if it is another.",
        metavar="NAME",
        values="networks",
    )
    judge_weights: Path | None = option(None, NETWORK, "Its weights.", metavar="FILE")
    permuted: str | None = PERMUTED
    permuted_weights: Path | None = PERMUTED_WEIGHTS
    methods: tuple[Choice, ...] = option(
        (),
        EXPLAINED,
        "See `torchsaliency methods`; in YAML also with options and labels.",
        metavar="NAME,NAME",
        values="methods",
    )
    maps_from: tuple[str, ...] = option(
        (),
        EXPLAINED,
        "Maps that another program made, scored like a method: a folder with a .npy, .png, .tif or "
        ".nii.gz an image, named by its id, at the size of the network's input. Repeatable.",
        metavar="NAME=FOLDER",
    )
    metrics: tuple[Choice, ...] = option(
        (),
        SCORED,
        "See `torchsaliency metrics`; in YAML also with options and labels.",
        metavar="NAME,NAME",
        values="metrics",
    )
    study: Literal["boxes", "boxes-published", "classes", "selectivity"] | None = option(
        None,
        SCORED,
        "AD, AG and AI of variants: the map inside and outside the boxes (Opti-CAM's Table 5; "
        "boxes-published with its helper's defect), maps of other classes (Table A.9), or "
        "powers of the map (Figure A4).",
    )
    target: int | str | None = option(
        None,
        EXPLAINED,
        "What is explained and judged: label (the papers' ground truth), predicted, or a class "
        "by number or name; the label where the data has labels that the network knows.",
        metavar="label|predicted|CLASS",
    )
    layers: tuple[str, ...] = LAYERS
    fuse: Fusion = FUSE
    masking: Baseline = MASKING
    fit: Framing | None = FIT
    normalise: bool = option(
        True,
        NETWORK,
        "Feed the network its normalised input, or the image in [0, 1] (Opti-CAM's Table A.14).",
    )
    seed: int = SEED
    precision: Precision = PRECISION
    batch_size: int = BATCH_SIZE
    chunk: int | None = CHUNK
    workers: int | None = WORKERS
    device: str = DEVICE
    accelerate: str = ACCELERATE
    until_interval: float | None = option(
        None,
        RUNNING,
        "Take the images in random order, and stop when every 95 % interval of the table is "
        "narrower than this, in the metric's unit (most are in points).",
        gt=0,
        allow_inf_nan=False,
        metavar="WIDTH",
    )
    engine: str | None = option(
        None,
        RUNNING,
        "Where batches are computed: local (this process), processes, ray or torchrun; torchrun by "
        "default where it started this process, else local.",
        metavar="NAME",
    )
    actors: int | None = option(
        None, RUNNING, "Processes with networks of their own: processes and ray.", ge=1, le=65536
    )
    workers_per_gpu: int | None = option(
        None, RUNNING, "Processes on each GPU of this machine: local and processes.", ge=1, le=64
    )
    gpus_per_actor: float | None = option(
        None, RUNNING, "GPUs of an actor, or the part of one: ray.", ge=0, le=64
    )
    address: str | None = option(
        None,
        RUNNING,
        "A running cluster, such as ray://head:10001 or auto; one is started on this machine by "
        "default: ray.",
        metavar="ADDRESS",
    )
    maps: bool = option(False, WRITTEN, "Keep the maps, too.")

    @field_validator("methods", "metrics", mode="before")
    @classmethod
    def _as_choices(cls, value: Any) -> Any:
        if isinstance(value, Mapping):
            value = [{name: options} for name, options in value.items()]
        if isinstance(value, str):
            value = [value]
        if not isinstance(value, Sequence):
            return value
        parts = [part.split(",") if isinstance(part, str) else [part] for part in value]
        return tuple(itertools.chain.from_iterable(parts))

    @field_validator("inputs", mode="before")
    @classmethod
    def _as_words(cls, value: Any) -> Any:
        """Read {"meta": ["age", "sex"], "dose": 0.5} as ("meta=age,sex", "dose=0.5")."""
        if not isinstance(value, Mapping):
            return (value,) if isinstance(value, str) else value
        several = {
            name: part if isinstance(part, list | tuple) else [part] for name, part in value.items()
        }
        return tuple(f"{name}={','.join(map(str, parts))}" for name, parts in several.items())

    @field_validator("layers", "classes", "maps_from", mode="before")
    @classmethod
    def _as_several(cls, value: Any) -> Any:
        return (value,) if isinstance(value, int | str) else value


# --- finetune -------------------------------------------------------------------------------------


class FinetuneOptions(Options):
    """How a network is fine-tuned; what Opti-CAM's appendix E.2 leaves open is marked so."""

    data: str = option(
        ...,
        DATA,
        "Chest X-rays, Kvasir, or a folder for each class (in train, val and test, if they are "
        "apart).",
        metavar="FOLDER",
    )
    arch: str = option(
        "resnet50",
        NETWORK,
        "A torchvision network, such as resnet50 (with the paper's weights, torchvision's "
        "first) or vgg16_bn; or builtin/, timm/ or hf/NAME, or file.py:factory.",
        metavar="NAME",
        values="networks",
    )
    weights: Path | None = WEIGHTS
    pretrained: bool = option(
        True,
        NETWORK,
        "Begin with ImageNet's weights (fetched, if --weights gives no file), or random ones.",
    )
    head_epochs: int = option(10, TRAINING, "Of the new head alone, all else frozen.", ge=0)
    head_rate: float | None = option(
        None,
        TRAINING,
        "Learning rate of the head alone; 0.001 by default, with Kvasir 0.0001 for resnet50 "
        "and 0.005 for vgg16_bn.",
        gt=0,
        allow_inf_nan=False,
    )
    epochs: int = option(
        50, TRAINING, "Of everything, after that; may be raised later to go on.", ge=0
    )
    rate: float = option(1e-5, TRAINING, "Learning rate of everything.", gt=0, allow_inf_nan=False)
    momentum: float = option(0.9, TRAINING, "Of both stages.", ge=0, lt=1)
    weight_decay: float = option(0.0, TRAINING, "Of both stages.", ge=0, allow_inf_nan=False)
    batch_size: int = option(
        32,
        TRAINING,
        "Images a step, or fewer: an epoch is divided evenly.",
        ge=1,
    )
    flip: bool = option(
        True,
        TRAINING,
        "Mirror half of the training images, drawn anew in each epoch.",
    )
    fit: Literal["crop", "squash"] | None = option(
        None,
        NETWORK,
        "Crop the middle of an image, or squash the whole; squash with the paper's data sets, "
        "the network's own way with others.",
    )
    seed: int = SEED
    device: str = DEVICE
    workers: int | None = WORKERS
