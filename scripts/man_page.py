"""Write the manual page, share/man/man1/torchsaliency.1, from the models of the commands."""

import importlib.metadata
import itertools
import sys
from collections.abc import Iterator
from pathlib import Path

import typer
from option_page import choices_of, group_of

from torchsaliency.cli import main
from torchsaliency.cli.options import (
    Command,
    default_of,
    fields_of,
    limits_of,
    options_of,
    spelling,
)

PAGE = Path(__file__).parents[1] / "share" / "man" / "man1" / "torchsaliency.1"
DOCUMENTATION = importlib.metadata.metadata("torchsaliency").get_all("Project-URL") or []


def escape(text: str) -> str:
    """Return text as roff prints it: hyphens that can be copied, and no line that is a request."""
    text = text.replace("\\", r"\e").replace("-", r"\-")
    return "\n".join(rf"\&{line}" if line[:1] in {".", "'"} else line for line in text.split("\n"))


def describe(command: Command) -> Iterator[str]:
    """Yield the lines of one command."""
    model = options_of(command)
    name = command.__name__.replace("_", "-")
    words = [spelling(model, key) for key, info in fields_of(model) if not group_of(info)]
    yield f".SS torchsaliency {escape(' '.join([name, *words, '[OPTIONS]']))}"
    yield escape((command.__doc__ or "").partition("\n")[0])
    for group, members in itertools.groupby(fields_of(model), key=lambda item: group_of(item[1])):
        yield ".PP"
        yield rf".I {escape(group or 'Arguments')}"
        for key, info in members:
            metavar = info.json_schema_extra["metavar"] if group else ""
            facts = [f"default: {default_of(info)}" if default_of(info) else "", limits_of(info)]
            facts.append("|".join(choices_of(info)))
            more = "; ".join(fact for fact in facts if fact)
            yield ".TP"
            yield rf"\fB{escape(spelling(model, key))}\fR {escape(metavar)}".rstrip()
            yield escape(f"{info.description} ({more})" if more else str(info.description))


def page() -> str:
    """Return the whole page."""
    group = typer.main.get_command(main.app)
    address = DOCUMENTATION[0].partition(", ")[2] if DOCUMENTATION else ""
    lines = [
        '.\\" Made by scripts/man_page.py from the models of the commands.',
        ".TH TORCHSALIENCY 1",
        ".SH NAME",
        rf"torchsaliency \- {escape(group.help or '')}",
        ".SH SYNOPSIS",
        r"\fBtorchsaliency\fR \fICOMMAND\fR [\fIARGUMENT\fR]... [\fIOPTION\fR]...",
        ".SH DESCRIPTION",
        "Saliency maps of vision networks on PyTorch, and the metrics that judge them.",
        r"\fBtorchsaliency\fR \fICOMMAND\fR \fB\-\-help\fR shows the options of one command.",
        ".SH COMMANDS",
        *itertools.chain.from_iterable(map(describe, main.COMMANDS)),
        ".SH EXIT STATUS",
        escape(main._EXIT_CODES.removeprefix("Exit codes: ")),
        ".SH SEE ALSO",
        escape(address),
    ]
    return "\n".join(lines) + "\n"


def write() -> None:
    """Write it."""
    PAGE.parent.mkdir(parents=True, exist_ok=True)
    PAGE.write_text(page(), encoding="utf-8")
    sys.stdout.write(f"{PAGE}\n")


if __name__ == "__main__":
    write()
