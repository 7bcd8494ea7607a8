"""A watcher over one rank: it outlives a rank that is killed, and journals the study that the rank had in hand.

The rank is forked off as a child before anything heavy is loaded; the parent waits, hands signals on, and knows by a pipe which
record to write should the child die. A launcher that ends all ranks kills the watchers too, and what is killed with its watcher
leaves no record: so of the ranks that end together, only the one that died by itself is blamed on its study.

A study is blamed for a crash, and for a kill by the kernel for want of memory; not for a kill -9 from outside, which says
nothing of it: a run that is killed again and again must have the tables of one that was left alone.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

InHand = Callable[[Path | None, bytes], None]
"""Told (journal, record) before a study is begun and (None, b"") after it."""

LAUNCHER_S = 0.5
"""A launcher that kills child and watcher one after the other has done so within this time."""
CRASHES = frozenset({"SIGSEGV", "SIGBUS", "SIGILL", "SIGFPE", "SIGABRT", "SIGSYS"})
KERNEL_COUNTS = Path("/proc/vmstat")
PR_SET_PDEATHSIG = 1
STOPPED = 75


def nobody_watches(_path: Path | None, _record: bytes) -> None:
    """The `InHand` of a rank without watcher."""


def watched() -> InHand:
    """Go on as the watched child; the parent never returns, but exits as the child does."""
    reading, writing = os.pipe()
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child:
        os.close(writing)
        _watch(child, reading)
    os.close(reading)
    _die_with_parent()
    for number in (signal.SIGUSR1, signal.SIGTERM):  # while the run does not listen yet, or no longer: nothing is in hand
        signal.signal(number, lambda *_: os._exit(STOPPED))

    def in_hand(path: Path | None, record: bytes) -> None:
        os.write(writing, json.dumps([str(path or ""), record.decode()]).encode() + b"\n")

    return in_hand


def _die_with_parent() -> None:
    """Linux only; elsewhere a killed watcher leaves its rank running."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def _watch(child: int, reading: int) -> NoReturn:
    for number in (signal.SIGUSR1, signal.SIGTERM):
        signal.signal(number, lambda number, _: _tell(child, number))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal tells the child too
    last, n_kills = b"", _memory_kills()
    with os.fdopen(reading, "rb") as told:
        for line in told:
            last, n_kills = (line, _memory_kills()) if line.endswith(b"\n") else (last, n_kills)
    _, status = os.waitpid(child, 0)
    if not os.WIFSIGNALED(status):
        os._exit(os.waitstatus_to_exitcode(status))
    deadly = signal.Signals(os.WTERMSIG(status))
    for_memory = deadly == signal.SIGKILL and _memory_kills() > n_kills
    sys.stderr.write(f"drenet: rank ended by {deadly.name}{' for want of memory' * for_memory}\n")
    sys.stderr.flush()
    if for_memory or deadly.name in CRASHES:
        time.sleep(LAUNCHER_S)
        _record(last)
    _end_by(deadly)


def _end_by(deadly: signal.Signals) -> NoReturn:
    """End as the rank did: an MPI that can survive a rank takes only a signal for its death, no exit code."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if deadly != signal.SIGKILL:
        signal.signal(deadly, signal.SIG_DFL)
    os.kill(os.getpid(), deadly)
    os._exit(128 + deadly)


def _memory_kills() -> int:
    """Processes of this node that its kernel has killed for want of memory since it started; 0 where it does not say."""
    try:
        counts = dict(line.split() for line in KERNEL_COUNTS.read_text().splitlines())
    except (OSError, ValueError):
        return 0
    return int(counts.get("oom_kill", 0))


def _tell(child: int, number: int) -> None:
    try:
        os.kill(child, number)
    except ProcessLookupError:
        return


def _record(told: bytes) -> None:
    """Append what the child had in hand to its journal, past a line that it may have left torn."""
    path, record = json.loads(told or b'["", ""]')
    if path:
        with Path(path).open("ab") as file:
            file.write(b"\n" + record.encode())
            file.flush()
            os.fsync(file.fileno())
