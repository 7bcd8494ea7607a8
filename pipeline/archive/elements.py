"""Walk the elements of a DICOM header: only the wanted ones are kept, everything else is passed over by its length.

The walk ends before the pixels and never reads them. It bounds its depth, and counts elements, items and what it keeps, so that
no file can exhaust the stack, the memory or the time. It knows nothing of meaning: values are raw bytes, wanted sequences are
lists of items.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import BinaryIO

from pipeline.archive.allowance import Allowance
from pipeline.archive.tags import (
    DOUBLE_FLOAT_PIXEL_DATA,
    FLOAT_PIXEL_DATA,
    ITEM,
    ITEM_DELIMITATION_ITEM,
    PIXEL_DATA,
    SEQUENCE_DELIMITATION_ITEM,
)
from pipeline.errors import Reason, StudyError

UNDEFINED = 0xFFFFFFFF
ENDS = frozenset({ITEM_DELIMITATION_ITEM, SEQUENCE_DELIMITATION_ITEM})
PIXELS = frozenset({PIXEL_DATA, FLOAT_PIXEL_DATA, DOUBLE_FLOAT_PIXEL_DATA})
LONG_FORM = frozenset({b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"})
SHORT_FORM = frozenset(b"AE AS AT CS DA DS DT FL FD IS LO LT PN SH SL SS ST TM UI UL US".split())
MAX_DEPTH = 32
MAX_VALUE = 1 << 16
MAX_ITEMS, MAX_ELEMENTS = 1_000_000, 3_000_000
"""A segmentation of 50,000 frames has half a million items; 10,000 frames of CT have 110,000, and a million elements."""
MAX_KEPT = 128 << 20
VALUE_COSTS, ITEM_COSTS = 100, 300
"""Bytes of memory beside the value's own."""
PAUSE_EVERY = 1024

Items = list["DataSet"]
DataSet = dict[int, "bytes | Items"]


@dataclass(frozen=True, slots=True)
class Form:
    """How elements are written."""

    implicit: bool
    big_endian: bool = False

    @property
    def order(self) -> str:
        """The struct module's byte-order mark."""
        return ">" if self.big_endian else "<"


EXPLICIT = Form(implicit=False)
IMPLICIT = Form(implicit=True)


@dataclass(frozen=True, slots=True)
class PixelSpan:
    """Where the pixel data's value begins in the stream; `length` may be UNDEFINED (encapsulated)."""

    tag: int
    offset: int
    length: int


