"""The app in a real browser, and by its API."""

import json
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
from gradio_client import Client, handle_file
from PIL import Image

import torchsaliency
from served_app import explain, message, picture, upload

SLOW = "extremal-perturbation"


@pytest.fixture
def visit(open_page, server):
    def come(**settings):
        watched = open_page(server, **settings)
        watched.page.wait_for_selector("#explain")
        return watched

    return come


def test_from_a_photo_to_maps(visit, photos, server):
    watched = visit()
    page = watched.page
    upload(watched, photos / "photo.png")
    explain(watched)
    assert [one.inner_text() for one in page.locator("#maps .ts-map .ts-name").all()] == [
        "gradcam", "layercam", "mtsm",
    ]  # fmt: skip
    # the slider is answered in the browser, at once
    before = picture(watched)
    slider = page.locator("#maps input[name=opacity]")
    slider.fill("0")
    bare = picture(watched)
    assert np.abs(before - bare).max() > 20
    took = page.evaluate(
        """async () => {
            const slider = document.querySelector('#maps input[name=opacity]');
            const begun = performance.now();
            slider.value = 1;
            slider.dispatchEvent(new Event('input', {bubbles: true}));
            await new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)));
            return performance.now() - begun;
        }"""
    )
    assert took < 1000  # 20 ms on a quiet machine; see docs/looking.md
    assert np.abs(picture(watched) - before).max() > 20
    # the value under the pointer, in all maps
    page.locator("#maps .ts-map .ts-stage").first.hover()
    values = [one.inner_text() for one in page.locator("#maps .ts-value").all()]
    assert len(values) == 3
    assert all("here, raw" in value for value in values)
    # another view stays when maps are made again, for another class
    page.locator("#maps .ts-modes label", has_text="Map").click()
    first = page.locator("#maps .ts-about").first.inner_text()
    page.locator("#classes label").nth(1).click()
    page.click("#explain")
    page.wait_for_function(
        "text => { const found = [...document.querySelectorAll('#maps .ts-about')];"
        " return found.length === 3 && found[0].innerText !== text; }",
        arg=first,
    )
    page.wait_for_selector("#maps saliency-viewer.ts-ready[data-mode=raw]")
    assert watched.errors == []
    assert [url for url in watched.requests if not url.startswith((server, "data:", "blob:"))] == []


def test_expected_against_predicted(visit, photos):
    watched = visit()
    page = watched.page
    upload(watched, photos / "photo.png")
    page.get_by_role("tab", name="Expected against predicted").click()
    page.locator("#expected input").click()
    page.keyboard.type("crescent")
    page.keyboard.press("Enter")
    page.click("#compare")
    page.wait_for_function(
        "document.querySelectorAll('#contrast .ts-ready .ts-map canvas').length === 4"
    )
    titles = [one.inner_text() for one in page.locator("#contrast .ts-name").all()][1:]
    assert titles[1] == "expected: crescent"
    assert titles[2].startswith("crescent rather than ")
    assert titles[3].endswith(" rather than crescent")


def test_what_is_downloaded_is_read_again(visit, photos, tmp_path, monkeypatch):
    watched = visit()
    page = watched.page
    upload(watched, photos / "photo.png")
    explain(watched)
    page.click("#scores")
    page.wait_for_function("document.querySelector('#maps').innerText.includes('deletion')")
    page.get_by_role("tab", name="Download").click()
    page.click("#prepare")
    link = page.locator("#archive a[download], #archive a[href*=file]").first
    link.wait_for()
    with page.expect_download() as download:
        link.click()
    archive = zipfile.ZipFile(download.value.path())
    archive.extractall(tmp_path)
    facts = json.loads((tmp_path / "manifest.json").read_text())
    assert [one["method"] for one in facts["explanations"]] == ["gradcam", "layercam", "mtsm"]
    for name in ("gradcam", "layercam", "mtsm"):
        Image.open(tmp_path / f"photo.{name}.png").load()
    monkeypatch.chdir(tmp_path)
    space = {}
    exec(compile((tmp_path / "again.py").read_text(), "again.py", "exec"), space)
    for name, explanation in space["found"].items():
        kept = np.load(tmp_path / f"photo.{name}.npy")
        assert np.allclose(kept, explanation.raw[0].numpy(), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "said"),
    [("wrong.png", "no image that can be read"), ("bomb.png", "pixels"), ("heavy.png", "")],
)
def test_a_file_that_cannot_be_used(visit, photos, name, said):
    watched = visit()
    watched.page.set_input_files("#photo input[type=file]", str(photos / name))
    words = message(watched)
    assert said in words, words
    assert str(photos.parent) not in words
    upload(watched, photos / "photo.png")  # and the page goes on
    explain(watched)


def test_a_name_is_text(visit, photos):
    watched = visit()
    upload(watched, photos / "<img src=x onerror=alert(1)>.png")
    explain(watched)
    assert watched.page.locator("#maps img[onerror]").count() == 0
    assert watched.errors == []


def test_two_visitors_see_their_own(visit, photos):
    one, two = visit(), visit(viewport={"width": 390, "height": 800}, color_scheme="dark")
    upload(one, photos / "photo.png")
    upload(two, photos / "other.png")
    one.page.click("#explain")
    explain(two)
    explain(one)
    assert one.page.locator("#maps .ts-title").inner_text() == "photo"
    assert two.page.locator("#maps .ts-title").inner_text() == "other"
    overflow = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
    assert two.page.evaluate(overflow) <= 0


def explain_slowly(watched):
    page = watched.page
    page.locator("#methods input").click()
    page.keyboard.type(SLOW)
    page.keyboard.press("Enter")
    page.keyboard.press("Escape")
    page.click("#explain")
    page.wait_for_function("document.querySelector('#status').innerText.includes('3 of 4')")


