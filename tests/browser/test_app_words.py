"""The app with a network of words, in a real browser."""

import pytest

from served_app import serve
from tiny_clip import write_clip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("networks")
    (place / "clip").mkdir()
    write_clip(place / "clip")
    return place


def test_words_for_clip(open_page, folder, photos):
    with serve(folder, f"hf/{folder / 'clip'}") as address:
        watched = open_page(address)
        page = watched.page
        page.set_input_files("#photo input[type=file]", str(photos / "photo.png"))
        page.wait_for_function("document.querySelector('#status').innerText.includes('Ready')")
        page.locator("#more button").first.click()
        words = page.locator("#words textarea, #words input").first
        seen = []
        for text in ("dog", "cat"):
            words.fill(text)
            page.click("#explain")
            page.wait_for_function(
                "before => { const all = document.querySelectorAll('#maps .ts-ready .ts-about');"
                " return all.length === 3 && all[0].innerText !== before; }",
                arg=seen[-1] if seen else "",
            )
            seen.append(page.locator("#maps .ts-about").first.inner_text())
        assert all(
            about.startswith("similarity (cosine) of the embedding, score ") for about in seen
        )
        assert watched.errors == []
