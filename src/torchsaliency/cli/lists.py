"""What can be chosen: methods, metrics, targets, networks, layers and recipes."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.table import Table
from rich.text import Text

from torchsaliency.cli.console import bold, grid_of, print_json, say, stdout
from torchsaliency.cli.options import JSON
from torchsaliency.options import DEFAULT_MODEL, WEIGHTS, WRITTEN, Options, option

if TYPE_CHECKING:
    from torchsaliency.zoo import Network

Rows = Sequence[Mapping[str, Any]]


class ListOptions(Options):
    """How a list is written."""

    as_json: bool = JSON


def _print_list(rows: Rows, as_json: bool, draw: Callable[[Rows], Table]) -> None:
    if as_json:
        print_json(rows)
    else:
        stdout.print(draw(rows))


def _described(text: Text, row: Mapping[str, Any]) -> Text:
    if row["options"]:
        options = "  ".join(f"{key}={value}" for key, value in row["options"].items())
        text.append(f"\n{options}", style="cyan")
    return text


# --- methods --------------------------------------------------------------------------------------

_SOURCE = re.compile(r"Source: (.+?)\.(?:\s|$)", re.DOTALL)
_NEEDS = {"label_free": "no class", "gradients": "gradients", "passes": "more passes"}


def methods(options: ListOptions) -> None:
    """List the methods: what they need, their papers, their options and defaults."""
    from torchsaliency.core.method import Needs
    from torchsaliency.core.method import methods as registered

    rows = []
    for entry in registered().values():
        source = _SOURCE.search(inspect.cleandoc(entry.factory.__doc__ or ""))
        rows.append(
            {
                "name": entry.name,
                "family": entry.family,
                "summary": entry.summary,
                "paper": " ".join(source.group(1).split()) if source else entry.cite,
                "cite": entry.cite,
                "label_free": Needs.TARGET not in entry.needs,
                "gradients": Needs.GRADIENTS in entry.needs,
                "passes": Needs.PASSES in entry.needs,
                "options": {key: _plain(value) for key, value in entry.options.items()},
            }
        )
    _print_list(rows, options.as_json, _methods_table)


def _plain(value: Any) -> Any:
    return value if isinstance(value, bool | int | float | str | None) else str(value)


def _methods_table(rows: Rows) -> Table:
    table = grid_of("method", "needs", "what it is")
    for row in rows:
        text = Text(row["summary"]).append(f"\n{row['paper']}", style="dim")
        needs = "\n".join(words for key, words in _NEEDS.items() if row[key])
        table.add_row(bold(row["name"]), needs, _described(text, row))
    return table


# --- metrics --------------------------------------------------------------------------------------


def metrics(options: ListOptions) -> None:
    """List the metrics: direction, unit, what each rewards and where it misleads."""
    from torchsaliency.metrics import metrics as registered

    rows = [entry.to_dict() for entry in registered().values()]
    _print_list(rows, options.as_json, _metrics_table)


def _metrics_table(rows: Rows) -> Table:
    table = grid_of("metric", "better", "unit", "what it is")
    for row in rows:
        text = Text(row["summary"].partition(": ")[2] or row["summary"])
        text.append(f"\nMisleads: {row['misleads']}", style="dim")
        if row["annotations"]:
            text.append(f"\nneeds {row['annotations']} of the objects", style="yellow")
        table.add_row(bold(row["name"]), row["direction"], row["unit"], _described(text, row))
    return table


# --- targets --------------------------------------------------------------------------------------


def targets(options: ListOptions) -> None:
    """List the targets beside classes: what of the output is explained, and their options."""
    from torchsaliency.core.target import TARGETS

    rows = [
        {
            "name": entry.name,
            "summary": entry.summary,
            "class": entry.names_class,
            "options": {} if entry.names_class else dict(entry.options),
        }
        for entry in TARGETS.entries().values()
    ]
    _print_list(rows, options.as_json, _targets_table)


def _targets_table(rows: Rows) -> Table:
    table = grid_of("target", "class", "what it is")
    for row in rows:
        name = f"{row['name']}, {row['name']}:CLASS" if row["class"] else row["name"]
        table.add_row(
            bold(name), "yes" if row["class"] else "", _described(Text(row["summary"]), row)
        )
    return table


# --- models ---------------------------------------------------------------------------------------


class ModelsOptions(ListOptions):
    """Which networks are listed."""

    text: str = option(
        "", WRITTEN, "Only names that contain this.", metavar="TEXT", spelling="--filter"
    )


def models(options: ModelsOptions) -> None:
    """List the networks that can be loaded by name; hf/NAME and file.py:factory work, too."""
    from torchsaliency.zoo import models as registered

    rows = [
        {
            "name": model.name,
            "source": model.source,
            "family": model.family,
            "default": model.name == DEFAULT_MODEL,
        }
        for model in registered()
        if options.text.casefold() in model.name.casefold()
    ]
    if rows or options.as_json:
        _print_list(rows, options.as_json, _models_table)
    else:
        say(f"No network's name contains {options.text!r}.")


def _models_table(rows: Rows) -> Table:
    table = grid_of("network", "family")
    for row in rows:
        mark = "  (default)" if row["default"] else ""
        table.add_row(bold(row["name"] + mark, row["default"]), Text(row["family"]))
    return table


# --- layers ---------------------------------------------------------------------------------------


class LayersOptions(ListOptions):
    """The network whose layers are listed."""

    model: str = option(DEFAULT_MODEL, "", "As for `explain --model`.", metavar="MODEL")
    weights: Path | None = WEIGHTS


def layers(options: LayersOptions) -> None:
    """List the layers of a network at which maps can be read, and the default one.

    Without --weights the network has random weights: shapes do not depend on them, and nothing is
    downloaded.
    """
    from torchsaliency.zoo import load_model

    network = load_model(options.model, weights=options.weights, pretrained=False)
    _print_list(spatial_layers(network), options.as_json, _layers_table)


def spatial_layers(network: Network) -> list[dict[str, Any]]:
    """List the layers that run once and give a map larger than 1x1, in the order they run.

    Raises:
        InputError: the network cannot be run.
    """
    import torch

    from torchsaliency.cli.photographs import running
    from torchsaliency.core.discovery import default_layer
    from torchsaliency.core.layer import first_tensor, infer_reshape
    from torchsaliency.core.session import call, held_still
    from torchsaliency.core.wrapper import unwrap
    from torchsaliency.errors import LayerError

    net, size = unwrap(network), network.preprocessing.size
    # noise, because a network may give nothing but zeros for a constant image
    image = torch.rand(1, 3, *size, generator=torch.Generator().manual_seed(0))
    parameter = next(net.parameters(), image)
    image = image.to(parameter.device, parameter.dtype)
    shapes: dict[str, torch.Tensor] = {}
    runs: list[str] = []

    def remember(name: str, output: Any) -> None:
        runs.append(name)
        with suppress(LayerError):  # no tensor
            shapes[name] = first_tensor(output, name).to("meta")

    with running(network.name), held_still(net, image.device), ExitStack() as hooks:
        try:
            default = (network.layer or default_layer(net, image)).name
        except LayerError:  # the others may still be worth listing
            default = ""
        for name, module in net.named_modules():
            hook = module.register_forward_hook(
                lambda _module, _inputs, output, name=name: remember(name, output)
            )
            hooks.callback(hook.remove)
        call(net, image)
    rows = []
    for name, output in shapes.items():
        reshape = infer_reshape(tuple(output.shape), size)
        if not name or reshape is None or runs.count(name) > 1:
            continue
        maps = tuple(reshape.to_maps(output).shape[1:])
        if min(maps[1:]) > 1:
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


def _layers_table(rows: Rows) -> Table:
    table = grid_of("layer", "module", "output", "maps", "")
    for row in rows:
        table.add_row(
            bold(row["name"], row["default"]),
            Text(row["module"]),
            "x".join(map(str, row["output"])),
            "x".join(map(str, row["maps"])),
            Text("default", style="bold green") if row["default"] else "",
        )
    return table


# --- recipes --------------------------------------------------------------------------------------


def recipes(options: ListOptions) -> None:
    """List the papers' tables and figures that `reproduce` makes."""
    from torchsaliency.papers.recipes import recipes as registered

    rows = [
        {
            "name": recipe.name,
            "paper": recipe.paper,
            "item": recipe.item,
            "title": recipe.title,
            "data": recipe.paper_version.said,
            "builtin": recipe.builtin.said,
            "published": bool(recipe.published),
        }
        for recipe in registered().values()
    ]
    _print_list(rows, options.as_json, _recipes_table)


def _recipes_table(rows: Rows) -> Table:
    table = grid_of("recipe", "item", "shows", "needs")
    for row in rows:
        item = Text(f"{row['paper']}, {row['item']}")
        table.add_row(bold(row["name"]), item, Text(row["title"]), Text(row["data"]))
    return table
