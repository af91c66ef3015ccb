"""Which network do people trust more, going by its maps? Opti-CAM's appendix D.

A page shows photographs, beside each the maps of two networks whose names are hidden, and exports
what a participant chose. Which side was whose stays behind, in a key; `score_answers` puts the two
together. The page is one file that loads nothing, so that it can be sent to people as it is.
"""

from __future__ import annotations

import base64
import hashlib
import io
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, final

import pandas as pd
import torch
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator
from scipy import stats
from torch import Tensor

from torchsaliency.core.files import OutputFolder
from torchsaliency.data.fingerprints import draw_key
from torchsaliency.errors import DataError, InputError, OptionError
from torchsaliency.metrics.base import Summary
from torchsaliency.metrics.statistics import CONFIDENCE, bootstrap
from torchsaliency.pages.report import render_page
from torchsaliency.report.results import summary_cell
from torchsaliency.report.tables import Table
from torchsaliency.viz import overlay
from torchsaliency.viz.overlay import colourise

PAGE, KEY = "survey.html", "survey-key.json"

_PIXELS = 384
"""The longer side of every picture: what a laptop shows of three in a row, and no more."""

_QUALITY = 86
"""JPEG's: 20 photographs of make 60 pictures and about 2 MB."""

_BAR = (256, 12)
_HALF = 50
"""Percent."""


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


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


@final
class Item(_Record):
    """What the key tells of one question.

    Attributes:
        item: its number on the page, from 1.
        sample: the photograph's id.
        left: the network whose map stands on the left.
        right: the other one.
    """

    item: int = Field(ge=1)
    sample: str
    left: str
    right: str


