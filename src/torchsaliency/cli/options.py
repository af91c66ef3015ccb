"""The options of the command line: their names, help and what they accept."""

from __future__ import annotations

import enum
import importlib.metadata
from pathlib import Path
from typing import Annotated

import typer

_IMAGE, _WHAT, _HOW, _OUT = "Network", "What is explained", "How it runs", "What is written"


class Precision(enum.StrEnum):
    """Number types a network may run in."""

    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"
    FLOAT16 = "float16"


class Baseline(enum.StrEnum):
    """What shows through where a mask hides the photograph."""

    MEAN = "mean"
    BLACK = "black"
    BLUR = "blur"


class Framing(enum.StrEnum):
    """How a photograph becomes the network's square."""

    CROP = "crop"
    SQUASH = "squash"
    FILL = "fill"


Photos = Annotated[
    list[str],
    typer.Argument(
        metavar="PHOTO...",
        help="Photographs, folders of them, or samples: chelsea, coffee, camera, rocket, china, "
        "flower (sample:NAME where a file has that name).",
        show_default=False,
    ),
]
Model = Annotated[
    str,
    typer.Option(
        metavar="NAME",
        help="builtin/, torchvision/, timm/ or hf/NAME, or file.py:factory.",
        rich_help_panel=_IMAGE,
    ),
]
Weights = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE", help="Weights, safetensors or torch, to load.", rich_help_panel=_IMAGE
    ),
]
Device = Annotated[
    str, typer.Option(metavar="NAME", help="cpu, cuda, cuda:1, mps …", rich_help_panel=_IMAGE)
]
Numbers = Annotated[Precision, typer.Option(help="Of the network.", rich_help_panel=_IMAGE)]
Fit = Annotated[
    Framing | None,
    typer.Option(
        help="Crop the middle, squash the whole photo, or fill the square with its shorter side; "
        "the network's own way by default.",
        rich_help_panel=_IMAGE,
        show_default=False,
    ),
]
Methods = Annotated[
    list[str],
    typer.Option(
        "--method",
        metavar="NAME,NAME|all",
        help="See `torchsaliency methods`; opticam by default, of an encoder mtsm, which needs no "
        "classes. One that `all` includes and that does not fit the network is reported and left "
        "out; one that you name must fit.",
        rich_help_panel=_WHAT,
        show_default=False,
    ),
]
Settings = Annotated[
    list[str],
    typer.Option(
        "--set",
        metavar="NAME.OPTION=VALUE",
        help="An option of a method or metric, such as opticam.iterations=50; repeatable.",
        rich_help_panel=_WHAT,
        show_default=False,
    ),
]
Scores = Annotated[
    list[str],
    typer.Option(
        "--score",
        metavar="NAME,NAME",
        help="Score the maps by metrics, such as ad,ai,ag,insertion,deletion; see `torchsaliency "
        "metrics`.",
        rich_help_panel=_WHAT,
        show_default=False,
    ),
]
Targets = Annotated[
    list[str],
    typer.Option(
        "--target",
        metavar="CLASS",
        help="A class by number or name; repeatable, one map each; the predicted one by default.",
        rich_help_panel=_WHAT,
        show_default=False,
    ),
]
SimilarTo = Annotated[
    str | None,
    typer.Option(
        metavar="PHOTO",
        help="Show what the photos share with this one, in all of them, by their embeddings.",
        rich_help_panel=_WHAT,
        show_default=False,
    ),
]
MatchingText = Annotated[
    str | None,
    typer.Option(
        "--text",
        metavar="WORDS",
        help="Show what of the photos matches these words, by a CLIP network.",
        rich_help_panel=_WHAT,
        show_default=False,
    ),
]
Layers = Annotated[
    list[str],
    typer.Option(
        "--layer",
        metavar="NAME",
        help="Where maps are read; see `torchsaliency layers MODEL`; repeatable, maps are fused.",
        rich_help_panel=_WHAT,
        show_default=False,
    ),
]
Masked = Annotated[
    Baseline,
    typer.Option(help="What replaces hidden parts of the photo.", rich_help_panel=_WHAT),
]
Augment = Annotated[
    bool,
    typer.Option(
        "--aug-smooth",
        help="Average over mirrored and brightened copies.",
        rich_help_panel=_WHAT,
    ),
]
EigenSmooth = Annotated[
    bool,
    typer.Option(
        "--eigen-smooth",
        help="Keep the first principal component of the channels.",
        rich_help_panel=_WHAT,
    ),
]
BatchSize = Annotated[
    int, typer.Option(min=1, help="Photos that share a pass.", rich_help_panel=_HOW)
]
Chunk = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="Images in one pass of masked or ablated copies; found from the network by default, "
        "halved where memory ends.",
        rich_help_panel=_HOW,
        show_default=False,
    ),
]