def test_a_visitor_who_waits_stops(visit, photos):
    busy, watched = visit(), visit()
    upload(busy, photos / "photo.png")
    upload(watched, photos / "other.png")
    explain_slowly(busy)
    page = watched.page
    page.click("#explain")
    said = "text => document.querySelector('#status').innerText.startsWith(text)"
    page.wait_for_function(said, arg="Waiting: the network has another job")
    page.click("#stop")
    page.wait_for_function(said, arg="Stopped.")
    assert page.locator("#maps .ts-map").count() == 0
    busy.page.click("#stop")
    explain(watched)  # and may begin again


def test_what_was_chosen_for_the_photo_before_is_forgotten(visit, photos):
    watched = visit()
    page = watched.page
    upload(watched, photos / "photo.png")
    for name in ("#other", "#expected"):
        if name == "#expected":
            page.get_by_role("tab", name="Expected against predicted").click()
        page.locator(f"{name} input").click()
        page.keyboard.type("crescent")
        page.keyboard.press("Enter")
        assert "crescent" in page.locator(f"{name} input").input_value()
    page.locator(".gallery-item, .gallery button").first.click()
    for name in ("#other", "#expected"):
        page.wait_for_function("name => !document.querySelector(`${name} input`).value", arg=name)
    page.wait_for_selector("#classes label")
    page.get_by_role("tab", name="Maps").click()
    explain(watched)
    predicted = page.locator("#maps .ts-classes th").first.inner_text()
    assert page.locator("#maps .ts-about").first.inner_text().startswith(f"{predicted} ·")


def test_what_two_photos_share(visit, photos):
    watched = visit()
    page = watched.page
    upload(watched, photos / "photo.png")
    page.locator("#more button").first.click()
    page.set_input_files("#second input[type=file]", str(photos / "other.png"))
    page.wait_for_selector("#second img")
    explain(watched)
    assert (
        "similarity (cosine) of the embedding" in page.locator("#maps .ts-about").first.inner_text()
    )
    page.locator("#words textarea, #words input").first.fill("a dog")
    page.click("#explain")
    assert "leave one of the two out" in message(watched)


@pytest.mark.parametrize("colours", ["light", "dark"])
def test_everybody_can_read_it(visit, photos, colours):
    watched = visit(color_scheme=colours)
    page = watched.page
    upload(watched, photos / "photo.png")
    page.locator("#more button").first.click()
    explain(watched)
    assert watched.violations() == []
    for tab in ("Expected against predicted", "Download"):
        page.get_by_role("tab", name=tab).click()
        page.get_by_role("tab", name=tab, selected=True).wait_for()
        page.wait_for_timeout(500)  # colours fade
        assert watched.violations() == []


@pytest.mark.parametrize("way", ["stop", "leave"])
def test_work_stops(visit, photos, way):
    watched = visit()
    upload(watched, photos / "photo.png")
    explain_slowly(watched)
    if way == "stop":
        watched.page.click("#stop")
        watched.page.wait_for_function(
            "document.querySelector('#status').innerText.startsWith('Stopped')"
        )
        assert watched.page.locator("#maps .ts-map").count() == 3
    else:
        watched.page.close()
    other = visit()  # the network is free
    upload(other, photos / "other.png")
    explain(other)


def test_the_class_of_the_photo_before_is_not_explained(visit, photos):
    busy, watched = visit(), visit()
    page = watched.page
    upload(watched, photos / "photo.png")
    first = page.locator("#classes label").first.inner_text()
    upload(busy, photos / "photo.png")
    explain_slowly(busy)  # the classes of the next photo have to wait
    source = page.locator("#photo img").get_attribute("src")
    page.locator(".gallery-item, .gallery button").nth(1).click()
    page.wait_for_function("s => document.querySelector('#photo img')?.src !== s", arg=source)
    page.wait_for_function("!document.querySelector('#classes input:checked')")
    page.click("#explain")
    busy.page.click("#stop")
    page.wait_for_function(
        "document.querySelectorAll('#maps .ts-ready .ts-map canvas').length === 3"
    )
    predicted = page.locator("#maps .ts-classes th").first.inner_text()
    assert page.locator("#maps .ts-about").first.inner_text().startswith(f"{predicted} ·")
    assert not first.startswith(predicted)


# --- by the API -----------------------------------------------------------------------------------


def test_the_api_explains(server, photos):
    client = Client(server, verbose=False)
    found = client.predict(
        handle_file(str(photos / "photo.png")), ["mtsm"], None, None, "", "mean", False, None, "",
        api_name="/explain",
    )  # fmt: skip
    assert "1 map is ready" in found[0]
    assert "<saliency-viewer" in found[1]
    net = torchsaliency.load_model("builtin/shapes_cnn")
    assert any(name in found[1] for name in net.classes)
    endpoints = client.view_api(return_format="dict", print_info=False)["named_endpoints"]
    assert {"/classify", "/explain", "/stop", "/score", "/contrast", "/download"} <= {*endpoints}


def test_the_page_s_call_runs(server, photos, tmp_path, monkeypatch):
    """That of docs/looking.md, with this server, a photo and one of its classes."""
    monkeypatch.chdir(tmp_path)
    shutil.copy(photos / "photo.png", "cat.jpg")
    page = (Path(__file__).parents[2] / "docs" / "looking.md").read_text(encoding="utf-8")
    script = page.partition("```py\n")[2].partition("```")[0]
    assert script.count("http://127.0.0.1:7860") == script.count(" 282,") == 1
    found: dict[str, object] = {}
    exec(script.replace("http://127.0.0.1:7860", server).replace(" 282,", " 1,"), found)
    assert "<saliency-viewer" in str(found["html"])
    assert "torchsaliency" in str(found["code"])