@final
class Key(_Record):
    """What a survey hides.

    Attributes:
        survey: a hash of all its pictures, which page, key and answers share.
        method: that made the maps.
        networks: the two.
        items: the questions, in the page's order.
        published: by network, the percentage of answers that preferred it in the paper.
        notes: what else must be known, one sentence each.
    """

    survey: str
    method: str
    networks: tuple[str, str]
    items: tuple[Item, ...] = Field(min_length=1)
    published: dict[str, float] = Field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @field_validator("items")
    @classmethod
    def _number(cls, items: tuple[Item, ...]) -> tuple[Item, ...]:
        if [item.item for item in items] != [*range(1, len(items) + 1)]:
            raise ValueError("the items are not numbered 1, 2, 3 …")
        return items

    @model_validator(mode="after")
    def _of_two(self) -> Key:
        for item in self.items:
            if {item.left, item.right} != set(self.networks):
                raise ValueError(f"item {item.item} does not compare the two networks")
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
        with output.lock():
            output.require_own([PAGE, KEY])
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
        >>> survey = make_survey([case], ("A", "B"), "opticam")
        >>> sorted([survey.key.items[0].left, survey.key.items[0].right])
        ['A', 'B']
    """
    _check_cases(cases, networks)
    ordered = sorted(cases, key=lambda case: draw_key(seed, f"order {case.sample}"))
    drawn = sorted((case.sample for case in cases), key=lambda name: draw_key(seed, f"side {name}"))
    straight = set(drawn[: len(drawn) // 2])
    digest = hashlib.sha256()
    items, pictures = [], []
    for number, case in enumerate(ordered, 1):
        left, right = networks if case.sample in straight else networks[::-1]
        items.append(Item(item=number, sample=case.sample, left=left, right=right))
        photo = _clean(case.photo)
        overlays = (overlay(photo, case.maps[name].detach().float()) for name in (left, right))
        files = [_encode(picture, "jpeg") for picture in (photo, *overlays)]
        digest.update(b"".join(hashlib.sha256(content).digest() for content in files))
        pictures.append([base64.b64encode(content).decode() for content in files])
    ramp = colourise(torch.linspace(0, 1, _BAR[0]).expand(_BAR[1], -1))
    identity = digest.hexdigest()[:16]
    page = render_page(
        "survey.html.jinja",
        "Which network performed better?",
        package=__package__,
        survey=identity,
        pictures=pictures,
        bar=base64.b64encode(_encode(Image.fromarray(ramp), "png")).decode(),
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
    names = Counter(case.sample for case in cases)
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


def _encode(picture: Image.Image, kind: str) -> bytes:
    stream = io.BytesIO()
    how = {"quality": _QUALITY, "optimize": True} if kind == "jpeg" else {}
    picture.save(stream, kind, **how)
    return stream.getvalue()


# --- answers -------------------------------------------------------------------------------------


@final
class Answer(_Record, strict=True):
    """What one participant chose of one question.

    Attributes:
        item: the question's number.
        choice: the side of the network that did better.
        seconds: that the question was on the screen.
    """

    item: int
    choice: Literal["left", "right"]
    seconds: float | None = Field(default=None, ge=0, allow_inf_nan=False)


@final
class Answers(_Record, strict=True, str_strip_whitespace=True):
    """What a page exports.

    Attributes:
        survey: the page's identity.
        participant: the code that was typed in.
        exported: when.
        answers: one a question, if all is well.
        comment: how the participant decided, in their words.
    """

    survey: str
    participant: str = Field(min_length=1)
    exported: str = ""
    answers: tuple[Answer, ...]
    comment: str = ""


@final
@dataclass(frozen=True, eq=False)
class SurveyScores:
    """What participants preferred.

    Attributes:
        key: of the survey.
        participants: the answers that count, in the order of the files.
        shares: by network, the share of answers that prefer it, with its interval over
            participants, in percent.
        p_answers: of the two-sided binomial test over all answers, as if they were independent.
        p_participants: of the two-sided sign test over participants, who are.
        left_out: the files that do not count, a sentence each.
    """

    key: Key
    participants: tuple[Answers, ...]
    shares: Mapping[str, Summary]
    p_answers: float
    p_participants: float
    left_out: tuple[str, ...] = ()

    @property
    def by_participant(self) -> pd.DataFrame:
        """By code and network, the share of photographs on which it was preferred, in percent."""
        return self._percentages("participant")

    @property
    def by_photograph(self) -> pd.DataFrame:
        """By sample and network, the share of participants who preferred it, in percent."""
        return self._percentages("photograph").loc[[item.sample for item in self.key.items]]

    def _percentages(self, by: str) -> pd.DataFrame:
        votes = _list_votes(self.key, self.participants)
        counts = pd.crosstab(votes[by], votes["network"])
        counts = counts.reindex(votes[by].unique(), columns=self.key.networks, fill_value=0)
        return counts.mul(100).div(counts.sum(axis=1), axis=0)

    @property
    def comments(self) -> dict[str, str]:
        """How participants said that they decided, by code."""
        return {
            person.participant: person.comment for person in self.participants if person.comment
        }

    def table(self, by: str = "network") -> Table:
        """Return the result as a table, a row a network, photograph or participant.

        Raises:
            OptionError: another kind of row.
        """
        kinds = {"photograph": self.by_photograph, "participant": self.by_participant}
        if by not in ("network", *kinds):
            raise OptionError(f"Rows by {by!r} were requested; choose network, {', '.join(kinds)}.")
        cells: list[dict[str, Any]] = []
        notes: list[str] = []
        if by == "network":
            notes = self._notes()
            for name, summary in self.shares.items():
                # without its confidence: a legend takes such intervals for those over images
                cell = summary_cell(summary, name, "preferred", confidence=None, decimals=2)
                cells.append({**cell, "published": self.key.published.get(name)})
                for kind, shares in kinds.items():
                    wins = int((shares[name] > _HALF).sum())
                    cells.append({"row": name, "column": f"{kind}s", "value": wins, "decimals": 0})
        else:
            shares = kinds[by].stack()
            cells += [
                {"row": row, "column": name, "unit": "%", "value": share}
                for (row, name), share in shares.items()
            ]
        if by == "participant":
            notes = ["time: median over the photographs."]
            votes = _list_votes(self.key, self.participants)
            place = {"column": "time", "unit": "s", "decimals": 1}
            times = votes.groupby("participant", sort=False)["seconds"].median()
            cells += [{"row": code, "value": seconds, **place} for code, seconds in times.items()]
        caption = f"Which network performed better, going by its maps of {self.key.method}?"
        return Table.of(cells, caption=caption, corner=by, notes=notes)

    def _notes(self) -> list[str]:
        people, questions = len(self.participants), len(self.key.items)
        notes = [
            f"{people} participant{'s' * (people != 1)}, {questions} "
            f"photograph{'s' * (questions != 1)}; photographs and participants: how many preferred "
            "the network more often than the other one."
        ]
        if people > 1:
            level = 100 * next(iter(self.shares.values())).confidence
            notes.append(f"[low, high]: {level:g} % bootstrap interval over participants.")
        notes.append(
            f"Sign test over participants: p = {_format_p(self.p_participants)}; binomial test "
            f"over all {people * questions} answers, as if they were independent: "
            f"p = {_format_p(self.p_answers)}."
        )
        return [*notes, *self.key.notes]


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
        {'VGG16': Summary(value=58.15, …), 'ResNet50': Summary(value=41.85, …)}
    """
    if not 0 < confidence < 1:
        raise OptionError(f"A confidence of {confidence} was given; give one between 0 and 1.")
    known = key if isinstance(key, Key) else read_key(key)
    people, left_out = _count_participants(known, files)
    if not people:
        why = left_out[0] if left_out else "none were given; name the files that the page exported."
        raise DataError(f"There are no answers to score: {why}")
    votes = _list_votes(known, people)
    first = votes["network"] == known.networks[0]
    shares = 100 * first.groupby(votes["participant"], sort=False).mean()
    for_first, for_other = int((shares > _HALF).sum()), int((shares < _HALF).sum())
    return SurveyScores(
        key=known,
        participants=tuple(people),
        shares=_summarise(known, shares.tolist(), confidence, seed),
        p_answers=_test_chance(int(first.sum()), len(first)),
        p_participants=_test_chance(for_first, for_first + for_other),
        left_out=tuple(left_out),
    )


