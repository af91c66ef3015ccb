"""Print docs/architectures.md: the default layer of every architecture in the catalogue."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from architectures import Case, cases, code_of_layers, explained, layout_of

HEAD = f"""# Architectures

You do not need to name a layer for any of these networks: the papers' layers are known, and one
traced pass finds all others ([ADR 4](adr/0004-default-layers.md)). Each network was built with
random weights, and `gradcam`, `mtsm` and `opticam` gave finite maps that are not constant. The test
`tests/architecture` repeats this if `FULL=1` is set or if the code that finds layers is no longer
`{code_of_layers()}`; otherwise one pass without weights checks that the layer is there.
`scripts/architecture_table.py > docs/architectures.md` generates this page.

| network | family | layer | read as | input | map |
| --- | --- | --- | --- | --- | --- |"""


def row(case: Case) -> str:
    """Return one line of the table."""
    layer, explanations = explained(case)
    raw = explanations["gradcam"].raw
    cells = [
        f"`{case.source}/{case.name}`",
        case.family,
        f"`{layer.name}`",
        layout_of(layer),
        f"{case.side}x{case.side}",
        f"{raw.shape[1]}x{raw.shape[2]}",
    ]
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    print(HEAD)
    for case in cases():
        print(row(case), flush=True)
