"""Which network do people trust more, going by its maps? Opti-CAM's appendix D.

A page shows photographs, beside each the maps of two networks whose names are hidden, and exports
what a participant chose. Which side was whose stays behind, in a key; `score_answers` puts the two
together. The page is one file that loads nothing, so that it can be sent to people as it is.
"""

from __future__ import annotations

import base64
import hashlib
import io
import math
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any, Literal, final

import jinja2
import torch
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator
from scipy import stats
from torch import Tensor

from torchsaliency.core.files import OutputFolder
from torchsaliency.data.dataset import draw_key
from torchsaliency.errors import DataError, InputError, OptionError
from torchsaliency.metrics.statistics import CONFIDENCE, bootstrap
from torchsaliency.report.tables import Cell, Column, Table
from torchsaliency.viz import overlay
from torchsaliency.viz.overlay import colourise

PAGE, KEY = "survey.html", "survey-key.json"

_PIXELS = 384
"""The longer side of every picture: what a laptop shows of three in a row, and no more."""

_QUALITY = 86
"""JPEG's: 20 photographs of make 60 pictures and about 2 MB."""

_BAR = (256, 12)


@final
@dataclass(frozen=True, eq=False)
class Case:
    """One photograph of a survey.

    Attributes:
        sample: its id; it goes into the key only.
        photo: as it is shown.
        maps: (H, W) in [0, 1] over the photograph, by network.
    """

    sample: str
    photo: Image.Image
    maps: Mapping[str, Tensor]


@final
class Item(BaseModel):
    """What the key tells of one question.

    Attributes:
        item: its number on the page, from 1.
        sample: the photograph's id.
        left: the network whose map stands on the left.
        right: the other one.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    item: int = Field(ge=1)
    sample: str
    left: str
    right: str


@final
class Key(BaseModel):
    """What a survey hides.

    Attributes:
        survey: a hash of all its pictures, which page, key and answers share.
        method: that made the maps.
        networks: the two.
        items: the questions, in the page's order.
        published: by network, the percentage of answers that preferred it in the paper.
        notes: what else must be known, one sentence each.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    survey: str
    method: str
    networks: tuple[str, str]
    items: tuple[Item, ...] = Field(min_length=1)
    published: dict[str, float] = Field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @field_validator("items")
    @classmethod
    def _numbered(cls, items: tuple[Item, ...]) -> tuple[Item, ...]:
        if [one.item for one in items] != [*range(1, len(items) + 1)]:
            raise ValueError("the items are not numbered 1, 2, 3 …")
        return items

    @model_validator(mode="after")
    def _of_two(self) -> Key:
        for one in self.items:
            if {one.left, one.right} != set(self.networks):
                raise ValueError(f"item {one.item} does not compare the two networks")
        return self


@final
@dataclass(frozen=True)
class Survey:
    """A survey, ready to be sent.

    Attributes:
        page: HTML that loads nothing and tells no names.
        key: what it hides.
    """

    page: str
    key: Key

    def write(self, folder: Path | OutputFolder) -> tuple[Path, Path]:
        """Write the page and, beside it, the key, which must not be sent.

        Raises:
            OptionError: a file of such a name is somebody else's, or nothing can be written.
        """
        output = folder if isinstance(folder, OutputFolder) else OutputFolder(folder)
        with output.held():
            output.insist_on_own([PAGE, KEY])
            output.write(PAGE, self.page.encode("utf-8", "replace"))
            output.write(KEY, (self.key.model_dump_json(indent=1) + "\n").encode())
        return output.path / PAGE, output.path / KEY


