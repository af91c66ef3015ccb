"""The survey: a page that tells nothing, a key that tells the rest, the answers put together."""

from __future__ import annotations

import base64
import io
import json
import re
from collections import Counter
from html.parser import HTMLParser

import pytest
import torch
from PIL import Image, ImageChops, ImageStat
from scipy import stats
from typer.testing import CliRunner

from torchsaliency.cli.main import app
from torchsaliency.errors import DataError, InputError, OptionError
from torchsaliency.papers.survey import (
    KEY,
    PAGE,
    Case,
    make_survey,
    read_key,
    score_answers,
)

NETS = ("resnet-of-secrets", "vgg-of-secrets")


def cases(count=6, size=(48, 32)):
    """The first network looks at the left half, the second at the right one."""
    made = []
    for number in range(count):
        left = torch.zeros(8, 8)
        left[:, :4] = 1
        photo = Image.new("RGB", size, (30 * number % 255, 90, 90))
        photo.info["comment"] = b"taken in Rennes"  # JPEG would save it along
        maps = {NETS[0]: left, NETS[1]: left.flip(1)}
        made.append(Case(f"folder/photo-{number}.jpeg", photo, maps))
    return made


@pytest.fixture(scope="module")
def survey():
    return make_survey(cases(), NETS, "opticam-of-secrets", seed=3)


class Page(HTMLParser):
    """Collects elements, and insists that each is closed where it should be."""

    EMPTY = ("meta", "img", "input", "br", "link")

    def __init__(self, text):
        super().__init__()
        self.elements, self.open, self.text = [], [], ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in self.EMPTY:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] not in ("script", "style"):
            self.text += data

    def all(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]

    def pictures(self):
        """Return (photo, left, right) of every item."""
        found = [one["src"] for one in self.all("img") if one["src"].startswith("data:image/jpeg")]
        opened = [Image.open(io.BytesIO(base64.b64decode(one.partition(",")[2]))) for one in found]
        return [opened[at : at + 3] for at in range(0, len(opened), 3)]


