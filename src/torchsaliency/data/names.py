"""Names of files as text that can be printed and stored: nothing undecodable, nothing hidden.

On Linux a file's name is bytes. Python keeps those that are not UTF-8 as lone surrogates, which no
UTF-8 file takes; control characters and those that turn the direction of writing steer a terminal.
"""

from __future__ import annotations

import os
import re

_UNPRINTABLE = "\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff"
_ESCAPED = re.compile(f"[{_UNPRINTABLE}]")
_ESCAPED_IN_IDS = re.compile(rf"[\\{_UNPRINTABLE}]")
_BYTES = range(0xDC80, 0xDD00)  # the lone surrogates that stand for bytes 0x80 to 0xff
_ASCII = 0x80


def readable_id(name: str) -> str:
    r"""Return a file's name as an id: valid UTF-8, printable, another one for every other name.

    A byte that is not UTF-8 becomes `\xe9`, a control character `\x1b` or `\u0085`, a backslash
    `\\`; all other names stay as they are.
    """
    return _ESCAPED_IN_IDS.sub(_escape, name)


def shown(name: str | os.PathLike[str]) -> str:
    """Return a path or a name as it stands in a message, with what cannot be printed escaped."""
    return _ESCAPED.sub(_escape, os.fspath(name))


def _escape(match: re.Match[str]) -> str:
    character = match[0]
    code = ord(character)
    if character == "\\":
        return r"\\"
    if code in _BYTES:
        return f"\\x{code - 0xDC00:02x}"
    return f"\\x{code:02x}" if code < _ASCII else f"\\u{code:04x}"
