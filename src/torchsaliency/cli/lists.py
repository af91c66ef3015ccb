"""What can be chosen: methods, metrics, targets, data sets, networks, layers and recipes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.text import Text

from torchsaliency.cli.catalogue import read_facts
from torchsaliency.cli.console import bold, grid_of, print_json, say, stdout
from torchsaliency.cli.options import JSON
from torchsaliency.options import DEFAULT_MODEL, WEIGHTS, WRITTEN, Options, option

if TYPE_CHECKING:
    from torchsaliency.zoo import Network


class ListOptions(Options):
    """How a list is written."""

    as_json: bool = JSON


class ModelsOptions(ListOptions):
    """Which networks are listed."""

    text: str = option(
        "", WRITTEN, "Only names that contain this.", metavar="TEXT", spelling="--filter"
    )


class LayersOptions(ListOptions):
    """The network whose layers are listed."""

    model: str = option(
        DEFAULT_MODEL, "", "As for `explain --model`.", metavar="MODEL", values="networks"
    )
    weights: Path | None = WEIGHTS


Lines = Sequence[tuple[Mapping[str, Any], Sequence[Any]]]
"""What is listed: each as JSON, and as the cells of a table's row."""


def _print_list(options: ListOptions, headings: Sequence[str], lines: Lines) -> None:
    """Print lines as JSON, or as a table."""
    if options.as_json:
        print_json([facts for facts, _ in lines])
        return
    table = grid_of(*headings)
    for _, cells in lines:
        table.add_row(*cells)
    stdout.print(table)


def _describe(row: Mapping[str, Any], **lines: str) -> Text:
    """Return the summary of an entry, further lines by their style, and its options."""
    text = Text(row["summary"])
    lines["cyan"] = "  ".join(f"{key}={value}" for key, value in row["options"].items())
    for style, line in lines.items():
        text.append(f"\n{line}" if line else "", style=style)
    return text


_PHOTO = (480, 640)
"""The photograph at whose size layers are listed, of networks that take any."""

_NEEDS = {
    "label_free": "no class",
    "gradients": "gradients",
    "passes": "more passes",
    "signed": "gives signs",
}


def methods(options: ListOptions) -> None:
    """List the methods: what they need, their papers, their options and defaults."""
    lines = []
    for row in read_facts("methods"):
        needs = "\n".join(words for key, words in _NEEDS.items() if row[key])
        lines.append((row, (bold(row["name"]), needs, _describe(row, dim=row["paper"]))))
    _print_list(options, ("method", "needs", "what it is"), lines)


def metrics(options: ListOptions) -> None:
    """List the metrics: direction, unit, what each rewards and where it misleads."""
    lines = []
    for row in read_facts("metrics"):
        needs = f"needs {row['annotations']} of the objects" if row["annotations"] else ""
        summary = row["summary"].partition(": ")[2] or row["summary"]
        text = _describe(
            {**row, "summary": summary}, dim=f"Misleads: {row['misleads']}", yellow=needs
        )
        lines.append((row, (bold(row["name"]), row["direction"], row["unit"], text)))
    _print_list(options, ("metric", "better", "unit", "what it is"), lines)


def targets(options: ListOptions) -> None:
    """List the targets beside classes: what of the output is explained, and their options."""
    lines = []
    for row in read_facts("targets"):
        name = ", ".join([row["name"], *(f"{row['name']}:{word}" for word in row["words"])])
        lines.append((row, (bold(name), _describe(row))))
    _print_list(options, ("target", "what it is"), lines)


def datasets(options: ListOptions) -> None:
    """List the kinds of data set for `--data`: how their files lie, and their options in Python."""
    lines = []
    for row in read_facts("datasets"):
        name = f"{row['name']}:FOLDER" if row["layout"] else row["name"]
        lines.append((row, (bold(name), _describe(row, dim=row["layout"]))))
    _print_list(options, ("data", "what it is"), lines)


