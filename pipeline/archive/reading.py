"""Bytes of chosen frames: from files, from members of containers, out of deflated data sets; nothing else is read.

A file must be as old and long as when it was indexed, and every address must lead to the bytes that indexing saw there.
"""

from __future__ import annotations

import hashlib
import os
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import BinaryIO

from msgspec.structs import replace

from pipeline.archive.allowance import Allowance
from pipeline.archive.container import ZipMembers, begun, container_kind, content
from pipeline.archive.fragments import join
from pipeline.archive.inflate import forward, undeflated
from pipeline.archive.syntax import DEFLATED, NATIVE, PICTURE
from pipeline.archive.walk import native, open_regular
from pipeline.errors import Reason, StudyError
from pipeline.records import SliceSource

Wanted = list[tuple[int, SliceSource]]
LARGEST_TO_RAW, FREE_BYTES = 4, 1 << 20
"""A compressed frame is at most so many times its raw pixels, and something for its header: more is never read."""
CHECKED = 4096
"""Bytes at the beginning of a file or member that tell it from its like: UIDs and places stand among them."""


def read_frames(root: Path, sources: Sequence[SliceSource], tick: Callable[[], None] = lambda: None) -> list[bytes]:
    """Each source's encoded frame, in order; every file is opened once, and read from front to back. Raises StudyError."""
    by_file: dict[str, Wanted] = defaultdict(list)
    for place, source in enumerate(sources):
        by_file[source.path].append((place, source))
    frames: dict[int, bytes] = {}
    for path, wanted in by_file.items():
        allowance = Allowance(tick)
        with allowance.parsing(Reason.DECODE_ERROR, "decode"), open_regular(root / native(path)) as stream:
            check_unchanged(stream, wanted[0][1])
            frames |= _of_one_file(stream, wanted, allowance)
    return [frames[place] for place in range(len(sources))]


def check_of(head: bytes) -> str:
    """A file's or member's first bytes (`CHECKED` of them, or all): how many, and their digest."""
    return f"{len(head)}-{hashlib.blake2b(head, digest_size=8).hexdigest()}"


def check_same(stream: BinaryIO, source: SliceSource) -> None:
    """Raises StudyError FILE_VANISHED where other bytes begin here than did when the source was indexed."""
    length = source.check.partition("-")[0]
    if length and check_of(stream.read(int(length))) != source.check:
        raise StudyError(Reason.FILE_VANISHED, "decode")


def check_unchanged(stream: BinaryIO, source: SliceSource) -> None:
    """The file must be the one that was indexed: places of another one would be read as pixels."""
    info = os.fstat(stream.fileno())
    if (info.st_size, info.st_mtime_ns) != (source.size, source.mtime_ns):
        raise StudyError(Reason.FILE_VANISHED, "decode")


def _of_one_file(stream: BinaryIO, wanted: Wanted, allowance: Allowance) -> dict[int, bytes]:
    allowance.unpack(wanted[0][1].size)
    kind = container_kind(stream) if wanted[0][1].member else None
    if kind != "zip":
        return dict(_of_stream(content(stream, kind, allowance), wanted, allowance))
    archive = ZipMembers(stream, allowance)
    by_member = dict[int, Wanted]()
    for place, source in wanted:
        by_member.setdefault(source.start, []).append((place, replace(source, start=0)))
    return {
        place: frame
        for start, of_member in by_member.items()
        for place, frame in _of_stream(archive.stream(start), of_member, allowance)
    }


def _of_stream(body: BinaryIO, wanted: Wanted, allowance: Allowance) -> Iterator[tuple[int, bytes]]:
    """(place, frame) of the sources that lie in one stream, each beginning looked at once."""
    proven = -1
    file = body
    for place, source in sorted(wanted, key=lambda item: (item[1].start, item[1].offset)):
        allowance.pause()
        if source.start != proven:
            file, begin = begun(body, source.start, allowance)
            file.seek(begin)
            check_same(file, source)
            proven = source.start
        yield place, _frame(file, source, allowance)


def _frame(body: BinaryIO, source: SliceSource, allowance: Allowance) -> bytes:
    raw = source.rows * source.columns * source.bits_allocated // 8
    if source.syntax == DEFLATED:
        return _undeflated(body, source, raw, allowance)
    body.seek(source.offset)
    if source.syntax in NATIVE or source.syntax == PICTURE:
        return body.read(source.length)
    return join(body.read(min(source.length, LARGEST_TO_RAW * raw + FREE_BYTES)))


def _undeflated(body: BinaryIO, source: SliceSource, raw: int, allowance: Allowance) -> bytes:
    """The pixels of a deflated file; `frame` holds their offset in the inflated data set."""
    data_set = forward(partial(undeflated, body, source.offset, source.length, allowance))
    data_set.seek(source.frame)
    try:
        return data_set.read(raw)
    except StudyError as error:
        raise StudyError(Reason.DECODE_ERROR, "decode") if error.reason == Reason.ARCHIVE_CORRUPT else error from None
