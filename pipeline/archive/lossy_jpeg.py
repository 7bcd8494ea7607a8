"""What the decoder of lossy JPEG passes over in silence is found by decoding once more, and by the picture's own continuity.

After a flipped bit the decoder goes on: blocks too many or too few come out (it fills in, or leaves the rest), and each value
behind is off by one amount, for blocks are coded as differences from the block before (ITU-T T.81, F.1.2.1). So three things
are looked at: whether the code ends with the last block, whether a block's mean is one that no encoder has seen, and whether
a step of one height runs along the blocks from some block to the one below it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from pipeline.archive.codestream import jpeg_is_whole, jpeg_segments
from pipeline.archive.describe import MAX_MATRIX
from pipeline.errors import Reason, StudyError

Words = npt.NDArray[np.int32]
Floats = npt.NDArray[np.float32]
Ask = Callable[[bytes], Words]
"""Decodes a codestream. Raises StudyError."""
BASELINE, EXTENDED, TABLES = 0xC0, 0xC1, 0xDB
BLOCK = 8
DEEP_BITS = 12
"""Decoders know two depths; a code of 8 bits that is called one of 12 is decoded to the same values, but not cut off."""
DIMMED = 4
"""What the factors of a code of 12 bits are divided by, so that its values are not cut off."""
END = b"\xff\xd9"
FILLER = b"\xbf\xfe" + bytes(range(0x20, 0x60))
"""What would be read as a much brighter block, and others behind it."""
LEAST_STEP_HU = 10.0
MIN_BLOCKS = 8
"""Fewer in a row of blocks do not tell a step from anatomy."""
MAX_CANDIDATES = 512
MIN_SCORE = 0.6
"""The least share of blocks that behave as a step has them; of 2,500 sound slices one reached 0.5."""


@dataclass(frozen=True, slots=True)
class _Head:
    """Where a sequential code of one component says what it is: its frame segment, and the factors that it is scaled by."""

    frame: int
    bits: int
    rows: int
    columns: int
    factors: int = 0
    factor_bytes: int = 0

    @property
    def middle(self) -> int:
        """The value of a block of which nothing is coded."""
        return 1 << (self.bits - 1)

    @property
    def n_rows(self) -> int:
        """Rows of all blocks, the picture's last rows and what is coded below them."""
        return -(-self.rows // BLOCK) * BLOCK

    @property
    def more_rows(self) -> int:
        """Rows of two blocks more at least."""
        return BLOCK if self.columns > BLOCK else 2 * BLOCK


def read_lossy(frame: bytes, ask: Ask, slope: float) -> tuple[Words, bool]:
    """(values, whether the code is damaged); `slope` is HU a value. Raises StudyError."""
    head = _head(frame)
    tall = _tried(_taller(frame, head), ask) if head else None
    if head is None or tall is None:
        words = ask(frame)
        return words, not jpeg_is_whole(frame) or has_step(words, slope, head.bits if head else BLOCK)
    words = np.ascontiguousarray(tall[: head.rows])
    is_damaged = (
        not jpeg_is_whole(frame)
        or _has_blocks_left(tall, head)
        or _lacks_blocks(frame, tall, head, ask)
        or has_step(words, slope, head.bits)
        or _is_beyond_depth(frame, head, ask)
    )
    return words, is_damaged


def _tried(code: bytes, ask: Ask) -> Words | None:
    """What a changed code gives; None where the decoder does not take it, which says nothing of the code as it was."""
    try:
        return ask(code)
    except StudyError as error:
        if error.reason != Reason.DECODE_ERROR:
            raise
        return None


def _head(frame: bytes) -> _Head | None:
    """None for codes of several scans or colours, in which blocks do not simply follow each other.

    Raises StudyError DECODE_ERROR where the depth is neither 8 nor 12 bits, the only two that there are: a decoder may take it.
    """
    head: _Head | None = None
    tables: dict[int, tuple[int, int]] = {}
    for marker, begin, end in jpeg_segments(frame):
        if marker == TABLES:
            tables |= _tables(frame, begin, end)
        elif marker in (BASELINE, EXTENDED) and end - begin == 9 and frame[begin + 5] == 1:
            size = int.from_bytes(frame[begin + 1 : begin + 3], "big"), int.from_bytes(frame[begin + 3 : begin + 5], "big")
            head = _Head(begin, frame[begin], *size)
    if head and head.bits not in (BLOCK, DEEP_BITS):
        raise StudyError(Reason.DECODE_ERROR, "decode")
    if head is None or head.rows + 2 * BLOCK > MAX_MATRIX or frame[head.frame + 8] not in tables:
        return None
    factors, factor_bytes = tables[frame[head.frame + 8]]
    return replace(head, factors=factors, factor_bytes=factor_bytes)


def _tables(frame: bytes, begin: int, end: int) -> dict[int, tuple[int, int]]:
    """(place of the factors, bytes of each) by table."""
    found = {}
    while begin < end:
        factor_bytes = 1 + (frame[begin] >> 4 & 1)
        if begin + 1 + 64 * factor_bytes <= end:
            found[frame[begin] & 15] = (begin + 1, factor_bytes)
        begin += 1 + 64 * factor_bytes
    return found


def _taller(frame: bytes, head: _Head) -> bytes:
    """The same code with a row of blocks more than it has: the decoder fills those in, but for what is left of the code."""
    rows = (head.n_rows + head.more_rows).to_bytes(2, "big")
    return frame[: head.frame + 1] + rows + frame[head.frame + 3 :]


def _has_blocks_left(tall: Words, head: _Head) -> bool:
    """Whether code is left behind the last block; the bits that fill the last byte may make one more of themselves."""
    more = tall[head.n_rows :]
    rest = more[:, BLOCK:] if head.columns > BLOCK else more[BLOCK:]
    return bool((rest != head.middle).any())


def _lacks_blocks(frame: bytes, tall: Words, head: _Head, ask: Ask) -> bool:
    """Whether the code ends within the last block or before: that block is another one then if more follows."""
    code = frame[: frame.rfind(END)].rstrip(b"\xff")  # bytes that fill up to a marker would make one of the filler
    longer = _tried(_taller(code + FILLER + frame[len(code) :], head), ask)
    last = slice(head.n_rows - BLOCK, head.n_rows), slice((head.columns - 1) // BLOCK * BLOCK, None)
    return longer is not None and not np.array_equal(tall[last], longer[last])


def _is_beyond_depth(frame: bytes, head: _Head, ask: Ask) -> bool:
    """Whether a block's mean lies further beyond the depth than the rounding of its code can bring it."""
    factor = _factor(frame, head, 0)
    if head.bits == BLOCK:
        scale = 1.0
        middle = 1 << (DEEP_BITS - 1)
        whole = _tried(_deeper(frame, head), ask)
    elif factor > 1:
        scale = factor / _dimmed(factor)
        middle = head.middle
        whole = _tried(_dimmer(frame, head), ask)
    else:
        return False
    if whole is None or whole.size < BLOCK * BLOCK:
        return False
    means = (_block_means(whole) - middle) * scale + head.middle
    spare = factor / BLOCK + scale  # what the encoder rounds the code by, and the decoder the values
    return bool(means.size and (means.min() < -spare or means.max() > 2 * head.middle - 1 + spare))


def _deeper(frame: bytes, head: _Head) -> bytes:
    """The code as one of 12 bits."""
    return frame[: head.frame - 3] + bytes([EXTENDED]) + frame[head.frame - 2 : head.frame] + bytes([DEEP_BITS]) + (
        frame[head.frame + 1 :]
    )  # fmt: skip


def _dimmer(frame: bytes, head: _Head) -> bytes:
    """The code with smaller factors."""
    size = head.factor_bytes
    factors = b"".join(_dimmed(_factor(frame, head, number)).to_bytes(size, "big") for number in range(64))
    return frame[: head.factors] + factors + frame[head.factors + 64 * size :]


def _factor(frame: bytes, head: _Head, number: int) -> int:
    begin = head.factors + number * head.factor_bytes
    return int.from_bytes(frame[begin : begin + head.factor_bytes], "big")


def _dimmed(factor: int) -> int:
    return max(1, factor // DIMMED)


def _block_means(values: Words) -> Floats:
    rows, columns = values.shape[0] // BLOCK, values.shape[1] // BLOCK
    whole = values[: rows * BLOCK, : columns * BLOCK].astype(np.float32)
    return np.asarray(whole.reshape(rows, BLOCK, columns, BLOCK).mean(axis=(1, 3)))


def has_step(words: Words, slope: float = 1.0, bits: int = DEEP_BITS) -> bool:
    """Whether everything from some block on is off by one amount; `slope` is HU a value.

    The steps above a row's length of blocks are alike then, from the block at which it begins to the one below its left
    neighbour, and nowhere beside them; and no block behind is darker than that amount (or lighter than what it leaves). An edge
    of a table, a box or a mark that runs straight does not look so.
    """
    if words.shape[0] < 4 * BLOCK or words.shape[1] < MIN_BLOCKS * BLOCK:
        return False
    steps = _steps(words)
    least = max(1.0, LEAST_STEP_HU / max(abs(slope), 1e-6))
    means = _block_means(words).ravel()
    return any(
        _score(steps, place, height) >= MIN_SCORE
        for place in _candidates(steps, least)
        if abs(height := _height(steps, place)) >= least and _lasts(means[steps.shape[1] + place :], height, 2.0**bits - 1)
    )


def _steps(words: Words) -> Floats:
    """How far each block below the first row of them stands above what the rows beside the border lead on to."""
    rows, columns = words.shape[0] // BLOCK, words.shape[1] // BLOCK
    values = words[: rows * BLOCK, : columns * BLOCK].astype(np.float32)
    before = values[BLOCK - 2 : -BLOCK : BLOCK], values[BLOCK - 1 : -BLOCK : BLOCK]
    behind = values[BLOCK::BLOCK], values[BLOCK + 1 :: BLOCK]
    steps = behind[0] - before[1] - (before[1] - before[0] + behind[1] - behind[0]) / 2
    return np.asarray(steps.reshape(rows - 1, columns, BLOCK).mean(axis=2))


def _candidates(steps: Floats, least: float) -> list[int]:
    """Blocks, not at a row's begin, from which on most of a row's length of steps go one way, the likeliest first."""
    width = steps.shape[1]
    ways = np.sign(steps) * (np.abs(steps) >= least / 2)
    sums = np.concatenate([[0], np.cumsum(ways)])
    share = np.abs(sums[width:-1] - sums[: -width - 1]) / width
    share[::width] = 0
    likely = np.argsort(-share, kind="stable")[:MAX_CANDIDATES]
    return [int(place) for place in likely if share[place] >= MIN_SCORE]


def _height(steps: Floats, place: int) -> float:
    """Of the step that begins at a block."""
    return float(np.median(steps.ravel()[place : place + steps.shape[1]]))


def _lasts(behind: Floats, height: float, top: float) -> bool:
    """Whether all blocks behind may be off by `height`, none having been below 0 or above `top` before."""
    return bool(behind.min() >= height / 2 if height > 0 else behind.max() <= top + height / 2)


def _score(steps: Floats, place: int, height: float) -> float:
    """The share of blocks that show the step where it must be, and none beside it: the least of both, in each of two rows."""
    row, column = divmod(place, steps.shape[1])
    both = steps[row : row + 2]
    if len(both) < 2:
        return 0.0
    upper, lower = np.abs(both - height) <= abs(height) / 3
    quiet_above, quiet_below = np.abs(both) <= abs(height) / 2
    shares = upper[column:], lower[:column], quiet_above[:column], quiet_below[column:]
    return float(min(share.mean() for share in shares))
