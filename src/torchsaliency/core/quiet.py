"""Warnings of other libraries that say nothing to a user, left out one thread at a time.

The filters of `warnings` belong to the whole process: threads that change and restore them at once
leave one of their states behind.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

_lock = threading.RLock()


@contextmanager
def without_warnings() -> Iterator[None]:
    """Leave warnings out inside the context; other threads that ask for this wait."""
    with _lock, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
