"""`torchsaliency report` through the command line."""

import re


def test_photographs(command, photo, place):
    photo("a.png"), photo("b.png")
    (place / "broken.png").write_bytes(b"no image")
    ran = command(
        "report", "a.png", "b.png", "broken.png", "--model", "net.py:factory",
        "--method", "gradcam,mtsm", "--target", "cat", "--target", "dog", "--score", "deletion",
        "--output", "maps.html",
    )  # fmt: skip
    assert ran.code == 1, ran.err
    page = (place / "maps.html").read_text()
    assert page.count('class="ts-photo"') == 2
    assert page.count("ts-figure ts-map") == 2 * 2 * 2
    assert len(re.findall(r">masked ", page)) == 8
    assert len(re.findall(r">deletion ", page)) == 8
    assert "broken.png" in page
    assert "no image that can be read" in page
    assert not (place / "saliency").exists()
    again = command("report", "a.png", "--model", "net.py:factory", "--method", "gradcam",
                    "--output", "maps.html")  # fmt: skip
    assert again.code == 0, again.err


def test_signed_values(command, photo, place):
    photo("a.png")
    ran = command("report", "a.png", "--model", "net.py:factory", "--method", "gradcam", "--signed",
                  "--output", "maps.html")  # fmt: skip
    assert ran.code == 0, ran.err
    assert " data-signed>" in (place / "maps.html").read_text()


def test_mistakes(command, photo, place):
    photo("a.png")
    (place / "mine.html").write_text("mine")
    (place / "run").mkdir()
    (place / "run" / "run.json").write_text("{}")
    given = ("--model", "net.py:factory", "--method", "gradcam")
    for words, said in (
        (("report", "a.png", *given, "--output", "mine.html"), "mine.html"),
        (("report", "a.png", *given, "--output", "maps.pdf"), "ends in .html"),
        (("report", "a.png", *given, "--grid"), "--grid"),
        (("report", "run", "a.png"), "give it alone"),
        (("report", "run", *given), "has its own plan"),
        (("report", "run"), "is damaged"),
        (("report", "nothing.png"), "nothing.png does not exist"),
    ):
        ran = command(*words)
        assert ran.code == 2, words
        assert said in " ".join(ran.err.split()), ran.err
    assert (place / "mine.html").read_text() == "mine"