class Walk:
    """One pass over a data set; `pixels` holds where they lie. `size` is where the stream ends."""

    def __init__(
        self, stream: BinaryIO, size: int, allowance: Allowance, wanted: frozenset[int], sequences: frozenset[int] = frozenset()
    ) -> None:
        self._stream = stream
        self._size = size
        self._allowance = allowance
        self._wanted = wanted
        self._sequences = sequences
        self._n_elements = self._n_items = self._kept = 0
        self.pixels: PixelSpan | None = None

    def data_set(self, form: Form, end: int | None = None, depth: int = 0) -> DataSet:
        """The wanted elements up to the pixels, to `end`, or to the end of the item. Raises StudyError, stage index."""
        if depth > MAX_DEPTH:
            raise StudyError(Reason.HEADER_TOO_DEEP, "index")
        found: DataSet = {}
        while (end is None or self._stream.tell() < end) and (head := self._head(form, may_end=depth == 0)):
            tag, length, nested = head
            if tag in PIXELS and depth == 0:
                self.pixels = PixelSpan(tag, self._stream.tell(), length)
                break
            if tag in ENDS:
                break
            value = self._value(tag, length, nested, depth)
            if value is not None:
                found[tag] = value
        return found

    def file_meta(self) -> DataSet:
        """Group 2, always explicit little endian; leaves the stream at the first element behind it."""
        found: DataSet = {}
        while True:
            start = self._stream.tell()
            group = self._stream.read(2)
            self._stream.seek(start)
            if group != b"\x02\x00":
                return found
            head = self._head(EXPLICIT, may_end=False)
            if head is not None:
                value = self._value(head[0], head[1], head[2], 0)
                if value is not None:
                    found[head[0]] = value

    def _head(self, form: Form, *, may_end: bool) -> tuple[int, int, Form] | None:
        """(tag, length, form of what is nested in it) of the next element; None at a clean end."""
        self._n_elements += 1
        if self._n_elements % PAUSE_EVERY == 0:
            self._pause()
        head = self._stream.read(8)
        if len(head) < 8:
            if may_end and not head.strip(b"\0"):
                return None
            raise StudyError(Reason.HEADER_CORRUPT, "index")
        group, element = struct.unpack(form.order + "HH", head[:4])
        tag = group << 16 | element
        if form.implicit or group == 0xFFFE:
            return tag, struct.unpack(form.order + "I", head[4:])[0], form
        kind = head[4:6]
        if kind in SHORT_FORM:
            return tag, struct.unpack(form.order + "H", head[6:])[0], form
        if kind not in LONG_FORM:
            return tag, self._length_of_unknown(tag, head, form), form
        length = struct.unpack(form.order + "I", self._exactly(4))[0]
        return tag, length, IMPLICIT if kind == b"UN" else form

    def _length_of_unknown(self, tag: int, head: bytes, form: Form) -> int:
        """The length of an element whose kind is none of DICOM's: in the form behind which another element begins.

        Writers put "--" or zeros there, write an element as if all were implicit, or use a kind that comes after this program.
        """
        start = self._stream.tell()
        short = struct.unpack(form.order + "H", head[6:])[0]
        unnamed = struct.unpack(form.order + "I", head[4:])[0]
        long = int.from_bytes(self._stream.read(4), "big" if form.big_endian else "little")
        for begin, length in ((start, short), (start + 4, long), (start, unnamed)):
            if self._begins_element(begin + length, tag, form):
                self._stream.seek(begin)
                return int(length)
        raise StudyError(Reason.HEADER_CORRUPT, "index")

    def _begins_element(self, place: int, behind: int, form: Form) -> bool:
        """Whether an element of a higher tag and a known kind, or an item's end, stands at a place."""
        if place + 8 > self._size:
            return False
        self._stream.seek(place)
        group, element, kind = struct.unpack(form.order + "HH2s", self._exactly(6))
        tag = group << 16 | element
        return tag == ITEM or tag in ENDS or (tag > behind and kind in SHORT_FORM | LONG_FORM)

    def _value(self, tag: int, length: int, form: Form, depth: int) -> bytes | Items | None:
        if length == UNDEFINED and tag in PIXELS:
            self._pass_fragments(form)
            return None
        if length == UNDEFINED or tag in self._sequences:
            return self._items(length, form, depth + 1, keep=tag in self._sequences)
        place = self._stream.tell() + length
        if place > self._size:
            raise StudyError(Reason.HEADER_CORRUPT, "index")
        if tag in self._wanted and length <= MAX_VALUE:
            self._keep(length + VALUE_COSTS)
            return self._exactly(length)
        self._stream.seek(place)
        return None

    def _items(self, length: int, form: Form, depth: int, *, keep: bool) -> Items | None:
        """The items of a sequence, or None if they are only walked over."""
        end = None if length == UNDEFINED else self._stream.tell() + length
        items: Items = []
        while end is None or self._stream.tell() < end:
            *tag, size = struct.unpack(form.order + "HHI", self._exactly(8))
            if tag == [0xFFFE, 0xE0DD]:
                break
            if tag != [0xFFFE, 0xE000]:
                raise StudyError(Reason.HEADER_CORRUPT, "index")
            stop = None if size == UNDEFINED else self._stream.tell() + size
            self._n_items += 1
            if self._n_items % PAUSE_EVERY == 0:
                self._pause()
            item = self.data_set(form, stop, depth)
            if keep:
                self._keep(ITEM_COSTS)
                items.append(item)
        return items if keep else None

    def _pass_fragments(self, form: Form) -> None:
        """Encapsulated pixels within a sequence (an icon): fragments are no data sets."""
        while True:
            self._n_items += 1
            if self._n_items % PAUSE_EVERY == 0:
                self._pause()
            *tag, length = struct.unpack(form.order + "HHI", self._exactly(8))
            if tag != [0xFFFE, 0xE000]:
                return
            self._stream.seek(length, 1)

    def _pause(self) -> None:
        """Now and then. Raises StudyError DECOMPRESSION_BOMB beyond measure, or what the allowance does."""
        self._allowance.pause()
        if self._n_elements > MAX_ELEMENTS or self._n_items > MAX_ITEMS:
            raise StudyError(Reason.DECOMPRESSION_BOMB, "index")

    def _keep(self, n_bytes: int) -> None:
        """So many bytes more stay in memory. Raises StudyError DECOMPRESSION_BOMB beyond measure."""
        self._kept += n_bytes
        if self._kept > MAX_KEPT:
            raise StudyError(Reason.DECOMPRESSION_BOMB, "index")

    def _exactly(self, length: int) -> bytes:
        data = self._stream.read(length)
        if len(data) < length:
            raise StudyError(Reason.HEADER_CORRUPT, "index")
        return data
