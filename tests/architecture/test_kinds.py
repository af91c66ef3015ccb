"""docs/networks.md says which methods explain which networks; a part of it is tried again."""

from pathlib import Path

import pytest

from kinds import FAMILIES, KINDS, ask, shorten
from torchsaliency.core.method import methods

PAGE = (Path(__file__).parents[2] / "docs" / "networks.md").read_text(encoding="utf-8")
ROWS = {
    cells[0]: dict(zip(FAMILIES, cells[2:], strict=True))
    for line in PAGE.splitlines()
    if line.startswith("| ") and len(cells := line.strip("| ").split(" | ")) == 2 + len(FAMILIES)
}


def test_the_page_has_every_kind():
    head, *rows = [name for name in ROWS if not name.startswith("-")]
    assert head == "network"
    assert rows == [kind.name for kind in KINDS]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_a_method_of_each_family_does_what_the_page_says(kind):
    """Other tests try the whole registry; here the last of each family, and all of attention."""
    last = {entry.family: name for name, entry in methods().items()}
    net = kind.build()
    for family, name in last.items():
        right, total = map(int, ROWS[kind.name][family].split(" of "))
        assert total == sum(entry.family == family for entry in methods().values())
        sentence = ask(kind, net, name)
        if right in (0, total):
            assert (sentence == "") == (right == total), sentence
        if sentence:
            assert shorten(sentence) in PAGE
            assert f"`{name}`" in PAGE
