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
    lines = [
        f"## {entry.name}",
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
