"""The command `concepts`: its files, and what it refuses."""

import json

import numpy as np
import pytest
from PIL import Image


@pytest.fixture
def folders(place):
    draw = np.random.default_rng(0)
    for name, count in (("class", 3), ("bright", 4), ("others", 12)):
        (place / name).mkdir()
        for number in range(count):
            pixels = draw.integers(128 * (name == "bright"), 256, (40, 40, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(place / name / f"{number}.png")
    return place


SHORT = {
    "dff": ["--count", 2],
    "craft": ["--count", 2, "--samples", 4, "--target", "tabby"],
    "tcav": ["--concept", "bright", "--random", "others", "--runs", 3, "--target", "dog"],
}


def run(command, *words):
    return command("concepts", "class", "--model", "net.py:factory", *words)


@pytest.mark.parametrize("method", SHORT)
def test_a_picture_and_all_numbers_are_written(method, folders, command):
    ran = run(command, "--method", method, *SHORT[method], "--json")
    assert ran.code == 0, ran.err
    facts = json.loads((folders / "concepts" / "concepts.json").read_bytes())
    assert ran.json["concepts"] == facts["concepts"]
    with Image.open(folders / "concepts" / "concepts.png") as picture:
        assert picture.width > 200
    if method == "tcav":
        assert 0 <= facts["concepts"]["bright"]["p_value"] <= 1
        assert len(facts["chance"]["score"]) == 3
    else:
        assert len(facts["concepts"]) == 2
        assert len(facts["presence"]) == 3


@pytest.mark.usefixtures("folders")
def test_what_a_method_does_not_read_is_refused(command):
    ran = run(command, "--samples", 4)
    assert ran.code == 2
    assert "--samples was given, which only craft reads" in " ".join(ran.err.split())
    ran = command(
        "concepts", "class", "--model", "net.py:factory", "--method", "tcav", "--target", "dog"
    )
    assert "give --concept FOLDER and --random FOLDER" in " ".join(ran.err.split())
