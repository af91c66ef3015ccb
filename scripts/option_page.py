"""Write the tables of options in docs/cli.md, and the manual, from the models of the commands."""

import itertools
import sys
from pathlib import Path
from typing import Literal, get_args, get_origin

from pydantic.fields import FieldInfo

from torchsaliency.cli.main import COMMANDS
from torchsaliency.cli.options import (
    Command,
    default_of,
    fields_of,
    options_of,
    spelling,
)
from torchsaliency.options import PlanOptions

PAGE = Path(__file__).parents[1] / "docs" / "cli.md"
MARK = "<!-- The rest is made by scripts/option_page.py from the models of the commands. -->\n"


def group_of(info: FieldInfo) -> str:
    """Return the heading under which an option is listed; "" for a positional argument."""
    return info.json_schema_extra["group"]


def choices_of(info: FieldInfo) -> list[str]:
    """Return the words that an option accepts; none if it accepts others."""
    kinds = (info.annotation, *get_args(info.annotation))
    return [word for kind in kinds if get_origin(kind) is Literal for word in get_args(kind)]


def section(command: Command) -> str:
    """Return one command's part of the page."""
    model = options_of(command)
    summary = (command.__doc__ or "").partition("\n")[0]
    lines = [f"## torchsaliency {command.__name__.replace('_', '-')}", "", summary, ""]
    for group, members in itertools.groupby(fields_of(model), key=lambda item: group_of(item[1])):
        lines += [f"| {group or 'Argument'} | default | |", "| --- | --- | --- |"]
        for name, info in members:
            default = default_of(info)
            spelled = f"`{spelling(model, name)}`"
            if name in PlanOptions.model_fields and spelled != f"`--{name.replace('_', '-')}`":
                spelled += f" (YAML: `{name}`)" if issubclass(model, PlanOptions) else ""
            text = (info.description or "").replace("|", r"\|")
            if choices := choices_of(info):
                text += f" One of {', '.join(choices)}."
            cells = spelled, f"`{default}`" if default else "", text
            lines.append(f"| {' | '.join(cells)} |")
        lines.append("")
    return "\n".join(lines)


def page() -> str:
    """Return the whole page: what is written by hand, and the tables."""
    head, _, _ = PAGE.read_text(encoding="utf-8").partition(MARK)
    return head + MARK + "\n" + "\n".join(map(section, COMMANDS))


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    sys.stdout.write(f"{PAGE}\n")
    import man_page

    man_page.write()
