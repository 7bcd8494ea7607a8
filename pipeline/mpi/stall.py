"""Whether anything still moves: a clock in memory that a rank shares with its watcher (watcher.py).

`moved()` is called wherever a member, a slice, a record or a message has moved. The watcher is a process of its own: it sees
the silence of a rank that stands in a library's C code as well as of one that waits for another. A rank of somebody's own
Python program has no watcher: there a thread looks (`looked_at`), which sees only the waiting.
"""

from __future__ import annotations

import faulthandler
import mmap
import os
import signal
import struct
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

_shared = mmap.mmap(-1, mmap.PAGESIZE)  # anonymous and shared: the watcher, forked off later, reads what the rank writes
_moved = struct.Struct("d")
_limits = struct.Struct("dd")
_LIMITS_AT = 64


@dataclass(frozen=True, slots=True)
class Limits:
    """Seconds; all 0 before the rank has joined the others."""

    stall_s: float
    abandon_after_s: float

    @property
    def known(self) -> bool:
        """Whether the rank has begun its work."""
        return self.stall_s > 0


def moved() -> None:
    """Something has moved just now: a member, a slice, a record, a message. Costs less than a microsecond."""
    _moved.pack_into(_shared, 0, time.monotonic())


def silence_s() -> float:
    """Seconds since something moved."""
    return time.monotonic() - float(_moved.unpack_from(_shared, 0)[0])


def begin(stall_s: float, abandon_after_s: float) -> None:
    """From now on the watcher looks for silence: the rank has joined the others and begins its work."""
    moved()
    _limits.pack_into(_shared, _LIMITS_AT, stall_s, abandon_after_s)


def limits() -> Limits:
    """What `begin` was told."""
    return Limits(*_limits.unpack_from(_shared, _LIMITS_AT))


@contextmanager
def looked_at(stall_s: float, rank: int) -> Iterator[None]:
    """Within it a thread looks for silence, and ends the process by SIGKILL: only then does a launcher end the other ranks."""
    moved()
    done = threading.Event()
    threading.Thread(target=_look, args=(stall_s, rank, done), daemon=True).start()
    try:
        yield
    finally:
        done.set()


def _look(stall_s: float, rank: int, done: threading.Event) -> None:
    while not done.wait(min(5.0, stall_s / 4)):
        if silence_s() < stall_s:
            continue
        faulthandler.dump_traceback(all_threads=True)
        if rank == 0:
            sys.stderr.write(f"drenet: nothing has moved for {stall_s:,.0f} s (run.stall_s); start the same program again\n")
            sys.stderr.flush()
            os.kill(os.getpid(), signal.SIGKILL)
        done.wait()
