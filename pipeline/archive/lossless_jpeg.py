"""Whether a JPEG Lossless codestream is what its decoded values would be written as: its decoders notice no damage.

Values and code determine each other (ITU-T T.81, annex H): the differences from the predicted values say how many bits the
codestream must have. After a flipped bit the decoder reads on out of step, and comes out elsewhere or beyond the depth.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from pipeline.archive.codestream import jpeg_segments

TABLES = 0xC4
FRAME = 0xC3
SCAN = 0xDA
RESTARTS = 0xDD
IMPOSSIBLE = 1 << 20
"""The bits of a difference that the table has no code for: more than any sound codestream has to spare."""

Words = npt.NDArray[np.int32]


@dataclass(slots=True)
class _Head:
    """What stands before the coded data: code lengths by (table, category), and how values are predicted."""

    lengths: dict[int, npt.NDArray[np.int64]] = field(default_factory=dict)
    bits: int = 0
    n_components: int = 0
    has_restarts: bool = False
    table: int = 0
    predictor: int = 0
    point: int = 0
    data: int = 0


def is_consistent(frame: bytes, words: Words) -> bool:
    """Whether `words` would be written with as many bits as there are; True where that cannot be told."""
    try:
        head = _head(frame)
    except (IndexError, ValueError):
        return False  # a decoder made something of it nevertheless
    if head.has_restarts or head.n_components != 1 or not 1 <= head.predictor <= 7:
        return True
    if words.min() < 0 or words.max() >> head.bits:
        return False
    there = _n_bits(frame, head.data)
    needed = int(head.lengths[head.table][_differences(words >> head.point, head)].sum())
    return needed <= there < needed + 8


def _head(frame: bytes) -> _Head:
    """Raises IndexError or ValueError where the segments make no sense."""
    head = _Head()
    for marker, begin, end in jpeg_segments(frame):
        _read_segment(head, marker, frame[begin:end], end)
    if head.table not in head.lengths or not head.bits or not head.data:
        raise ValueError
    return head


def _read_segment(head: _Head, marker: int, body: bytes, behind: int) -> None:
    if marker == TABLES:
        _read_tables(head, body)
    elif marker == FRAME:
        head.bits = body[0]
        head.n_components = body[5]
    elif marker == RESTARTS:
        head.has_restarts = any(body[:2])
    elif marker == SCAN:
        n = body[0]
        head.table = body[2] >> 4
        head.predictor = body[1 + 2 * n]
        head.point = body[3 + 2 * n] & 15
        head.n_components = max(head.n_components, n)
        head.data = behind


def _read_tables(head: _Head, body: bytes) -> None:
    """Bits that a difference takes, code and all, by the difference's low 16 bits."""
    while body:
        counts = body[1:17]
        categories = body[17 : 17 + sum(counts)]
        bits = np.full(17, IMPOSSIBLE, np.int64)
        lengths = [length for length, count in enumerate(counts, 1) for _ in range(count)]
        for category, length in zip(categories, lengths, strict=True):
            if category <= 16:
                bits[category] = length + category % 16  # category 16 is the one value 32768, and has no bits of its own
        head.lengths[body[0]] = bits[_categories()]
        body = body[17 + len(categories) :]


def _categories() -> npt.NDArray[np.int64]:
    """The category of each 16-bit difference: the bits of its amount."""
    low = np.arange(1 << 16)
    amount = np.where(low <= 1 << 15, low, (1 << 16) - low)
    return np.asarray(np.frexp(amount)[1], np.int64)


def _differences(values: Words, head: _Head) -> Words:
    """Each value less what is predicted of it, modulo 16 bits."""
    left, above, corner = np.zeros((3, *values.shape), np.int32)
    left[:, 1:] = values[:, :-1]
    above[1:] = values[:-1]
    corner[1:, 1:] = values[:-1, :-1]
    predicted = (
        lambda: left,
        lambda: above,
        lambda: corner,
        lambda: left + above - corner,
        lambda: left + ((above - corner) >> 1),
        lambda: above + ((left - corner) >> 1),
        lambda: (left + above) >> 1,
    )[head.predictor - 1]().copy()
    predicted[0] = left[0]
    predicted[1:, 0] = above[1:, 0]
    predicted[0, 0] = 1 << (head.bits - head.point - 1)
    return np.asarray((values - predicted) & 0xFFFF)


def _n_bits(frame: bytes, start: int) -> int:
    """The bits of the coded data from `start` to the next marker, without stuffed zeros and fill bytes."""
    end = start
    while (end := frame.find(b"\xff", end)) >= 0 and frame[end + 1 : end + 2] == b"\0":
        end += 2
    data = frame[start:] if end < 0 else frame[start:end]
    return 8 * (len(data) - data.count(b"\xff\0"))
