"""A watcher over one rank: it outlives the rank, ends it where it stands still, and journals the study that it had in hand.

The rank is forked off as a child before anything heavy is loaded; the parent waits, hands signals on, and knows by a pipe which
record to write should the child die. A launcher that ends all ranks kills the watchers too, and what is killed with its watcher
leaves no record: so of the ranks that end together, only the one that died by itself is blamed on its study.

A study is blamed for a crash, and for a kill by the kernel for want of memory; not for a kill -9 from outside, which says
nothing of it: a run that is killed again and again must have the tables of one that was left alone.

What a rank cannot do for itself while it stands in C code, its watcher does: end it when it was asked to stop and does not,
when nothing has moved for too long (stall.py), when its launcher is gone. A killed rank loses nothing: the run resumes.
"""

from __future__ import annotations

import ctypes
import faulthandler
import json
import os
import select
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from pipeline.errors import ConfigurationError, Drained, PipelineError, RankDied, StorageError
from pipeline.mpi import stall

InHand = Callable[[Path | None, bytes], None]
"""Told (journal, record) before a study is begun and (None, b"") after it."""

LAUNCHER_S = 0.5
"""A launcher that kills child and watcher one after the other has done so within this time."""
LOOK_EVERY_S = 0.25
LEAVE_S = 5.0
"""So much longer than `abandon_after_s` a rank has for its goodbyes."""
NOT_BEGUN_S = 1.0
"""A rank that has not yet joined the others has nothing in hand, and ends so soon."""
SAY_S = 2.0
"""So long one rank lets another speak: root ends a run only when all have written where they stand, and leaves it first."""
SUSPENDED_S = 2.0
"""A watcher that has not come to look for longer was suspended with its rank, as a scheduler may do: that is no silence."""
CRASHES = frozenset({"SIGSEGV", "SIGBUS", "SIGILL", "SIGFPE", "SIGABRT", "SIGSYS"})
KERNEL_COUNTS = Path("/proc/vmstat")
PR_SET_PDEATHSIG = 1
STOPPED = Drained.exit_code
DIED = RankDied.exit_code
OURS = frozenset({0, *(kind.exit_code for kind in (PipelineError, ConfigurationError, StorageError)), STOPPED, DIED})
"""Exit codes that a rank ends with by itself; another is some library's, and its death."""
AGAIN = "start the same command again to go on"


@dataclass(frozen=True, slots=True)
class Post:
    """Where a watcher stands: by whom its rank was started, and as which."""

    rank: int = 0
    launched: bool = False


def nobody_watches(_path: Path | None, _record: bytes) -> None:
    """The `InHand` of a rank without watcher."""


def watched(post: Post | None = None) -> InHand:
    """Go on as the watched child; the parent never returns, but exits as the child does."""
    reading, writing = os.pipe()
    launcher = os.getppid()
    watcher = os.getpid()
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child:
        os.close(writing)
        _Watch(child, reading, launcher, post or Post()).go()
    os.close(reading)
    _die_with(watcher)
    faulthandler.register(signal.SIGUSR2, all_threads=True)  # written by C code, whatever the rank is doing
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal tells the watcher too, who asks for a stop
    for number in (signal.SIGUSR1, signal.SIGTERM):  # while the run does not listen yet, or no longer: nothing is in hand
        signal.signal(number, lambda *_: os._exit(STOPPED))

    def in_hand(path: Path | None, record: bytes) -> None:
        os.write(writing, json.dumps([str(path or ""), record.decode()]).encode() + b"\n")

    return in_hand