def _list_votes(key: Key, people: Sequence[Answers]) -> pd.DataFrame:
    """Return a line for each answer: who gave it, to what, the preferred network, and seconds."""
    lines = []
    for person in people:
        for answer in person.answers:
            item = key.items[answer.item - 1]
            network = item.left if answer.choice == "left" else item.right
            lines.append((person.participant, item.sample, network, answer.seconds))
    votes = pd.DataFrame(lines, columns=["participant", "photograph", "network", "seconds"])
    return votes.astype({"seconds": float})


def _count_participants(key: Key, files: Sequence[str | Path]) -> tuple[list[Answers], list[str]]:
    """Return the answers that count, in the order of the files, and why others do not."""
    readable: list[tuple[Path, Answers]] = []
    left_out: list[str] = []
    for path in map(Path, files):
        try:
            readable.append((path, _read_answers(key, path)))
        except DataError as error:
            left_out.append(str(error))
    # a code is typed by hand: "p1 " and "P1" are one person
    codes = [answers.participant.casefold() for _, answers in readable]
    first: dict[str, int] = {}
    for place in sorted(range(len(readable)), key=lambda place: readable[place][1].exported):
        first.setdefault(codes[place], place)
    counted = []
    for place, (path, answers) in enumerate(readable):
        kept = first[codes[place]]
        if kept == place:
            counted.append(answers)
        else:
            left_out.append(
                f"{path} is another export of participant {answers.participant}, of whom "
                f"{readable[kept][0]} counts; if it is another person, change the participant in "
                "it."
            )
    return counted, left_out


def _read_answers(key: Key, path: Path) -> Answers:
    try:
        # an editor into which the text was copied may begin the file with a mark
        found = Answers.model_validate_json(path.read_text(encoding="utf-8-sig"))
    except (OSError, UnicodeDecodeError, ValidationError) as error:
        raise DataError(
            f"{path} holds no answers ({_reason(error)}); give a file that the page exported."
        ) from error
    if found.survey != key.survey:
        raise DataError(
            f"{path} answers another survey ({found.survey}, not {key.survey}); give the answers "
            "to the page that was written with this key."
        )
    numbers = Counter(answer.item for answer in found.answers)
    known = {item.item for item in key.items}
    if strange := sorted(item for item in numbers if item not in known or numbers[item] > 1):
        raise DataError(
            f"{path} is damaged: it answers {', '.join(map(str, strange))} more than once or "
            f"without being asked; the survey has photographs 1 to {len(known)}, give the file as "
            "exported."
        )
    if missing := sorted(known - numbers.keys()):
        raise DataError(
            f"{path} is incomplete: {', '.join(map(str, missing))} of {len(known)} have no answer; "
            f"have participant {found.participant} finish and export again."
        )
    return found


def _summarise(
    key: Key, of_first: Sequence[float], confidence: float, seed: int
) -> dict[str, Summary]:
    """Return each network's share with its interval; the second's is the first's turned round."""
    middle = statistics.fmean(of_first)
    low = high = None
    if len(of_first) > 1:
        rows = torch.tensor(of_first, dtype=torch.float64)[:, None]
        low, high = bootstrap(rows, confidence=confidence, seed=seed)
    share = Summary("preferred", middle, low, high, confidence, len(of_first), 0, "%", "higher")
    other = replace(
        share,
        value=100 - middle,
        low=None if high is None else 100 - high,
        high=None if low is None else 100 - low,
    )
    return dict(zip(key.networks, (share, other), strict=True))


def _test_chance(count: int, of: int) -> float:
    """Return how probable a split at least as uneven is if nobody has a preference."""
    return float(stats.binomtest(count, of).pvalue) if of else 1.0


def _format_p(p: float) -> str:
    return f"{p:.3f}" if p >= 0.001 else f"{p:.1e}"  # noqa: PLR2004 (what three digits show)


def _reason(error: Exception) -> str:
    """Say in a few words what is wrong with a file."""
    if isinstance(error, OSError):
        return error.strerror or "it cannot be read"
    if isinstance(error, ValidationError):
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"]))
        reason = str(first["msg"]).rstrip(".")
        return f"{where}: {reason}" if where else reason
    return "it is no text"