def make_survey(
    cases: Sequence[Case],
    networks: tuple[str, str],
    method: str,
    *,
    seed: int = 0,
    published: Mapping[str, float] | None = None,
    notes: Sequence[str] = (),
) -> Survey:
    """Make the page and its key.

    The order of the photographs and the sides are drawn by hashes of the seed and the samples' ids:
    the same on every machine. Each network stands on the left in half of the questions.

    Args:
        cases: the photographs with both networks' maps.
        networks: their names.
        method: that made the maps.
        seed: of the order and the sides.
        published: for the key.
        notes: for the key.

    Raises:
        InputError: no case, one twice, or maps of other networks.
        OptionError: not two different networks.

    Example:
        >>> maps = {"A": torch.rand(7, 7), "B": torch.rand(7, 7)}
        >>> case = Case("cat.jpg", Image.new("RGB", (64, 48), "white"), maps)
        >>> made = make_survey([case], ("A", "B"), "opticam")
        >>> sorted([made.key.items[0].left, made.key.items[0].right])
        ['A', 'B']
    """
    _check_cases(cases, networks)
    ordered = sorted(cases, key=lambda one: draw_key(seed, f"order {one.sample}"))
    drawn = sorted((one.sample for one in cases), key=lambda name: draw_key(seed, f"side {name}"))
    straight = set(drawn[: len(drawn) // 2])
    items, pictures = [], []
    for number, case in enumerate(ordered, 1):
        left, right = networks if case.sample in straight else networks[::-1]
        items.append(Item(item=number, sample=case.sample, left=left, right=right))
        photo = _clean(case.photo)
        drawn_maps = (overlay(photo, case.maps[name].detach().float()) for name in (left, right))
        pictures.append([_jpeg(one) for one in (photo, *drawn_maps)])
    digest = hashlib.sha256()
    for one in pictures:
        digest.update(b"".join(hashlib.sha256(part).digest() for part in one))
    identity = digest.hexdigest()[:16]
    page = _template().render(
        survey=identity,
        pictures=[[_uri(part, "jpeg") for part in one] for one in pictures],
        bar=_uri(_colour_bar(), "png"),
    )
    key = Key(
        survey=identity,
        method=method,
        networks=networks,
        items=tuple(items),
        published=dict(published or {}),
        notes=tuple(notes),
    )
    return Survey(page, key)


def _check_cases(cases: Sequence[Case], networks: tuple[str, str]) -> None:
    if networks[0] == networks[1]:
        raise OptionError(
            f"A survey compares two networks, and {networks[0]!r} was given twice; give two."
        )
    if not cases:
        raise InputError("A survey needs a photograph at least, and none was given.")
    names = Counter(one.sample for one in cases)
    sample, often = names.most_common(1)[0]
    if often > 1:
        raise InputError(f"The photograph {sample!r} was given {often} times; give each once.")
    for case in cases:
        if set(case.maps) != set(networks):
            raise InputError(
                f"The maps of {case.sample!r} are those of {', '.join(case.maps) or 'no network'}; "
                f"give one of each of {' and '.join(networks)}."
            )


def _clean(photo: Image.Image) -> Image.Image:
    """Return the photograph at the page's size, without what its file says beside the pixels."""
    scale = _PIXELS / max(photo.size)
    size = (max(1, round(photo.width * scale)), max(1, round(photo.height * scale)))
    sized = photo.convert("RGB").resize(size, Image.Resampling.LANCZOS)
    return Image.frombytes("RGB", sized.size, sized.tobytes())  # a comment would be saved along


def _jpeg(picture: Image.Image) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, "JPEG", quality=_QUALITY, optimize=True)
    return stream.getvalue()


def _colour_bar() -> bytes:
    width, height = _BAR
    stream = io.BytesIO()
    Image.fromarray(colourise(torch.linspace(0, 1, width).expand(height, -1))).save(stream, "PNG")
    return stream.getvalue()


def _uri(content: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


@cache
def _template() -> jinja2.Template:
    text = resources.files(__package__).joinpath("survey.html.jinja").read_text(encoding="utf-8")
    surroundings = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    return surroundings.from_string(text)


# --- answers -------------------------------------------------------------------------------------


@final
class Answer(BaseModel):
    """What one participant chose of one question.

    Attributes:
        item: the question's number.
        choice: the side of the network that did better.
        seconds: that the question was on the screen.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    item: int
    choice: Literal["left", "right"]
    seconds: float | None = Field(default=None, ge=0, allow_inf_nan=False)


@final
class Answers(BaseModel):
    """What a page exports.

    Attributes:
        survey: the page's identity.
        participant: the code that was typed in.
        exported: when.
        answers: one a question, if all is well.
        comment: how the participant decided, in their words.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, str_strip_whitespace=True)

    survey: str
    participant: str = Field(min_length=1)
    exported: str = ""
    answers: tuple[Answer, ...]
    comment: str = ""


@final
@dataclass(frozen=True)
class SurveyScores:
    """What participants preferred.

    Attributes:
        key: of the survey.
        participants: the answers that count, in the order of the files.
        shares: by network, the share of answers that prefer it, with its interval over
            participants, in percent.
        confidence: of the intervals.
        p_answers: of the two-sided binomial test over all answers, as if they were independent.
        p_participants: of the two-sided sign test over participants, who are.
        left_out: the files that do not count, a sentence each.
    """

    key: Key
    participants: tuple[Answers, ...]
    shares: Mapping[str, Cell]
    confidence: float
    p_answers: float
    p_participants: float
    left_out: tuple[str, ...] = ()

    @property
    def by_participant(self) -> dict[str, dict[str, float]]:
        """By code and network, the share of photographs on which it was preferred, in percent."""
        return {
            one.participant: _percentages(
                [_chosen(self.key, answer) for answer in one.answers], self.key.networks
            )
            for one in self.participants
        }

    @property
    def by_photograph(self) -> dict[str, dict[str, float]]:
        """By sample and network, the share of participants who preferred it, in percent."""
        votes: dict[int, list[str]] = {one.item: [] for one in self.key.items}
        for one in self.participants:
            for answer in one.answers:
                votes[answer.item].append(_chosen(self.key, answer))
        return {
            one.sample: _percentages(votes[one.item], self.key.networks) for one in self.key.items
        }

    @property
    def comments(self) -> dict[str, str]:
        """How participants said that they decided, by code."""
        return {one.participant: one.comment for one in self.participants if one.comment}

    def table(self, by: str = "network") -> Table:
        """Return the result as a table, a row a network, photograph or participant.

        Raises:
            OptionError: another kind of row.
        """
        tables = {
            "network": self._by_network,
            "photograph": self._by_photograph,
            "participant": self._by_participant,
        }
        if by not in tables:
            raise OptionError(f"Rows by {by!r} were asked for; choose {', '.join(tables)}.")
        return tables[by]()

    def _by_network(self) -> Table:
        people, photographs = self.by_participant.values(), self.by_photograph.values()
        lines: dict[str, dict[str, Cell | int]] = {
            name: {
                "preferred": self.shares[name],
                "photographs": _wins(photographs, name),
                "participants": _wins(people, name),
            }
            for name in self.key.networks
        }
        columns = [
            Column("preferred", "%", "higher", decimals=2),
            Column("photographs", decimals=0),
            Column("participants", decimals=0),
        ]
        return Table.of(
            lines, columns, caption=self._caption, corner="network", notes=self._notes()
        )

    def _by_photograph(self) -> Table:
        columns = [Column(name, "%", "neither") for name in self.key.networks]
        return Table.of(self.by_photograph, columns, caption=self._caption, corner="photograph")

    def _by_participant(self) -> Table:
        columns = [Column(name, "%", "neither") for name in self.key.networks]
        columns.append(Column("time", "s", decimals=1))
        shares = self.by_participant
        lines = {
            one.participant: {**shares[one.participant], "time": _time(one)}
            for one in self.participants
        }
        return Table.of(
            lines,
            columns,
            caption=self._caption,
            corner="participant",
            notes=("time: median over the photographs.",),
        )

    @property
    def _caption(self) -> str:
        return f"Which network performed better, going by its maps of {self.key.method}?"

    def _notes(self) -> list[str]:
        people, questions = len(self.participants), len(self.key.items)
        told = [
            f"{people} {'participant' if people == 1 else 'participants'}, {questions} "
            f"{'photograph' if questions == 1 else 'photographs'}; photographs and participants: "
            "how many preferred the network more often than the other one."
        ]
        if people > 1:
            told.append(
                f"[low, high]: {100 * self.confidence:g} % bootstrap interval over participants."
            )
        told.append(
            f"Sign test over participants: p = {_probability(self.p_participants)}; binomial test "
            f"over all {people * questions} answers, as if they were independent: "
            f"p = {_probability(self.p_answers)}."
        )
        return [*told, *self.key.notes]


def read_key(path: str | Path) -> Key:
    """Read a survey's key.

    Raises:
        DataError: it cannot be read, or is none.
    """
    path = Path(path)
    try:
        return Key.model_validate_json(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, ValidationError) as error:
        raise DataError(
            f"{path} is no survey's key ({_reason(error)}); give the {KEY} that was written beside "
            f"{PAGE}."
        ) from error


def score_answers(
    key: Key | str | Path,
    files: Sequence[str | Path],
    *,
    confidence: float = CONFIDENCE,
    seed: int = 0,
) -> SurveyScores:
    """Score the answers that participants exported.

    A participant counts once: of several exports under one code the first one counts. Files that
    are damaged, incomplete or of another survey are left out, and named.

    Args:
        key: of the survey, or its file.
        files: what participants exported.
        confidence: of the intervals.
        seed: of the bootstrap.

    Raises:
        DataError: the key cannot be read, or no file counts.
        OptionError: a confidence out of range.

    Example:
        >>> score_answers("survey-key.json", ["answers-P1.json"]).shares  # doctest: +SKIP
        {'VGG16': Cell(value=58.15, …), 'ResNet50': Cell(value=41.85, …)}
    """
    if not 0 < confidence < 1:
        raise OptionError(f"A confidence of {confidence} was given; give one between 0 and 1.")
    known = key if isinstance(key, Key) else read_key(key)
    counted, left_out = _counted(known, files)
    if not counted:
        why = left_out[0] if left_out else "none were given; name the files that the page exported."
        raise DataError(f"There are no answers to score: {why}")
    first = known.networks[0]
    shares = [
        100 * statistics.fmean(_chosen(known, answer) == first for answer in one.answers)
        for one in counted
    ]
    votes = sum(_chosen(known, answer) == first for one in counted for answer in one.answers)
    for_first = sum(share > 50 for share in shares)  # noqa: PLR2004 (half)
    for_other = sum(share < 50 for share in shares)  # noqa: PLR2004
    return SurveyScores(
        key=known,
        participants=tuple(counted),
        shares=_shares(known, shares, confidence, seed),
        confidence=confidence,
        p_answers=_by_chance(votes, len(counted) * len(known.items)),
        p_participants=_by_chance(for_first, for_first + for_other),
        left_out=tuple(left_out),
    )


def _counted(key: Key, files: Sequence[str | Path]) -> tuple[list[Answers], list[str]]:
    """Return the answers that count, in the order of the files, and why others do not."""
    good: list[tuple[Path, Answers]] = []
    left_out: list[str] = []
    for path in map(Path, files):
        try:
            good.append((path, _read_answers(key, path)))
        except DataError as error:
            left_out.append(str(error))
    # a code is typed by hand: "p1 " and "P1" are one person
    codes = [one.participant.casefold() for _, one in good]
    first: dict[str, int] = {}
    for place in sorted(range(len(good)), key=lambda place: good[place][1].exported):
        first.setdefault(codes[place], place)
    counted = []
    for place, (path, one) in enumerate(good):
        kept = first[codes[place]]
        if kept == place:
            counted.append(one)
        else:
            left_out.append(
                f"{path} is another export of participant {one.participant}, of whom "
                f"{good[kept][0]} counts; if it is another person, change the participant in it."
            )
    return counted, left_out


def _read_answers(key: Key, path: Path) -> Answers:
    try:
        # an editor into which the text was copied may begin the file with a mark
        one = Answers.model_validate_json(path.read_text(encoding="utf-8-sig"))
    except (OSError, UnicodeDecodeError, ValidationError) as error:
        raise DataError(
            f"{path} holds no answers ({_reason(error)}); give a file that the page exported."
        ) from error
    if one.survey != key.survey:
        raise DataError(
            f"{path} answers another survey ({one.survey}, not {key.survey}); give the answers to "
            "the page that was written with this key."
        )
    numbers = Counter(answer.item for answer in one.answers)
    known = {item.item for item in key.items}
    if strange := sorted(
        number for number in numbers if number not in known or numbers[number] > 1
    ):
        raise DataError(
            f"{path} is damaged: it answers {_listed(strange)} more than once or without being "
            f"asked; the survey has photographs 1 to {len(known)}, give the file as exported."
        )
    if missing := sorted(known - numbers.keys()):
        raise DataError(
            f"{path} is incomplete: {_listed(missing)} of {len(known)} have no answer; have "
            f"participant {one.participant} finish and export again."
        )
    return one


def _shares(key: Key, of_first: Sequence[float], confidence: float, seed: int) -> dict[str, Cell]:
    """Return each network's share with its interval; the second's is the first's turned round."""
    middle = statistics.fmean(of_first)
    low = high = None
    if len(of_first) > 1:
        rows = torch.tensor(of_first, dtype=torch.float64)[:, None]
        low, high = bootstrap(rows, confidence=confidence, seed=seed)
    first, second = key.networks

    def cell(name: str, value: float, low: float | None, high: float | None) -> Cell:
        # without its confidence: a table's legend takes such intervals for those over images
        published = key.published.get(name)
        return Cell(value, low, high, count=len(of_first), published=published)

    turned = (None, None) if low is None or high is None else (100 - high, 100 - low)
    return {first: cell(first, middle, low, high), second: cell(second, 100 - middle, *turned)}


def _chosen(key: Key, answer: Answer) -> str:
    """Return the network that an answer prefers."""
    item = key.items[answer.item - 1]
    return item.left if answer.choice == "left" else item.right


def _percentages(votes: Sequence[str], networks: Sequence[str]) -> dict[str, float]:
    return {name: 100 * votes.count(name) / len(votes) for name in networks}


def _wins(shares: Any, name: str) -> int:
    return sum(one[name] > 50 for one in shares)  # noqa: PLR2004 (half)


def _by_chance(count: int, of: int) -> float:
    """Return how probable a split at least as uneven is if nobody has a preference."""
    return float(stats.binomtest(count, of).pvalue) if of else 1.0


def _time(one: Answers) -> float:
    seconds = [answer.seconds for answer in one.answers if answer.seconds is not None]
    return statistics.median(seconds) if seconds else math.nan


def _probability(p: float) -> str:
    return f"{p:.3f}" if p >= 0.001 else f"{p:.1e}"  # noqa: PLR2004 (what three digits show)


def _listed(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, numbers))


def _reason(error: Exception) -> str:
    """Say in a few words what is wrong with a file."""
    if isinstance(error, OSError):
        return error.strerror or "it cannot be read"
    if isinstance(error, ValidationError):
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"]))
        said = str(first["msg"]).rstrip(".")
        return f"{where}: {said}" if where else said
    return "it is no text"


__all__ = [
    "KEY",
    "PAGE",
    "Answer",
    "Answers",
    "Case",
    "Item",
    "Key",
    "Survey",
    "SurveyScores",
    "make_survey",
    "read_key",
    "score_answers",
]
