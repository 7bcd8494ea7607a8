"""Encapsulated pixel data: where each frame's fragments lie, and how to join them."""

from __future__ import annotations

import struct
from typing import BinaryIO

from pipeline.archive.allowance import Allowance
from pipeline.errors import Reason, StudyError

ITEM = b"\xfe\xff\x00\xe0"
HEAD = 8
MAX_FRAGMENTS = 1_000_000


def frame_places(
    stream: BinaryIO, start: int, size: int, n_frames: int, allowance: Allowance
) -> tuple[tuple[int, int], ...]:  # fmt: skip
    """(offset, length) of each frame's run of fragments, behind the offset table at `start`.

    Raises StudyError: TRUNCATED_PIXEL_DATA, PIXEL_FORMAT where the frames cannot be told apart, or DECOMPRESSION_BOMB.
    """
    table = _table(stream, start)
    first = start + HEAD + len(table)
    if n_frames == 1:
        stream.seek(first)
        _length(stream.read(HEAD), first, size)
        return ((first, size - first),)
    ends = _fragment_starts(stream, first, size, allowance)
    fragments = ends[:-1]
    last = ends[-1]
    begins = [first + place for place in struct.unpack(f"<{len(table) // 4}I", table)] if table else fragments
    if len(begins) != n_frames or not set(begins) <= set(fragments) or begins != sorted(set(begins)):
        raise StudyError(Reason.PIXEL_FORMAT, "index")
    return tuple((begin, end - begin) for begin, end in zip(begins, [*begins[1:], last], strict=True))


def join(data: bytes) -> bytes:
    """The codestream in a run of fragments. Raises StudyError TRUNCATED_PIXEL_DATA."""
    place = 0
    parts = []
    while data[place : place + 4] == ITEM:
        length = int.from_bytes(data[place + 4 : place + HEAD], "little")
        part = data[place + HEAD : place + HEAD + length]
        if len(part) < length:
            raise StudyError(Reason.TRUNCATED_PIXEL_DATA, "decode")
        parts.append(part)
        place += HEAD + length
    if not parts:
        raise StudyError(Reason.TRUNCATED_PIXEL_DATA, "decode")
    return b"".join(parts)


def _table(stream: BinaryIO, start: int) -> bytes:
    stream.seek(start)
    head = stream.read(HEAD)
    length = int.from_bytes(head[4:], "little")
    if head[:4] != ITEM or length % 4 or length > 1 << 20:
        raise StudyError(Reason.PIXEL_FORMAT, "index")
    return stream.read(length)


def _fragment_starts(stream: BinaryIO, first: int, size: int, allowance: Allowance) -> list[int]:
    """Where each fragment's item begins, and where the last one ends."""
    starts = [first]
    place = first
    while len(starts) <= MAX_FRAGMENTS:
        allowance.pause()
        stream.seek(place)
        head = stream.read(HEAD)
        if head[:4] != ITEM:
            return starts
        place += HEAD + _length(head, place, size)
        starts.append(place)
    raise StudyError(Reason.DECOMPRESSION_BOMB, "index")


def _length(head: bytes, place: int, size: int) -> int:
    """A fragment's length, if it is there in full."""
    length = int.from_bytes(head[4:HEAD], "little")
    if head[:4] != ITEM or place + HEAD + length > size:
        raise StudyError(Reason.TRUNCATED_PIXEL_DATA, "index")
    return length
