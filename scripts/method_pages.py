"""Write docs/methods.md from the registry: description, options and source of each method."""

import inspect
import re
import sys
from pathlib import Path

import torchsaliency  # noqa: F401 (registers the methods)
from torchsaliency.core.method import MethodEntry, Needs, methods

PAGE = Path(__file__).parents[1] / "docs" / "methods.md"

HEAD = """# Methods

This page describes every method. `scripts/method_pages.py` generates it from the registry;
`torchsaliency methods` prints the same list.

Each is drawn with its default options on the same two photographs, cropped to squares, by
`builtin/efficientnet_lite0`, for the predicted class (tiger cat, 39 %; espresso, 95 %); those
that read attention on two drawings, by `builtin/shapes_vit`. Maps of single pixels are drawn with
`smooth=9` and `clip=99`, where a method has these options: without them they are too sparse to be
seen at this size. A map says what raises the score, and does not outline the object.
`scripts/method_pictures.py` draws them.

![a cat's face, and a cup of espresso](images/methods/photos.jpg)
![a bar and a star, drawn](images/methods/drawings.jpg)
"""

TAIL = """## Not offered: attnlrp

AttnLRP (Achtibat et al., ICML 2024) needs a library that does not change the user's network. There
is none. `lxt` 2.1 cannot be imported with transformers 5 (a helper that it needs was removed). It
permanently replaces the forward of `torch.nn.LayerNorm`, `GELU` and `MultiheadAttention` in the
whole process, and for vision it supports only torchvision's ViT, with CP-LRP instead of AttnLRP.
`zennit` 1.0.0 requires Python 3.11.11 and has no rule for attention or layer normalisation: plain
gradients pass through them. On transformers, `lrp` propagates relevance only to the values of
attention, and `tibav` propagates it to the attention itself.
"""


def split_docstring(factory: type) -> tuple[str, str]:
    """Return a class docstring without its attributes, and its attributes."""
    before, _, after = inspect.cleandoc(factory.__doc__ or "").partition("Attributes:\n")
    attributes, _, rest = after.partition("\n\n")
    return before + rest, inspect.cleandoc("\n" + attributes)


def descriptions(factory: type) -> dict[str, str]:
    """Return the description of every option; a class takes those of its bases over."""
    found: dict[str, str] = {}
    for base in reversed(factory.__mro__):
        for text in re.split(r"\n(?=\w)", split_docstring(base)[1]):
            found[text.partition(":")[0]] = text
    return found


def section(entry: MethodEntry) -> str:
    """Return the section of one method."""
    body, _ = split_docstring(entry.factory)
    needs = ", ".join(str(need.name).lower() for need in entry.needs) or "nothing"
    label = "yes" if Needs.TARGET not in entry.needs else "no"
    signed = "yes" if entry.signed else "no"
    pair = "drawings" if Needs.ATTENTION in entry.needs else "photographs"
    picture = f"![maps of {entry.name} over the two {pair}](images/methods/{entry.name}.jpg)"
    if Needs.DETECTIONS in entry.needs:
        picture = "No picture: a detector is needed, and none comes with the library."
    lines = [
        f"## {entry.name}",
        "",
        picture,
        "",
        body.strip().replace("Raises:\n    ", "Raises "),
        "",
        f"Family: {entry.family}. Label-independent: {label}. Signed: {signed}. Reads: {needs}. "
        f"Key: `{entry.cite}`.",
    ]
    if entry.options:
        rows = [f"- `{key}` (default `{value!r}`)" for key, value in entry.options.items()]
        texts = descriptions(entry.factory)
        lines += ["", *rows, "", "```text", *(texts[key] for key in entry.options), "```"]
    return "\n".join(lines) + "\n"


def page() -> str:
    """Return the whole page."""
    known = methods()
    return "\n".join([HEAD, *(section(known[name]) for name in sorted(known)), TAIL])


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    sys.stdout.write(f"{PAGE}\n")
