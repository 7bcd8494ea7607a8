"""One DICOM file's bytes -> its images' headers: find the form in which it is written, walk it, describe every frame."""

from __future__ import annotations

import io
from typing import BinaryIO

from msgspec.structs import replace

from pipeline.archive import tags
from pipeline.archive.allowance import Allowance
from pipeline.archive.describe import MAX_FRAMES, describe
from pipeline.archive.elements import KINDS, UNDEFINED, DataSet, Form, PixelSpan, Walk
from pipeline.archive.found import Header
from pipeline.archive.fragments import frame_places
from pipeline.archive.frame import Layout, StreamOrigin
from pipeline.archive.inflate import undeflated
from pipeline.archive.syntax import BIG_ENDIAN, DEFLATED, EXPLICIT_LITTLE, IMPLICIT_LITTLE, NATIVE
from pipeline.errors import Reason, StudyError

MAX_INFLATED_HEADER = 8 << 20
DIRECTORY = "1.2.840.10008.1.3.10"
"""A DICOMDIR: the table of contents of a disc."""
OF_THE_FILE = frozenset({tags.TRANSFER_SYNTAX_UID, tags.MEDIA_STORAGE_SOP_CLASS_UID})
"""What is read before the data set."""
WANTED = tags.WANTED | OF_THE_FILE


def read_headers(stream: BinaryIO, size: int, origin: StreamOrigin, allowance: Allowance) -> tuple[Header, ...]:
    """The headers of the image or the frames in `stream` (`size` bytes). Raises StudyError with its reason."""
    walk = Walk(stream, size, allowance, WANTED, tags.SEQUENCES)
    syntax = _syntax(walk)
    start = walk.place
    body = stream
    limit = size
    if syntax == DEFLATED:
        body, limit = _inflated(stream, start, size, allowance)
        walk = Walk(body, limit, allowance, WANTED, tags.SEQUENCES)
    form = Form(implicit=False, big_endian=True) if syntax == BIG_ENDIAN else Form(implicit=not _names_kinds(walk))
    try:
        data = walk.data_set(form)
    except StudyError:
        if syntax == DEFLATED and limit == MAX_INFLATED_HEADER:
            raise StudyError(Reason.DECOMPRESSION_BOMB, "index") from None
        raise
    _check_uids(data, walk.pixels)
    layout = Layout(syntax, size, walk.pixels, deflated_at=start)
    try:
        layout = replace(layout, frames=_frames(body, data, layout, allowance))
    except StudyError as error:
        if error.stage == "unpack":
            raise  # what is wrong is the container
        layout = replace(layout, problem=error.reason)
    return describe(data, layout, origin, allowance)


def _syntax(walk: Walk) -> str:
    """The transfer syntax; the walk is then at the data set. Files without preamble or meta group are recovered if sane."""
    preamble = walk.ahead(132)
    has_magic = preamble[128:] == b"DICM"
    if has_magic:
        walk.place += 132
    elif preamble[:2] not in (b"\x02\x00", b"\x08\x00"):
        raise StudyError(Reason.NOT_DICOM, "index")
    try:
        meta = walk.file_meta()
    except StudyError as error:
        if has_magic or error.reason != Reason.HEADER_CORRUPT:
            raise
        raise StudyError(Reason.NOT_DICOM, "index") from error
    if _text(meta.get(tags.MEDIA_STORAGE_SOP_CLASS_UID)) == DIRECTORY:
        raise StudyError(Reason.NON_IMAGE_ONLY, "index")
    named = _text(meta.get(tags.TRANSFER_SYNTAX_UID))
    return named or _guessed(walk)


def _guessed(walk: Walk) -> str:
    """The syntax of a data set that does not name it: little endian, compressed by nothing."""
    if walk.ahead(2) != b"\x08\x00":
        raise StudyError(Reason.HEADER_CORRUPT, "index")
    return EXPLICIT_LITTLE if _names_kinds(walk) else IMPLICIT_LITTLE


def _names_kinds(walk: Walk) -> bool:
    """Whether the next element names its value representation; what a file says of itself is not always so."""
    return walk.ahead(6)[4:] in KINDS


def _inflated(stream: BinaryIO, start: int, size: int, allowance: Allowance) -> tuple[BinaryIO, int]:
    """The beginning of a deflated data set: bounded, whatever it would grow to."""
    data = bytearray()
    try:
        for piece in undeflated(stream, start, size - start, allowance):
            data += piece[: MAX_INFLATED_HEADER - len(data)]
            if len(data) == MAX_INFLATED_HEADER:
                break
    except StudyError as error:
        raise StudyError(Reason.HEADER_CORRUPT, "index") if error.reason == Reason.ARCHIVE_CORRUPT else error from None
    return io.BytesIO(bytes(data)), len(data)


def _check_uids(data: DataSet, pixels: PixelSpan | None) -> None:
    if not data.get(tags.STUDY_INSTANCE_UID) or not data.get(tags.SERIES_INSTANCE_UID):
        raise StudyError(Reason.MISSING_UID if pixels else Reason.HEADER_CORRUPT, "index")


def _frames(stream: BinaryIO, data: DataSet, layout: Layout, allowance: Allowance) -> tuple[tuple[int, int], ...]:
    """(offset, length) of every encapsulated frame; empty for native pixels, whose frames lie one after the other."""
    pixels = layout.pixels
    if pixels is None or layout.syntax in NATIVE or pixels.length != UNDEFINED:
        return ()
    return frame_places(stream, pixels.offset, layout.size, n_frames(data), allowance)


def n_frames(data: DataSet) -> int:
    """NumberOfFrames, 1 where there is none."""
    try:
        number = int(_text(data.get(tags.NUMBER_OF_FRAMES)) or 1)
    except ValueError:
        raise StudyError(Reason.INVALID_VALUE, "index") from None
    if number > MAX_FRAMES:
        raise StudyError(Reason.DECOMPRESSION_BOMB, "index")
    return max(1, number)


def _text(value: object) -> str:
    return value.decode("ascii", "replace").strip(" \0") if isinstance(value, bytes) else ""
