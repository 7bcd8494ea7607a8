"""The wanted elements of one DICOM object -> a header for each of its frames, with the first problem that each has."""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from zlib import crc32

from pipeline.archive.allowance import Allowance
from pipeline.archive.characters import BLANKS, decoded
from pipeline.archive.elements import PIXEL_DATA, DataSet, PixelPlace
from pipeline.archive.found import Header, Traits
from pipeline.archive.patient import identity, person
from pipeline.archive.rules import matches
from pipeline.archive.syntax import BIG_ENDIAN, COMPRESSED, DEFLATED, NATIVE
from pipeline.config import Rule
from pipeline.errors import Reason, StudyError
from pipeline.records import Facts, SliceSource

IMAGE_TYPE, SOP_CLASS, SOP_UID, FRAME_TYPE = 0x00080008, 0x00080016, 0x00080018, 0x00089007
MANUFACTURER, MODEL = 0x00080070, 0x00081090
CHARACTER_SET, DESCRIPTION, COMMENTS = 0x00080005, 0x0008103E, 0x00204000
PATIENT_ID, ISSUER, NAME, BIRTH_DATE = 0x00100020, 0x00100021, 0x00100010, 0x00100030
CONTRAST, THICKNESS, KVP, KERNEL = 0x00180010, 0x00180050, 0x00180060, 0x00181210
STUDY_UID, SERIES_UID = 0x0020000D, 0x0020000E
ACQUISITION, POSITION, ORIENTATION, TEMPORAL = 0x00200012, 0x00200032, 0x00200037, 0x00200100
TEMPORAL_INDEX, FRAME_ACQUISITION, FRAME_TIME, STACK_ID = 0x00209128, 0x00209156, 0x00189074, 0x00209056
DATE_TIME, TIME, TRIGGER, TRIGGER_DELAY = 0x0008002A, 0x00080032, 0x00181060, 0x00209153
HEART_PHASE, BREATH_PHASE, HEART_POSITION, BREATH_POSITION = 0x00209241, 0x00209245, 0x00189236, 0x00189214
BREATH_DELAY = 0x00209255
SERIES_NUMBER, NUMBER, FRAME_OF_REFERENCE = 0x00200011, 0x00200013, 0x00200052
SAMPLES, PHOTOMETRIC, FRAMES, ROWS, COLUMNS, SPACING = 0x00280002, 0x00280004, 0x00280008, 0x00280010, 0x00280011, 0x00280030
ALLOCATED, STORED, HIGH_BIT, SIGNED = 0x00280100, 0x00280101, 0x00280102, 0x00280103
PADDING, PADDING_LIMIT = 0x00280120, 0x00280121
OVERLAY_BITS = tuple(0x60000102 + (plane << 17) for plane in range(16))
"""Which bit of the pixels' words each overlay plane stands in; 0 for one that has its own data."""
BURNED_IN = 0x00280301
INTERCEPT, SLOPE, RESCALE_TYPE = 0x00281052, 0x00281053, 0x00281054
SHARED, PER_FRAME = 0x52009229, 0x52009230
GROUPS = frozenset(
    {0x00209113, 0x00209116, 0x00289110, 0x00289145, 0x00189314, 0x00189329, 0x00189325, 0x00209111, 0x00189118, 0x00209253}
)  # plane position and orientation, pixel measures and values, reconstruction, frame type, X-ray, frame content, heart, breath
SEQUENCES = GROUPS | {SHARED, PER_FRAME}
WANTED = frozenset({
    IMAGE_TYPE, SOP_CLASS, SOP_UID, FRAME_TYPE, MANUFACTURER, MODEL, PATIENT_ID, ISSUER, CONTRAST, THICKNESS, KVP, KERNEL,
    STUDY_UID, SERIES_UID, ACQUISITION, POSITION, ORIENTATION, TEMPORAL, TEMPORAL_INDEX, FRAME_ACQUISITION, SAMPLES,
    PHOTOMETRIC, FRAMES, ROWS, COLUMNS, SPACING, ALLOCATED, STORED, HIGH_BIT, SIGNED, PADDING, PADDING_LIMIT, INTERCEPT,
    SLOPE, RESCALE_TYPE, BURNED_IN, *OVERLAY_BITS, CHARACTER_SET, NAME, BIRTH_DATE, FRAME_TIME, STACK_ID, DATE_TIME, TIME,
    TRIGGER, TRIGGER_DELAY, BREATH_DELAY, HEART_PHASE, BREATH_PHASE, HEART_POSITION, BREATH_POSITION, SERIES_NUMBER, NUMBER,
    FRAME_OF_REFERENCE, DESCRIPTION, COMMENTS,
})  # fmt: skip
CT = frozenset(f"1.2.840.10008.5.1.4.1.1.2{kind}" for kind in ("", ".1", ".2"))
"""CT, Enhanced CT, Legacy Converted Enhanced CT."""
FLOATS = {4: "f", 8: "d"}
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
    `asked` are the user's rules about a series' description, which is matched as it is read, and never kept.
    """

    path: str
    size: int
    mtime_ns: int = 0
    offset: int = 0
    member: str = ""
    address: int = 0
    check: str = ""
    asked: tuple[Rule, ...] = ()


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

    def words(self, tag: int) -> str:
        """The value decoded by the file's character set: what a person wrote."""
        return decoded(self.raw(tag), self.raw(CHARACTER_SET))

    def raw(self, tag: int) -> bytes:
        """The value's bytes, none where it is absent."""
        value = self.data.get(tag)
        return value if isinstance(value, bytes) else b""

    def binary(self, *tags: int) -> str:
        """The first binary floating-point number among `tags`, of 32 or 64 bits, as text."""
        order = ">" if self.layout.syntax == BIG_ENDIAN else "<"
        found = [value for tag in tags if len(value := self.raw(tag)) in FLOATS]
        return f"{struct.unpack(order + FLOATS[len(found[0])], found[0])[0]:g}" if found else ""

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
        return (_header(whole, _source(whole, origin), origin.asked),)
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
        headers.append(_header(frame, _source(frame, origin), origin.asked))
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


