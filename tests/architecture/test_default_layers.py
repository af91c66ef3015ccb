"""Every architecture of the catalogue is explained without naming a layer.

docs/architectures.md names the layer of each. It was found, and its maps were looked at, when the
code that finds it was last changed (`code_of_layers`). As long as that is so, one pass without
weights or numbers shows that the network still has this layer, with a map of this size. Otherwise,
or if FULL=1 is set, all networks are built and explained.
"""

from __future__ import annotations

import os
import warnings
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from torch.overrides import TorchFunctionMode

from architectures import (
    METHODS,
    PAPERS,
    TIMM,
    TRANSFORMERS,
    Case,
    cases,
    code_of_layers,
    explained,
    layout_of,
)
from torchsaliency.core.layer import ChannelsLast, Grid, first_tensor, infer_reshape
from torchsaliency.core.maps import is_constant
from torchsaliency.zoo import paper_layer

TABLE = (Path(__file__).parents[2] / "docs" / "architectures.md").read_text(encoding="utf-8")
ROWS = {
    cells[0]: cells[2:]
    for line in TABLE.splitlines()
    if line.startswith("| `") and (cells := line.strip("| ").replace("`", "").split(" | "))
}
FULL = bool(os.environ.get("FULL")) or f"`{code_of_layers()}`" not in TABLE


@pytest.mark.parametrize("case", cases(), ids=lambda case: f"{case.source}/{case.name}")
def test_the_layer_of_the_table_is_found_and_explained(case: Case) -> None:
    name, layout, side, size = ROWS[f"{case.source}/{case.name}"]
    assert side == f"{case.side}x{case.side}"
    if not FULL:
        assert one_pass(case, name, layout) == size
        return
    layer, explanations = explained(case)
    assert (layer.name, layout_of(layer)) == (name, layout)
    for label in METHODS:
        maps = explanations[label].map
        assert maps.shape == (2, case.side, case.side)
        assert maps.isfinite().all()
        assert not is_constant(maps).any(), f"{label}: {explanations[label].status}"


LOOK_AT_NUMBERS = {"vit_base_r50_s16_224", "vitamin_small_224", "perceiver", "siglip2"}
"""Networks that read numbers of tensors while they are built or run, which then must be there."""


class WithoutWeights(TorchFunctionMode):
    """Modules are made without numbers in their weights; widths that they compute have some."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        where = {"device": "meta"} if func is torch.empty else {}
        return func(*args, **{**(kwargs or {}), **where})


def one_pass(case: Case, name: str, layout: str) -> str:
    """Return the size of a layer's map, of the network without weights or numbers."""
    outputs = []
    device = "cpu" if case.name in LOOK_AT_NUMBERS else "meta"
    with nullcontext() if device == "cpu" else WithoutWeights():
        net = case.create().eval().to(device)
    module = net.get_submodule(name)
    module.register_forward_hook(lambda *call: outputs.append(first_tensor(call[2], name)))
    with torch.device(device), torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecations inside the sources are theirs
        net(torch.zeros(1, 3, case.side, case.side))
    (output,) = outputs
    named = paper_layer(net)
    assert (named is not None) == (layout == PAPERS)
    assert named is None or named.name == name
    reshape = infer_reshape(tuple(output.shape), (case.side, case.side))
    if layout in ("Grid", "ChannelsLast"):  # a square of channels may be read as both
        reshape = {"Grid": Grid(), "ChannelsLast": ChannelsLast()}[layout]
    assert reshape is not None
    assert layout in (PAPERS, type(reshape).__name__)
    maps = reshape.to_maps(output)
    return f"{maps.shape[2]}x{maps.shape[3]}"


def test_the_catalogue_is_broad() -> None:
    assert len(cases()) >= 230
    assert len(TRANSFORMERS) >= 39
    assert len({name for name, _, _ in TIMM.values()}) == len(TIMM)
    assert sum(case.source == "torchvision" for case in cases()) >= 80
    assert {f"{case.source}/{case.name}" for case in cases()} == set(ROWS)
