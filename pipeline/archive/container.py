"""ZIP and TAR containers: what is in them is read in place, never unpacked to disk.

A ZIP member is found by its name; a member of a TAR (plain or gzip) is a range of bytes of the (inflated) TAR, so that slices
are read by offset. What would leave the container (`..`, absolute names, links) is refused, and so is a container in a
container. Bytes are counted as they are inflated: what a container says of its own size is not believed.
"""

from __future__ import annotations

import gzip
import io
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import BinaryIO, Literal, cast

from pipeline.archive.walk import portable
from pipeline.errors import Reason, StudyError

Kind = Literal["zip", "tar", "tar.gz"]
ZIP_MAGIC, GZIP_MAGIC, TAR_MAGIC = (b"PK\x03\x04", b"PK\x05\x06"), b"\x1f\x8b", b"ustar"
TAR_MAGIC_AT, BLOCK = 257, 512
MAX_MEMBER = 1 << 30
FREE_BYTES = 64 << 20
MAX_RATIO = 200
BROKEN = (zipfile.BadZipFile, tarfile.TarError, zlib.error, struct.error, EOFError, RuntimeError, ValueError, LookupError)
"""What zipfile, tarfile and gzip raise, or let through, where a container is damaged (gzip's own is an OSError)."""


@dataclass(frozen=True, slots=True)
class Member:
    """One member: its bytes, or why they are refused. `name` is portable; `offset` is its place in a TAR."""

    name: str
    reason: str = ""
    offset: int = 0
    size: int = 0
    stream: BinaryIO = field(default_factory=io.BytesIO)


def container_kind(stream: BinaryIO) -> Kind | None:
    """Which container begins here, if any; a gzip that holds no TAR is none."""
    stream.seek(0)
    head = stream.read(TAR_MAGIC_AT + len(TAR_MAGIC))
    stream.seek(0)
    if head.startswith(ZIP_MAGIC):
        return "zip"
    if head[TAR_MAGIC_AT:] == TAR_MAGIC:
        return "tar"
    if head.startswith(GZIP_MAGIC):
        inflated = _gzip_head(stream)
        stream.seek(0)
        return "tar.gz" if inflated[TAR_MAGIC_AT:] == TAR_MAGIC else None
    return None


def members(stream: BinaryIO, kind: Kind, size: int) -> Iterator[Member]:
    """The files in a container of `size` bytes. Raises StudyError, stage unpack, where it cannot be read further."""
    try:
        yield from _zip_members(stream, size) if kind == "zip" else _tar_members(stream, kind, size)
    except (*BROKEN, gzip.BadGzipFile):
        raise StudyError(Reason.ARCHIVE_CORRUPT, "unpack") from None


def inflated_tar(stream: BinaryIO) -> BinaryIO:
    """The TAR in a gzip, to be read from front to back."""
    return cast("BinaryIO", gzip.GzipFile(fileobj=stream))


def read_zip_member(stream: BinaryIO, name: str, size: int) -> bytes:
    """One member of a ZIP. Raises StudyError where it is gone or broken."""
    try:
        with zipfile.ZipFile(stream) as archive:
            entry = next((entry for entry in archive.infolist() if portable(entry.filename) == name), None)
            if entry is None:
                raise StudyError(Reason.FILE_VANISHED, "unpack")
            return _read(archive, entry, Budget(size))
    except BROKEN:
        raise StudyError(Reason.ARCHIVE_CORRUPT, "unpack") from None


class Budget:
    """Counts what a container of `size` bytes has been inflated to."""

    def __init__(self, size: int) -> None:
        self._left = max(FREE_BYTES, MAX_RATIO * size)

    def spend(self, n_bytes: int) -> None:
        """Raises StudyError DECOMPRESSION_BOMB once it is more than any archive of images grows to."""
        self._left -= n_bytes
        if self._left < 0:
            raise StudyError(Reason.DECOMPRESSION_BOMB, "unpack")


def _zip_members(stream: BinaryIO, size: int) -> Iterator[Member]:
    budget = Budget(size)
    with zipfile.ZipFile(stream) as archive:
        for entry in archive.infolist():
            if entry.is_dir():
                continue
            name = portable(entry.filename)
            if _escapes(entry.filename) or stat.S_ISLNK(entry.external_attr >> 16):
                yield Member(name, Reason.ZIP_SLIP)
            elif entry.flag_bits & 1:
                yield Member(name, Reason.ARCHIVE_ENCRYPTED)
            else:
                yield _zip_member(archive, entry, budget)


def _zip_member(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, budget: Budget) -> Member:
    name = portable(entry.filename)
    try:
        data = _read(archive, entry, budget)
    except BROKEN:
        return Member(name, Reason.ARCHIVE_CORRUPT)
    return _checked(Member(name, size=len(data), stream=io.BytesIO(data)))


def _read(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, budget: Budget) -> bytes:
    """A member's bytes, counted while they are inflated."""
    parts = bytearray()
    with archive.open(entry) as source:
        while part := source.read(1 << 20):
            budget.spend(len(part))
            parts += part
            if len(parts) > MAX_MEMBER:
                raise StudyError(Reason.DECOMPRESSION_BOMB, "unpack")
    return bytes(parts)


def _tar_members(stream: BinaryIO, kind: Kind, size: int) -> Iterator[Member]:
    source = _Counted(stream, size) if kind == "tar.gz" else stream
    with tarfile.open(fileobj=cast("BinaryIO", source), mode="r:") as archive:
        for entry in archive:
            name = portable(entry.name)
            if entry.isdir():
                continue
            if not entry.isreg() or _escapes(entry.name):
                yield Member(name, Reason.ZIP_SLIP)
            elif entry.size > MAX_MEMBER:
                yield Member(name, Reason.DECOMPRESSION_BOMB)
            else:
                file = archive.extractfile(entry)
                data = file.read() if file else b""
                if len(data) < entry.size:
                    raise StudyError(Reason.ARCHIVE_CORRUPT, "unpack")
                yield _checked(Member(name, offset=entry.offset_data, size=len(data), stream=io.BytesIO(data)))


def _checked(member: Member) -> Member:
    if not member.size:
        return Member(member.name, Reason.EMPTY_FILE)
    return Member(member.name, Reason.ARCHIVE_NESTED) if container_kind(member.stream) else member


def _escapes(name: str) -> bool:
    path = PurePosixPath(name.replace("\\", "/"))
    return path.is_absolute() or ".." in path.parts or (len(name) > 1 and name[1] == ":")


def _gzip_head(stream: BinaryIO) -> bytes:
    stream.seek(0)
    try:
        return gzip.GzipFile(fileobj=stream).read(TAR_MAGIC_AT + len(TAR_MAGIC))
    except (*BROKEN, OSError):
        return b""


class _Counted(gzip.GzipFile):
    """A gzip stream that stops once it has grown beyond measure."""

    def __init__(self, stream: BinaryIO, size: int) -> None:
        super().__init__(fileobj=stream)
        self._budget = Budget(size)
        self._furthest = 0

    def read(self, size: int | None = -1) -> bytes:
        """The next bytes, counted once however often they are read."""
        data = super().read(size)
        self._budget.spend(max(0, self.tell() - self._furthest))
        self._furthest = max(self._furthest, self.tell())
        return data
