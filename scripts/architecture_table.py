"""Print docs/architectures.md: the default layer of every architecture in the catalogue."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from architectures import Case, cases, explained

HEAD = """# Architectures

You do not need to name a layer for any of these networks: the papers' layers are known, and one
traced pass finds all others ([ADR 4](adr/0004-default-layers.md)). The test `tests/architecture`
builds each network with random weights and checks that `gradcam`, `mtsm` and `opticam` give finite
maps that are not constant. `scripts/architecture_table.py` generates this page.

| network | family | layer | read as | input | map |
| --- | --- | --- | --- | --- | --- |"""


def row(case: Case) -> str:
    """Return one line of the table."""
    layer, explanations = explained(case)
    raw = explanations["gradcam"].raw
    layout = "the paper's" if layer.reshape is None else type(layer.reshape).__name__
    cells = [
        f"`{case.source}/{case.name}`",
        case.family,
        f"`{layer.name}`",
        layout,
        f"{case.side}x{case.side}",
        f"{raw.shape[1]}x{raw.shape[2]}",
    ]
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    print(HEAD)
    for case in cases():
        print(row(case), flush=True)
