"""One browser, the system's chromium, and one server of the app for all tests of a file."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import expect, sync_playwright

from served_app import serve

ROOT = Path(__file__).parents[2]
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
AXE = ROOT / ".ci" / "node" / "node_modules" / "axe-core" / "axe.min.js"
WAIT = 30_000
"""Milliseconds; the machine may be busy."""

expect.set_options(timeout=WAIT)


@pytest.fixture(scope="module")
def browser():
    """Chromium; not longer than a file: Playwright's event loop would run in other tests, too."""
    if CHROMIUM is None:
        # a plain laptop: the other tests need no browser, and .ci/run says loudly if it has none
        pytest.skip("there is no chromium; .ci/run installs Debian's")
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"]
        )
        yield launched
        launched.close()


class Watched:
    """A page, what it asked of the network, and what its console said."""

    def __init__(self, page):
        self.page, self.requests, self.errors = page, [], []
        page.set_default_timeout(WAIT)
        page.on("request", lambda request: self.requests.append(request.url))
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on(
            "console", lambda line: self.errors.append(line.text) if line.type == "error" else None
        )

    def violations(self):
        """Return serious and critical faults that axe-core finds."""
        if not AXE.is_file():
            # as above: npm is not part of a Python environment
            pytest.skip("axe-core is not there; .ci/run installs it by npm into .ci/node")
        self.page.evaluate(AXE.read_text(encoding="utf-8"))
        found = self.page.evaluate("axe.run(document, {resultTypes: ['violations']})")
        return [
            (one["id"], [node["html"][:150] for node in one["nodes"][:3]])
            for one in found["violations"]
            if one["impact"] in ("serious", "critical")
        ]


@pytest.fixture
def open_page(browser):
    """Open pages, each a visitor of its own."""
    contexts = []

    def open_one(address, **settings):
        context = browser.new_context(
            **{"viewport": {"width": 1300, "height": 900}, "reduced_motion": "reduce", **settings}
        )
        contexts.append(context)
        watched = Watched(context.new_page())
        watched.page.goto(address)
        return watched

    yield open_one
    for context in contexts:
        context.close()


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """The address of the app with a small network, and small limits."""
    limits = ("--max-megabytes", "2", "--max-pixels", "1000000")
    with serve(tmp_path_factory.mktemp("served"), "builtin/shapes_cnn", *limits) as address:
        yield address


@pytest.fixture(scope="session")
def photos(tmp_path_factory):
    """Good photos, a wrong file, a bomb of 900 million pixels, a heavy file, a hostile name."""
    folder = tmp_path_factory.mktemp("photos")
    across, down = np.meshgrid(np.linspace(-1, 1, 96), np.linspace(-1, 1, 72))
    disc = ((across - 0.3) ** 2 + (down + 0.1) ** 2 < 0.15)[..., None]
    pixels = np.where(disc, (230, 60, 40), (40, 90, 120)).astype(np.uint8)
    for name in ("photo.png", "other.png", "<img src=x onerror=alert(1)>.png"):
        Image.fromarray(pixels).save(folder / name)
    (folder / "wrong.png").write_bytes(b"this is no photograph" * 40)
    Image.new("1", (30_000, 30_000)).save(folder / "bomb.png", optimize=True)
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (1000, 900, 3), dtype=np.uint8)).save(
        folder / "heavy.png"
    )
    return folder
