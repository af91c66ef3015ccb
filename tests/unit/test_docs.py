"""The documentation says what the code says."""

import runpy
from pathlib import Path

from PIL import Image

import torchsaliency
from torchsaliency.core.method import methods

ROOT = Path(__file__).parents[2]


def test_the_methods_page_is_up_to_date():
    script = runpy.run_path(str(ROOT / "scripts" / "method_pages.py"))
    page = (ROOT / "docs" / "methods.md").read_text(encoding="utf-8")
    assert page == script["page"](), "run: uv run python scripts/method_pages.py"


def test_every_method_is_drawn_on_the_same_two_pictures():
    script = runpy.run_path(str(ROOT / "scripts" / "method_pictures.py"))
    wanted = {f"{name}.jpg" for name, entry in methods().items() if script["choose_pair"](entry)}
    sizes = {}
    for path in script["FOLDER"].glob("*.jpg"):
        with Image.open(path) as picture:
            sizes[path.name] = picture.size
    assert {*sizes} == {*wanted, "photos.jpg", "drawings.jpg"}, "scripts/method_pictures.py NAME"
    assert {*sizes.values()} == {sizes["photos.jpg"]}


def test_the_metrics_pages_are_up_to_date():
    pages = runpy.run_path(str(ROOT / "scripts" / "metric_pages.py"))["pages"]()
    folder = ROOT / "docs" / "metrics"
    written = {path.name: path.read_text(encoding="utf-8") for path in folder.glob("*.md")}
    assert written == pages, "run: uv run python scripts/metric_pages.py"


def test_the_recipes_page_is_up_to_date():
    script = runpy.run_path(str(ROOT / "scripts" / "recipe_page.py"))
    page = (ROOT / "docs" / "recipes.md").read_text(encoding="utf-8")
    assert page == script["page"](), "run: uv run python scripts/recipe_page.py"


def test_the_options_are_up_to_date():
    script = runpy.run_path(str(ROOT / "scripts" / "option_page.py"))
    page = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
    assert page == script["page"](), "run: uv run python scripts/option_page.py"


def test_every_page_can_be_found():
    menu = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    listed = (ROOT / "docs" / "metrics" / "index.md").read_text(encoding="utf-8")
    pages = [path.relative_to(ROOT / "docs").as_posix() for path in ROOT.glob("docs/**/*.md")]
    pages = [page for page in pages if f"({page.removeprefix('metrics/')})" not in listed]
    assert [page for page in pages if page not in menu] == []


def test_every_public_name_exists_and_is_documented():
    for name in torchsaliency.__all__:
        assert getattr(torchsaliency, name).__doc__, name
