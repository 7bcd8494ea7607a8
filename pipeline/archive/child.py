"""The supervised decode child: started bare, bounded in CPU seconds, started again after death.

Frames and pixels lie in memory that both share; two pipes carry only what is asked and how it went, so that an answer is copied
once, and before it is looked at: what the child writes later changes nothing.

A child that somebody kills from outside is no verdict on the frame: it is started again and asked the same. One that crashes
twice on a frame is the frame's fault.
"""

from __future__ import annotations

import contextlib
import mmap
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
SHARED_BYTES = 8 * MAX_MATRIX**2 + (2 << 20)
"""The largest frame that is read (archive/reading.py) fits, and the largest answer; only what is written takes memory."""
KEPT_BYTES = 8 << 20
"""What a rare large frame took beyond this is given back."""
KINDS = ("|u1", "<u2", "<i2", "<i4")
"""An answer's pixels, as numpy names them; others come as the last."""
QUESTION, ANSWER = struct.Struct("<IB"), struct.Struct("<BBII")
OUTSIDE = tuple(-number for number in (signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP))
LAUNCHER = ("PMI", "OMPI", "SLURM", "MPI", "HYDRA", "HYDI", "PRTE", "PALS")

ANSWERS = {b"MemoryError": Reason.OUT_OF_MEMORY, b"UnknownSyntaxError": Reason.UNSUPPORTED_TRANSFER_SYNTAX}
"""What an error's class name means; any other is the frame's."""


FAILED, SOUND, DOUBTED = range(3)
LONGEST_NAME = 100


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


@dataclass(frozen=True, slots=True)
class Running:
    """A child that has been started, and what it shares with this process."""

    process: subprocess.Popen[bytes]
    memory: mmap.mmap


class Child:
    """One decode child, started when first asked; `tick` is called while it is waited for."""

    def __init__(self, cpu_s: float, tick: Callable[[], None] = lambda: None) -> None:
        self._cpu_s = cpu_s
        self._tick = tick
        self._running: Running | None = None

    @property
    def pid(self) -> int | None:
        """The process' number while there is one."""
        return self._running.process.pid if self._running else None

    def start(self) -> Running:
        """The process, started if there is none."""
        self._running = self._running or _start()
        return self._running

    def close(self) -> None:
        """End the process, if there is one, and take its body away."""
        if self._running is not None:
            self._running.process.kill()
            self._bury(self._running)

    def ask(self, frame: bytes, syntax: str) -> Decoded:
        """What the child makes of a frame. Raises StudyError, stage decode."""
        if len(frame) > SHARED_BYTES:
            raise StudyError(Reason.DECODE_ERROR, "decode")
        killed = crashed = 0
        while killed <= MAX_KILLED and crashed < MAX_CRASHED:
            running = self.start()
            try:
                return self._exchange(running, frame, syntax)
            except (BrokenPipeError, EOFError):
                outside = self._bury(running) in OUTSIDE
                killed = killed + outside
                crashed = crashed + (not outside)
            except StudyError:
                raise
            except BaseException:
                self.close()  # it may be amid an answer, which must not pass for the next one's
                raise
        raise StudyError(Reason.DECODE_CRASH, "decode")

    def _bury(self, running: Running) -> int:
        """The exit code of a process that has ended or is ending."""
        self._running = None
        with contextlib.suppress(BufferError):  # an error under way may still hold a view: it goes with that
            running.memory.close()
        process = running.process
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

    def _exchange(self, running: Running, frame: bytes, syntax: str) -> Decoded:
        limit = Limit(running.process.pid, self._cpu_s)
        running.memory[: len(frame)] = frame
        self._write(running.process, QUESTION.pack(len(frame), len(syntax)) + syntax.encode(), limit)
        how, kind, rows, columns = ANSWER.unpack(self._read(running.process, ANSWER.size, limit))
        if how not in (FAILED, SOUND, DOUBTED) or kind >= len(KINDS):
            raise EOFError
        if how == FAILED:
            name = running.memory[: min(rows, LONGEST_NAME)]
            raise StudyError(ANSWERS.get(name, Reason.DECODE_ERROR), "decode")
        return Decoded(_pixels(running.memory, KINDS[kind], rows, columns), how == DOUBTED)

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


def _pixels(memory: mmap.mmap, kind: str, rows: int, columns: int) -> npt.NDArray[np.int32]:
    """A copy, int32 [rows, columns]. Raises EOFError for an answer that cannot lie there: its writer is damaged."""
    taken = rows * columns * np.dtype(kind).itemsize
    if taken > SHARED_BYTES:
        raise EOFError
    shared = np.frombuffer(memory, kind, rows * columns)
    pixels = shared.reshape(rows, columns).astype(np.int32)
    del shared
    if taken > KEPT_BYTES:
        memory.madvise(mmap.MADV_REMOVE)
    return pixels


def _start() -> Running:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(LAUNCHER)}
    handle = os.memfd_create("frames")
    try:
        os.ftruncate(handle, SHARED_BYTES)
        memory = mmap.mmap(handle, SHARED_BYTES)
        process = subprocess.Popen(
            [sys.executable, "-I", str(SCRIPT), str(handle)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
            bufsize=0,
            pass_fds=(handle,),
        )
    finally:
        os.close(handle)
    return Running(process, memory)


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