def _die_with(watcher: int) -> None:
    """Linux only; elsewhere a killed watcher leaves its rank running."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != watcher:  # it died before it could be asked for
        os._exit(DIED)


class _Watch:
    """The parent: looks after the child until it has ended, and ends as it did."""

    def __init__(self, child: int, reading: int, launcher: int, post: Post) -> None:
        self._child = child
        self._reading = reading
        self._launcher = launcher
        self._post = post
        self._asked: float | None = None
        self._n_interrupts = 0
        self._dumped = False
        self._awake = self._looked = time.monotonic()

    def go(self) -> NoReturn:
        for number in (signal.SIGUSR1, signal.SIGTERM):
            signal.signal(number, self._ask)
        if signal.getsignal(signal.SIGINT) != signal.SIG_IGN:  # a job in a shell's background is not interrupted
            signal.signal(signal.SIGINT, self._interrupted)
        last, n_kills = self._listen()
        _, status = os.waitpid(self._child, 0)
        code = os.waitstatus_to_exitcode(status)
        if code in OURS:
            self._exit(code)
        if code > 0:
            _say(f"rank ended with exit code {code}, which is none of drenet's")
            self._die()
        self._died(signal.Signals(os.WTERMSIG(status)), last, n_kills)

    def _ask(self, number: int, _frame: object) -> None:
        self._asked = self._asked or time.monotonic()
        _tell(self._child, number)

    def _interrupted(self, _number: int, _frame: object) -> None:
        self._n_interrupts += 1
        if self._n_interrupts > 1:
            self._end(STOPPED, f"stopped at once; {AGAIN}")
        self._ask(signal.SIGUSR1, None)

    def _listen(self) -> tuple[bytes, int]:
        """Until the child has closed its end: what it had in hand last, and how many the kernel had killed by then."""
        told = b""
        last = b""
        n_kills = _memory_kills()
        while True:
            if not select.select([self._reading], [], [], LOOK_EVERY_S)[0]:
                self._look()
                continue
            data = os.read(self._reading, 1 << 20)
            if not data:
                return last, n_kills
            *lines, told = (told + data).split(b"\n")
            if lines:
                last = lines[-1]
                n_kills = _memory_kills()

    def _look(self) -> None:
        """End what will not end by itself."""
        limits = stall.limits()
        if self._post.launched and os.getppid() != self._launcher:
            self._end(DIED, "the launcher is gone")
        leave_s = limits.abandon_after_s + LEAVE_S if limits.known else NOT_BEGUN_S
        leave_s += SAY_S if self._post.rank else 0.0  # some launchers end root with the first that leaves
        if self._asked is not None and time.monotonic() - self._asked > leave_s:
            self._end(STOPPED, f"stopped early as asked; {AGAIN}")
        if limits.known:
            self._look_for_silence(limits.stall_s)

    def _look_for_silence(self, stall_s: float) -> None:
        """Every rank writes down where it stands; root, whom all ranks talk with, ends the run."""
        now = time.monotonic()
        if now - self._looked > SUSPENDED_S:
            self._awake = now
        self._looked = now
        silence_s = min(stall.silence_s(), now - self._awake)
        if silence_s > stall_s and not self._dumped:
            _tell(self._child, signal.SIGUSR2)
        self._dumped = silence_s > stall_s
        if silence_s > stall_s + SAY_S and self._post.rank == 0:
            where = "the ranks' logs say where each stands"
            self._end(DIED, f"nothing has moved for {stall_s:,.0f} s (run.stall_s), {where}; {AGAIN}")

    def _end(self, code: int, said: str) -> NoReturn:
        """Kill the child and exit; a child that even a kill does not end, in a file system that hangs, is not waited for."""
        if self._post.rank == 0:
            _say(said)
        _tell(self._child, signal.SIGKILL)
        if code == DIED:
            self._die()
        self._exit(code)

    def _exit(self, code: int) -> NoReturn:
        """With the rank's own code; but one that stops before it has met the others would leave them waiting for it."""
        if code == STOPPED and not stall.limits().known:
            self._die(code)
        os._exit(code)

    def _die(self, code: int = DIED) -> NoReturn:
        """End as a dead rank does: only where it sees a signal does every launcher end the other ranks."""
        if self._post.launched:
            os.kill(os.getpid(), signal.SIGKILL)
        os._exit(code)

    def _died(self, deadly: signal.Signals, last: bytes, n_kills: int) -> NoReturn:
        for_memory = deadly == signal.SIGKILL and _memory_kills() > n_kills
        if deadly == signal.SIGALRM and not stall.limits().known:
            _say(f"rank {self._post.rank} has waited for the other ranks for longer than run.join_s; {AGAIN}")
        else:
            _say(f"rank ended by {deadly.name}{' for want of memory' * for_memory}")
        if for_memory or deadly.name in CRASHES:
            time.sleep(LAUNCHER_S)
            _record(last)
        self._die()


def _say(said: str) -> None:
    sys.stderr.write(f"drenet: {said}\n")
    sys.stderr.flush()


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
