"""What a compressed frame, a picture or a volume says of itself, read before any decoder sees it."""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass

JPEG = b"\xff\xd8\xff"
PNG = b"\x89PNG\r\n\x1a\n"
J2K = b"\xff\x4f\xff\x51"
FRAME_MARKERS = frozenset({0xC0, 0xC1, 0xC2, 0xC3, 0xF7})
ALONE = frozenset({0x01, *range(0xD0, 0xD8)})
END = 0xD9
SCAN = 0xDA
RLE_HEAD = 64
SIGNED = 0x80


@dataclass(frozen=True, slots=True)
class Codestream:
    """Rows, columns, and the depth and sign of a value."""

    rows: int
    columns: int
    bits: int
    signed: bool = False


def is_picture(head: bytes) -> bool:
    """Whether a JPEG or PNG file begins here."""
    return head.startswith((JPEG, PNG))


def begins_nifti(head: bytes) -> bool:
    """Whether a NIfTI or Analyze header begins here, of whatever form: its own size stands first, in either order of bytes."""
    return len(head) >= 348 and head[:4] in (b"\x5c\x01\0\0", b"\0\0\x01\x5c", b"\x1c\x02\0\0", b"\0\0\x02\x1c")


def is_nifti(head: bytes) -> bool:
    """Whether it is of a volume of one piece, of the first or second version."""
    return begins_nifti(head) and (head[4:8] == b"n+2\0" if head[0] == 0x1C or head[3] == 0x1C else head[344:348] == b"n+1\0")


def codestream_size(frame: bytes) -> tuple[int, int] | None:
    """(rows, columns) from the own header of a JPEG, JPEG-LS, JPEG 2000 or PNG, or None."""
    if frame[:8] == PNG and frame[12:16] == b"IHDR" and len(frame) >= 24:
        columns, rows = struct.unpack(">II", frame[16:24])
        return rows, columns
    code = codestream(frame)
    return (code.rows, code.columns) if code else None


def codestream(frame: bytes) -> Codestream | None:
    """What the own header of a JPEG, JPEG-LS or JPEG 2000 says, or None."""
    if frame[:2] == JPEG[:2]:
        return _jpeg(frame)
    start = frame.find(J2K, 0, 4096)
    if start < 0 or len(frame) < start + 43:
        return None
    x1, y1, x0, y0 = struct.unpack(">IIII", frame[start + 8 : start + 24])
    depth = frame[start + 42]
    return Codestream(y1 - y0, x1 - x0, (depth & ~SIGNED) + 1, bool(depth & SIGNED))


def jpeg_segments(frame: bytes) -> Iterator[tuple[int, int, int]]:
    """(marker, begin, end) of what each segment of a JPEG holds, to the first scan's head; ends where it makes no sense."""
    place = 2
    marker = 0
    while marker != SCAN and place + 4 <= len(frame) and frame[place] == 0xFF:
        marker = frame[place + 1]
        if marker == 0xFF or marker in ALONE:
            place += 1 if marker == 0xFF else 2
            continue
        end = place + 2 + int.from_bytes(frame[place + 2 : place + 4], "big")
        if end > len(frame):
            return
        yield marker, place + 4, end
        place = end


def _jpeg(frame: bytes) -> Codestream | None:
    for marker, begin, end in jpeg_segments(frame):
        if marker in FRAME_MARKERS and end - begin >= 5:
            bits, rows, columns = struct.unpack(">BHH", frame[begin : begin + 5])
            return Codestream(rows, columns, bits)
    return None


def jpeg_is_whole(frame: bytes) -> bool:
    """Whether a JPEG of one scan has its end, and restart markers in order before it: decoders fill in what is missing."""
    scan = frame.find(b"\xff\xda")
    markers = [pair[1] for pair in re.findall(rb"\xff[\xd0-\xd9]", frame[scan:])] if scan >= 0 else []
    if END not in markers:
        return False
    restarts = markers[: markers.index(END)]
    return restarts == [0xD0 + number % 8 for number in range(len(restarts))]


def rle_is_sane(frame: bytes, n_planes: int, n_pixels: int) -> bool:
    """Whether an RLE frame holds `n_planes` segments, in order, each long enough to fill `n_pixels`."""
    if len(frame) <= RLE_HEAD:
        return False
    n_segments, *offsets = struct.unpack("<16I", frame[:RLE_HEAD])
    starts = offsets[:n_segments] if n_segments == n_planes else []
    ends = [*starts[1:], len(frame)]
    return (
        bool(starts)
        and starts[0] == RLE_HEAD
        and all(start < end <= len(frame) and 64 * (end - start) >= n_pixels for start, end in zip(starts, ends, strict=True))
    )
