"""The wanted elements of one DICOM object -> a header for each of its frames, with the first problem that each has."""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass

from pipeline.archive.allowance import Allowance
from pipeline.archive.elements import PIXEL_DATA, DataSet, PixelPlace
from pipeline.archive.found import Header
from pipeline.archive.syntax import BIG_ENDIAN, COMPRESSED, DEFLATED, NATIVE
from pipeline.errors import Reason, StudyError
from pipeline.records import Facts, SliceSource

IMAGE_TYPE, SOP_CLASS, SOP_UID, FRAME_TYPE = 0x00080008, 0x00080016, 0x00080018, 0x00089007
MANUFACTURER, MODEL = 0x00080070, 0x00081090
PATIENT_ID, ISSUER = 0x00100020, 0x00100021
CONTRAST, THICKNESS, KVP, KERNEL = 0x00180010, 0x00180050, 0x00180060, 0x00181210
STUDY_UID, SERIES_UID = 0x0020000D, 0x0020000E
ACQUISITION, POSITION, ORIENTATION, TEMPORAL = 0x00200012, 0x00200032, 0x00200037, 0x00200100
TEMPORAL_INDEX, FRAME_ACQUISITION = 0x00209128, 0x00209156
SAMPLES, PHOTOMETRIC, FRAMES, ROWS, COLUMNS, SPACING = 0x00280002, 0x00280004, 0x00280008, 0x00280010, 0x00280011, 0x00280030
ALLOCATED, STORED, HIGH_BIT, SIGNED = 0x00280100, 0x00280101, 0x00280102, 0x00280103
PADDING, PADDING_LIMIT = 0x00280120, 0x00280121
OVERLAY_BITS = tuple(0x60000102 + (plane << 17) for plane in range(16))
"""Which bit of the pixels' words each overlay plane stands in; 0 for one that has its own data."""
BURNED_IN = 0x00280301
INTERCEPT, SLOPE, RESCALE_TYPE = 0x00281052, 0x00281053, 0x00281054
SHARED, PER_FRAME = 0x52009229, 0x52009230
GROUPS = frozenset(
    {0x00209113, 0x00209116, 0x00289110, 0x00289145, 0x00189314, 0x00189329, 0x00189325, 0x00209111}
)  # plane position and orientation, pixel measures and values, reconstruction, frame type, X-ray, frame content
SEQUENCES = GROUPS | {SHARED, PER_FRAME}
WANTED = frozenset({
    IMAGE_TYPE, SOP_CLASS, SOP_UID, FRAME_TYPE, MANUFACTURER, MODEL, PATIENT_ID, ISSUER, CONTRAST, THICKNESS, KVP, KERNEL,
    STUDY_UID, SERIES_UID, ACQUISITION, POSITION, ORIENTATION, TEMPORAL, TEMPORAL_INDEX, FRAME_ACQUISITION, SAMPLES,
    PHOTOMETRIC, FRAMES, ROWS, COLUMNS, SPACING, ALLOCATED, STORED, HIGH_BIT, SIGNED, PADDING, PADDING_LIMIT, INTERCEPT,
    SLOPE, RESCALE_TYPE, BURNED_IN, *OVERLAY_BITS,
})  # fmt: skip
CT = frozenset(f"1.2.840.10008.5.1.4.1.1.2{kind}" for kind in ("", ".1", ".2"))
"""CT, Enhanced CT, Legacy Converted Enhanced CT."""
MAX_MATRIX = 4096
MAX_TEXT = 64
MAX_PARTS = 32
MAX_FRAMES = 10_000
MAX_SHARED = 32 << 20
"""Bytes of the elements that frames share, times the frames: each header holds them anew."""


@dataclass(frozen=True, slots=True)
class Origin:
    """The file on disk whose bytes a stream holds: all of it, from `offset` on (a TAR member), or its ZIP `member`.

    `address` is where a member is found again (as `SliceSource.start`), `check` the digest of the stream's first bytes.
    """

    path: str
    size: int
    mtime_ns: int = 0
    offset: int = 0
    member: str = ""
    address: int = 0
    check: str = ""