MODES = "off|channels-last|compile|onnx|bf16|auto"
"""Those of `core.engine`, which imports torch; `--help` does not."""

Accelerate = Annotated[
    str,
    typer.Option(
        metavar=MODES,
        help="How masked and other derived passes run; bf16 alone changes the numbers.",
        rich_help_panel=_HOW,
    ),
]


def _tell_version(asked: bool | None) -> None:
    if asked:
        typer.echo(importlib.metadata.version("torchsaliency"))
        raise typer.Exit


Version = Annotated[
    bool | None,
    typer.Option("--version", help="Tell the version.", callback=_tell_version, is_eager=True),
]
Json = Annotated[
    bool, typer.Option("--json", help="Write the result as JSON to stdout and nothing else there.")
]
Output = Annotated[
    Path,
    typer.Option(metavar="DIR", help="Made if it does not exist.", rich_help_panel=_OUT),
]
Alpha = Annotated[
    float,
    typer.Option(min=0.0, max=1.0, help="Strength of the overlay.", rich_help_panel=_OUT),
]
Colormap = Annotated[
    str, typer.Option(metavar="NAME", help="Any of matplotlib's.", rich_help_panel=_OUT)
]
Raw = Annotated[bool, typer.Option(help="Write raw maps as .npy, too.", rich_help_panel=_OUT)]
Grid = Annotated[
    bool,
    typer.Option(
        "--grid", help="Draw photos and methods into one labelled picture.", rich_help_panel=_OUT
    ),
]
Filter = Annotated[
    str, typer.Option("--filter", metavar="TEXT", help="Only names that contain this.")
]
ModelArgument = Annotated[str, typer.Argument(metavar="MODEL", help="As for `explain --model`.")]

_DATA, _RUN = "Data", "Evaluation"

