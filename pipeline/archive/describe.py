"""The wanted elements of one DICOM object -> a header for each of its frames, with the first problem that each has."""

from __future__ import annotations

import math
from zlib import crc32

from pipeline.archive import tags
from pipeline.archive.allowance import Allowance
from pipeline.archive.characters import BLANKS
from pipeline.archive.elements import DataSet, PixelSpan
from pipeline.archive.found import Header, Traits
from pipeline.archive.frame import Frame, Layout, StreamOrigin, Values
from pipeline.archive.patient import identity, person
from pipeline.archive.rules import matches
from pipeline.archive.syntax import COMPRESSED, DEFLATED, NATIVE
from pipeline.config import Rule
from pipeline.errors import Reason, StudyError
from pipeline.records import Facts, SliceSource

CT = frozenset(f"1.2.840.10008.5.1.4.1.1.2{kind}" for kind in ("", ".1", ".2"))
"""CT, Enhanced CT, Legacy Converted Enhanced CT."""
MAX_MATRIX = 4096
MAX_TEXT = 64
MAX_FRAMES = 10_000
MAX_SHARED = 32 << 20
"""Bytes of the elements that frames share, times the frames: each header holds them anew."""


def describe(data: DataSet, layout: Layout, origin: StreamOrigin, allowance: Allowance) -> tuple[Header, ...]:
    """One header a frame of CT, one for anything else. Raises StudyError DECOMPRESSION_BOMB for too many frames."""
    top = {tag: value for tag, value in data.items() if isinstance(value, bytes)}
    per_frame = data.get(tags.PER_FRAME_FUNCTIONAL_GROUPS_SEQUENCE)
    whole = Frame(top, 0, 1, layout)
    if not isinstance(per_frame, list) or not per_frame or whole.text(tags.SOP_CLASS_UID) not in CT:
        return (_header(whole, _source(whole, origin), origin.asked),)
    top.pop(tags.NUMBER_OF_FRAMES, None)
    shared = data.get(tags.SHARED_FUNCTIONAL_GROUPS_SEQUENCE)
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


def _flat(item: DataSet) -> Values:
    """A functional group's elements without their sequences."""
    flat: Values = {}
    for tag, value in item.items():
        if isinstance(value, list):
            flat |= _flat(value[0]) if value else {}
        else:
            flat[tag] = value
    return flat


def _typed(data: Values) -> Values:
    return data | {tags.IMAGE_TYPE: data[tags.FRAME_TYPE]} if tags.FRAME_TYPE in data else data


def _header(frame: Frame, source: SliceSource, asked: tuple[Rule, ...]) -> Header:
    kernel = "\\".join(frame.parts(tags.CONVOLUTION_KERNEL))[:MAX_TEXT]
    return Header(
        study_uid=frame.text(tags.STUDY_INSTANCE_UID),
        series_uid=frame.text(tags.SERIES_INSTANCE_UID),
        patient_id=identity(frame.words(tags.ISSUER_OF_PATIENT_ID), frame.words(tags.PATIENT_ID)),
        person=person(frame.words(tags.PATIENT_NAME), frame.words(tags.PATIENT_BIRTH_DATE)),
        sop_uid=frame.text(tags.SOP_INSTANCE_UID),
        sop_class=frame.text(tags.SOP_CLASS_UID),
        image_type=tuple(map(str.upper, frame.parts(tags.IMAGE_TYPE))),
        position=_finite(frame.numbers(tags.IMAGE_POSITION_PATIENT)),
        orientation=_finite(frame.numbers(tags.IMAGE_ORIENTATION_PATIENT)),
        spacing_mm=_finite(frame.numbers(tags.PIXEL_SPACING)),
        traits=_traits(frame, kernel),
        contrast=bool(frame.text(tags.CONTRAST_BOLUS_AGENT)),
        inverted=frame.text(tags.PHOTOMETRIC_INTERPRETATION) == "MONOCHROME1",
        has_pixels=frame.layout.pixels is not None,
        matched=matches(asked, frame.words(tags.SERIES_DESCRIPTION)) if asked else 0,
        problem=_pixel_problem(frame) or _value_problem(frame),
        source=source,
        facts=Facts(
            frame.text(tags.MANUFACTURER)[:MAX_TEXT],
            frame.text(tags.MANUFACTURER_MODEL_NAME)[:MAX_TEXT],
            kernel,
            frame.number(tags.SLICE_THICKNESS),
            frame.number(tags.KVP),
        ),
    )


def _traits(frame: Frame, kernel: str) -> Traits:
    """What tells this slice's acquisition from another of its series."""
    return Traits(
        acquisition=frame.text(tags.ACQUISITION_NUMBER) or str(frame.whole(tags.FRAME_ACQUISITION_NUMBER) or ""),
        moment=frame.text(tags.TEMPORAL_POSITION_IDENTIFIER) or str(frame.whole(tags.TEMPORAL_POSITION_INDEX) or ""),
        phase=frame.binary(tags.NOMINAL_PERCENTAGE_OF_CARDIAC_PHASE, tags.NOMINAL_PERCENTAGE_OF_RESPIRATORY_PHASE)
        or frame.text(tags.CARDIAC_CYCLE_POSITION)
        or frame.text(tags.RESPIRATORY_CYCLE_POSITION),
        trigger=frame.text(tags.TRIGGER_TIME)
        or frame.binary(tags.NOMINAL_CARDIAC_TRIGGER_DELAY_TIME, tags.NOMINAL_RESPIRATORY_TRIGGER_DELAY_TIME),
        kernel=kernel,
        frame=_short(frame, tags.FRAME_OF_REFERENCE_UID, tags.SERIES_NUMBER, tags.STACK_ID),
        note=_short(frame, tags.SERIES_DESCRIPTION, tags.IMAGE_COMMENTS),
        time=frame.text(tags.FRAME_ACQUISITION_DATE_TIME)
        or frame.text(tags.ACQUISITION_DATE_TIME)
        or frame.text(tags.ACQUISITION_TIME),
        number=frame.text(tags.INSTANCE_NUMBER),
    )


