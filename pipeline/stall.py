"""Whether anything still moves: a clock in memory that a rank shares with its watcher (guard.py).

`moved()` is called wherever a member, a slice, a record or a message has moved. The watcher is a process of its own: it sees
the silence of a rank that stands in a library's C code as well as of one that waits for another.
"""

from __future__ import annotations

import mmap
import struct
import time
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
