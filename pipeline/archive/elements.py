"""Walk the elements of a DICOM header: only the wanted ones are kept, everything else is passed over by its length.

The walk ends before the pixels and never reads them. It reads ahead, a piece at a time, and finds most elements in memory.

It bounds its depth, and counts elements, items and what it keeps, so that no file can exhaust stack, memory or time. It knows
nothing of meaning: values are raw bytes, wanted sequences are lists of items.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import BinaryIO

import msgspec

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
KINDS = SHORT_FORM | LONG_FORM
MAX_DEPTH = 32
MAX_VALUE = 1 << 16
MAX_ITEMS, MAX_ELEMENTS = 1_000_000, 3_000_000
"""A segmentation of 50,000 frames has half a million items; 10,000 frames of CT have 110,000, and a million elements."""
MAX_KEPT = 128 << 20
VALUE_COSTS, ITEM_COSTS = 100, 300
"""Bytes of memory beside the value's own."""
PAUSE_EVERY = 1024
PIECE = 8192
"""Bytes that are read ahead: most headers are shorter."""
NAMED = {False: struct.Struct("<HH2sH"), True: struct.Struct(">HH2sH")}
"""By big_endian: group, element, kind, and length in two bytes."""
UNNAMED = {False: struct.Struct("<HHI"), True: struct.Struct(">HHI")}
"""Group, element, and length in four bytes."""
LENGTH = {False: struct.Struct("<I"), True: struct.Struct(">I")}
"""The length that follows the two empty bytes behind a kind of the long form."""

Items = list["DataSet"]
DataSet = dict[int, "bytes | Items"]


@dataclass(frozen=True, slots=True)
class Form:
    """How elements are written."""

    implicit: bool
    big_endian: bool = False


EXPLICIT = Form(implicit=False)
IMPLICIT = Form(implicit=True)
META = (0x00020000, 0x00030000)
DATA = (0x00000000, 0x7FE00000)
"""From the first tag to below the second: elements of the file itself; those before the pixels and the ends of items."""


class PixelSpan(msgspec.Struct, frozen=True):
    """Where the pixel data's value begins in the stream; `length` may be UNDEFINED (encapsulated)."""

    tag: int
    offset: int
    length: int