def _short(frame: Frame, *tags: int) -> str:
    """A checksum that stands for the values of elements."""
    values = [frame.raw(tag).strip(BLANKS) for tag in tags]
    return f"{crc32(b'|'.join(values)):x}" if any(values) else ""


def _source(frame: Frame, origin: StreamOrigin) -> SliceSource:
    layout = frame.layout
    bits = frame.whole(tags.BITS_ALLOCATED) or 0
    rows = frame.whole(tags.ROWS) or 0
    columns = frame.whole(tags.COLUMNS) or 0
    native = rows * columns * bits // 8
    begin, length = frame.place or ((layout.pixels.offset if layout.pixels else 0) + frame.place_in_object * native, native)
    deflated = layout.syntax == DEFLATED
    bits_stored = min(frame.whole(tags.BITS_STORED) or bits, bits)
    high_bit = frame.whole(tags.HIGH_BIT)
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
        signed=bool(frame.whole(tags.PIXEL_REPRESENTATION)),
        slope=frame.number(tags.RESCALE_SLOPE) or 0.0,
        intercept=frame.number(tags.RESCALE_INTERCEPT) or 0.0,
        padding=frame.whole(tags.PIXEL_PADDING_VALUE),
        padding_limit=frame.whole(tags.PIXEL_PADDING_RANGE_LIMIT),
        overlays=sum({1 << bit for bit in _overlay_bits(frame) if 0 < bit < bits}),
        syntax=layout.syntax,
        size=origin.size,
        mtime_ns=origin.mtime_ns,
        start=origin.address,
        check=origin.check,
    )


def _overlay_bits(frame: Frame) -> list[int]:
    return [frame.whole(tag) or 0 for tag in tags.OVERLAY_BIT_POSITIONS if tag in frame.data]


def _pixel_problem(frame: Frame) -> str:
    """What the header alone says against the pixels; a bomb is decided here, before anything is decoded."""
    layout = frame.layout
    pixels = frame.layout.pixels
    if pixels is None or pixels.length == 0:
        return Reason.NO_PIXEL_DATA
    if layout.syntax not in NATIVE | COMPRESSED:
        return Reason.UNSUPPORTED_TRANSFER_SYNTAX
    rows = frame.whole(tags.ROWS) or 0
    columns = frame.whole(tags.COLUMNS) or 0
    bits = frame.whole(tags.BITS_ALLOCATED) or 0
    if max(rows, columns) > MAX_MATRIX:
        return Reason.DECOMPRESSION_BOMB
    grey = (frame.whole(tags.SAMPLES_PER_PIXEL) or 1) == 1 and frame.text(tags.PHOTOMETRIC_INTERPRETATION).startswith("MONO")
    single = frame.text(tags.NUMBER_OF_FRAMES) in ("", "0", "1")  # what splits a multi-frame object takes the number away
    if not grey or not single or bits not in (8, 16) or rows * columns == 0 or pixels.tag != tags.PIXEL_DATA:
        return Reason.PIXEL_FORMAT
    if layout.syntax not in NATIVE:
        return layout.problem or ("" if frame.place else Reason.PIXEL_FORMAT)
    return _native_problem(frame, pixels, rows * columns * bits // 8, columns * bits // 8)


def _native_problem(frame: Frame, pixels: PixelSpan, native: int, row: int) -> str:
    """Some bytes too many fill the value up, as some writers do; a row's and more mean that the header has another size."""
    there = pixels.length
    if frame.layout.syntax != DEFLATED:
        there = min(there, frame.layout.size - pixels.offset)
    if there < native * (frame.place_in_object + 1):
        return Reason.TRUNCATED_PIXEL_DATA
    return Reason.PIXEL_FORMAT if pixels.length >= native * frame.n_frames + max(row, 2) else ""


def _value_problem(frame: Frame) -> str:
    """Why the values cannot be trusted to give HU at a known place, or may name somebody."""
    if frame.text(tags.BURNED_IN_ANNOTATION).upper() == "YES":
        return Reason.BURNED_IN
    slope = frame.number(tags.RESCALE_SLOPE)
    intercept = frame.number(tags.RESCALE_INTERCEPT)
    if slope is None or intercept is None or slope == 0 or max(abs(slope), abs(intercept)) > 1e6:
        return Reason.NOT_HU
    if frame.text(tags.RESCALE_TYPE).upper() not in ("HU", ""):
        return Reason.NOT_HU
    values = (
        *frame.numbers(tags.IMAGE_POSITION_PATIENT),
        *frame.numbers(tags.IMAGE_ORIENTATION_PATIENT),
        *frame.numbers(tags.PIXEL_SPACING),
    )
    return "" if all(map(math.isfinite, values)) else Reason.INVALID_VALUE


def _finite(values: tuple[float, ...]) -> tuple[float, ...]:
    """The values, or none of them where one is no number (the slice has that problem already)."""
    return values if all(map(math.isfinite, values)) else ()
