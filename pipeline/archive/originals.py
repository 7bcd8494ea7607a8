"""The whole headers of chosen slices, identity and all: for DICOM outputs that refer to the originals, and nothing else."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

import pydicom

from pipeline.archive.allowance import Allowance
from pipeline.archive.container import container_kind, members
from pipeline.archive.reading import check_same
from pipeline.archive.walk import native, open_regular
from pipeline.errors import Reason, StudyError
from pipeline.records import SliceSource


def read_originals(root: Path, sources: Sequence[SliceSource]) -> list[pydicom.Dataset]:
    """Each source's data set without its pixels, in order. Raises StudyError where a file is gone, changed or damaged."""
    found: dict[tuple[str, str], pydicom.Dataset] = {}
    for path in dict.fromkeys(source.path for source in sources):
        of_file = [source for source in sources if source.path == path]
        allowance = Allowance()
        with allowance.parsing(Reason.HEADER_CORRUPT, "decode"), open_regular(root / native(path)) as stream:
            info = os.fstat(stream.fileno())
            if (info.st_size, info.st_mtime_ns) != (of_file[0].size, of_file[0].mtime_ns):
                raise StudyError(Reason.FILE_VANISHED, "decode")
            wanted = {source.member: source for source in of_file}
            streams = iter([("", stream)]) if set(wanted) == {""} else _members(stream, set(wanted), info.st_size, allowance)
            found |= {(path, name): _header(one, wanted[name]) for name, one in streams}
    if any((source.path, source.member) not in found for source in sources):
        raise StudyError(Reason.FILE_VANISHED, "unpack")
    return [found[source.path, source.member] for source in sources]


def _members(stream: BinaryIO, wanted: set[str], size: int, allowance: Allowance) -> Iterator[tuple[str, BinaryIO]]:
    """(name, bytes) of the wanted members, each to be read before the next one is asked for."""
    if kind := container_kind(stream):
        for member in members(stream, kind, size, allowance):
            if member.name in wanted and not member.reason:
                yield member.name, member.stream


def _header(stream: BinaryIO, source: SliceSource) -> pydicom.Dataset:
    stream.seek(0)
    check_same(stream, source)
    stream.seek(0)
    data = pydicom.dcmread(stream, stop_before_pixels=True, force=True)
    data.decode()
    return data
