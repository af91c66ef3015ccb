"""The site: links lead somewhere, the reference is whole, nothing is loaded from elsewhere."""

import re
import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
FENCE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)\s]+)\)")


def read(page: Path) -> str:
    text = page.read_text(encoding="utf-8")
    if include := re.match(r'--8<-- "(.+)"', text):
        text = (ROOT / include[1]).read_text(encoding="utf-8")
    return FENCE.sub("", text)


def list_anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, and of what mkdocstrings writes on it."""
    text = page.read_text(encoding="utf-8") if page.exists() else ""
    anchors = set(re.findall(r"^::: (\S+)", text, re.MULTILINE))
    for heading in re.findall(r"^#+ (.+)$", read(page), re.MULTILINE):
        plain = re.sub(r"[^\w\s-]", "", re.sub(r"\]\([^)]*\)", "", heading)).strip().lower()
        anchors.add(re.sub(r"[-\s]+", "-", plain))
    return anchors


def test_links_lead_to_files_and_headings():
    lost = []
    pages = {page.resolve(): list_anchors(page) for page in DOCS.glob("**/*.md")}
    for page in pages:
        for link in LINK.findall(re.sub(r"`[^`]*`", "", read(page))):
            if re.match(r"[a-z]+:", link):
                continue
            place, _, anchor = link.partition("#")
            target = (page.parent / place).resolve() if place else page
            if not target.exists() or (anchor and anchor not in pages.get(target, ())):
                lost.append(f"{page.relative_to(DOCS)}: {link}")
    assert lost == [], "\n".join(lost)


def test_the_pages_of_python_are_up_to_date():
    pages = runpy.run_path(str(ROOT / "scripts" / "reference_pages.py"))["pages"]()
    folder = DOCS / "reference"
    written = {path.name: path.read_text(encoding="utf-8") for path in folder.glob("*.md")}
    assert written == pages, "run: uv run python scripts/reference_pages.py"


def test_the_reference_has_every_public_name():
    listed = (ROOT / "api.txt").read_text(encoding="utf-8")
    for part in listed.split("\n\n")[1:]:
        package, *lines = part.splitlines()
        page = DOCS / "reference" / f"{package.partition('.')[2] or 'index'}.md"
        text = page.read_text(encoding="utf-8")
        for line in lines:
            if name := re.match(r"  (?:class )?(\w+)", line):
                assert re.search(rf"[.`]{name[1]}\b", text), f"{package}.{name[1]}"


@pytest.mark.parametrize("word", ["font: false", "strict: true"])
def test_the_site_needs_no_network(word):
    assert word in (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
