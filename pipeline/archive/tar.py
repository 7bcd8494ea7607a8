"""The headers of a TAR, in the forms that are met: V7, ustar, GNU's long names, pax.

Python's tarfile allocates what a header claims, follows negative sizes backwards for ever and gives wrong places for sparse
members; so headers are read here. A member is a range of bytes; a sparse one is none, and is refused. Names longer than
64 KiB are a damaged container.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

from pipeline.archive.allowance import Allowance
from pipeline.errors import Reason, StudyError

BLOCK = 512
MAX_HEADER = 1 << 16
MAX_END = 1 << 20
"""Zeros at the end of a TAR behind which another one is looked for."""
USTAR = b"ustar"
USTAR_AT = 257
REGULAR = frozenset(b"07\x00")
LINKS = frozenset(b"123456")
FOLDERS = frozenset(b"5D")
LABEL = ord("V")
LONG_NAME, LONG_LINK, PAX, PAX_OF_SUN, PAX_FOR_ALL, SPARSE = b"LKxXgS"
EXTENDED_AT = 482
MORE_EXTENDED_AT = 504


@dataclass(frozen=True, slots=True)
class TarEntry:
    """One member that is no folder: `size` bytes from `start` on, or why it is refused."""

    name: str
    start: int = 0
    size: int = 0
    reason: str = ""


@dataclass(slots=True)
class _Extension:
    """What the headers before a member's own say of it."""

    name: bytes = b""
    size: int | None = None
    sparse: bool = False


def begins_tar(head: bytes) -> bool:
    """Whether the first block of a TAR stands here; V7 had no magic, its checksum tells."""
    return head[USTAR_AT : USTAR_AT + len(USTAR)] == USTAR or (len(head) >= BLOCK and _sums_up(head[:BLOCK]))


def entries(stream: BinaryIO, allowance: Allowance) -> Iterator[TarEntry]:
    """Every member. Raises StudyError ARCHIVE_CORRUPT where the TAR cannot be read further."""
    place = 0
    said = _Extension()
    while any(header := _read(stream, place := _next(stream, place), BLOCK)):
        allowance.pause()
        if not _sums_up(header):
            raise _corrupt()
        kind = header[156]
        size = _number(header[124:136])
        place = place + BLOCK
        if kind in (LONG_NAME, LONG_LINK, PAX, PAX_OF_SUN, PAX_FOR_ALL):
            _listen(said, kind, stream, place, size)
            place += _blocks(size)
            continue
        size = size if said.size is None else said.size
        if kind == SPARSE and header[EXTENDED_AT]:
            place = _behind_map(stream, place, allowance)
        if (entry := _entry(header, said, place, size)) is not None:
            yield entry
        said = _Extension()
        if kind not in LINKS and size:
            place += _blocks(size)
            if not _read(stream, place - 1, 1):
                raise _corrupt()


def _next(stream: BinaryIO, place: int) -> int:
    """Where the next header stands: behind a TAR's end, too, for TARs are joined by writing one behind the other."""
    for later in range(place, place + MAX_END, BLOCK):
        header = _read(stream, later, BLOCK)
        if any(header):
            return later if later == place or _sums_up(header) else place
        if not header:
            break
    return place


def _entry(header: bytes, said: _Extension, place: int, size: int) -> TarEntry | None:
    """The member of this header; None for a folder or a label."""
    kind = header[156]
    name = os.fsdecode(said.name or _name(header))
    if kind in FOLDERS or kind == LABEL or (kind in REGULAR and name.endswith("/")):
        return None
    if kind == SPARSE or said.sparse:
        return TarEntry(name, reason=Reason.ARCHIVE_SPARSE)
    return TarEntry(name, place, size) if kind in REGULAR else TarEntry(name, reason=Reason.ZIP_SLIP)


def _listen(said: _Extension, kind: int, stream: BinaryIO, place: int, size: int) -> None:
    """Take in a header about the next member; what holds for all members is passed over."""
    if size > MAX_HEADER:
        raise _corrupt()
    if kind == LONG_NAME:
        said.name = _read(stream, place, size).partition(b"\0")[0]
    elif kind in (PAX, PAX_OF_SUN):
        for key, value in _pax(_read(stream, place, size)):
            said.sparse |= key.startswith(b"GNU.sparse.")
            if key == b"path":
                said.name = value
            elif key == b"size":
                said.size = _decimal(value)


def _pax(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """The records of a pax header: `length key=value` and a line's end, the length that of all of it."""
    place = 0
    while place < len(data) and data[place] != 0:
        space = data.find(b" ", place, place + 8)
        length = _decimal(data[place:space]) if space > 0 else 0
        if length <= space + 1 - place or place + length > len(data):
            raise _corrupt()
        key, _, value = data[space + 1 : place + length - 1].partition(b"=")
        yield key, value
        place += length


def _behind_map(stream: BinaryIO, place: int, allowance: Allowance) -> int:
    """The place behind the blocks that go on with a sparse member's map."""
    more = True
    while more:
        block = _read(stream, place, BLOCK)
        allowance.pause()
        more = bool(block[MORE_EXTENDED_AT])
        place = place + BLOCK
    return place


def _read(stream: BinaryIO, place: int, size: int) -> bytes:
    """Exactly so many bytes; none at the end of the stream."""
    stream.seek(place)
    data = stream.read(size)
    if data and len(data) < size:
        raise _corrupt()
    return data


def _name(header: bytes) -> bytes:
    name = header[:100].partition(b"\0")[0]
    prefix = header[345:500].partition(b"\0")[0] if header[USTAR_AT : USTAR_AT + 6] == USTAR + b"\0" else b""
    return prefix + b"/" + name if prefix else name


def _sums_up(header: bytes) -> bool:
    """Whether the header's checksum, of its own field as blanks, is right; old writers summed signed bytes."""
    try:
        wanted = _number(header[148:156])
    except StudyError:
        return False
    unsigned = sum(header) - sum(header[148:156]) + 8 * ord(" ")
    n_high = sum(byte > 127 for byte in header[:148] + header[156:])
    return wanted in (unsigned, unsigned - 256 * n_high)


def _number(field: bytes) -> int:
    """Octal digits, or GNU's binary where the first bit is set; never below 0."""
    if field[0] == 0x80:
        return int.from_bytes(field[1:], "big")
    text = field.partition(b"\0")[0].strip()
    if text.strip(b"01234567"):
        raise _corrupt()
    return int(text or b"0", 8)


def _decimal(text: bytes) -> int:
    if not text.isdigit() or len(text) > 18:
        raise _corrupt()
    return int(text)


def _blocks(size: int) -> int:
    """The bytes of as many blocks as hold `size`."""
    return -(-size // BLOCK) * BLOCK


def _corrupt() -> StudyError:
    return StudyError(Reason.ARCHIVE_CORRUPT, "unpack")
