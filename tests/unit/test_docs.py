"""The documentation says what the code says."""

import runpy
from pathlib import Path

import torchsaliency

ROOT = Path(__file__).parents[2]


def test_the_methods_page_is_up_to_date():
    script = runpy.run_path(str(ROOT / "scripts" / "method_pages.py"))
    page = (ROOT / "docs" / "methods.md").read_text(encoding="utf-8")
    assert page == script["page"](), "run: uv run python scripts/method_pages.py"


def test_every_public_name_exists_and_is_documented():
    for name in torchsaliency.__all__:
        assert getattr(torchsaliency, name).__doc__, name
