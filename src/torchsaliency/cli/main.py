"""The command line, `torchsaliency`: the app, the process it runs in, and its exit codes.

Commands import what they need when they run, so that `--help` and mistakes are answered at once.
"""

from __future__ import annotations

import functools
import importlib.metadata
import logging
import os
import sys
import warnings
from collections.abc import Callable
from typing import Annotated, Any, cast

import typer
from typer.core import TyperGroup

from torchsaliency.allocator import tune_allocator
from torchsaliency.cli.app import app as app_command
from torchsaliency.cli.choose import choose
from torchsaliency.cli.compact import compact
from torchsaliency.cli.concepts import concepts
from torchsaliency.cli.console import replace_unencodable, say
from torchsaliency.cli.demo import demo
from torchsaliency.cli.doctor import doctor
from torchsaliency.cli.evaluate import evaluate
from torchsaliency.cli.explain import explain
from torchsaliency.cli.finetune import finetune
from torchsaliency.cli.lists import datasets, layers, methods, metrics, models, recipes, targets
from torchsaliency.cli.options import add_command
from torchsaliency.cli.plan import plan
from torchsaliency.cli.report import report
from torchsaliency.cli.reproduce import reproduce
from torchsaliency.cli.survey import survey_score
from torchsaliency.cli.table import compare, table
from torchsaliency.errors import TorchSaliencyError

OK, PARTIAL, WRONG, INTERRUPTED = 0, 1, 2, 130

_EXIT_CODES = (
    "Exit codes: 0 done; 1 done but for images that could not be used (each is reported); 2 wrong "
    "input, told in one sentence; 130 interrupted."
)

COMMANDS = (
    *(demo, explain, methods, metrics, targets, datasets, models, layers, plan, evaluate),
    *(table, compare),
    *(report, compact, app_command, choose, concepts, finetune, recipes, reproduce, survey_score),
    doctor,
)

# Typer carries click's errors under a private name, or uses click's own, by version.
_CommandLineError = cast("type[Exception]", typer.BadParameter.__mro__[2])


class _Group(TyperGroup):
    """Ends each mistake of the user with one sentence on stderr and exit code 2."""

    def main(self, *args: Any, standalone_mode: bool = True, **extra: Any) -> Any:
        """Run, and leave the process with the exit code."""
        run = functools.partial(super().main, *args, **{**extra, "standalone_mode": False})
        if not standalone_mode:
            return run()
        sys.exit(_exit_code(run))


def _exit_code(run: Callable[[], Any]) -> int:
    try:
        code = run()
    except (KeyboardInterrupt, typer.Abort):
        code = INTERRUPTED  # newer Typers return this themselves
    except TorchSaliencyError as error:
        say(str(error).replace("weights=FILE", "--weights FILE"))  # as it is spelled here
        return WRONG
    except OSError as error:
        say(f"{error.filename or 'A file'} cannot be used ({error.strerror or error}).")
        return WRONG
    except _CommandLineError as error:
        message: str = getattr(error, "format_message", error.__str__)()
        say(message)
        return WRONG
    if code == INTERRUPTED:
        say("Interrupted.")
    return code if isinstance(code, int) else OK


app = typer.Typer(
    cls=_Group,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    no_args_is_help=True,
    epilog=_EXIT_CODES,
)


def _print_version(given: bool | None) -> None:
    if given:
        typer.echo(importlib.metadata.version("torchsaliency"))
        raise typer.Exit


@app.callback()
def program(
    *,
    version: Annotated[
        bool | None,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version and exit."
        ),
    ] = None,
) -> None:
    """What is this vision network looking at?"""


for _command in COMMANDS:
    add_command(app, _command, epilog=_EXIT_CODES)


# --- the process ----------------------------------------------------------------------------------


def prepare_process() -> None:
    """Let waiting threads sleep, freed memory stay, and other libraries be silent.

    Threads that spin while they wait take the processor from each other wherever anything else
    runs: 3 to 18 times slower, measured. What freed memory costs that does not stay,
    `tune_allocator` says.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    # what Pillow and pydicom find odd in a file is either mended here or told as an error
    for module in ("PIL", "pydicom"):
        warnings.filterwarnings("ignore", module=rf"{module}\b")
    if os.environ.get("TORCHSALIENCY_MAX_PIXELS"):
        from PIL import Image

        Image.MAX_IMAGE_PIXELS = None  # our own limit holds
    tune_allocator()


class _Teller(logging.Handler):
    """Tells the user what the library writes in its log."""

    def emit(self, record: logging.LogRecord) -> None:
        """Tell it as a line beside the result."""
        say(record.getMessage())


def main() -> None:
    """Run the command line."""
    prepare_process()
    log = logging.getLogger("torchsaliency.fast")  # what `--accelerate fast` picked
    log.addHandler(_Teller())
    log.setLevel(logging.INFO)
    log.propagate = False
    replace_unencodable()
    warnings.showwarning = lambda message, *_, **__: say(str(message))
    app(prog_name="torchsaliency")


if __name__ == "__main__":
    main()
