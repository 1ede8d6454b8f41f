"""Libraries that warn about odd files: what matters is checked and said here instead."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

_FILTERS = threading.RLock()
"""Filters of warnings belong to the process: one thread at a time may change them."""


@contextmanager
def quiet() -> Iterator[None]:
    """Ignore warnings within the block, which one thread runs at a time."""
    with _FILTERS, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