PlanFile = Annotated[
    Path | None,
    typer.Argument(
        metavar="[PLAN.yaml]", help="A plan; options given beside it replace its fields."
    ),
]
Data = Annotated[
    str | None,
    typer.Option(
        metavar="FOLDER|NAME",
        help="A folder in a known layout, samples, shapes:COUNT, or kind:FOLDER.",
        rich_help_panel=_DATA,
        show_default=False,
    ),
]
Split = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="Of the data.", rich_help_panel=_DATA, show_default=False),
]
Boxes = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE|DIR",
        help="Where the objects' boxes are.",
        rich_help_panel=_DATA,
        show_default=False,
    ),
]
LabelFile = Annotated[
    Path | None,
    typer.Option(
        "--labels",
        metavar="FILE",
        help="Where the images' labels are.",
        rich_help_panel=_DATA,
        show_default=False,
    ),
]
Count = Annotated[
    int | None,
    typer.Option(
        min=1,
        metavar="N",
        help="At most so many images, drawn by --subset-seed.",
        rich_help_panel=_DATA,
        show_default=False,
    ),
]
SubsetSeed = Annotated[
    int | None,
    typer.Option(metavar="N", help="Of the draw.", rich_help_panel=_DATA, show_default=False),
]
Classes = Annotated[
    list[str],
    typer.Option(
        "--class",
        metavar="CLASS",
        help="Only images of this class of the data; repeatable.",
        rich_help_panel=_DATA,
        show_default=False,
    ),
]
Keep = Annotated[
    str | None,
    typer.Option(
        metavar="all|correct|misclassified",
        help="Which images, by what the network predicts.",
        rich_help_panel=_DATA,
        show_default=False,
    ),
]
ModelOrPlan = Annotated[
    str | None,
    typer.Option(
        "--model",
        metavar="NAME",
        help="The explained network: builtin/, torchvision/, timm/ or hf/NAME, or file.py:factory.",
        rich_help_panel=_IMAGE,
        show_default=False,
    ),
]
Judge = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="The network that scores, if it is another.",
        rich_help_panel=_IMAGE,
        show_default=False,
    ),
]
JudgeWeights = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="Of the judge.", rich_help_panel=_IMAGE, show_default=False),
]
MethodNames = Annotated[
    str | None,
    typer.Option(
        "--methods",
        metavar="NAME,NAME",
        help="See `torchsaliency methods`.",
        rich_help_panel=_RUN,
        show_default=False,
    ),
]
MetricNames = Annotated[
    str | None,
    typer.Option(
        "--metrics",
        metavar="NAME,NAME",
        help="See `torchsaliency metrics`.",
        rich_help_panel=_RUN,
        show_default=False,
    ),
]
Target = Annotated[
    str | None,
    typer.Option(
        metavar="label|predicted|CLASS",
        help="What is explained and judged; the label where there is one.",
        rich_help_panel=_RUN,
        show_default=False,
    ),
]
BaselineOrPlan = Annotated[
    Baseline | None,
    typer.Option(
        "--masking",
        help="What replaces hidden parts, of methods and metrics alike.",
        rich_help_panel=_RUN,
        show_default=False,
    ),
]
Normalise = Annotated[
    bool | None,
    typer.Option(
        "--normalise/--no-normalise",
        help="Feed the network its normalised input, or the image in [0, 1].",
        rich_help_panel=_RUN,
        show_default=False,
    ),
]
Seed = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        help="Of the measures that draw.",
        rich_help_panel=_RUN,
        show_default=False,
    ),
]
DeviceOrPlan = Annotated[
    str | None,
    typer.Option(
        "--device",
        metavar="NAME",
        help="cpu, cuda, cuda:1, mps …",
        rich_help_panel=_HOW,
        show_default=False,
    ),
]
PrecisionOrPlan = Annotated[
    Precision | None,
    typer.Option("--precision", help="Of the networks.", rich_help_panel=_HOW, show_default=False),
]
BatchOrPlan = Annotated[
    int | None,
    typer.Option(
        "--batch-size",
        min=1,
        help="Images that share a pass.",
        rich_help_panel=_HOW,
        show_default=False,
    ),
]
ChunkOrPlan = Annotated[
    int | None,
    typer.Option(
        "--chunk",
        min=1,
        help="Images in one derived pass; found by default, halved where memory ends.",
        rich_help_panel=_HOW,
        show_default=False,
    ),
]
AccelerateOrPlan = Annotated[
    str | None,
    typer.Option(
        "--accelerate",
        metavar=MODES,
        help="How masked and other derived passes run; bf16 alone changes the numbers.",
        rich_help_panel=_HOW,
        show_default=False,
    ),
]
Workers = Annotated[
    int | None,
    typer.Option(
        min=0,
        help="Processes that read images.",
        rich_help_panel=_HOW,
        show_default=False,
    ),
]
KeepMaps = Annotated[
    bool | None,
    typer.Option(
        "--maps/--no-maps", help="Keep the maps, too.", rich_help_panel=_OUT, show_default=False
    ),
]
RunFolder = Annotated[
    Path, typer.Argument(metavar="RUN", help="What `torchsaliency evaluate --output` wrote.")
]
Format = Annotated[
    str,
    typer.Option(
        "--format",
        metavar="text|markdown|latex|csv|html|json",
        help="How it is written, to stdout.",
    ),
]
MethodA = Annotated[str, typer.Argument(metavar="A", help="A method of the evaluation.")]
MethodB = Annotated[str, typer.Argument(metavar="B", help="Another.")]
Confidence = Annotated[float, typer.Option(min=0.5, max=0.999, help="Of the intervals.")]
RecipeName = Annotated[str, typer.Argument(metavar="NAME", help="See `torchsaliency recipes`.")]
RecipeData = Annotated[
    list[str],
    typer.Option(
        "--data",
        metavar="FOLDER|NAME",
        help="The paper's data, samples, shapes:COUNT, or kind:FOLDER; repeatable where a recipe "
        "needs several kinds.",
        rich_help_panel=_DATA,
        show_default=False,
    ),
]
RecipeModels = Annotated[
    list[str],
    typer.Option(
        "--model",
        metavar="NAME[=WEIGHTS]",
        help="A network instead of the recipe's; repeatable.",
        rich_help_panel=_IMAGE,
        show_default=False,
    ),
]
Limit = Annotated[
    int | None,
    typer.Option(
        min=1,
        metavar="N",
        help="At most so many images.",
        rich_help_panel=_DATA,
        show_default=False,
    ),
]
OutputOrName = Annotated[
    Path | None,
    typer.Option(
        "--output",
        metavar="DIR",
        help="Made if it does not exist; reproduced/NAME by default.",
        rich_help_panel=_OUT,
        show_default=False,
    ),
]

