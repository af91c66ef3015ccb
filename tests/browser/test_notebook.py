"""A saved explanation as nbconvert, JupyterLab and readers without scripts show it."""

import re

import pytest
import torch

import torchsaliency

PAGE = "<!doctype html><html lang=en><meta charset=utf-8><title>n</title><body>{}</body></html>"

INTO_LAB = """(html) => {
    const output = document.createElement("div");
    document.body.append(output);
    output.innerHTML = html;  // scripts do not run so, and JupyterLab makes them anew
    for (const old of output.querySelectorAll("script")) {
        const script = document.createElement("script");
        script.textContent = old.textContent;
        old.replaceWith(script);
    }
}"""


@pytest.fixture(scope="module")
def fragment():
    net = torchsaliency.load_model("builtin/shapes_cnn")
    found = torchsaliency.explain(net, torch.rand(2, 3, 64, 64), "gradcam")["gradcam"]
    return found._repr_html_()


@pytest.fixture
def show(open_page, tmp_path):
    def show_html(body, script="", value=None):
        file = tmp_path / "notebook.html"
        file.write_text(PAGE.format(body), encoding="utf-8")
        watched = open_page(file.as_uri())
        if script:
            watched.page.evaluate(script, value)
        return watched

    return show_html


@pytest.mark.parametrize("way", ["nbconvert", "lab"])
def test_slider_and_pointer_answer(show, fragment, way):
    # two cells with one viewer each, whose scripts are there twice
    both = fragment + fragment
    watched = show(both) if way == "nbconvert" else show("", INTO_LAB, both)
    page = watched.page
    page.wait_for_selector(".ts-map canvas")
    slider = page.locator("[name=opacity]").first
    slider.fill("0.2")
    shown = "(one) => getComputedStyle(one).opacity"
    assert page.locator("canvas").first.evaluate(shown) == "0.2"
    opacities = "(all) => all.map((one) => one.style.getPropertyValue('--ts-opacity'))"
    assert page.locator("saliency-viewer").evaluate_all(opacities) == ["0.2", "0.6"], "each its own"
    stage = page.locator(".ts-map .ts-stage").first
    stage.hover()
    assert re.match(r"\d\.\d+ here, raw", stage.locator(".ts-value").inner_text())
    assert page.locator(".ts-still").first.is_hidden()
    assert watched.errors == []


def test_without_scripts_a_map_is_the_brightness(show, fragment):
    page = show("", "(html) => { document.body.innerHTML = html; }", fragment).page
    assert page.locator(".ts-map .ts-stage img").first.is_visible()
    assert page.locator(".ts-still").is_hidden()


def test_without_styles_a_plain_picture_remains(show, fragment):
    """As GitHub shows a notebook: no scripts, no styles, no elements of one's own."""
    plain = re.sub(r"<(script|style)>.*?</\1>", "", fragment, flags=re.DOTALL)
    plain = re.sub(r' style="[^"]*"|</?saliency-viewer[^>]*>', "", plain)
    still = show(plain).page.locator(".ts-still")
    assert still.is_visible()
    assert still.bounding_box()["width"] > 300
