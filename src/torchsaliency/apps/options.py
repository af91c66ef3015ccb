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
        help="Crop the middle, or squash the whole photo; the network's own way by default.",
        rich_help_panel=_IMAGE,
        show_default=False,
    ),
]
Methods = Annotated[
    list[str],
    typer.Option(
        "--method",
        metavar="NAME,NAME|all",
        help="See `torchsaliency methods`. One that `all` includes and that does not fit the "
        "network is reported and left out; one that you name must fit.",
        rich_help_panel=_WHAT,
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
    int,
    typer.Option(
        min=1, help="Images in one pass of masked or ablated copies.", rich_help_panel=_HOW
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
