"""Read one file found: headers of an image, members of a container, a picture's digest, or the reason for none of them.

Never raises for what a file holds.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

from pipeline.archive.codestream import codestream_size, is_picture
from pipeline.archive.container import Kind, container_kind, members
from pipeline.archive.describe import MAX_MATRIX, Origin
from pipeline.archive.found import FileRecord, FoundFile
from pipeline.archive.headers import read_headers
from pipeline.archive.syntax import PICTURE
from pipeline.archive.walk import native, open_regular
from pipeline.errors import Reason, StudyError
from pipeline.records import SliceSource
from pipeline.stall import moved

MAX_PICTURE = 64 << 20


def scan_file(root: Path, found: FoundFile, tick: Callable[[], None] = lambda: None) -> FoundFile:
    """`found` with its records; `tick` is called between the members of a container."""
    if found.records:
        return found
    try:
        with open_regular(root / native(found.path)) as stream:
            kind = container_kind(stream)
            records = tuple(_members(stream, kind, found, tick)) if kind else (_record(stream, found.size, _origin(found)),)
    except StudyError as error:
        records = (FileRecord(reason=error.reason),)
    except OSError:
        records = (FileRecord(reason=Reason.IO_ERROR),)
    studies = sorted({header.study_uid for record in records for header in record.headers})
    return replace(found, records=records, studies=tuple(studies))


def _origin(found: FoundFile) -> Origin:
    return Origin(found.path, found.size, found.mtime_ns)


def _record(stream: BinaryIO, size: int, origin: Origin) -> FileRecord:
    """One file or member that is no container."""
    moved()
    try:
        stream.seek(0)
        if is_picture(stream.read(16)):
            return _picture(stream, size, origin)
        stream.seek(0)
        return FileRecord(headers=read_headers(stream, size, origin), member=origin.member)
    except StudyError as error:
        return FileRecord(reason=error.reason, member=origin.member)
    except RecursionError:
        return FileRecord(reason=Reason.HEADER_TOO_DEEP, member=origin.member)
    except (ValueError, ArithmeticError, LookupError, struct.error):
        return FileRecord(reason=Reason.HEADER_CORRUPT, member=origin.member)


def _picture(stream: BinaryIO, size: int, origin: Origin) -> FileRecord:
    """An exported slice: its size, and the digest that stands for the UID it lacks."""
    if size > MAX_PICTURE:
        raise StudyError(Reason.DECOMPRESSION_BOMB, "index")
    stream.seek(0)
    data = stream.read(size)
    pixels = codestream_size(data)
    if pixels is None:
        raise StudyError(Reason.HEADER_CORRUPT, "index")
    if max(pixels) > MAX_MATRIX:
        raise StudyError(Reason.DECOMPRESSION_BOMB, "index")
    source = SliceSource(
        origin.path, 0.0, origin.offset, size, origin.member, rows=pixels[0], columns=pixels[1], syntax=PICTURE,
        size=origin.size, mtime_ns=origin.mtime_ns,
    )  # fmt: skip
    return FileRecord(member=origin.member, picture=source, picture_sha256=hashlib.sha256(data).hexdigest())


def _members(stream: BinaryIO, kind: Kind, found: FoundFile, tick: Callable[[], None]) -> Iterator[FileRecord]:
    """The container's own record, then one a member; what was read before a container breaks off stays."""
    inside: list[FileRecord] = []
    own = Reason.UNPACKED
    try:
        for member in members(stream, kind, found.size):
            tick()
            if member.reason:
                inside.append(FileRecord(reason=member.reason, member=member.name))
            else:
                origin = replace(_origin(found), member=member.name, offset=member.offset)
                inside.append(_record(member.stream, member.size, origin))
    except StudyError as error:
        own = error.reason
    return iter((FileRecord(reason=own), *inside))
