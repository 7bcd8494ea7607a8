"""The supervised decode child: started bare, bounded in CPU seconds, started again after death.

A child that somebody kills from outside is no verdict on the frame: it is started again and asked the same. One that crashes
twice on a frame is the frame's fault.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pipeline.archive.describe import MAX_MATRIX
from pipeline.errors import Reason, StudyError

SCRIPT = Path(__file__).with_name("_decode_child.py")
MAX_KILLED = 3
MAX_CRASHED = 2
WALL_FACTOR = 20.0
CHECK_EVERY_S = 0.5
MAX_ANSWER = 8 + 4 * MAX_MATRIX**2
OUTSIDE = tuple(-number for number in (signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP))
LAUNCHER = ("PMI", "OMPI", "SLURM", "MPI", "HYDRA", "HYDI", "PRTE", "PALS")

ANSWERS = {b"MemoryError": Reason.OUT_OF_MEMORY, b"UnknownSyntaxError": Reason.UNSUPPORTED_TRANSFER_SYNTAX}
"""What an error's class name means; any other is the frame's."""


FAILED, SOUND, DOUBTED = range(3)


@dataclass(frozen=True, slots=True)
class Decoded:
    """int32 [rows, columns]; `is_doubted`: the decoder complained of the frame."""

    words: npt.NDArray[np.int32]
    is_doubted: bool


class Limit:
    """A frame's allowance: CPU seconds of the child (a busy machine changes no result), and a generous wall clock."""

    def __init__(self, pid: int, cpu_s: float) -> None:
        self._pid = pid
        self._cpu_s = cpu_seconds(pid) + cpu_s
        self._wall_s = time.monotonic() + WALL_FACTOR * cpu_s

    def is_spent(self) -> bool:
        """Whether the child has used it up."""
        return cpu_seconds(self._pid) > self._cpu_s or time.monotonic() > self._wall_s


class Child:
    """One decode child, started when first asked; `tick` is called while it is waited for."""

    def __init__(self, cpu_s: float, tick: Callable[[], None] = lambda: None) -> None:
        self._cpu_s = cpu_s
        self._tick = tick
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int | None:
        """The process' number while there is one."""
        return self._process.pid if self._process else None

    def start(self) -> subprocess.Popen[bytes]:
        """The process, started if there is none."""
        self._process = self._process or _start()
        return self._process

    def close(self) -> None:
        """End the process, if there is one, and take its body away."""
        if self._process is not None:
            self._process.kill()
            self._bury(self._process)

    def ask(self, frame: bytes, syntax: str) -> Decoded:
        """What the child makes of a frame. Raises StudyError, stage decode."""
        killed = crashed = 0
        while killed <= MAX_KILLED and crashed < MAX_CRASHED:
            process = self.start()
            try:
                return self._exchange(process, frame, syntax)
            except (BrokenPipeError, EOFError):
                outside = self._bury(process) in OUTSIDE
                killed = killed + outside
                crashed = crashed + (not outside)
            except StudyError:
                raise
            except BaseException:
                self.close()  # it may be amid an answer, which must not pass for the next one's
                raise
        raise StudyError(Reason.DECODE_CRASH, "decode")

    def _bury(self, process: subprocess.Popen[bytes]) -> int:
        """The exit code of a process that has ended or is ending."""
        self._process = None
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()
        try:
            return process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            return 1

    def _exchange(self, process: subprocess.Popen[bytes], frame: bytes, syntax: str) -> Decoded:
        limit = Limit(process.pid, self._cpu_s)
        self._write(process, struct.pack("<IB", len(frame), len(syntax)) + syntax.encode() + frame, limit)
        how, length = struct.unpack("<BI", self._read(process, 5, limit))
        if how not in (FAILED, SOUND, DOUBTED) or length > MAX_ANSWER:
            raise EOFError
        payload = self._read(process, length, limit)
        if how == FAILED:
            raise StudyError(ANSWERS.get(payload, Reason.DECODE_ERROR), "decode")
        return Decoded(_pixels(payload), how == DOUBTED)

    def _write(self, process: subprocess.Popen[bytes], data: bytes, limit: Limit) -> None:
        left = memoryview(data)
        while left:
            handle = _handle(process.stdin)
            if select.select([], [handle], [], CHECK_EVERY_S)[1]:
                left = left[os.write(handle, left[: select.PIPE_BUF]) :]
            else:
                self._check(limit)

    def _read(self, process: subprocess.Popen[bytes], length: int, limit: Limit) -> bytes:
        data = bytearray()
        while len(data) < length:
            handle = _handle(process.stdout)
            if select.select([handle], [], [], CHECK_EVERY_S)[0]:
                chunk = os.read(handle, length - len(data))
                if not chunk:
                    raise EOFError
                data += chunk
            else:
                self._check(limit)
        return bytes(data)

    def _check(self, limit: Limit) -> None:
        self._tick()
        if limit.is_spent():
            self.close()
            raise StudyError(Reason.DECODE_TIMEOUT, "decode")


def _pixels(payload: bytes) -> npt.NDArray[np.int32]:
    """int32 [rows, columns]. Raises EOFError for an answer that holds more or fewer: its writer is damaged."""
    rows, columns = struct.unpack("<II", payload[:8]) if len(payload) >= 8 else (0, 0)
    if rows * columns * 4 + 8 != len(payload):
        raise EOFError
    return np.frombuffer(payload, "<i4", offset=8).reshape(rows, columns)


def _start() -> subprocess.Popen[bytes]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(LAUNCHER)}
    return subprocess.Popen(
        [sys.executable, "-I", str(SCRIPT)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=environment | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
        bufsize=0,
    )


def cpu_seconds(pid: int) -> float:
    """CPU seconds of a process so far; 0 when it is gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _handle(pipe: object) -> int:
    """The descriptor of a pipe that the child was started with."""
    return int(pipe.fileno()) if hasattr(pipe, "fileno") else -1
