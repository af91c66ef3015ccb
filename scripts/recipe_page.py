"""Write docs/recipes.md from the recipes."""

import sys
from pathlib import Path

from torchsaliency.papers.recipes import Recipe, load_recipes

PAGE = Path(__file__).parents[1] / "docs" / "recipes.md"

START = """# Recipes

A recipe reproduces a table or figure of a paper with one command: offline on built-in data, or on
the paper's data if you pass its folder. `scripts/recipe_page.py` generates this page from the
recipes; `torchsaliency recipes` lists them, too.

```console
torchsaliency reproduce opticam-table1                      # built-in photographs
torchsaliency reproduce opticam-table6 --data shapes:500    # drawn shapes
torchsaliency reproduce opticam-table1 --data DIR --device cuda
torchsaliency reproduce opticam-table1 --data DIR --model timm/resnet18
torchsaliency reproduce tmlr-table2 --data imagenet:DIR --data voc:DIR
torchsaliency reproduce opticam-tableA10 --data kvasir:DIR --model torchvision/resnet50=FILE
```

The paper's numbers are in round brackets beside the measured ones. Notes below the table list the
differences: the data, the network, fewer iterations, an [erratum](errata.md). The paper's claims
about the order of methods are checked on the measured numbers, and the result is printed. On six
photographs or a few dozen shapes an order is weak evidence; the intervals show how weak.

- `torchsaliency reproduce all --limit 8` makes every recipe on built-in data, and one table of all
  claims: what was measured, with its interval, beside what it had to be better than.
- `--limit N` uses at most N images, `--masking` another baseline, `--model` another network, with
  `=FILE` its weights. A network of the paper keeps the numbers printed for it.
- Pass `--data` once for each kind of data that a recipe needs. Parts without their data are left
  out, and the table reports it. A folder of no such kind serves them all: parts that would then be
  the same are one, named after the folder.
- `--output DIR` (by default `reproduced/NAME`) contains the tables as text, Markdown, LaTeX, CSV
  and HTML, charts as PNG and SVG, grids of photographs as PNG, all of it in `reproduction.json`,
  and a folder of rows for each network of a table. The same command continues a stopped run, and
  keeps pictures that are whole and would be the same.
- `--format markdown` (or latex, csv, html, json) writes only the tables to stdout.

In Python, call `torchsaliency.papers.reproduce.reproduce("opticam-table1", "folder")`. A recipe is
a YAML file in `torchsaliency/papers/recipes`: plan fields (see [Evaluation](evaluation.md)) of the
paper's version and of the built-in one, the published numbers, and the claims.

"""


def page() -> str:
    """Return the page."""
    every = load_recipes().values()
    lines = [START.rstrip(), ""]
    for paper, title in (("Opti-CAM", "Opti-CAM"), ("TMLR", "Multivector Tucker saliency maps")):
        lines += [f"## {title}", "", "| recipe | item | shows | the paper | offline |"]
        lines += ["| --- | --- | --- | --- | --- |"]
        lines += [_line(recipe) for recipe in every if recipe.paper == paper]
        lines.append("")
    lines += ["## Notes on each recipe", ""]
    for recipe in every:
        notes = [*recipe.builtin.notes, *recipe.notes]
        if notes:
            lines += [f"### {recipe.name}", "", *(f"- {_text(note)}" for note in notes), ""]
    return "\n".join(lines).rstrip() + "\n"


def _line(recipe: Recipe) -> str:
    offline = recipe.builtin.summary.removeprefix("Here: ").rstrip(".")
    cells = [f"`{recipe.name}`", recipe.item, recipe.title, recipe.paper_version.summary, offline]
    return f"| {' | '.join(_text(cell).replace('|', chr(92) + '|') for cell in cells)} |"


def _text(words: str) -> str:
    """Escape what Markdown would read as markup, outside code."""
    parts = words.split("`")
    plain = [part.replace("*", r"\*").replace("[", r"\[") for part in parts[::2]]
    coded = [f"`{part}`" for part in parts[1::2]]
    return "".join(text for pair in zip(plain, [*coded, ""], strict=True) for text in pair)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    sys.stdout.write(f"{PAGE}\n")