@dataclass(frozen=True, slots=True)
class Layout:
    """Where the pixels lie in a stream of `size` bytes.

    `frames` holds (offset, length) of each encapsulated frame; places in a deflated data set count inflated bytes, and the
    deflated ones begin at `deflated_at`. `problem` says what is wrong with the encapsulation.
    """

    syntax: str
    size: int
    pixels: PixelPlace | None = None
    frames: tuple[tuple[int, int], ...] = ()
    deflated_at: int = 0
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Frame:
    """One frame's elements (multi-frame: the object's, the shared and the frame's own, merged) and where its pixels lie."""

    data: DataSet
    place_in_object: int
    n_frames: int
    layout: Layout

    @property
    def place(self) -> tuple[int, int] | None:
        """(offset, length) of the encapsulated frame."""
        return self.layout.frames[self.place_in_object] if self.place_in_object < len(self.layout.frames) else None

    def text(self, tag: int) -> str:
        """The value as one line of text."""
        value = self.data.get(tag)
        text = value.decode("latin-1") if isinstance(value, bytes) else ""
        if not text.isprintable():
            text = "".join(letter if letter.isprintable() else " " for letter in text)
        return " ".join(text.split())

    def parts(self, tag: int) -> tuple[str, ...]:
        """The values of a multi-valued element."""
        text = self.text(tag)
        return tuple(part.strip() for part in text.split("\\")[:MAX_PARTS]) if text else ()

    def numbers(self, tag: int) -> tuple[float, ...]:
        """Decimal strings as numbers; NaN stands for one that is none."""
        return tuple(_number(part) for part in self.parts(tag))

    def number(self, tag: int) -> float | None:
        """One decimal string, None where absent or no number."""
        values = self.numbers(tag)
        return values[0] if len(values) == 1 and math.isfinite(values[0]) else None

    def whole(self, tag: int) -> int | None:
        """A 16-bit integer without sign, None where absent."""
        value = self.data.get(tag)
        if not isinstance(value, bytes) or len(value) < 2:
            return None
        return int(struct.unpack((">" if self.layout.syntax == BIG_ENDIAN else "<") + "H", value[:2])[0])


def describe(data: DataSet, layout: Layout, origin: Origin, allowance: Allowance) -> tuple[Header, ...]:
    """One header a frame of CT, one for anything else. Raises StudyError DECOMPRESSION_BOMB for too many frames."""
    top = {tag: value for tag, value in data.items() if tag not in SEQUENCES}
    per_frame = data.get(PER_FRAME)
    whole = Frame(top, 0, 1, layout)
    if not isinstance(per_frame, list) or not per_frame or whole.text(SOP_CLASS) not in CT:
        return (_header(whole, _source(whole, origin)),)
    top.pop(FRAMES, None)
    shared = data.get(SHARED)
    common = top | (_flat(shared[0]) if isinstance(shared, list) and shared else {})
    n_bytes = sum(len(value) for value in common.values()) * len(per_frame)
    if len(per_frame) > MAX_FRAMES or n_bytes > MAX_SHARED:
        raise StudyError(Reason.DECOMPRESSION_BOMB, "index")
    headers: list[Header] = []
    for number, item in enumerate(per_frame):
        allowance.pause()
        frame = Frame(_typed(common | _flat(item)), number, len(per_frame), layout)
        headers.append(_header(frame, _source(frame, origin)))
    return tuple(headers)


def _flat(item: DataSet) -> DataSet:
    """A functional group's elements without their sequences."""
    flat: DataSet = {}
    for tag, value in item.items():
        if isinstance(value, list):
            flat |= _flat(value[0]) if value else {}
        else:
            flat[tag] = value
    return flat


def _typed(data: DataSet) -> DataSet:
    return data | {IMAGE_TYPE: data[FRAME_TYPE]} if FRAME_TYPE in data else data


def _header(frame: Frame, source: SliceSource) -> Header:
    kernel = "\\".join(frame.parts(KERNEL))[:MAX_TEXT]
    moment = frame.text(TEMPORAL) or str(frame.whole(TEMPORAL_INDEX) or "")
    return Header(
        study_uid=frame.text(STUDY_UID),
        series_uid=frame.text(SERIES_UID),
        patient_id=f"{frame.text(ISSUER)}\\{frame.text(PATIENT_ID)}",
        sop_uid=frame.text(SOP_UID),
        sop_class=frame.text(SOP_CLASS),
        image_type=tuple(part.upper() for part in frame.parts(IMAGE_TYPE)),
        position=_finite(frame.numbers(POSITION)),
        orientation=_finite(frame.numbers(ORIENTATION)),
        spacing_mm=_finite(frame.numbers(SPACING)),
        stack=(frame.text(ACQUISITION) or str(frame.whole(FRAME_ACQUISITION) or ""), moment, kernel),
        contrast=bool(frame.text(CONTRAST)),
        inverted=frame.text(PHOTOMETRIC) == "MONOCHROME1",
        has_pixels=frame.layout.pixels is not None,
        problem=_pixel_problem(frame) or _value_problem(frame),
        source=source,
        facts=Facts(
            frame.text(MANUFACTURER)[:MAX_TEXT],
            frame.text(MODEL)[:MAX_TEXT],
            kernel,
            frame.number(THICKNESS),
            frame.number(KVP),
        ),
    )


