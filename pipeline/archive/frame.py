"""One frame of a DICOM object: where it comes from, where its pixels lie, and its elements as text and numbers."""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass

from pipeline.archive.characters import decoded
from pipeline.archive.elements import DataSet, PixelSpan
from pipeline.archive.syntax import BIG_ENDIAN
from pipeline.archive.tags import SPECIFIC_CHARACTER_SET
from pipeline.config import Rule

FLOATS = {4: "f", 8: "d"}
"""How a binary floating-point number of so many bytes is unpacked."""
MAX_PARTS = 32
"""Values of one element that are looked at."""


@dataclass(frozen=True, slots=True)
class StreamOrigin:
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
    pixels: PixelSpan | None = None
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
        return decoded(self.raw(tag), self.raw(SPECIFIC_CHARACTER_SET))

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


def _number(text: str) -> float:
    """NaN where the text is no number: a decimal comma, for one."""
    try:
        return float(text)
    except ValueError:
        return math.nan
