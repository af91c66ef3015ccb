"""`torchsaliency concepts`: parts of a network's features that have a meaning."""

from __future__ import annotations

from typing import Any

from torchsaliency.cli.console import grid_of, print_json, print_line, stdout
from torchsaliency.cli.options import ConceptOptions


def concepts(options: ConceptOptions) -> int:
    """Show which concepts a network's features are made of, and what they do to its score.

    Writes a labelled picture and all numbers as JSON.
    """
    from torchsaliency.cli.conceiving import FACTS, PICTURE, find_concepts

    facts = find_concepts(options)
    if options.as_json:
        print_json(facts)
    else:
        _print(facts)
        print_line(f"Look at {options.output / PICTURE}; all numbers: {options.output / FACTS}.")
    return 1 if facts["skipped"] else 0


def _print(facts: dict[str, Any]) -> None:
    if facts["method"] != "tcav":
        for line in facts["concepts"]:
            print_line(line)
        print_line(f"What they leave over of the features: {facts['error']:.0%}.")
        if facts["method"] == "craft":
            mean, rebuilt = (
                sum(facts[key]) / len(facts[key]) for key in ("score", "rebuilt_score")
            )
            print_line(f"Mean score of the photos {mean:.3g}; of the concepts alone {rebuilt:.3g}.")
        return
    names = "TCAV score", "p", "strength", "p of strength", "accuracy"
    table = grid_of("concept", *names, right=names)
    for name, row in facts["concepts"].items():
        shown = f"{row['score']:.2f}", f"{row['p_value']:.3f}", f"{row['strength']:+.3f}"
        table.add_row(name, *shown, f"{row['strength_p_value']:.3f}", f"{row['accuracy']:.0%}")
    stdout.print(table)
    level = 0.05 / len(facts["concepts"])
    print_line(f"A p below {level:.3g} is evidence at the level of 5 %.")