def painted(photo, side):
    """Return how much of the left and of the right half of a photograph is painted over."""
    width, height = photo.size
    change = ImageChops.difference(photo, side).convert("L")
    halves = [(0, 0, width // 2, height), (width // 2, 0, width, height)]
    return [ImageStat.Stat(change.crop(one)).mean[0] for one in halves]


# --- the page ------------------------------------------------------------------------------------


def test_page_and_key_agree(survey):
    pictures = Page(survey.page).pictures()
    assert len(pictures) == len(survey.key.items) == 6
    for item, (photo, *sides) in zip(survey.key.items, pictures, strict=True):
        assert photo.size == (384, 256)
        for network, side in zip((item.left, item.right), sides, strict=True):
            left, right = painted(photo, side)
            assert (left > right) == (network == NETS[0])
        number = int(re.search(r"(\d+)\.jpeg", item.sample)[1])
        red, _, _ = photo.getpixel((100, 100))
        assert abs(red - 30 * number % 255) < 6


def test_page_tells_nothing(survey):
    told = re.sub(r"data:image/[a-z]+;base64,[A-Za-z0-9+/=]+", "", survey.page).lower()
    for secret in (*NETS, "opticam", "secrets", "resnet", "vgg", "photo-", "folder", "rennes"):
        assert secret not in told
    for picture in [one for three in Page(survey.page).pictures() for one in three]:
        assert "comment" not in picture.info
        assert b"Rennes" not in picture.tobytes()
    alternatives = [one["alt"] for one in Page(survey.page).all("img")]
    assert Counter(re.sub(r" \d+", "", one) for one in alternatives) == {
        "": 1,
        "Photograph": 6,
        "Left map.": 6,
        "Right map.": 6,
    }


def test_page_loads_nothing(survey):
    drawn = "xmlns='http://www.w3.org/2000/svg'"  # a name, which is not loaded
    assert not re.search(r"https?:|[\"'(]//", survey.page.replace(drawn, ""))
    page = Page(survey.page)
    pointers = [one[name] for _, one in page.elements for name in ("src", "href") if name in one]
    assert all(one.startswith("data:image/") for one in pointers)
    assert not any("src" in one for one in page.all("script"))
    policy = next(one["content"] for one in page.all("meta") if one.get("http-equiv"))
    assert "default-src 'none'" in policy
    assert "img-src data:" in policy
    assert "url(" not in survey.page
    assert "@import" not in survey.page


def test_page_can_be_used_by_everyone(survey):
    page = Page(survey.page)
    assert page.all("html")[0]["lang"] == "en"
    assert any(one.get("name") == "viewport" for one in page.all("meta"))
    assert page.all("button")[0]["id"] == "theme"  # light and dark, as on all pages
    assert ":focus-visible" in survey.page
    ids = [one["id"] for _, one in page.elements if "id" in one]
    assert len(set(ids)) == len(ids)
    named = {one["for"] for one in page.all("label") if "for" in one}
    for tag in ("input", "textarea"):
        for one in page.all(tag):
            assert one.get("type") == "radio" or one["id"] in named
    for _, one in page.elements:
        for pointer in ("aria-labelledby", "aria-describedby"):
            assert set(one.get(pointer, "").split()) <= set(ids)
    assert len(page.all("legend")) == len(page.all("fieldset")) == 6
    groups = Counter(one["name"] for one in page.all("input") if one.get("type") == "radio")
    assert set(groups.values()) == {2}
    assert len(groups) == 6
    assert "Which network performed better, based on the maps alone?" in page.text


def test_page_is_small():
    """Twenty photographs with as much detail as any."""
    torch.manual_seed(0)
    made = []
    for number in range(20):
        coarse = torch.rand(1, 3, 96, 96)
        pixels = torch.nn.functional.interpolate(coarse, (900, 1200), mode="bilinear")[0]
        photo = Image.fromarray((255 * pixels).byte().permute(1, 2, 0).numpy())
        made.append(Case(str(number), photo, {one: torch.rand(7, 7) for one in NETS}))
    assert len(make_survey(made, NETS, "x").page) < 4_000_000


def test_order_is_drawn_by_the_seed():
    def drawn(seed, shuffled=False):
        made = cases(20)[::-1] if shuffled else cases(20)
        key = make_survey(made, NETS, "x", seed=seed).key
        return [(one.sample, one.left) for one in key.items]

    assert drawn(0) == drawn(0) == drawn(0, shuffled=True)
    assert drawn(0) != drawn(1)
    samples = [sample for sample, _ in drawn(0)]
    assert samples != sorted(samples)
    assert sorted(samples) == sorted(set(samples))
    lefts = [left for _, left in drawn(0)]
    assert Counter(lefts) == {NETS[0]: 10, NETS[1]: 10}
    assert lefts != sorted(lefts)
    assert lefts != sorted(lefts, reverse=True)


@pytest.mark.parametrize("count", [1, 7])
def test_odd_numbers_are_balanced_up_to_one(count):
    key = make_survey(cases(count), NETS, "x").key
    lefts = sum(one.left == NETS[0] for one in key.items)
    assert lefts in (count // 2, count // 2 + 1)


def test_surveys_have_identities(survey):
    again = make_survey(cases(), NETS, "opticam-of-secrets", seed=3)
    other = make_survey(cases(), NETS, "opticam-of-secrets", seed=4)
    assert again == survey
    assert other.key.survey != survey.key.survey
    assert f'data-survey="{survey.key.survey}"' in survey.page


def test_wrong_surveys():
    with pytest.raises(OptionError, match="'a' was given twice; give two"):
        make_survey(cases(), ("a", "a"), "x")
    with pytest.raises(InputError, match="none was given"):
        make_survey([], NETS, "x")
    with pytest.raises(InputError, match=r"photo-0.jpeg' was given 2 times"):
        make_survey(cases(2) + cases(1), NETS, "x")
    with pytest.raises(InputError, match=r"are those of resnet-of-secrets, vgg-of-secrets; give"):
        make_survey(cases(), ("a", "b"), "x")


# --- the answers ---------------------------------------------------------------------------------


@pytest.fixture
def place(tmp_path, survey):
    survey.write(tmp_path)
    return tmp_path


@pytest.fixture
def answer(place, survey):
    """Write the file of a participant who prefers the first network on the given items."""

    def write(name, prefers, **changes):
        given = [
            {
                "item": one.item,
                "choice": "left" if (one.left == NETS[0]) == (one.item in prefers) else "right",
                "seconds": 1.5 * one.item,
            }
            for one in survey.key.items
        ]
        facts = {
            "survey": survey.key.survey,
            "participant": name,
            "exported": "2025-01-01T10:00:00.000Z",
            "answers": given,
            "comment": "larger regions",
            **changes,
        }
        path = place / f"{changes.get('file', name)}.json"
        facts.pop("file", None)
        path.write_text(json.dumps(facts), encoding="utf-8")
        return path

    return write


def test_written_key_is_read_again(place, survey):
    assert read_key(place / KEY) == survey.key
    assert (place / PAGE).read_text(encoding="utf-8") == survey.page


def test_scores_by_hand(place, answer, survey):
    files = [answer("P1", {1, 2, 3, 4}), answer("P2", {1, 2, 3}), answer("P3", {1, 2, 3, 4, 5, 6})]
    found = score_answers(place / KEY, files)
    people = found.by_participant
    assert list(people.columns) == list(NETS)
    assert people.loc["P1"].tolist() == pytest.approx([100 * 4 / 6, 100 * 2 / 6])
    assert people.loc["P2"].tolist() == [50, 50]
    assert people.loc["P3"].tolist() == [100, 0]
    assert list(found.by_photograph.index) == [one.sample for one in survey.key.items]
    by_item = found.by_photograph[NETS[0]].tolist()
    assert by_item == pytest.approx([100, 100, 100, 200 / 3, 100 / 3, 100 / 3])
    first, second = (found.shares[name] for name in NETS)
    assert first.value == pytest.approx(100 * 13 / 18)
    assert second.value == pytest.approx(100 * 5 / 18)
    assert first.low == 100 - second.high
    assert first.high == 100 - second.low
    assert 50 <= first.low < first.value < first.high <= 100
    assert found.p_answers == pytest.approx(stats.binomtest(13, 18).pvalue)
    assert found.p_participants == 0.5  # two of two, for P2 is undecided
    assert found.left_out == ()
    assert found.comments == dict.fromkeys(("P1", "P2", "P3"), "larger regions")


def test_tables(place, answer):
    found = score_answers(place / KEY, [answer("P1", {1, 2, 3, 4}), answer("P2", {1})])
    values = found.table().pivot()
    assert values.loc[NETS[0]].tolist()[1:] == [1, 1]
    assert values.loc[NETS[1]].tolist()[1:] == [2, 1]
    notes = " ".join(found.table().notes)
    assert "2 participants, 6 photographs" in notes
    assert "interval over participants" in notes
    people = found.table("participant").pivot()
    assert people.loc["P2"].tolist() == [pytest.approx(100 / 6), pytest.approx(500 / 6), 5.25]
    assert len(found.table("photograph").rows) == 6
    with pytest.raises(OptionError, match="choose network, photograph, participant"):
        found.table("colour")


def test_one_participant_has_no_interval(place, answer):
    found = score_answers(place / KEY, [answer("P1", {1, 2, 3, 4, 5})])
    assert found.shares[NETS[0]].low is None
    assert "interval" not in " ".join(found.table().notes)
    assert found.p_participants == 1


def test_published_numbers_stand_beside(answer):
    made = make_survey(cases(), NETS, "x", seed=3, published={NETS[0]: 58.15})
    found = score_answers(made.key, [answer("P1", {1})])
    assert [cell["published"] for cell in found.table().cells[::3]] == [58.15, None]


def test_some_files_are_left_out_and_named(place, answer, survey):
    good = answer("P1", {1, 2}, exported="2025-01-01T09:00")
    kept = score_answers(survey.key, [good])
    given = json.loads(good.read_text())["answers"]
    twisted = [{**one, "item": one["item"] + 1} for one in given]
    bad = {
        "another survey (abc, not": answer("P2", {1}, survey="abc"),
        "is incomplete: 2, 5 of 6": answer("P3", {1}, answers=[given[i] for i in (0, 2, 3, 5)]),
        "answers 3 more than once": answer("P4", {1}, answers=[*given, given[2]]),
        "answers 7 more than once or without": answer("P5", {1}, answers=twisted),
        "participant: String should have": answer(" ", {1}),
        "answers.0.choice: Input should": answer("P6", {1}, answers=[{**given[0], "choice": 1}]),
        "answers.0.item: Input": answer("P7", {1}, answers=[{**given[0], "item": "1"}]),
        "answers.0.seconds": answer("P8", {1}, answers=[{**given[0], "seconds": -1}]),
        "colour: Extra inputs": answer("P9", {1}, colour="red"),
        "another export of participant p1 , of whom": answer(
            "p1 ", {3, 4}, exported="2025-01-01T09:30"
        ),
        "holds no answers (Invalid JSON": place / "cut.json",
        "holds no answers (it is no text": place / "noise.json",
        "(No such file": place / "nowhere.json",
        "holds no answers (survey: ": place / "empty.json",
        "(Is a directory": place,
    }
    (place / "cut.json").write_text(good.read_text()[:100])
    (place / "noise.json").write_bytes(b"\xff\xfe\x00\x81")
    (place / "empty.json").write_text("{}")
    found = score_answers(survey.key, [*bad.values(), good])
    assert found.participants == kept.participants
    assert found.shares == kept.shares
    assert len(found.left_out) == len(bad)
    for said, path in bad.items():
        said = said.replace("p1 ,", "p1,")
        own = [one for one in found.left_out if one.startswith(f"{path} ")]
        assert len(own) == 1
        assert said in own[0]
        assert own[0].endswith(".")
        assert "\n" not in own[0]


def test_the_first_of_two_exports_counts(place, answer):
    late = answer("P1", {1}, file="late", exported="2025-01-02T00:00")
    early = answer("P1", {1, 2, 3}, file="early", exported="2025-01-01T00:00")
    for order in ([late, early], [early, late], [early, early, late]):
        found = score_answers(place / KEY, order)
        assert found.by_participant.loc["P1", NETS[0]] == 50
        assert len(found.left_out) == len(order) - 1
        assert f"of whom {early} counts" in found.left_out[-1]


def test_a_file_that_an_editor_saved(place, answer):
    path = answer("Ärztin 7", {1, 2, 3})
    path.write_text(path.read_text(encoding="utf-8"), encoding="utf-8-sig")
    assert list(score_answers(place / KEY, [path]).by_participant.index) == ["Ärztin 7"]


def test_nothing_to_score(place, answer):
    with pytest.raises(DataError, match="no answers to score: none were given"):
        score_answers(place / KEY, [])
    with pytest.raises(DataError, match=r"no answers to score: .*answers another survey"):
        score_answers(place / KEY, [answer("P1", {1}, survey="abc")])
    with pytest.raises(DataError, match=r"nowhere.json is no survey's key \(No such file"):
        score_answers(place / "nowhere.json", [])
    with pytest.raises(DataError, match="is no survey's key"):
        score_answers(answer("P1", {1}), [])
    with pytest.raises(OptionError, match="between 0 and 1"):
        score_answers(place / KEY, [answer("P1", {1})], confidence=95.0)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"items": []}, "items: Tuple should have at least 1"),
        ({"networks": ["a", "b"]}, "item 1 does not compare the two networks"),
    ],
)
def test_damaged_keys(place, change, said):
    facts = json.loads((place / KEY).read_text())
    (place / KEY).write_text(json.dumps({**facts, **change}))
    with pytest.raises(DataError, match=said):
        read_key(place / KEY)


def test_keys_number_their_items(place):
    facts = json.loads((place / KEY).read_text())
    (place / KEY).write_text(json.dumps({**facts, "items": facts["items"][1:]}))
    with pytest.raises(DataError, match="not numbered 1, 2, 3"):
        read_key(place / KEY)


def test_command(place, answer):
    def run(*words):
        return CliRunner().invoke(app, ["survey-score", *map(str, words)])

    files = [answer("P1", {1, 2, 3, 4}), answer("P2", {1, 2, 3, 4, 5})]
    done = run(place / KEY, *files)
    assert done.exit_code == 0
    assert "75.00" in done.stdout
    assert NETS[0] in done.stdout
    done = run(place / KEY, *files, "--by", "participant")
    assert "P1: larger regions" in done.stdout
    done = run(place / KEY, *files, place / "nowhere.json", "--format", "csv", "--by", "photograph")
    assert done.exit_code == 1
    assert "Left out: " in done.stderr
    assert "nowhere.json" in done.stderr
    assert done.stdout.startswith("photograph,")
    done = run(place / "nowhere.json", *files)
    assert done.exit_code == 2
    assert "is no survey's key" in done.stderr