def _header(frame: Frame, source: SliceSource, asked: tuple[Rule, ...]) -> Header:
    kernel = "\\".join(frame.parts(KERNEL))[:MAX_TEXT]
    return Header(
        study_uid=frame.text(STUDY_UID),
        series_uid=frame.text(SERIES_UID),
        patient_id=identity(frame.words(ISSUER), frame.words(PATIENT_ID)),
        person=person(frame.words(NAME), frame.words(BIRTH_DATE)),
        sop_uid=frame.text(SOP_UID),
        sop_class=frame.text(SOP_CLASS),
        image_type=tuple(part.upper() for part in frame.parts(IMAGE_TYPE)),
        position=_finite(frame.numbers(POSITION)),
        orientation=_finite(frame.numbers(ORIENTATION)),
        spacing_mm=_finite(frame.numbers(SPACING)),
        traits=_traits(frame, kernel),
        contrast=bool(frame.text(CONTRAST)),
        inverted=frame.text(PHOTOMETRIC) == "MONOCHROME1",
        has_pixels=frame.layout.pixels is not None,
        matched=matches(asked, frame.words(DESCRIPTION)) if asked else 0,
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


def _traits(frame: Frame, kernel: str) -> Traits:
    """What tells this slice's acquisition from another of its series."""
    return Traits(
        acquisition=frame.text(ACQUISITION) or str(frame.whole(FRAME_ACQUISITION) or ""),
        moment=frame.text(TEMPORAL) or str(frame.whole(TEMPORAL_INDEX) or ""),
        phase=frame.binary(HEART_PHASE, BREATH_PHASE) or frame.text(HEART_POSITION) or frame.text(BREATH_POSITION),
        trigger=frame.text(TRIGGER) or frame.binary(TRIGGER_DELAY, BREATH_DELAY),
        kernel=kernel,
        frame=_short(frame, FRAME_OF_REFERENCE, SERIES_NUMBER, STACK_ID),
        note=_short(frame, DESCRIPTION, COMMENTS),
        time=frame.text(FRAME_TIME) or frame.text(DATE_TIME) or frame.text(TIME),
        number=frame.text(NUMBER),
    )


def _short(frame: Frame, *tags: int) -> str:
    """A checksum that stands for the values of elements."""
    values = [frame.raw(tag).strip(BLANKS) for tag in tags]
    return f"{crc32(b'|'.join(values)):x}" if any(values) else ""


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
