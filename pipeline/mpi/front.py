"""The process that a user starts with `--ranks N`: it starts the launcher, speaks for it, and ends with all ranks ended.

The launcher gets a session of its own, so that the terminal's Ctrl-C reaches this process alone: once, the ranks are asked to
stop; twice, they are ended at once. Ranks are known by a mark in their environment, whatever the launcher put in between.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from pipeline.errors import ConfigurationError, Drained, RankDied
from pipeline.mpi.terminal import for_ranks
from pipeline.mpi.watcher import OURS

PROGRAM = (sys.executable, "-m", "pipeline")
MARK = "DRENET_FRONT"
PR_SET_PDEATHSIG = 1
GONE_S = 10.0


def start_ranks(n_ranks: int, arguments: Sequence[str]) -> int:
    """Run `drenet` with `arguments` on `n_ranks` ranks of this machine, by this environment's own launcher; the exit code.

    A request to stop (USR1, TERM, Ctrl-C) is passed on, and what the ranks answer waited for.
    """
    beside = Path(sys.executable).with_name("mpiexec")
    launcher = str(beside) if beside.exists() else shutil.which("mpiexec")
    if launcher is None:
        raise ConfigurationError("several ranks need MPI: pip install 'drenet-pipeline[mpi]', or load the site's module")
    return _Front([launcher, "-n", str(n_ranks), *PROGRAM, *arguments]).code()


class _Front:
    """The launcher under way."""

    def __init__(self, command: Sequence[str]) -> None:
        self._mark = f"{os.getpid()}-{time.time_ns()}"
        self._n_interrupts = 0
        self._asked = False
        self._launcher: subprocess.Popen[bytes] | None = None
        for number in (signal.SIGUSR1, signal.SIGTERM):
            signal.signal(number, self._ask)
        if signal.getsignal(signal.SIGINT) != signal.SIG_IGN:  # a job in a shell's background is not interrupted
            signal.signal(signal.SIGINT, self._interrupted)
        self._launcher = subprocess.Popen(
            command,
            env=os.environ | for_ranks() | {MARK: self._mark},
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            preexec_fn=_dies_with_this_process(),  # noqa: PLW1509  one system call, prepared before the fork
        )
        if self._asked:
            self._ask()

    def code(self) -> int:
        """What the ranks ended with; none of them is left."""
        if self._launcher is None:
            raise ValueError("the launcher was started")
        code = self._launcher.wait()
        _end_marked(self._mark)
        if code in OURS:  # whatever else a launcher reports is the death of a rank, or its own
            return code
        return Drained.exit_code if self._asked else RankDied.exit_code

    def _ask(self, *_: object) -> None:
        """USR1 for TERM too: of a TERM, some launchers kill."""
        self._asked = True
        if self._launcher is not None:
            self._launcher.send_signal(signal.SIGUSR1)

    def _interrupted(self, *_: object) -> None:
        self._n_interrupts += 1
        if self._n_interrupts == 1:
            _say("stopping when the studies in hand are done; Ctrl-C again stops at once")
            self._ask()
            return
        _say("stopped at once; start the same command again to go on")
        if self._launcher is not None:
            self._launcher.kill()
        _end_marked(self._mark)
        os._exit(Drained.exit_code)


def _say(said: str) -> None:
    os.write(sys.stderr.fileno(), f"drenet: {said}\n".encode())  # within a signal handler: no buffer is touched


def _dies_with_this_process() -> Callable[[], None] | None:
    """Linux: what makes a launcher end when this process is killed; its ranks' watchers see that it is gone."""
    if sys.platform != "linux":
        return None
    prctl = ctypes.CDLL(None).prctl
    parent = os.getpid()

    def tied() -> None:
        prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)

    return tied


def _end_marked(mark: str) -> None:
    """Kill what carries the mark, and wait until it is gone: the next start would find the run held."""
    ends = time.monotonic() + GONE_S
    while (left := _marked(f"{MARK}={mark}".encode())) and time.monotonic() < ends:
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.02)


def _marked(mark: bytes) -> list[int]:
    """Processes of this user with the mark in their environment; the dead have none."""
    found = []
    for environ in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):
            if environ.stat().st_uid == os.geteuid() and mark in environ.read_bytes().split(b"\0"):
                found.append(int(environ.parent.name))
    return found