class Walk:
    """One pass over a data set from where `stream` stands, which ends at `size`; `pixels` holds where they lie.

    `place` is where the next element begins; the stream itself is left anywhere.
    """

    def __init__(
        self, stream: BinaryIO, size: int, allowance: Allowance, wanted: frozenset[int], sequences: frozenset[int] = frozenset()
    ) -> None:
        self._stream = stream
        self._size = size
        self._allowance = allowance
        self._wanted = wanted
        self._sequences = sequences
        self._n_elements = self._n_items = self._kept = 0
        self._near = b""
        self._near_at = 0
        self.place = stream.tell()
        self.pixels: PixelSpan | None = None

    def data_set(self, form: Form, end: int | None = None, depth: int = 0) -> DataSet:
        """The wanted elements up to the pixels, to `end`, or to the end of the item. Raises StudyError, stage index."""
        if depth > MAX_DEPTH:
            raise StudyError(Reason.HEADER_TOO_DEEP, "index")
        found: DataSet = {}
        while True:
            self._take_plain(form, DATA, end, found)
            if end is not None and self.place >= end:
                break
            head = self._head(form, may_end=depth == 0)
            if head is None:
                break
            tag, length, nested = head
            if tag in PIXELS and depth == 0:
                self.pixels = PixelSpan(tag, self.place, length)
                break
            if tag in ENDS:
                break
            value = self._value(tag, length, nested, depth)
            if value is not None:
                found[tag] = value
        return found

    def file_meta(self) -> DataSet:
        """Group 2, always explicit little endian; `place` is then the first element behind it."""
        found: DataSet = {}
        self._take_plain(EXPLICIT, META, None, found)
        while self.ahead(2) == b"\x02\x00":
            head = self._head(EXPLICIT, may_end=False)
            if head is not None:
                value = self._value(head[0], head[1], head[2], 0)
                if value is not None:
                    found[head[0]] = value
        return found

    def _take_plain(self, form: Form, tags: tuple[int, int], end: int | None, found: DataSet) -> None:
        """Take in elements as long as they are plain: of `tags`, no sequence that is kept, wholly in the bytes read ahead.

        Nearly all are, so this loop is what indexing spends its time in. Whatever else comes is left to the methods below.
        """
        at = self._at(8)
        near = self._near
        limit = min(len(near), self._size - self._near_at, (self._size if end is None else end) - self._near_at)
        named = NAMED[form.big_endian].unpack_from
        unnamed = UNNAMED[form.big_endian].unpack_from
        implicit = form.implicit
        low, high = tags
        wanted = self._wanted
        sequences = self._sequences
        n_kept = n_bytes = n_elements = 0
        while at + 8 <= limit:
            begin = at + 8
            group, element, kind, length = named(near, at)
            if implicit:
                length = unnamed(near, at)[2]
            elif kind not in SHORT_FORM:
                if kind not in LONG_FORM or begin + 4 > limit:
                    break
                length = LENGTH[form.big_endian].unpack_from(near, begin)[0]
                begin += 4
            tag = group << 16 | element
            if begin + length > limit or not low <= tag < high or tag in sequences:
                break
            at = begin + length
            n_elements += 1
            if tag in wanted:
                found[tag] = near[begin:at]
                n_kept += 1
                n_bytes += length
        self.place = self._near_at + at
        self._keep(n_bytes + VALUE_COSTS * n_kept)
        self._count(n_elements)

    def _count(self, n_elements: int) -> None:
        """So many elements more have been met; now and then, `_pause`."""
        before = self._n_elements
        self._n_elements += n_elements
        if self._n_elements // PAUSE_EVERY > before // PAUSE_EVERY:
            self._pause()

    def _head(self, form: Form, *, may_end: bool) -> tuple[int, int, Form] | None:
        """(tag, length, form of what is nested in it) of the next element; None at a clean end."""
        self._count(1)
        at = self._at(8)
        if len(self._near) - at < 8:
            if may_end and not self._near[at:].strip(b"\0"):
                return None
            raise StudyError(Reason.HEADER_CORRUPT, "index")
        group, element, kind, length = NAMED[form.big_endian].unpack_from(self._near, at)
        tag = group << 16 | element
        self.place += 8
        if form.implicit or group == 0xFFFE:
            return tag, UNNAMED[form.big_endian].unpack_from(self._near, at)[2], form
        if kind in SHORT_FORM:
            return tag, length, form
        if kind not in LONG_FORM:
            return tag, self._length_of_unknown(tag, self._near[at : at + 8], form), form
        length = LENGTH[form.big_endian].unpack(self._exactly(4))[0]
        return tag, length, IMPLICIT if kind == b"UN" else form

    def _length_of_unknown(self, tag: int, head: bytes, form: Form) -> int:
        """The length of an element whose kind is none of DICOM's: in the form behind which another element begins.

        Writers put "--" or zeros there, write an element as if all were implicit, or use a kind that comes after this program.
        """
        start = self.place
        short = NAMED[form.big_endian].unpack(head)[3]
        unnamed = UNNAMED[form.big_endian].unpack(head)[2]
        long = int.from_bytes(self.ahead(4), "big" if form.big_endian else "little")
        for begin, length in ((start, short), (start + 4, long), (start, unnamed)):
            if self._begins_element(begin + length, tag, form):
                self.place = begin
                return int(length)
        raise StudyError(Reason.HEADER_CORRUPT, "index")

    def _begins_element(self, place: int, behind: int, form: Form) -> bool:
        """Whether an element of a higher tag and a known kind, or an item's end, stands at a place."""
        if place + 8 > self._size:
            return False
        self.place = place
        group, element, kind, _ = NAMED[form.big_endian].unpack(self._exactly(8))
        tag = group << 16 | element
        return tag == ITEM or tag in ENDS or (tag > behind and kind in KINDS)

    def _value(self, tag: int, length: int, form: Form, depth: int) -> bytes | Items | None:
        if length == UNDEFINED and tag in PIXELS:
            self._pass_fragments(form)
            return None
        if length == UNDEFINED or tag in self._sequences:
            return self._items(length, form, depth + 1, keep=tag in self._sequences)
        place = self.place + length
        if place > self._size:
            raise StudyError(Reason.HEADER_CORRUPT, "index")
        if tag in self._wanted and length <= MAX_VALUE:
            self._keep(length + VALUE_COSTS)
            return self._exactly(length)
        self.place = place
        return None

    def _items(self, length: int, form: Form, depth: int, *, keep: bool) -> Items | None:
        """The items of a sequence, or None if they are only walked over."""
        end = None if length == UNDEFINED else self.place + length
        items: Items = []
        while end is None or self.place < end:
            *tag, size = UNNAMED[form.big_endian].unpack(self._exactly(8))
            if tag == [0xFFFE, 0xE0DD]:
                break
            if tag != [0xFFFE, 0xE000]:
                raise StudyError(Reason.HEADER_CORRUPT, "index")
            stop = None if size == UNDEFINED else self.place + size
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
            *tag, length = UNNAMED[form.big_endian].unpack(self._exactly(8))
            if tag != [0xFFFE, 0xE000]:
                return
            self.place += length

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
        """The next bytes, and past them. Raises StudyError HEADER_CORRUPT where the stream ends before."""
        data = self.ahead(length)
        if len(data) < length:
            raise StudyError(Reason.HEADER_CORRUPT, "index")
        self.place += length
        return data

    def ahead(self, length: int) -> bytes:
        """The next bytes, fewer only where the stream ends; the walk stays where it is."""
        at = self._at(length)
        return self._near[at : at + length]

    def _at(self, length: int) -> int:
        """Where in `_near` the next bytes stand: so many of them, fewer only where the stream ends."""
        at = self.place - self._near_at
        if at + length > len(self._near) or at < 0:
            self._stream.seek(self.place)
            self._near = self._stream.read(max(PIECE, length))
            self._near_at = self.place
            return 0
        return at
