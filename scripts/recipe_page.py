"""Write docs/recipes.md from the recipes."""

import sys
from pathlib import Path

from torchsaliency.papers.recipes import Recipe, recipes

PAGE = Path(__file__).parents[1] / "docs" / "recipes.md"

START = """# Recipes

Made by `scripts/recipe_page.py` from the recipes; `torchsaliency recipes` prints the same list.

Every table and figure of both papers, by one command: at once and offline on what is built in, or
on the paper's data when its folder is given.

```console
torchsaliency reproduce opticam-table1                      # photographs that come along
torchsaliency reproduce opticam-table6 --data shapes:500    # drawn shapes
torchsaliency reproduce opticam-table1 --data DIR --device cuda
torchsaliency reproduce opticam-table1 --data DIR --model timm/resnet18
torchsaliency reproduce tmlr-table2 --data imagenet:DIR --data voc:DIR
torchsaliency reproduce opticam-tableA10 --data kvasir:DIR --model torchvision/resnet50=FILE
```

The paper's numbers stand in round brackets beside the measured ones. Below the table stands what
differs: the data, the network, fewer iterations, an [erratum](errata.md). What the paper says of
the order of methods is checked on the measured numbers, and the answer printed: it holds here, or
it does not. On six photographs or a few dozen drawn shapes an order is a hint and no finding; the
intervals say how much of one.

- `--limit N` takes at most N images, `--masking` another colour for what is hidden, `--model`
  another network, with `=FILE` its weights. A network of the paper keeps the numbers printed for
  it.
- `--data` is given once for each kind of data that a recipe needs; what lacks its data is left out,
  and the table says so.
- `--output DIR` (by default `reproduced/NAME`) gets the tables as text, Markdown, LaTeX, CSV and
  HTML, the figures as PNG and SVG, all of it in `reproduction.json`, and a folder of rows for each
  network. A run that was stopped goes on from there.
- `--format markdown` (or latex, csv, html, json) writes nothing but the tables to stdout.

In Python it is `torchsaliency.papers.reproduce.reproduce("opticam-table1", "folder")`. A
recipe is a YAML file in `torchsaliency/papers/recipes`: plan fields (see
[Evaluation](evaluation.md)) of the paper's version and of the built-in one, the published numbers,
and the claims.

"""


def page() -> str:
    """Return the page."""
    found = recipes().values()
    lines = [START.rstrip(), ""]
    for paper, title in (("Opti-CAM", "Opti-CAM"), ("TMLR", "Multivector Tucker saliency maps")):
        own = [one for one in found if one.paper == paper]
        lines += [f"## {title}", "", "| recipe | item | shows | the paper | offline |"]
        lines += ["| --- | --- | --- | --- | --- |"]
        lines += [_line(one) for one in own]
        lines.append("")
    lines += ["## What to know of each", ""]
    for one in found:
        told = [*one.builtin.notes, *one.notes]
        if told:
            lines += [f"### {one.name}", "", *(f"- {_text(note)}" for note in told), ""]
    return "\n".join(lines).rstrip() + "\n"


def _line(one: Recipe) -> str:
    offline = one.builtin.said.removeprefix("Here: ").rstrip(".")
    cells = [f"`{one.name}`", one.item, one.title, one.paper_version.said, offline]
    return f"| {' | '.join(_text(cell).replace('|', chr(92) + '|') for cell in cells)} |"


def _text(words: str) -> str:
    """Return words whose underscores and brackets Markdown leaves alone; code stays code."""
    parts = words.split("`")
    plain = [part.replace("*", r"\*").replace("[", r"\[") for part in parts[::2]]
    coded = [f"`{part}`" for part in parts[1::2]]
    mixed = [one for pair in zip(plain, [*coded, ""], strict=True) for one in pair]
    return "".join(mixed)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    sys.stdout.write(f"{PAGE}\n")
