"""The errors a user may meet.

Each message is one sentence: what was given, what is accepted, what to do next.
"""

from __future__ import annotations

import difflib
import importlib.util
import re
from collections.abc import Callable, Iterable

_MOST_LISTED = 50
_MOST_CHARACTERS = 200
_ADVICE = re.compile(r"weights[_ ]only", re.IGNORECASE)


def describe_unknown(
    kind: str,
    name: str,
    known: Iterable[str],
    *,
    where: str = "",
    label: Callable[[str], str] = str,
) -> str:
    """Return the sentence for a name that is not known, with the names that are close to it.

    Args:
        kind: what was named, such as "method".
        name: as given.
        known: all names; listed if none is close, the first few of very many.
        where: what the names are of, such as " here"; nothing by default.
        label: how a known name is written.
    """
    names = list(known)
    close = difflib.get_close_matches(str(name), names, n=3)
    few = len(names) <= _MOST_LISTED
    listed = [label(item) for item in close or names[: _MOST_LISTED if few else 6]]
    more = "" if close or few else ", …"
    hint = f"{'close names' if close else 'known'} are {', '.join(listed)}{more}"
    hint = hint if names else "none is known"
    return f"There is no {kind} {name!r}{where}; {hint}."


def describe_error(error: BaseException) -> str:
    """Return the first line of an error's text, or its type where there is none.

    torch advises to load files with `weights_only=False`, which runs the code in them; that is
    never repeated.
    """
    try:
        lines = str(error).strip().splitlines()
    except Exception:  # a user's own class of errors may fail here, too
        lines = []
    if not lines or _ADVICE.search(lines[0]):
        return type(error).__name__
    return shorten(lines[0].rstrip(". "), _MOST_CHARACTERS)


def shorten(text: str, most: int = 80) -> str:
    """Return a text of at most so many characters, all printable."""
    printable = "".join(letter if letter.isprintable() else "?" for letter in text[: most + 1])
    return printable if len(printable) <= most else f"{printable[: most - 1]}…"


class TorchSaliencyError(Exception):
    """Base of every error raised on purpose by this library."""


class InputError(TorchSaliencyError, ValueError):
    """The image batch cannot be explained (shape, type, device or values)."""


class TargetError(TorchSaliencyError, ValueError):
    """The target does not fit the network's output or the batch."""


class LayerError(TorchSaliencyError, ValueError):
    """The layer does not exist, did not run, or has no spatial map."""


class OptionError(TorchSaliencyError, ValueError):
    """A method, a hyper-parameter or a name is unknown or out of range."""


class MissingPackageError(OptionError, ImportError):
    """An optional package is not installed."""


class OutputError(OptionError, OSError):
    """A folder cannot be written to."""


class CheckpointError(TorchSaliencyError, ValueError):
    """A network or its weights cannot be loaded."""


class DataError(TorchSaliencyError, ValueError):
    """A photograph or a data set cannot be read."""


def require_extra(extra: str, *packages: str) -> None:
    """Check that the packages of an optional extra are installed, without importing them.

    Args:
        extra: its name, as in `pip install 'torchsaliency[eval]'`.
        packages: the packages that are about to be imported.

    Raises:
        MissingPackageError: one is not installed.
    """
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    if missing:
        raise MissingPackageError(
            f"{', '.join(missing)} {'is' if len(missing) == 1 else 'are'} not installed; "
            f"run pip install 'torchsaliency[{extra}]'."
        )


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that the memory is too small; many libraries have no error for it."""
    kinds = {kind.__name__ for kind in type(error).__mro__}
    if {"MemoryError", "OutOfMemoryError"} & kinds:  # torch's own, which is not imported here
        return True
    told = str(error).lower()
    return any(all(part in told for part in parts) for parts in _NO_MEMORY)


_NO_MEMORY = (
    ("defaultcpuallocator", "alloc"),  # torch on processors
    ("out of memory",),  # CUDA, HIP, MPS and XPU
    ("out_of_memory",),
    ("out_of_device_memory",),
    ("out_of_host_memory",),
    ("invalid buffer size",),  # MPS: larger than any buffer may be
    ("could not create a memory",),  # oneDNN
    ("could not create a primitive",),
    ("cublas_status_alloc_failed",),
    ("cudnn_status_alloc_failed",),
    ("cudnn_status_internal_error", "allocation_failed"),
    ("unable to find a valid cudnn algorithm",),  # none fits into what is left
    ("unable to find an engine to execute",),
    ("cusolver_status_alloc_failed",),
    ("cufft_alloc_failed",),
    ("failed to allocate memory",),  # ONNX Runtime
    ("bad allocation",),  # C++, in the words of Windows
    ("bad_alloc",),
    ("cannot allocate memory",),  # the system
)
"""Lower-case parts of the messages; what is said in one sense by none is not here."""
