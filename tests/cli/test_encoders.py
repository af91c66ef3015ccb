"""`torchsaliency explain` on encoders: no classes, other photographs, texts."""

from __future__ import annotations

import json

import pytest
import torch

from torchsaliency.cli import photographs
from torchsaliency.core.target import EmbeddingSimilarity

MODEL = ("--model", "builtin/shapes_ssl")


def maps(place):
    run = json.loads((place / "saliency" / "manifest.json").read_text())["runs"][-1]
    return run, {photo["name"]: photo for photo in run["photos"]}


def test_the_default_needs_no_classes_and_says_so(command, photo, place):
    photo("a.png")
    ran = command("explain", "a.png", *MODEL)
    assert ran.code == 0
    assert "encoder without classes: explained by mtsm" in " ".join(ran.err.split())
    run, photos = maps(place)
    assert list(run["methods"]) == ["mtsm"]
    assert photos["a"]["predicted"] is None
    assert photos["a"]["maps"][0]["target"]["name"] == "its own embedding"
    assert "its own embedding" in ran.out


def test_a_class_is_a_clear_error(explain, photo):
    photo("a.png")
    ran = explain("a.png", *MODEL, "--target", "circle")
    assert ran.code == 2
    assert "is an encoder without classes" in ran.err


def test_metrics_of_classes_are_refused_and_of_embeddings_given(explain, photo, place):
    photo("a.png")
    ran = explain("a.png", *MODEL, "--score", "ad")
    assert ran.code == 2
    assert "is an encoder" in ran.err
    assert explain("a.png", *MODEL, "--method", "tsm", "--score", "mse,cosine").code == 0
    run, _ = maps(place)
    assert {row["metric"] for row in run["scores"]} == {"mse", "cosine"}


def test_what_two_photographs_share_is_drawn_in_both(explain, photo, place):
    photo("a.png")
    photo("b.png", size=(40, 60))
    ran = explain("a.png", "--similar-to", "b.png", *MODEL, "--method", "gradcam", "--grid")
    assert ran.code == 0, ran.err
    _, photos = maps(place)
    assert set(photos) == {"a", "b"}
    scores = [photos[name]["maps"][0]["score"] for name in ("a", "b")]
    assert scores[0] == pytest.approx(scores[1], abs=1e-5)  # the cosine is symmetric
    assert photos["a"]["maps"][0]["target"]["name"].endswith("to b")
    assert (place / "saliency" / "grid.png").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--similar-to", "b.png", "--target", "1"), "--target and --similar-to were given"),
        (("--similar-to", "b.png", "--text", "dog"), "--similar-to and --text were given"),
        (("--similar-to", "b.png", "--method", "tsm"), "tsm does not read the target"),
        (("--similar-to", "missing.png"), "missing.png does not exist"),
        (("--similar-to", "a.png"), "at least one other"),
        (("--text", "dog"), "no text encoder"),
    ],
)
def test_mistakes(explain, photo, words, said):
    photo("a.png")
    photo("b.png", size=(40, 60))
    ran = explain("a.png", *MODEL, *words)
    assert ran.code == 2
    assert said in " ".join(ran.err.split())


def test_a_text_is_compared_with_every_photograph(explain, photo, place, monkeypatch):
    photo("a.png")
    photo("b.png", size=(40, 60))
    words = EmbeddingSimilarity(torch.ones(1, 128))
    monkeypatch.setattr(photographs, "similarity_to_text", lambda network, text: words)
    ran = explain("a.png", "b.png", "--text", "a dog", *MODEL, "--method", "gradcam")
    assert ran.code == 0, ran.err
    _, photos = maps(place)
    assert all("“a dog”" in one["maps"][0]["target"]["name"] for one in photos.values())
