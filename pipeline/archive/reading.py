"""Bytes of chosen frames: from files, from TAR and ZIP members, out of deflated data sets; nothing else is read."""

from __future__ import annotations

import os
import zlib
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

from pipeline.archive.container import container_kind, inflated_tar, read_zip_member
from pipeline.archive.fragments import join
from pipeline.archive.syntax import DEFLATED, NATIVE, PICTURE
from pipeline.archive.walk import native, open_regular
from pipeline.errors import Reason, StudyError
from pipeline.records import SliceSource


def read_frames(root: Path, sources: Sequence[SliceSource]) -> list[bytes]:
    """Each source's encoded frame, in order; every file is opened once, and read from front to back."""
    by_file: dict[str, list[int]] = defaultdict(list)
    for place, source in enumerate(sources):
        by_file[source.path].append(place)
    frames: dict[int, bytes] = {}
    for path, places in by_file.items():
        with open_regular(root / native(path)) as stream:
            _check_unchanged(stream, sources[places[0]])
            try:
                frames |= _of_one_file(stream, [(place, sources[place]) for place in places])
            except OSError:
                raise StudyError(Reason.IO_ERROR, "decode") from None
    return [frames[place] for place in range(len(sources))]


def _check_unchanged(stream: BinaryIO, source: SliceSource) -> None:
    """The file must be the one that was indexed: places of another one would be read as pixels."""
    info = os.fstat(stream.fileno())
    if (info.st_size, info.st_mtime_ns) != (source.size, source.mtime_ns):
        raise StudyError(Reason.FILE_VANISHED, "decode")


def _of_one_file(stream: BinaryIO, wanted: list[tuple[int, SliceSource]]) -> dict[int, bytes]:
    kind = container_kind(stream) if wanted[0][1].member else None
    body = inflated_tar(stream) if kind == "tar.gz" else stream
    frames = {}
    for place, source in sorted(wanted, key=lambda item: item[1].offset):
        if kind == "zip":
            data = read_zip_member(stream, source.member, source.size)[source.offset :]
        else:
            body.seek(source.offset)
            data = body.read(source.length or -1)
        frames[place] = _frame(data[: source.length or None], source)
    return frames


def _frame(data: bytes, source: SliceSource) -> bytes:
    if source.syntax == DEFLATED:
        return _inflated(data, source)
    return data if source.syntax in NATIVE or source.syntax == PICTURE else join(data)


def _inflated(data: bytes, source: SliceSource) -> bytes:
    """The pixels of a deflated file; `frame` holds their offset in the inflated data set."""
    wanted = source.frame + source.rows * source.columns * source.bits_allocated // 8
    try:
        return zlib.decompressobj(-zlib.MAX_WBITS).decompress(data, wanted)[source.frame :]
    except zlib.error:
        raise StudyError(Reason.DECODE_ERROR, "decode") from None
