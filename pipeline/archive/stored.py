"""Words as a decoder gives them -> stored values, and which pixels lie outside the field of view.

A header speaks of values in one form, the pixels may be written in another: a value stands somewhere in a word (BitsStored,
HighBit), the word may hold more beside it (a mark of padding, an overlay plane), and a codestream has its own depth and sign.
Here, and nowhere else, the one is brought into the form of the other before they are compared.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline.archive.codestream import Codestream
from pipeline.errors import Reason, StudyError
from pipeline.records import SliceSource

Words = npt.NDArray[np.int32]
Mask = npt.NDArray[np.bool_]
HEADER_BITS = 16
"""What a header's numbers of pixels are written in, whatever the pixels are."""


@dataclass(frozen=True, slots=True)
class Pixels:
    """Stored values int32 [rows, columns], sign and position settled.

    `outside` marks what lies beyond the field of view. `is_doubtful`: the header and the codestream differ in sign and depth.
    `is_damaged`: the decoder complained of the codestream.
    """

    values: Words
    outside: Mask
    is_doubtful: bool = False
    is_damaged: bool = False


@dataclass(frozen=True, slots=True)
class Field:
    """A value's `bits` within a word of `width` bits, the lowest of them at `shift`."""

    width: int
    bits: int
    shift: int
    signed: bool

    @property
    def inside(self) -> int:
        """The bits of the word that hold the value."""
        return ((1 << self.bits) - 1) << self.shift

    @property
    def highest(self) -> int:
        """The bit that is a signed value's sign."""
        return 1 << (self.bits - 1) << self.shift


def stored_pixels(words: Words, source: SliceSource, code: Codestream | None = None) -> Pixels:
    """The stored values of `words`. Raises StudyError PIXEL_FORMAT or PIXELS_SIGN where header and words cannot agree."""
    field = field_of(source, code)
    raw = words & ((1 << field.width) - 1)
    low = raw if field.bits == field.width else raw & field.inside
    low = low >> field.shift if field.shift else low
    values = _signed(low, field.bits, field.signed)
    outside = _outside(raw, values, field, source)
    _check_unused(raw, outside, field, source.overlays)
    is_doubtful = code is not None and code.signed != source.signed and code.bits < source.bits_stored
    return Pixels(values, outside, is_doubtful)


def field_of(source: SliceSource, code: Codestream | None = None) -> Field:
    """Where the value stands. Raises StudyError PIXEL_FORMAT where the header puts it beyond the word."""
    width = source.bits_allocated if code is None else code.bits
    if width > source.bits_allocated:
        raise StudyError(Reason.PIXEL_FORMAT, "decode")
    if width <= source.bits_stored:
        return Field(width, width, 0, source.signed)
    if not source.bits_stored - 1 <= source.high_bit < source.bits_allocated:
        raise StudyError(Reason.PIXEL_FORMAT, "decode")
    is_low = source.high_bit >= width  # a codestream of too few bits for the word holds the value alone
    return Field(width, source.bits_stored, 0 if is_low else source.high_bit + 1 - source.bits_stored, source.signed)


def _signed(low: Words, bits: int, signed: bool) -> Words:
    if not signed:
        return low
    sign = 1 << (bits - 1)
    values = low ^ sign
    values -= sign
    return values


def _outside(raw: Words, values: Words, field: Field, source: SliceSource) -> Mask:
    """Pixels that hold the header's padding value, or one of its range."""
    if source.padding is None:
        return np.zeros(raw.shape, bool)
    ends = source.padding, source.padding if source.padding_limit is None else source.padding_limit
    as_values = [_as_value(end, field) for end in ends]
    if None not in as_values:
        return _between(values, [end for end in as_values if end is not None])
    whole = Field(field.width, field.width, 0, field.signed)
    has_room = not max(ends) >> field.width
    words = _between(_signed(raw, whole.bits, whole.signed), [_number(end, whole) for end in ends])
    outside = words if has_room else np.zeros(raw.shape, bool)
    if not outside.any() and (_corners(values) == _number(source.padding, field)).all():
        raise StudyError(Reason.PIXEL_FORMAT, "decode")  # cut to the stored bits, padding cannot be told from bone
    return outside


def _corners(values: Words) -> Words:
    return values[[0, -1]][:, [0, -1]]


def _as_value(pattern: int, field: Field) -> int | None:
    """What a header's 16 bits say as a stored value; None where they say more than its bits can."""
    above = pattern >> (field.bits - 1)
    is_extended = field.signed and above == (1 << (HEADER_BITS - field.bits + 1)) - 1
    return _number(pattern, field) if pattern < 1 << field.bits or is_extended else None


def _number(pattern: int, field: Field) -> int:
    low = pattern & ((1 << field.bits) - 1)
    return low - (1 << field.bits) if field.signed and low >> (field.bits - 1) else low


def _between(values: Words, ends: list[int]) -> Mask:
    return np.asarray((values >= min(ends)) & (values <= max(ends)))


def _check_unused(raw: Words, outside: Mask, field: Field, overlays: int) -> None:
    """Bits beside the value are empty, an overlay's, or above it its sign: else the header misplaces the value."""
    below = (1 << field.shift) - 1
    above = ((1 << field.width) - 1) & ~(below | field.inside | overlays)
    beside = above | (below & ~overlays)
    if not beside or not np.bitwise_or.reduce(raw, axis=None) & beside:
        return
    unused = raw & beside
    is_odd = (unused != 0) & ~outside
    if not is_odd.any():
        return
    is_extended = (unused == above) & ((raw & field.highest) != 0)
    if field.signed:
        is_odd &= ~is_extended
    if is_odd.any():
        denies_sign = not field.signed and bool(is_extended[is_odd].all())
        raise StudyError(Reason.PIXELS_SIGN if denies_sign else Reason.PIXEL_FORMAT, "decode")
