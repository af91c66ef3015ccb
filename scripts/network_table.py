"""Print docs/networks.md: which methods explain which kind of network, with nothing else named."""

import sys
from collections import defaultdict
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from kinds import FAMILIES, KINDS, Kind, ask, shorten
from torchsaliency.core.method import methods

HEAD = """# Any network, any input

Each row is a kind of network. No layer is named, no reshaping function is given, and no wrapper is
written: `explain(network, inputs, methods)` finds the layer and its layout. The second column is
what a user says besides. Each number is how many of a family's methods give a map; the others
refuse in one sentence, which is listed below the table. The single architectures, with the layer of
each, are in [Architectures](architectures.md).

`scripts/network_table.py > docs/networks.md` generates this page from small networks with random
weights (`tests/kinds.py`), and a test repeats a part of it.
"""


SEVERAL = 6
"""Kinds that are counted, not named, if there are more."""


def main() -> None:
    """Print the page."""
    print(HEAD)
    print("| network |", " | ".join(["you say", *FAMILIES.values()]), "|")
    print("| --- | --- |", " | ".join(["--:"] * len(FAMILIES)), "|")
    refusals: dict[tuple[str, str], list[str]] = defaultdict(list)
    for kind in KINDS:
        counts, reasons = try_all(kind)
        said = f"`{kind.typed}`" if "(" in kind.typed or "=" in kind.typed else kind.typed
        print(f"| {kind.name} | {said} |", " | ".join(counts), "|", flush=True)
        for reason, names in reasons.items():
            refusals[", ".join(f"`{name}`" for name in names), reason].append(kind.name)
    print("\n## What is refused, and why\n")
    for (names, reason), kinds in sorted(refusals.items(), key=lambda item: -len(item[1])):
        where = f"{len(kinds)} kinds" if len(kinds) > SEVERAL else "; ".join(kinds)
        print(f"- {names} ({where}): {reason}.")


def try_all(kind: Kind) -> tuple[list[str], dict[str, list[str]]]:
    """Return the cells of a row, and the methods that refuse by their reason."""
    reasons: dict[str, list[str]] = defaultdict(list)
    total: dict[str, int] = dict.fromkeys(FAMILIES, 0)
    right = dict(total)
    net = kind.build()
    for name, entry in methods().items():
        total[entry.family] += 1
        if sentence := ask(kind, net, name):
            reasons[shorten(sentence)].append(name)
        else:
            right[entry.family] += 1
    return [f"{right[family]} of {total[family]}" for family in FAMILIES], reasons


if __name__ == "__main__":
    main()
