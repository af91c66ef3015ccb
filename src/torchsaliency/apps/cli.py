"""The command line: `torchsaliency demo`, `explain`, `methods`, `models`, `layers`.

Every error that is the user's is one sentence and exit code 2. Code 1 says that some photographs of
several were bad and the rest is done; 130 that the user stopped it.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import click
import typer
from rich.console import Console
from rich.table import Table

app = typer.Typer(
    help="What is this vision network looking at?",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

BAD_INPUT, PARTLY, STOPPED = 2, 1, 130

Json = Annotated[bool, typer.Option("--json", help="Print JSON, and nothing else, on stdout.")]


@app.command()
def demo(
    output: Annotated[Path, typer.Option(help="Folder for the pictures.")] = Path("demo"),
) -> None:
    """Explain six real photographs with a real network, offline, by several methods."""
    from torchsaliency.apps.demo import run_demo

    run_demo(output, Console())


@app.command()
def explain(  # noqa: PLR0913, PLR0917 (Typer reads one parameter an option)
    photos: Annotated[
        list[str],
        typer.Argument(help="Photographs, folders of them, or samples such as chelsea."),
    ],
    model: Annotated[
        str, typer.Option(help="builtin/…, torchvision/…, timm/…, hf/…, or file.py:factory.")
    ] = "builtin/efficientnet_lite0",
    weights: Annotated[Path | None, typer.Option(help="Weights file for the model.")] = None,
    method: Annotated[
        str, typer.Option(help="Names separated by commas, or all.")
    ] = "opticam,gradcam,mtsm",
    target: Annotated[
        list[str] | None,
        typer.Option(help="Class index or name; several allowed. Default: the predicted class."),
    ] = None,
    layer: Annotated[
        list[str] | None, typer.Option(help="Layer name; several are fused into one map.")
    ] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1, mps, …")] = "cpu",
    precision: Annotated[str, typer.Option(help="float32, bfloat16 or float16.")] = "float32",
    batch_size: Annotated[int, typer.Option(min=1, help="Photographs in one pass.")] = 8,
    chunk: Annotated[int, typer.Option(min=1, help="Masked images in one pass.")] = 32,
    masking: Annotated[str, typer.Option(help="What masks show: mean, black or blur.")] = "mean",
    fit: Annotated[
        str, typer.Option(help="model: as the network was trained; squash: the whole photograph.")
    ] = "model",
    output: Annotated[Path, typer.Option(help="Folder for the results.")] = Path("saliency"),
    alpha: Annotated[float, typer.Option(min=0, max=1, help="Strength of the colour.")] = 0.5,
    colormap: Annotated[str, typer.Option(help="Any matplotlib colormap.")] = "turbo",
    raw: Annotated[bool, typer.Option(help="Write the raw maps as .npy.")] = True,
    grid: Annotated[
        bool, typer.Option("--grid", help="Also all photographs and methods in one picture.")
    ] = False,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", help="A method's option, e.g. opticam.iterations=50."),
    ] = None,
    aug_smooth: Annotated[
        bool, typer.Option("--aug-smooth", help="Average over mirrored, brightened copies.")
    ] = False,
    eigen_smooth: Annotated[
        bool, typer.Option("--eigen-smooth", help="First principal component of each map.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Draw what a network looks at, for photographs and folders.

    Writes, for every photograph, method and target, an overlay PNG of the photograph's own size and
    the raw map (.npy), and one manifest.json. Exit code 1: some photographs could not be read, the
    others are done.
    """
    from torchsaliency.apps.explaining import Job, run
    from torchsaliency.apps.options import parse_methods

    job = Job(
        photos=photos,
        model=model,
        weights=weights,
        methods=parse_methods(method, settings or [], augment=aug_smooth, eigen=eigen_smooth),
        optional=method.strip() == "all",
        targets=target or [],
        layers=layer or [],
        device=device,
        precision=precision,
        batch_size=batch_size,
        chunk=chunk,
        masking=masking,
        fit=fit,
        output=output,
        alpha=alpha,
        colormap=colormap,
        raw=raw,
        grid=grid,
    )
    outcome = run(job, Console(stderr=True))
    if as_json:
        sys.stdout.write(json.dumps(outcome.manifest, indent=2) + "\n")
    else:
        outcome.report(Console())
    if outcome.failed:
        raise typer.Exit(PARTLY)


@app.command()
def methods(as_json: Json = False) -> None:
    """List the methods with their options."""
    from torchsaliency.apps.options import described_methods

    found = described_methods()
    if as_json:
        sys.stdout.write(json.dumps(found, indent=2) + "\n")
        return
    table = Table("method", "family", "label-free", "needs", "options", "in short", box=None)
    for one in found:
        options = "\n".join(f"{key}={value}" for key, value in one["options"].items())
        free = "yes" if one["label_free"] else ""
        table.add_row(
            one["name"], one["family"], free, ", ".join(one["needs"]), options, one["summary"]
        )
    Console().print(table)


@app.command()
def models(
    contains: Annotated[str, typer.Option("--filter", help="Only names with this in them.")] = "",
    as_json: Json = False,
) -> None:
    """List the networks that have a name; hf/NAME and file.py:factory work too."""
    from torchsaliency.zoo import models as known

    found = [one for one in known() if contains.lower() in one.name.lower()]
    if as_json:
        rows = [{"name": one.name, "source": one.source, "family": one.family} for one in found]
        sys.stdout.write(json.dumps(rows, indent=2) + "\n")
        return
    for one in found:
        typer.echo(one.name)


@app.command()
def layers(
    model: Annotated[str, typer.Argument(help="As for explain --model.")],
    weights: Annotated[Path | None, typer.Option(help="Weights file for the model.")] = None,
    as_json: Json = False,
) -> None:
    """List the layers of a network that have a spatial map, and which one is read by default.

    The network's weights do not matter here, so none are fetched.
    """
    from torchsaliency.apps.options import described_layers

    found = described_layers(model, weights)
    if as_json:
        sys.stdout.write(json.dumps(found, indent=2) + "\n")
        return
    table = Table("layer", "module", "channels", "map", "", box=None)
    for one in found:
        size = "x".join(map(str, one["size"]))
        mark = "default" if one["default"] else ""
        table.add_row(one["name"], one["module"], str(one["channels"]), size, mark)
    Console().print(table)


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and leave with its exit code; never with a traceback of the user's."""
    from torchsaliency.core.errors import TorchSaliencyError

    try:
        code = app(args=arguments, standalone_mode=False)
    except TorchSaliencyError as error:
        _complain(str(error))
        code = BAD_INPUT
    except click.exceptions.Abort:
        code = STOPPED
    except KeyboardInterrupt:
        code = STOPPED
    except click.ClickException as error:
        _complain(error.format_message())
        code = BAD_INPUT
    except OSError as error:
        # A full disk, a folder that may not be written: the system's own words name the file.
        _complain(f"{error.strerror or error}: {error.filename or 'file'}.")
        code = BAD_INPUT
    sys.exit(code or 0)


def _complain(sentence: str) -> None:
    typer.echo(f"torchsaliency: {sentence}", err=True)
