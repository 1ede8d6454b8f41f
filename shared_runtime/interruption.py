"""Stopping at the next safe point when a signal asks for it."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType

from shared_runtime.errors import Interrupted

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interruption:
    """Inside the `with` block, the first signal sets `requested`; a second stops at once."""

    def __init__(self) -> None:
        self.requested = False
        self._previous: dict[signal.Signals, object] = {}

    def __enter__(self) -> Interruption:
        """Take over SIGINT and SIGTERM; outside the main thread Python allows no handlers."""
        if threading.current_thread() is threading.main_thread():
            for number in _SIGNALS:
                self._previous[number] = signal.signal(number, self._handle)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Give the signals back."""
        for number, handler in self._previous.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.requested:
            raise Interrupted(
                "stopped at once; the same command with --resume continues from the last checkpoint"
            )
        self.requested = True
