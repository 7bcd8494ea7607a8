"""Read one file found: headers of an image, members of a container, a picture's digest, a volume's grid, or why none.

Never raises for what a file holds.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from msgspec.structs import replace

from pipeline.archive.allowance import Allowance
from pipeline.archive.codestream import begins_nifti, codestream_size, is_picture
from pipeline.archive.container import Kind, Member, container_kind, finish, gunzipped_member, members
from pipeline.archive.describe import MAX_MATRIX
from pipeline.archive.found import FileRecord, FoundFile
from pipeline.archive.frame import StreamOrigin
from pipeline.archive.headers import read_headers
from pipeline.archive.nifti import scan_nifti
from pipeline.archive.reading import CHECKED, check_of
from pipeline.archive.syntax import PICTURE
from pipeline.archive.walk import native, open_regular
from pipeline.config import Rule
from pipeline.errors import Reason, StudyError
from pipeline.mpi.stall import moved
from pipeline.records import SliceSource

MAX_PICTURE = 64 << 20
LEAST_PICTURE_PX = 128


def scan_file(
    root: Path, found: FoundFile, tick: Callable[[], None] = lambda: None, asked: tuple[Rule, ...] = ()
) -> FoundFile:  # fmt: skip
    """`found` with its records; `tick` is called now and then, and what it raises passes; `asked`: see StreamOrigin."""
    if found.records:
        return found
    allowance = Allowance(tick)
    try:
        with allowance.parsing(Reason.HEADER_CORRUPT, "index"), open_regular(f"{root}/{native(found.path)}") as stream:
            records = _records(stream, _origin(found, asked), allowance)
    except StudyError as error:
        records = [FileRecord(reason=error.reason)]
    studies = sorted({header.study_uid for record in records for header in record.headers})
    return replace(found, records=tuple(records), studies=tuple(studies))


def _records(stream: BinaryIO, origin: StreamOrigin, allowance: Allowance) -> list[FileRecord]:
    """The file's own record; of a container its own, then one a member: what was read before it breaks off stays."""
    kind = container_kind(stream)
    if kind is None:
        return [_record(stream, origin.size, origin, allowance)]
    if kind == "unknown":
        return [FileRecord(reason=Reason.ARCHIVE_CORRUPT)]
    own = Reason.UNPACKED
    inside = list[FileRecord]()
    try:
        with allowance.parsing(Reason.ARCHIVE_CORRUPT, "unpack"):
            for member in members(stream, kind, origin.size, allowance):
                inside.append(_member(member, kind, origin, allowance))
    except StudyError as error:
        own = error.reason
    return [FileRecord(reason=own), *inside]


def _member(member: Member, kind: Kind, origin: StreamOrigin, allowance: Allowance) -> FileRecord:
    """What a member holds. Raises StudyError where the container cannot be read further."""
    reason = member.reason
    inner = None
    try:
        with allowance.parsing(Reason.HEADER_CORRUPT, "index"):
            inner = None if reason else container_kind(member.stream)
            if inner == "gz":
                member = gunzipped_member(member, allowance)
            elif inner:
                reason = Reason.ARCHIVE_NESTED
            if reason or member.reason:
                return FileRecord(reason=reason or member.reason, member=member.name)
            offset = 0 if kind == "zip" or inner else member.address
            place = replace(origin, member=member.name, address=member.address, offset=offset)
            record = _record(member.stream, member.size, place, allowance)
            finish(member, inner or kind)
            return record
    except StudyError as error:
        if error.reason == Reason.IO_ERROR or (error.stage == "unpack" and kind != "zip" and not inner):
            raise
        return FileRecord(reason=error.reason, member=member.name)


def _origin(found: FoundFile, asked: tuple[Rule, ...]) -> StreamOrigin:
    return StreamOrigin(found.path, found.size, found.mtime_ns, asked=asked)


def _record(stream: BinaryIO, size: int, origin: StreamOrigin, allowance: Allowance) -> FileRecord:
    """One file or member that is no container. Raises StudyError where it is not to be read further."""
    moved()
    try:
        with allowance.parsing(Reason.HEADER_CORRUPT, "index"):
            stream.seek(0)
            head = stream.read(CHECKED)
            stream.seek(0)
            origin = replace(origin, check=check_of(head))
            if is_picture(head):
                return _picture(stream, size, origin)
            if begins_nifti(head):
                return scan_nifti(stream, size, origin)
            return FileRecord(headers=read_headers(stream, size, origin, allowance), member=origin.member)
    except StudyError as error:
        if error.stage == "unpack" or error.reason == Reason.IO_ERROR:
            raise
        return FileRecord(reason=error.reason, member=origin.member)


def _picture(stream: BinaryIO, size: int, origin: StreamOrigin) -> FileRecord:
    """An exported slice: its size, and the digest that stands for the UID it lacks."""
    if size > MAX_PICTURE:
        raise StudyError(Reason.DECOMPRESSION_BOMB, "index")
    data = stream.read(size)
    pixels = codestream_size(data)
    if pixels is None:
        raise StudyError(Reason.HEADER_CORRUPT, "index")
    if max(pixels) > MAX_MATRIX:
        raise StudyError(Reason.DECOMPRESSION_BOMB, "index")
    if min(pixels) < LEAST_PICTURE_PX:
        raise StudyError(Reason.PIXEL_FORMAT, "index")
    source = SliceSource(
        origin.path, 0.0, origin.offset, size, origin.member, rows=pixels[0], columns=pixels[1], syntax=PICTURE,
        size=origin.size, mtime_ns=origin.mtime_ns, start=origin.address, check=origin.check,
    )  # fmt: skip
    return FileRecord(member=origin.member, picture=source, picture_sha256=hashlib.sha256(data).hexdigest())
