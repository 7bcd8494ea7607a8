"""One frame of a DICOM object: where it comes from, where its pixels lie, and its elements as text and numbers."""

from __future__ import annotations

import math
import struct
from collections.abc import Callable
from functools import lru_cache
from typing import TypeVar

import msgspec

from pipeline.archive.characters import decoded
from pipeline.archive.elements import PixelSpan
from pipeline.archive.syntax import BIG_ENDIAN
from pipeline.archive.tags import SPECIFIC_CHARACTER_SET
from pipeline.config import Rule

FLOATS = {4: "f", 8: "d"}
"""How a binary floating-point number of so many bytes is unpacked."""
MAX_PARTS = 32
"""Values of one element that are looked at."""
REMEMBERED, SHORT = 4096, 64
"""Values whose meaning is remembered, and the bytes that such a value has at most: slices of a series say most things alike."""

Values = dict[int, bytes]
Meaning = TypeVar("Meaning")


class StreamOrigin(msgspec.Struct, frozen=True):
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


class Layout(msgspec.Struct, frozen=True):
    """Where the pixels lie in a stream of `size` bytes.

    `frames` holds (offset, length) of each encapsulated frame; places in a deflated data set count inflated bytes, and the
    deflated ones begin at `deflated_at`. `problem` says what is wrong with the encapsulation.
    """

    syntax: str
    size: int
    pixels: PixelSpan | None = None
    frames: tuple[tuple[int, int], ...] = ()
    deflated_at: int = 0
    problem: str = ""


class Frame(msgspec.Struct, frozen=True):
    """One frame's elements (multi-frame: the object's, the shared and the frame's own, merged) and where its pixels lie."""

    data: Values
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
        return _text(value) if value else ""

    def words(self, tag: int) -> str:
        """The value decoded by the file's character set: what a person wrote."""
        return decoded(self.raw(tag), self.raw(SPECIFIC_CHARACTER_SET))

    def raw(self, tag: int) -> bytes:
        """The value's bytes, none where it is absent."""
        return self.data.get(tag, b"")

    def binary(self, *tags: int) -> str:
        """The first binary floating-point number among `tags`, of 32 or 64 bits, as text."""
        order = ">" if self.layout.syntax == BIG_ENDIAN else "<"
        found = [value for tag in tags if len(value := self.raw(tag)) in FLOATS]
        return f"{struct.unpack(order + FLOATS[len(found[0])], found[0])[0]:g}" if found else ""

    def parts(self, tag: int) -> tuple[str, ...]:
        """The values of a multi-valued element."""
        value = self.data.get(tag)
        return _parts(value) if value else ()

    def numbers(self, tag: int) -> tuple[float, ...]:
        """Decimal strings as numbers; NaN stands for one that is none."""
        value = self.data.get(tag)
        return _numbers(value) if value else ()

    def number(self, tag: int) -> float | None:
        """One decimal string, None where absent or no number."""
        values = self.numbers(tag)
        return values[0] if len(values) == 1 and math.isfinite(values[0]) else None

    def whole(self, tag: int) -> int | None:
        """A 16-bit integer without sign, None where absent."""
        value = self.data.get(tag)
        if value is None or len(value) < 2:
            return None
        return int.from_bytes(value[:2], "big" if self.layout.syntax == BIG_ENDIAN else "little")


def _remembered(function: Callable[[bytes], Meaning]) -> Callable[[bytes], Meaning]:
    """The same function; what short values meant is remembered."""
    known = lru_cache(REMEMBERED)(function)
    return lambda value: known(value) if len(value) <= SHORT else function(value)


@_remembered
def _text(value: bytes) -> str:
    """One line, without what cannot be printed."""
    text = value.decode("latin-1")
    if not text.isprintable():
        text = "".join(letter if letter.isprintable() else " " for letter in text)
    return " ".join(text.split())


@_remembered
def _parts(value: bytes) -> tuple[str, ...]:
    text = _text(value)
    return tuple(part.strip() for part in text.split("\\")[:MAX_PARTS]) if text else ()


@_remembered
def _numbers(value: bytes) -> tuple[float, ...]:
    return tuple(_number(part) for part in _parts(value))


def _number(text: str) -> float:
    """NaN where the text is no number: a decimal comma, for one."""
    try:
        return float(text)
    except ValueError:
        return math.nan
