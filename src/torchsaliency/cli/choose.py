"""`torchsaliency choose`: which method can be defended on one's own network and photographs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torchsaliency.cli.console import bold, grid_of, print_json, print_line, say, stdout
from torchsaliency.cli.options import ChooseOptions

if TYPE_CHECKING:
    from pathlib import Path

    from torchsaliency.evaluation.verdicts import Recommendation


def choose(options: ChooseOptions) -> int:
    """Say which method can be defended for which question, on your network and photos.

    Tries methods on a few photos, scores them by metrics that disagree by nature, and says where
    the evidence is too thin to tell. Draws where the methods agree, and where they do not.
    """
    from torchsaliency.cli.choosing import try_methods

    found, facts = try_methods(options)
    if options.as_json:
        print_json(facts)
    else:
        _print(found, options.output)
    return 1 if facts["skipped"] else 0


def _print(found: Recommendation, folder: Path) -> None:
    from torchsaliency.cli.choosing import FACTS, PICTURE

    metrics = [*found.scores]
    table = grid_of("method", *metrics, "passes", "s/image", right=[*metrics, "passes", "s/image"])
    for name in found.costs:
        cost = found.costs[name]
        table.add_row(
            bold(name, name in found.shortlist),
            *(f"{found.scores[metric][name][0]:.3g}" for metric in metrics),
            f"{cost.passes:.0f}",
            f"{cost.seconds:.2g}",
        )
    stdout.print(table)
    for question, words in found.questions.items():
        able = ", ".join(found.defensible(question)) or "none, the evidence is too thin"
        stdout.print(f"[bold]{words}[/bold] {able}.", soft_wrap=True)
    for name, why in found.left_out.items():
        say(f"Left out {name}: {why}")
    print_line("")
    print_line(found.reason)
    print_line(f"Where the methods agree, and where not: {folder / PICTURE}.")
    print_line(f"All numbers: {folder / FACTS}.")
