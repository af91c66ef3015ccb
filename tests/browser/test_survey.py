"""The survey of the papers, answered in a real browser from the disk."""

import json

import pytest
import torch
from PIL import Image

from torchsaliency.papers.survey import Case, make_survey, score_answers


@pytest.fixture(scope="module")
def survey(tmp_path_factory):
    folder = tmp_path_factory.mktemp("survey")
    draw = torch.Generator().manual_seed(0)
    cases = [
        Case(
            f"{number}.jpg",
            Image.effect_noise((120, 90), 60),
            {name: torch.rand(6, 8, generator=draw) for name in ("one", "other")},
        )
        for number in range(2)
    ]
    return make_survey(cases, ("one", "other"), "gradcam").write(folder)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_is_answered_and_scored(open_page, survey, scheme, tmp_path):
    page_file, key = survey
    watched = open_page(page_file.as_uri(), color_scheme=scheme)
    page = watched.page
    assert watched.violations() == []
    page.click("#go")
    assert "Please type a participant code." in page.inner_text("#code-wrong")
    page.fill("#code", f"P-{scheme}")
    page.keyboard.press("Enter")
    item = page.locator("#item-1")
    assert item.locator("h2").evaluate("(one) => document.activeElement === one")
    assert watched.violations() == []
    item.get_by_text("Next", exact=True).click()
    assert "Please choose" in item.locator(".wrong").inner_text()
    item.locator("input[value=left]").check()
    page.keyboard.press("Enter")
    page.locator("#item-2 input[value=right]").check()
    page.keyboard.press("Enter")
    assert "Every photograph is answered" in page.inner_text("#state")
    with page.expect_download() as download:
        page.click("#export")
    answers = tmp_path / "answers.json"
    download.value.save_as(answers)
    assert [one["choice"] for one in json.loads(answers.read_text())["answers"]] == [
        "left",
        "right",
    ]
    assert sum(one.value for one in score_answers(key, [answers]).shares.values()) == 100
    assert watched.errors == []
    assert [url for url in watched.requests if url.startswith(("http", "file"))] == [
        page_file.as_uri()
    ]


def test_light_and_dark_and_narrow(open_page, survey):
    page = open_page(survey[0].as_uri(), viewport={"width": 360, "height": 760}).page
    colour = "getComputedStyle(document.body).backgroundColor"
    before = page.evaluate(colour)
    page.click("#theme")
    assert page.evaluate(colour) != before
    page.fill("#code", "P")
    page.keyboard.press("Enter")
    assert page.evaluate("document.documentElement.scrollWidth") == 360
    assert page.locator("#item-1 .map img").count() == 2
