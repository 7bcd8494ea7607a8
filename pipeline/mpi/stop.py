"""Asked to stop: the signals by which a scheduler, or a person, says so to a rank."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager


class Stop:
    """Whether this process was asked to stop (USR1, TERM), and for how long already."""

    def __init__(self) -> None:
        self._since: float | None = None

    def ask(self, *_: object) -> None:
        """Stop, please: a signal handler."""
        self._since = self._since or time.monotonic()

    def __call__(self) -> bool:
        """Whether it was asked."""
        return self._since is not None

    def for_s(self) -> float:
        """Seconds since; 0 where it was not asked."""
        return time.monotonic() - self._since if self._since else 0.0


@contextmanager
def asked_to_stop() -> Iterator[Stop]:
    """True once the process was asked to stop; earlier handlers come back afterwards."""
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = {number: signal.signal(number, stop.ask) for number in (signal.SIGUSR1, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
