"""Write docs/llms.txt, the documentation's table of contents for language models, from its menu."""

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[1]
FILE = ROOT / "docs" / "llms.txt"
ADDRESS = "https://torchsaliency.readthedocs.io/en/latest"
_SHORT = 60
"""Characters of a sentence that another one follows."""

_FENCE = re.compile(r"^(```|~~~).*?^\1\s*$", re.MULTILINE | re.DOTALL)


class _Menu(yaml.SafeLoader):
    """Reads mkdocs.yml, whose tags for Python objects are of no interest here."""


_Menu.add_multi_constructor("", lambda loader, suffix, node: None)  # noqa: ARG005


def first_sentence(text: str) -> str:
    """Return what a page begins with below its heading, as plain text: a sentence, two if short.

    Raises:
        ValueError: there is none.
    """
    text = re.sub(r"\A---\n.*?\n---\n", "", text, flags=re.DOTALL)
    if include := re.match(r'--8<-- "(.+)"', text):
        text = (ROOT / include[1]).read_text(encoding="utf-8")
    for part in _FENCE.sub("", text).split("\n\n"):
        line = " ".join(part.split())
        if not line or re.match(r"#|\||<|!|- |\d+\. |>|:::|Status:", line):
            continue
        plain = re.sub(r"!?\[([^]]*)\]\([^)]*\)", r"\1", line).replace("**", "")
        first, *others = re.split(r"(?<=[.?!])\s", plain)
        if len(first) < _SHORT and others:
            first = f"{first} {others[0]}"
        return re.sub(r"[:.]?$", ".", first, count=1) if first[-1] not in "?!" else first
    raise ValueError("a page needs a sentence below its heading")


def list_pages(menu: list[Any], depth: int = 2) -> Iterator[str]:
    """Yield the lines of a menu: headings, and pages with their first sentence."""
    for entry in menu:
        title, place = next(iter(entry.items())) if isinstance(entry, dict) else ("", entry)
        if isinstance(place, list):
            yield from ("", f"{'#' * depth} {title}", "")
            yield from list_pages(place, depth + 1)
        elif place.endswith(".md"):
            text = (ROOT / "docs" / place).read_text(encoding="utf-8")
            heading = re.search(r"^# (.+)$", text, re.MULTILINE)
            name = title or (heading[1] if heading else place)
            path = re.sub(r"(^|/)index$", r"\1", place.removesuffix(".md")).rstrip("/")
            address = f"{ADDRESS}/{path}/" if path else f"{ADDRESS}/"
            yield f"- [{name}]({address}): {first_sentence(text)}"
        else:
            yield f"- [{title}]({ADDRESS}/{place})"


def page() -> str:
    """Return the whole file."""
    facts = yaml.load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"), _Menu)
    about = "Saliency maps of PyTorch vision networks, and the metrics that judge them."
    lines = [
        f"# {facts['site_name']}",
        "",
        f"> {facts['site_description']} {about}",
        "",
        "`torchsaliency COMMAND --help` tells the options of a command. The lists `methods`,",
        "`metrics`, `targets`, `datasets` and `models`, with `--json`, say what there is. A map",
        "is a hypothesis: the page for coding agents tests it.",
        "",
        "## Pages",
        "",
        *list_pages(facts["nav"], 3),
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    FILE.write_text(page(), encoding="utf-8")
    sys.stdout.write(f"{FILE}\n")
