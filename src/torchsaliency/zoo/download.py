"""Published files: fetched once, resumed where the connection broke, their hash recorded."""

from __future__ import annotations

import hashlib
import json
import os
import urllib.error
import urllib.parse
import urllib.request
from http.client import HTTPException
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

from torchsaliency.core.errors import CheckpointError

_PIECE = 1 << 20
_PARTIAL, _REFUSED_RANGE = 206, 416
_PATIENCE = 30.0
"""Seconds without an answer."""


def cache_folder() -> Path:
    """Return where published files are kept: $TORCHSALIENCY_CACHE, or the user's cache folder."""
    if own := os.environ.get("TORCHSALIENCY_CACHE"):
        return Path(own).expanduser()
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "torchsaliency"


def fetched(address: str, *, name: str, md5_prefix: str = "") -> Path:
    """Return the file at an address, from the cache or fetched into it.

    What was fetched of it before is kept and completed, and a file counts as fetched only when it
    is whole. Beside it lies FILE.json with its address, size and SHA-256.

    Args:
        address: of the file.
        name: of the network, for errors.
        md5_prefix: what the file's MD5 begins with, where its publisher says so.

    Raises:
        CheckpointError: it cannot be reached, or is not the file that was published.
    """
    parts = urllib.parse.urlsplit(address)
    place = cache_folder() / "checkpoints" / parts.netloc.replace(":", "_") / parts.path.lstrip("/")
    if place.exists():
        return place
    part = place.with_name(f"{place.name}.part")
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        _complete(address, part)
    except (urllib.error.URLError, HTTPException, OSError) as error:
        raise CheckpointError(
            f"The weights of {name} could not be fetched from {address} ({_reason(error)}); "
            "connect to the network and try again (what was fetched is kept), or give a local "
            "file with weights=FILE (--weights FILE)."
        ) from error
    digests = _digests(part)
    if not digests["md5"].startswith(md5_prefix):
        part.unlink()
        raise CheckpointError(
            f"{address} gave a file whose MD5 begins with {digests['md5'][:8]} and not with "
            f"{md5_prefix}, as its publisher says; it was deleted, try again."
        )
    facts = {"address": address, "size": part.stat().st_size, "sha256": digests["sha256"]}
    place.with_name(f"{place.name}.json").write_text(json.dumps(facts, indent=1) + "\n")
    part.replace(place)
    return place


def _complete(address: str, part: Path) -> None:
    """Fetch what is missing of a file."""
    have = part.stat().st_size if part.exists() else 0
    headers = {"User-Agent": "torchsaliency"} | ({"Range": f"bytes={have}-"} if have else {})
    request = urllib.request.Request(address, headers=headers)
    try:
        answer = urllib.request.urlopen(request, timeout=_PATIENCE)
    except urllib.error.HTTPError as error:
        if error.code == _REFUSED_RANGE and have:  # it was whole already, or is another file now
            part.unlink()
            _complete(address, part)
            return
        raise
    with answer:
        if have and answer.status != _PARTIAL:
            have = 0
        length = answer.headers.get("Content-Length")
        total = None if length is None else have + int(length)
        _save(answer, part, have, total)
    got = part.stat().st_size
    if total is not None and got != total:
        raise OSError(f"the connection broke after {got} of {total} bytes")


def _save(answer: Any, part: Path, have: int, total: int | None) -> None:
    console = Console(stderr=True)
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TimeRemainingColumn(),
        console=console,
        disable=not console.is_terminal,
        transient=True,
    )
    with bar, part.open("r+b" if have else "wb") as file:
        file.seek(have)
        task = bar.add_task(part.stem, total=total, completed=have)
        while piece := answer.read(_PIECE):
            file.write(piece)
            bar.advance(task, len(piece))


def _digests(path: Path) -> dict[str, str]:
    found = {"md5": hashlib.md5(usedforsecurity=False), "sha256": hashlib.sha256()}
    with path.open("rb") as file:
        while piece := file.read(_PIECE):
            for one in found.values():
                one.update(piece)
    return {name: one.hexdigest() for name, one in found.items()}


def _reason(error: Exception) -> str:
    reason = getattr(error, "reason", None) or error
    return str(reason).strip().rstrip(".") or type(error).__name__