_TRAIN = "Training"

TrainData = Annotated[
    str,
    typer.Option(
        "--data",
        metavar="DIR",
        help="Chest X-rays, Kvasir, or a folder for each class (in train, val and test, if you "
        "have them apart).",
        rich_help_panel=_DATA,
        show_default=False,
    ),
]
Arch = Annotated[
    str,
    typer.Option(
        metavar="NAME",
        help="A torchvision network, such as resnet50 or vgg16_bn; or builtin/, timm/ or hf/NAME, "
        "or file.py:factory.",
        rich_help_panel=_IMAGE,
    ),
]
Pretrained = Annotated[
    bool,
    typer.Option(
        "--pretrained/--no-pretrained",
        help="Begin with ImageNet's weights (fetched, if --weights gives no file), or random ones.",
        rich_help_panel=_IMAGE,
    ),
]
HeadEpochs = Annotated[
    int,
    typer.Option(min=0, help="Of the new head alone, all else frozen.", rich_help_panel=_TRAIN),
]
HeadRate = Annotated[
    float | None,
    typer.Option(
        metavar="RATE",
        help="Learning rate of the head alone; 0.001, or with Kvasir 0.0001 for resnet50 and 0.005 "
        "for vgg16_bn.",
        rich_help_panel=_TRAIN,
        show_default=False,
    ),
]
Epochs = Annotated[
    int,
    typer.Option(
        min=0,
        help="Of everything, after that; may be raised later to go on.",
        rich_help_panel=_TRAIN,
    ),
]
Rate = Annotated[
    float,
    typer.Option(metavar="RATE", help="Learning rate of everything.", rich_help_panel=_TRAIN),
]
Decay = Annotated[
    float,
    typer.Option("--weight-decay", min=0.0, help="Of both stages.", rich_help_panel=_TRAIN),
]
Step = Annotated[
    int, typer.Option("--batch-size", min=1, help="Images a step.", rich_help_panel=_TRAIN)
]
Flip = Annotated[
    bool,
    typer.Option("--flip/--no-flip", help="Mirror half of the images.", rich_help_panel=_TRAIN),
]
TrainSeed = Annotated[
    int,
    typer.Option(
        "--seed",
        metavar="N",
        help="Of the new head, the order, the flips and dropout.",
        rich_help_panel=_TRAIN,
    ),
]

SurveyKey = Annotated[
    Path,
    typer.Argument(
        metavar="KEY",
        help="The survey-key.json that was written beside the page.",
        show_default=False,
    ),
]
AnswerFiles = Annotated[
    list[Path],
    typer.Argument(metavar="ANSWERS...", help="What participants exported.", show_default=False),
]


class SurveyRow(enum.StrEnum):
    """What the rows of a survey's table are."""

    NETWORK = "network"
    PHOTOGRAPH = "photograph"
    PARTICIPANT = "participant"


By = Annotated[SurveyRow, typer.Option("--by", help="What a row is.")]
