"""Containers: ZIP, TAR (plain or gzip) and gzip of one DICOM or NIfTI file, read in place and never unpacked to disk.

A member of a ZIP is found by the place of its own header; a member of a TAR is a range of bytes of the (inflated) TAR, so that
slices are read by offset. Members may share a name: `name:2` names the second, and no portable name holds a colon.
What would leave the container (`..`, absolute names, links) is refused, and so is a container in a container, but for a gzip of
one file.
"""

from __future__ import annotations

import io
import stat
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import PurePosixPath
from typing import BinaryIO, Literal, cast

from pipeline.archive.allowance import Allowance
from pipeline.archive.codestream import begins_nifti
from pipeline.archive.inflate import ENDLESS, GZIP, GZIP_MAGIC, PIECE, byte_range, forward, gunzipped, unzipped
from pipeline.archive.tar import BLOCK, begins_tar, entries
from pipeline.archive.walk import portable
from pipeline.errors import Reason, StudyError

Kind = Literal["zip", "tar", "tar.gz", "gz", "unknown"]
NOT_READ = (b"BZh", b"\xfd7zXZ\0", b"7z\xbc\xaf\x27\x1c", b"Rar!\x1a\x07", b"\x28\xb5\x2f\xfd")
"""How bzip2, xz, 7-Zip, RAR and Zstandard begin."""
ZIP_MAGIC = (b"PK\x03\x04", b"PK\x05\x06")
GZIP_HEAD = 4096
ONLY = "inflated"
"""The name of a gzip's one member."""
MAX_MEMBERS = 100_000
MAX_MEMBER = 1 << 30
MAX_DIRECTORY = 24 << 20
"""Bytes of a ZIP's table of contents: 100,000 names of 190 letters."""


@dataclass(frozen=True, slots=True)
class Member:
    """One member: `size` bytes to be read from `stream` before the next one is asked for, or why it is refused.

    `name` is portable; `address` is where the container has it: its bytes in a TAR, its own header in a ZIP.
    """

    name: str
    reason: str = ""
    address: int = 0
    size: int = 0
    stream: BinaryIO = field(default_factory=io.BytesIO)


def container_kind(stream: BinaryIO) -> Kind | None:
    """Which container begins here, if any; a gzip of anything but a TAR, a DICOM or a NIfTI file is none.

    "unknown" is one that is not read.
    """
    stream.seek(0)
    head = stream.read(GZIP_HEAD)
    stream.seek(0)
    if head.startswith(ZIP_MAGIC):
        return "zip"
    if head.startswith(GZIP_MAGIC):
        return _kind_of_gzip(head)
    if _is_dicom(head):
        return None
    if head.startswith(NOT_READ):
        return "unknown"
    return "tar" if begins_tar(head) else None


def members(stream: BinaryIO, kind: Kind, size: int, allowance: Allowance) -> Iterator[Member]:
    """The files in a container of `size` bytes. Raises StudyError, stage unpack, where it cannot be read further."""
    allowance.unpack(size)
    found = _zip_members(stream, allowance) if kind == "zip" else _other_members(stream, kind, size, allowance)
    for number, member in enumerate(found):
        allowance.pause()
        if number == MAX_MEMBERS:
            raise StudyError(Reason.DECOMPRESSION_BOMB, "unpack")
        yield member


def finish(member: Member, kind: Kind) -> None:
    """Read what is left of a packed member: damage shows at its end. Raises StudyError."""
    if kind in ("tar", "gz"):  # a gzip's one member was read whole to know its size
        return
    member.stream.seek(member.size - 1)
    if not member.stream.read(1):
        raise StudyError(Reason.ARCHIVE_CORRUPT, "unpack")
    while member.stream.read(PIECE):
        pass


def content(stream: BinaryIO, kind: Kind | None, allowance: Allowance) -> BinaryIO:
    """What the offsets of a file's slices count, if it is no ZIP: the file, or what a gzip holds."""
    return forward(partial(gunzipped, stream, allowance)) if kind in ("gz", "tar.gz") else stream


def gunzipped_member(member: Member, allowance: Allowance) -> Member:
    """The one file that a member holds which is a gzip itself; where it lies stays said by the member's address."""
    body = forward(partial(gunzipped, member.stream, allowance))
    return _sized(replace(member, size=_length(body), stream=forward(partial(gunzipped, member.stream, allowance))))


def begun(stream: BinaryIO, start: int, allowance: Allowance) -> tuple[BinaryIO, int]:
    """(stream, place) where the bytes of the file that begins at `start` are to be read, a gzip's inflated ones."""
    stream.seek(start)
    if stream.read(len(GZIP_MAGIC)) != GZIP_MAGIC:
        return stream, start
    return forward(partial(gunzipped, byte_range(stream, start, ENDLESS), allowance)), 0


