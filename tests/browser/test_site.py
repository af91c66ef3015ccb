"""The documentation as it is built: every page looked at fits, is quiet, and asks nobody else."""

import contextlib
import functools
import http.server
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from playwright.sync_api import expect

ROOT = Path(__file__).parents[2]

PAGES = ("", "how-to/", "methods/", "reference/core/")
"""The start, questions and answers, the longest page with formulas, one made from docstrings."""

SIZES = {"phone": {"width": 390, "height": 844}, "wide": {"width": 1300, "height": 900}}
SCHEMES = {"light": "default", "dark": "slate"}
NOWHERE = "http://127.0.0.1:9"


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """Build the site without a network, strictly, and give its address."""
    folder = tmp_path_factory.mktemp("site")
    words = ["build", "--quiet", "--site-dir", str(folder)]
    built = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "mkdocs", *words],
        cwd=ROOT, capture_output=True, text=True, check=False,
        env={**os.environ, "HTTP_PROXY": NOWHERE, "HTTPS_PROXY": NOWHERE},
    )  # fmt: skip
    assert built.returncode == 0, built.stderr
    handler = functools.partial(Quiet, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        with contextlib.ExitStack() as stack:
            stack.callback(thread.join)
            stack.callback(server.shutdown)
            yield f"http://127.0.0.1:{server.server_port}/"


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("scheme", SCHEMES)
def test_pages_fit_and_load_nothing_from_elsewhere(site, open_page, scheme, size):
    watched = open_page(site, color_scheme=scheme, viewport=SIZES[size])
    page = watched.page
    for address in PAGES:
        page.goto(site + address)
        expect(page.locator("body")).to_have_attribute("data-md-color-scheme", SCHEMES[scheme])
        expect(page.locator("article h1").first).to_be_visible()
        page.wait_for_load_state("networkidle")
        wide = page.evaluate("document.documentElement.scrollWidth - innerWidth")
        assert wide <= 0, f"{address} is {wide} pixels wider than the window"
    assert watched.errors == []
    assert [one for one in watched.requests if not one.startswith((site, "data:"))] == []


def test_the_search_finds_a_word(site, open_page):
    watched = open_page(site)
    page = watched.page
    page.locator("input[name=query]").press_sequentially("multilinear")  # it listens to keys
    found = page.locator(".md-search-result__item", has_text="multilinear").first
    expect(found).to_be_visible()
    found.locator("a").first.click()
    expect(found).to_be_hidden()
    expect(page.locator("article")).to_contain_text("multilinear", ignore_case=True)
    assert watched.errors == []
