"""The one seam to pixel decoders: an encoded frame in, stored integer values out.

Native frames are decoded here. Compressed ones go to a supervised child process (`child.py`): decoders of hostile input crash,
hang and lie, so the codestream's own size is checked before they see it.
"""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType

import numpy as np
import numpy.typing as npt

from pipeline.archive.child import Child
from pipeline.archive.codestream import codestream_size, rle_is_sane
from pipeline.archive.describe import MAX_MATRIX
from pipeline.archive.syntax import BIG_ENDIAN, COMPRESSED, NATIVE, PICTURE, RLE
from pipeline.errors import Reason, StudyError
from pipeline.records import SliceSource

Stored = npt.NDArray[np.int32]


class Decoder:
    """Owns the decode child of this rank; a context manager.

    `cpu_s` bounds the CPU seconds of one frame; `tick` is called between frames and while the child is waited for.
    """

    def __init__(self, cpu_s: float = 30.0, tick: Callable[[], None] = lambda: None) -> None:
        self.tick = tick
        self.child = Child(cpu_s, tick)

    def __enter__(self) -> Decoder:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """End the child, if there is one."""
        self.child.close()

    def decode(self, frame: bytes, source: SliceSource) -> Stored:
        """Stored values int32 [rows, columns], sign and unused bits settled. Raises StudyError, stage decode."""
        if max(source.rows, source.columns) > MAX_MATRIX:
            raise StudyError(Reason.DECOMPRESSION_BOMB, "decode")
        if source.syntax in NATIVE:
            return _native(frame, source)
        if source.syntax not in COMPRESSED:
            raise StudyError(Reason.UNSUPPORTED_TRANSFER_SYNTAX, "decode")
        _check_codestream(frame, source)
        values = self.child.ask(frame, source.syntax)
        if source.syntax == RLE and values.size == source.rows * source.columns:
            values = values.reshape(source.rows, source.columns)
        if values.shape != (source.rows, source.columns):
            raise StudyError(Reason.DECODE_ERROR, "decode")
        return _signed(values, source)

    def decode_picture(self, data: bytes) -> Stored:
        """Grey 0..255 of an exported JPEG or PNG; of a coloured mark, -1 less its grey."""
        size = codestream_size(data)
        if size is None:
            raise StudyError(Reason.DECODE_ERROR, "decode")
        if max(size) > MAX_MATRIX:
            raise StudyError(Reason.DECOMPRESSION_BOMB, "decode")
        return self.child.ask(data, PICTURE)


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
    if source.syntax == RLE:
        if not rle_is_sane(frame, source.bits_allocated // 8, source.rows * source.columns):
            raise StudyError(Reason.DECODE_ERROR, "decode")
        return
    size = codestream_size(frame)
    if size is not None and max(size) > MAX_MATRIX:
        raise StudyError(Reason.DECOMPRESSION_BOMB, "decode")
    if size != (source.rows, source.columns):
        raise StudyError(Reason.DECODE_ERROR, "decode")
