"""The whole headers of chosen slices, identity and all: for DICOM outputs that refer to the originals, and nothing else."""

from __future__ import annotations

import os
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

import pydicom
from pydicom.errors import InvalidDicomError

from pipeline.archive.container import container_kind, members
from pipeline.archive.walk import native, open_regular
from pipeline.errors import Reason, StudyError
from pipeline.records import SliceSource


def read_originals(root: Path, sources: Sequence[SliceSource]) -> list[pydicom.Dataset]:
    """Each source's data set without its pixels, in order. Raises StudyError where a file is gone or changed."""
    found: dict[tuple[str, str], pydicom.Dataset] = {}
    for path in dict.fromkeys(source.path for source in sources):
        of_file = [source for source in sources if source.path == path]
        with open_regular(root / native(path)) as stream:
            info = os.fstat(stream.fileno())
            if (info.st_size, info.st_mtime_ns) != (of_file[0].size, of_file[0].mtime_ns):
                raise StudyError(Reason.FILE_VANISHED, "decode")
            wanted = {source.member for source in of_file}
            streams = {"": stream} if wanted == {""} else _members(stream, wanted, info.st_size)
            found |= {(path, name): _header(one) for name, one in streams.items()}
    return [found[source.path, source.member] for source in sources]


def _members(stream: BinaryIO, wanted: set[str], size: int) -> dict[str, BinaryIO]:
    kind = container_kind(stream)
    if kind is None:
        raise StudyError(Reason.FILE_VANISHED, "unpack")
    streams: dict[str, BinaryIO] = {}
    for member in members(stream, kind, size):
        if member.name in wanted:
            streams[member.name] = BytesIO(member.stream.read())
    if set(streams) != wanted:
        raise StudyError(Reason.FILE_VANISHED, "unpack")
    return streams


def _header(stream: BinaryIO) -> pydicom.Dataset:
    try:
        stream.seek(0)
        data = pydicom.dcmread(stream, stop_before_pixels=True, force=True)
        data.decode()
    except (InvalidDicomError, OSError, ValueError, KeyError, EOFError):
        raise StudyError(Reason.HEADER_CORRUPT, "decode") from None
    return data
