"""What reading one file may take, and the one door through which its bytes are parsed.

A parser of foreign bytes may raise anything, a library's own BaseException too. At the door it becomes a reason code of that
file or member. What `tick` raises is news of the run and not of the file: it passes as it is. Limits count what has been read
and inflated, never what a file declares.
"""

from __future__ import annotations

import errno
import time
from collections.abc import Callable
from types import TracebackType

from pipeline.errors import Reason, StudyError
from pipeline.records import Stage

CPU_S, CPU_S_A_MB = 60.0, 1.0
"""What a file may take, and a container besides for each MB of its own; a hundred times what slow sound ones do."""
FREE_BYTES = 64 << 20
MAX_RATIO = 200
PAUSE_EVERY_S = 0.02
PASSING = (KeyboardInterrupt, SystemExit, GeneratorExit, StudyError)
NOT_STORAGE = frozenset({None, errno.EINVAL, errno.EOVERFLOW})
"""Numbers of an OSError that no storage raises: a decompressor's has none, and a place beyond all files is invalid."""


class Allowance:
    """Bytes and CPU seconds left to one file; `tick` is called along the way."""

    def __init__(self, tick: Callable[[], None] = lambda: None) -> None:
        self._tick = tick
        self._heard: BaseException | None = None
        self._next_pause_s = 0.0
        self._cpu_end_s = time.thread_time() + CPU_S
        self._bytes_left = FREE_BYTES

    def unpack(self, size: int) -> None:
        """The file is a container of `size` bytes: it may grow to so much, and take its time."""
        self._bytes_left = max(FREE_BYTES, MAX_RATIO * size)
        self._cpu_end_s += CPU_S_A_MB * size / (1 << 20)

    def grown(self, n_bytes: int) -> None:
        """So many bytes more were inflated. Raises StudyError DECOMPRESSION_BOMB, or what `tick` does."""
        self._bytes_left -= n_bytes
        self.pause()

    def pause(self) -> None:
        """Between two steps of a long parse: hear of the run, look at the clock. Raises as `grown`."""
        now_s = time.monotonic()
        if now_s >= self._next_pause_s:
            self._listen()
            self._next_pause_s = time.monotonic() + PAUSE_EVERY_S
        if self._bytes_left < 0:
            raise StudyError(Reason.DECOMPRESSION_BOMB, "unpack")

    def _listen(self) -> None:
        begun_s = time.thread_time()
        if begun_s > self._cpu_end_s:
            raise StudyError(Reason.DECOMPRESSION_BOMB, "index")
        try:
            self._tick()
        except BaseException as news:
            self._heard = news
            raise
        self._cpu_end_s += time.thread_time() - begun_s  # serving the other ranks is not this file's time

    def parsing(self, otherwise: Reason, stage: Stage) -> Door:
        """The door: whatever a parser raises within leaves as a StudyError, `otherwise` where the error says nothing better."""
        return Door(self, otherwise, stage)

    def is_news(self, error: BaseException) -> bool:
        """Whether `tick` raised it."""
        return error is self._heard


class Door:
    """The door of `Allowance.parsing`, through which every file and member goes."""

    __slots__ = ("_allowance", "_otherwise", "_stage")

    def __init__(self, allowance: Allowance, otherwise: Reason, stage: Stage) -> None:
        self._allowance = allowance
        self._otherwise = otherwise
        self._stage: Stage = stage

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if error is None or isinstance(error, PASSING) or self._allowance.is_news(error):
            return
        raise StudyError(_reason(error, self._otherwise), self._stage) from None


def _reason(error: BaseException, otherwise: Reason) -> Reason:
    if isinstance(error, OSError) and error.errno not in NOT_STORAGE:
        return Reason.IO_ERROR
    if isinstance(error, MemoryError):
        return Reason.OUT_OF_MEMORY
    return Reason.HEADER_TOO_DEEP if isinstance(error, RecursionError) else otherwise
