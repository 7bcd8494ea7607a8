"""The one seam to pixel decoders: an encoded frame in, stored integer values out.

Native frames are decoded here. Compressed ones go to a supervised child process (`child.py`): decoders of hostile input crash,
hang and lie, so the codestream's own size is checked before they see it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from types import TracebackType

import numpy as np

from pipeline.archive.child import Child
from pipeline.archive.codestream import Codestream, codestream, codestream_size, rle_is_sane
from pipeline.archive.describe import MAX_MATRIX
from pipeline.archive.lossless_jpeg import is_consistent
from pipeline.archive.lossy_jpeg import read_lossy
from pipeline.archive.stored import Pixels, Words, stored_pixels
from pipeline.archive.syntax import BIG_ENDIAN, COMPRESSED, LOSSLESS_JPEG, NATIVE, NO_HU, PICTURE, RLE
from pipeline.errors import Reason, StudyError
from pipeline.records import SliceSource


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

    def decode(self, frame: bytes, source: SliceSource) -> Pixels:
        """Stored values, and what lies outside the field of view. Raises StudyError, stage decode."""
        if max(source.rows, source.columns) > MAX_MATRIX:
            raise StudyError(Reason.DECOMPRESSION_BOMB, "decode")
        if source.syntax in NATIVE:
            return stored_pixels(_native(frame, source), source)
        if source.syntax not in COMPRESSED:
            raise StudyError(Reason.UNSUPPORTED_TRANSFER_SYNTAX, "decode")
        code = _checked(frame, source)
        words, is_damaged = self._words(frame, source)
        if source.syntax == RLE and words.size == source.rows * source.columns:
            words = words.reshape(source.rows, source.columns)
        if words.shape != (source.rows, source.columns):
            raise StudyError(Reason.DECODE_ERROR, "decode")
        if source.syntax in LOSSLESS_JPEG and not is_consistent(frame, words):
            raise StudyError(Reason.DECODE_ERROR, "decode")
        return replace(stored_pixels(words, source, code), is_damaged=is_damaged)

    def _words(self, frame: bytes, source: SliceSource) -> tuple[Words, bool]:
        """What the child makes of a compressed frame, and whether that is doubtful."""
        if source.syntax in NO_HU:
            return read_lossy(frame, lambda code: self.child.ask(code, source.syntax).words, source.slope)
        answer = self.child.ask(frame, source.syntax)
        return answer.words, answer.is_doubted

    def decode_picture(self, data: bytes) -> Words:
        """Grey 0..255 of an exported JPEG or PNG; of a coloured mark, -1 less its grey."""
        size = codestream_size(data)
        if size is None:
            raise StudyError(Reason.DECODE_ERROR, "decode")
        if max(size) > MAX_MATRIX:
            raise StudyError(Reason.DECOMPRESSION_BOMB, "decode")
        return self.child.ask(data, PICTURE).words


def _native(frame: bytes, source: SliceSource) -> Words:
    wanted = source.rows * source.columns * source.bits_allocated // 8
    if len(frame) < wanted:
        raise StudyError(Reason.TRUNCATED_PIXEL_DATA, "decode")
    order = ">" if source.syntax == BIG_ENDIAN else "<"
    kind = np.dtype(f"{order}u{source.bits_allocated // 8}")
    return np.frombuffer(frame[:wanted], kind).reshape(source.rows, source.columns).astype(np.int32)


def _checked(frame: bytes, source: SliceSource) -> Codestream | None:
    """What the codestream says of itself, None for RLE: of other size than the header's no decoder may see it."""
    if source.syntax == RLE:
        if not rle_is_sane(frame, source.bits_allocated // 8, source.rows * source.columns):
            raise StudyError(Reason.DECODE_ERROR, "decode")
        return None
    code = codestream(frame)
    if code is not None and max(code.rows, code.columns) > MAX_MATRIX:
        raise StudyError(Reason.DECOMPRESSION_BOMB, "decode")
    if code is None or (code.rows, code.columns) != (source.rows, source.columns):
        raise StudyError(Reason.DECODE_ERROR, "decode")
    return code