def models(options: ModelsOptions) -> None:
    """List the networks that can be loaded by name; hf/NAME and file.py:factory work, too."""
    from torchsaliency.zoo import models as registered

    lines = []
    for model in registered():
        if options.text.casefold() not in model.name.casefold():
            continue
        default = model.name == DEFAULT_MODEL
        row: dict[str, Any] = {
            "name": model.name,
            "source": model.source,
            "family": model.family,
            "default": default,
        }
        name = bold(model.name + "  (default)" * default, default)
        lines.append((row, (name, Text(model.family))))
    if lines or options.as_json:
        _print_list(options, ("network", "family"), lines)
    else:
        say(f"No network's name contains {options.text!r}.")


def recipes(options: ListOptions) -> None:
    """List the papers' tables and figures that `reproduce` makes, all of them also offline."""
    lines = []
    for row in read_facts("recipes"):
        words = (f"{row['paper']}, {row['item']}", row["title"], row["data"])
        lines.append((row, (bold(row["name"]), *map(Text, words))))
    _print_list(options, ("recipe", "item", "shows", "the paper's data"), lines)


def layers(options: LayersOptions) -> None:
    """List the layers of a network at which maps can be read, and the default one.

    Without --weights the network has random weights: shapes do not depend on them, and nothing is
    downloaded.
    """
    from torchsaliency.zoo import load_model

    lines = []
    for row in spatial_layers(load_model(options.model, weights=options.weights, pretrained=False)):
        output, maps = ("x".join(map(str, row[key])) for key in ("output", "maps"))
        default = Text("default" if row["default"] else "", style="bold green")
        name = bold(row["name"], row["default"])
        lines.append((row, (name, Text(row["module"]), output, maps, default)))
    _print_list(options, ("layer", "module", "output", "maps", ""), lines)


_SCAN = (32, 64, 64)
"""Voxels of the scan whose layers are listed, where a network takes any size."""


def spatial_layers(network: Network) -> list[dict[str, Any]]:
    """List the layers that run once and give a map larger than 1x1, in the order they run."""
    import torch

    from torchsaliency.cli.monitoring import name_network_errors
    from torchsaliency.core.discovery import default_layer, output_shapes
    from torchsaliency.core.layer import infer_reshape
    from torchsaliency.core.layout import find_grids
    from torchsaliency.core.network import unwrap
    from torchsaliency.errors import LayerError
    from torchsaliency.zoo import ClipPreprocessing, ScanPreprocessing

    net, usual = unwrap(network), network.preprocessing
    channels = usual.channels
    size: tuple[int, ...] = usual.input_size(_PHOTO)
    if isinstance(network.volumes, ClipPreprocessing):
        channels, size = 3, network.volumes.input_size
    elif isinstance(network.volumes, ScanPreprocessing):
        channels, size = network.volumes.channels, network.volumes.size or _SCAN
    # noise, because a network may give nothing but zeros for a constant image
    image = torch.rand(1, channels, *size, generator=torch.Generator().manual_seed(0))
    parameter = next(net.parameters(), image)
    image = image.to(parameter.device, parameter.dtype)
    with name_network_errors(network.name):
        try:
            default = (network.layer or default_layer(net, image)).name
        except LayerError:  # the others may still be worth listing
            default = ""
        shapes = output_shapes(net, image)
    rows = []
    for name, output in shapes.items():
        grids = find_grids(net, output, image)
        reshape = infer_reshape(tuple(output.shape), size, grids)
        if reshape is None:
            continue
        maps = tuple(reshape.to_maps(output).shape[1:])
        if min(sorted(maps[1:])[-2:]) > 1:
            rows.append(
                {
                    "name": name,
                    "module": type(net.get_submodule(name)).__name__,
                    "output": tuple(output.shape),
                    "maps": maps,
                    "layout": type(reshape).__name__,
                    "default": name == default,
                }
            )
    return rows