def _source(frame: Frame, origin: Origin) -> SliceSource:
    layout = frame.layout
    bits, rows, columns = frame.whole(ALLOCATED) or 0, frame.whole(ROWS) or 0, frame.whole(COLUMNS) or 0
    native = rows * columns * bits // 8
    begin, length = frame.place or ((layout.pixels.offset if layout.pixels else 0) + frame.place_in_object * native, native)
    deflated = layout.syntax == DEFLATED
    bits_stored = min(frame.whole(STORED) or bits, bits)
    high_bit = frame.whole(HIGH_BIT)
    return SliceSource(
        origin.path,
        0.0,
        offset=origin.offset + (layout.deflated_at if deflated else begin),
        length=layout.size - layout.deflated_at if deflated else length,
        member=origin.member,
        frame=begin if deflated else frame.place_in_object,
        rows=rows,
        columns=columns,
        bits_allocated=bits,
        bits_stored=bits_stored,
        high_bit=bits_stored - 1 if high_bit is None else high_bit,
        signed=bool(frame.whole(SIGNED)),
        slope=frame.number(SLOPE) or 0.0,
        intercept=frame.number(INTERCEPT) or 0.0,
        padding=frame.whole(PADDING),
        padding_limit=frame.whole(PADDING_LIMIT),
        overlays=sum({1 << bit for tag in OVERLAY_BITS if 0 < (bit := frame.whole(tag) or 0) < bits}),
        syntax=layout.syntax,
        size=origin.size,
        mtime_ns=origin.mtime_ns,
        start=origin.address,
        check=origin.check,
    )


def _pixel_problem(frame: Frame) -> str:
    """What the header alone says against the pixels; a bomb is decided here, before anything is decoded."""
    layout, pixels = frame.layout, frame.layout.pixels
    if pixels is None or pixels.length == 0:
        return Reason.NO_PIXEL_DATA
    if layout.syntax not in NATIVE | COMPRESSED:
        return Reason.UNSUPPORTED_TRANSFER_SYNTAX
    rows, columns, bits = frame.whole(ROWS) or 0, frame.whole(COLUMNS) or 0, frame.whole(ALLOCATED) or 0
    if max(rows, columns) > MAX_MATRIX:
        return Reason.DECOMPRESSION_BOMB
    grey = (frame.whole(SAMPLES) or 1) == 1 and frame.text(PHOTOMETRIC).startswith("MONO")
    single = frame.text(FRAMES) in ("", "1")
    if not grey or not single or bits not in (8, 16) or rows * columns == 0 or pixels.tag != PIXEL_DATA:
        return Reason.PIXEL_FORMAT
    if layout.syntax not in NATIVE:
        return layout.problem or ("" if frame.place else Reason.PIXEL_FORMAT)
    return _native_problem(frame, pixels, rows * columns * bits // 8)


def _native_problem(frame: Frame, pixels: PixelPlace, native: int) -> str:
    there = pixels.length
    if frame.layout.syntax != DEFLATED:
        there = min(there, frame.layout.size - pixels.offset)
    if there < native * (frame.place_in_object + 1):
        return Reason.TRUNCATED_PIXEL_DATA
    return Reason.PIXEL_FORMAT if pixels.length > native * frame.n_frames + 1 else ""


def _value_problem(frame: Frame) -> str:
    """Why the values cannot be trusted to give HU at a known place, or may name somebody."""
    if frame.text(BURNED_IN).upper() == "YES":
        return Reason.BURNED_IN
    slope, intercept = frame.number(SLOPE), frame.number(INTERCEPT)
    if slope is None or intercept is None or slope == 0 or max(abs(slope), abs(intercept)) > 1e6:
        return Reason.NOT_HU
    if frame.text(RESCALE_TYPE).upper() not in ("HU", ""):
        return Reason.NOT_HU
    values = (*frame.numbers(POSITION), *frame.numbers(ORIENTATION), *frame.numbers(SPACING))
    return "" if all(math.isfinite(value) for value in values) else Reason.INVALID_VALUE


def _finite(values: tuple[float, ...]) -> tuple[float, ...]:
    """The values, or none of them where one is no number (the slice has that problem already)."""
    return values if all(math.isfinite(value) for value in values) else ()


def _number(text: str) -> float:
    """NaN where the text is no number: a decimal comma, for one."""
    try:
        return float(text)
    except ValueError:
        return math.nan
