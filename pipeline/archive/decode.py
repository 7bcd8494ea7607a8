"""The one seam to pixel decoders: an encoded frame in, stored integer values out.

Native frames are decoded here. Compressed ones go to a supervised child process: decoders of hostile input crash, hang and
lie. A child that somebody kills is started again and the frame retried; one that crashes twice on a frame is the frame's fault.
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
from pathlib import Path
from types import TracebackType

import numpy as np
import numpy.typing as npt

from pipeline.errors import Reason, StudyError
from pipeline.records import SliceSource

Stored = npt.NDArray[np.int32]

NATIVE = frozenset({"1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2", "1.2.840.10008.1.2.1.99"})
BIG_ENDIAN = "1.2.840.10008.1.2.2"
DEFLATED = "1.2.840.10008.1.2.1.99"
COMPRESSED = frozenset(
    f"1.2.840.10008.1.2.{last}"
    for last in ("4.50", "4.51", "4.57", "4.70", "4.80", "4.81", "4.90", "4.91", "4.201", "4.202", "4.203", "5")
)
MAX_MATRIX = 4096
MAX_KILLED = 3
MAX_CRASHED = 2
WALL_FACTOR = 20.0
LAUNCHER = ("PMI", "OMPI", "SLURM", "MPI", "HYDRA", "PRTE", "PALS")


class Decoder:
    """Owns the decode child of this rank; a context manager. `cpu_s` bounds the CPU seconds of one frame."""

    def __init__(self, cpu_s: float = 30.0) -> None:
        self._cpu_s = cpu_s
        self._child: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Decoder:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """End the child, if there is one."""
        if self._child is not None:
            self._child.kill()
            self._child.wait()
            for pipe in (self._child.stdin, self._child.stdout):
                if pipe is not None:
                    with contextlib.suppress(OSError):
                        pipe.close()
            self._child = None

    def decode(self, frame: bytes, source: SliceSource) -> Stored:
        """Stored values int32 [rows, columns], sign and unused bits settled. Raises StudyError, stage decode."""
        if max(source.rows, source.columns) > MAX_MATRIX:
            raise StudyError(Reason.DECOMPRESSION_BOMB, "decode")
        if source.syntax in NATIVE:
            return _native(frame, source)
        if source.syntax not in COMPRESSED:
            raise StudyError(Reason.UNSUPPORTED_TRANSFER_SYNTAX, "decode")
        _check_codestream(frame, source)
        values = self._ask(frame, source.syntax)
        if source.syntax.endswith("1.2.5") and values.size == source.rows * source.columns:
            values = values.reshape(source.rows, source.columns)
        if values.shape != (source.rows, source.columns):
            raise StudyError(Reason.DECODE_ERROR, "decode")
        return _signed(values, source)

    def _ask(self, frame: bytes, syntax: str) -> Stored:
        """The child's answer; a child killed from outside is no verdict on the frame."""
        killed = crashed = 0
        while True:
            try:
                return self._exchange(frame, syntax)
            except (BrokenPipeError, EOFError):
                child, self._child = self._child, None
                code = child.wait() if child is not None else 0
                outside = code in (-signal.SIGKILL, -signal.SIGTERM, -signal.SIGINT, -signal.SIGHUP)
                killed, crashed = killed + outside, crashed + (not outside)
                if crashed >= MAX_CRASHED or killed > MAX_KILLED:
                    raise StudyError(Reason.DECODE_CRASH, "decode") from None

    def _exchange(self, frame: bytes, syntax: str) -> Stored:
        child = self._child = self._child or _start()
        assert child.stdin  # for the type checker: it is a pipe
        head = struct.pack("<IB", len(frame), len(syntax)) + syntax.encode()
        child.stdin.write(head + frame)
        child.stdin.flush()
        limit = _cpu_seconds(child.pid) + self._cpu_s, time.monotonic() + WALL_FACTOR * self._cpu_s
        ok, length = struct.unpack("<BI", self._read(child, 5, limit))
        payload = self._read(child, length, limit)
        if not ok:
            raise StudyError(Reason.DECODE_ERROR, "decode")
        rows, columns = struct.unpack("<II", payload[:8])
        return np.frombuffer(payload, np.int32, offset=8).reshape(rows, columns)

    def _read(self, child: subprocess.Popen[bytes], length: int, limit: tuple[float, float]) -> bytes:
        """`length` bytes of the child's answer, unless its CPU seconds run out first."""
        assert child.stdout  # for the type checker
        data = bytearray()
        while len(data) < length:
            if select.select([child.stdout], [], [], 1.0)[0]:
                chunk = os.read(child.stdout.fileno(), length - len(data))
                if not chunk:
                    raise EOFError
                data += chunk
            elif _cpu_seconds(child.pid) > limit[0] or time.monotonic() > limit[1]:
                self.close()
                raise StudyError(Reason.DECODE_TIMEOUT, "decode")
        return bytes(data)


def _start() -> subprocess.Popen[bytes]:
    script = Path(__file__).with_name("_decode_child.py")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(LAUNCHER)}
    return subprocess.Popen(
        [sys.executable, "-I", str(script)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=environment | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
        bufsize=0,
    )


def _cpu_seconds(pid: int) -> float:
    """CPU seconds of a child so far; 0 when it is gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _native(frame: bytes, source: SliceSource) -> Stored:
    wanted = source.rows * source.columns * source.bits_allocated // 8
    if len(frame) < wanted:
        raise StudyError(Reason.TRUNCATED_PIXEL_DATA, "decode")
    order = ">" if source.syntax == BIG_ENDIAN else "<"
    kind = np.dtype(f"{order}u{source.bits_allocated // 8}")
    values = np.frombuffer(frame[:wanted], kind).reshape(source.rows, source.columns).astype(np.int32)
    return _signed(values, source)


def _signed(values: Stored, source: SliceSource) -> Stored:
    """Keep `bits_stored` bits and give them their sign."""
    span = 1 << source.bits_stored
    low = values & (span - 1)
    return np.where(low >= span // 2, low - span, low).astype(np.int32) if source.signed else low


def _check_codestream(frame: bytes, source: SliceSource) -> None:
    """The codestream's own size must be the header's: a decoder would allocate what the codestream says."""
    size = codestream_size(frame)
    if size is None:
        if source.syntax.endswith("1.2.5") and len(frame) > 64:
            return
        raise StudyError(Reason.DECODE_ERROR, "decode")
    if max(size) > MAX_MATRIX:
        raise StudyError(Reason.DECOMPRESSION_BOMB, "decode")
    if size != (source.rows, source.columns):
        raise StudyError(Reason.DECODE_ERROR, "decode")


def codestream_size(frame: bytes) -> tuple[int, int] | None:
    """(rows, columns) from a JPEG, JPEG-LS or JPEG 2000 codestream's own header, or None."""
    start = frame.find(b"\xff\x4f\xff\x51") if frame[:4] != b"\xff\x4f\xff\x51" else 0
    if frame[:2] != b"\xff\xd8" and start >= 0 and len(frame) >= start + 24:
        x1, y1, x0, y0 = struct.unpack(">IIII", frame[start + 8 : start + 24])
        return y1 - y0, x1 - x0
    place = 2
    while frame[:2] == b"\xff\xd8" and place + 9 < len(frame) and frame[place] == 0xFF:
        marker, length = frame[place + 1], int.from_bytes(frame[place + 2 : place + 4], "big")
        if marker in (0xC0, 0xC1, 0xC2, 0xC3, 0xF7):
            rows, columns = struct.unpack(">HH", frame[place + 5 : place + 9])
            return rows, columns
        place += 2 + length
    return None