class ZipMembers:
    """The members of a ZIP, to be read by the places of their headers."""

    def __init__(self, stream: BinaryIO, allowance: Allowance) -> None:
        self._stream = stream
        self._allowance = allowance
        self._entries = {entry.header_offset: entry for _, entry in _directory(stream, allowance)}

    def stream(self, address: int) -> BinaryIO:
        """A member's bytes. Raises StudyError FILE_VANISHED."""
        entry = self._entries.get(address)
        if entry is None:
            raise StudyError(Reason.FILE_VANISHED, "unpack")
        return forward(partial(unzipped, self._stream, entry, self._allowance))


def _kind_of_gzip(packed: bytes) -> Kind | None:
    try:
        head = zlib.decompressobj(GZIP).decompress(packed, BLOCK)
    except zlib.error:
        raise StudyError(Reason.ARCHIVE_CORRUPT, "unpack") from None
    if _is_dicom(head) or begins_nifti(head):
        return "gz"
    return "tar.gz" if begins_tar(head) else None


def _is_dicom(head: bytes) -> bool:
    return head[128:132] == b"DICM"


def _zip_members(stream: BinaryIO, allowance: Allowance) -> Iterator[Member]:
    """Raises StudyError ARCHIVE_CORRUPT at the end where members stand before those listed: two ZIPs joined into one file."""
    first = 0
    for number, (name, entry) in enumerate(_directory(stream, allowance)):
        first = min(first, entry.header_offset) if number else entry.header_offset
        if _escapes(entry.filename) or stat.S_ISLNK(entry.external_attr >> 16):
            yield Member(name, Reason.ZIP_SLIP)
        elif entry.flag_bits & 1:
            yield Member(name, Reason.ARCHIVE_ENCRYPTED)
        else:
            body = forward(partial(unzipped, stream, entry, allowance))
            yield _sized(Member(name, address=entry.header_offset, size=entry.file_size, stream=body))
    if first:
        raise StudyError(Reason.ARCHIVE_CORRUPT, "unpack")


def _directory(stream: BinaryIO, allowance: Allowance) -> Iterator[tuple[str, zipfile.ZipInfo]]:
    """(name, entry) of every file in a ZIP."""
    with allowance.parsing(Reason.ARCHIVE_CORRUPT, "unpack"), zipfile.ZipFile(cast("BinaryIO", _Bounded(stream))) as archive:
        listed = [entry for entry in archive.infolist() if not entry.is_dir()]
    return zip(_numbered(entry.filename for entry in listed), listed, strict=True)


def _other_members(stream: BinaryIO, kind: Kind, size: int, allowance: Allowance) -> Iterator[Member]:
    body = content(stream, kind, allowance)
    if kind == "gz":
        yield _sized(Member(ONLY, size=_length(body), stream=content(stream, kind, allowance)))
        return
    found = Counter[str]()
    for entry in entries(body, allowance):
        name = _numbered_by(found, entry.name)
        if entry.reason or _escapes(entry.name):
            yield Member(name, entry.reason or Reason.ZIP_SLIP)
        elif kind == "tar" and entry.start + entry.size > size:
            raise StudyError(Reason.ARCHIVE_CORRUPT, "unpack")
        else:
            yield _sized(Member(name, address=entry.start, size=entry.size, stream=byte_range(body, entry.start, entry.size)))


def _length(stream: BinaryIO) -> int:
    """How many bytes a stream holds, all of them read."""
    return sum(len(piece) for piece in iter(partial(stream.read, PIECE), b""))


def _sized(member: Member) -> Member:
    if member.size > MAX_MEMBER:
        return Member(member.name, Reason.DECOMPRESSION_BOMB)
    return member if member.size else Member(member.name, Reason.EMPTY_FILE)


def _numbered(names: Iterator[str]) -> Iterator[str]:
    found = Counter[str]()
    return (_numbered_by(found, name) for name in names)


def _numbered_by(found: Counter[str], name: str) -> str:
    """The portable name, and from its second time on which time it is."""
    name = portable(name)
    found[name] += 1
    return name if found[name] == 1 else f"{name}:{found[name]}"


def _escapes(name: str) -> bool:
    path = PurePosixPath(name.replace("\\", "/"))
    return path.is_absolute() or ".." in path.parts or (len(name) > 1 and name[1] == ":")


class _Bounded:
    """A file as zipfile reads it; a table of contents beyond measure is refused before it is read."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self.seek = stream.seek
        self.tell = stream.tell

    def read(self, size: int = -1) -> bytes:
        """The next bytes. Raises StudyError DECOMPRESSION_BOMB."""
        data = self._stream.read(min(size, MAX_DIRECTORY + 1) if size >= 0 else MAX_DIRECTORY + 1)
        if len(data) > MAX_DIRECTORY:
            raise StudyError(Reason.DECOMPRESSION_BOMB, "unpack")
        return data
