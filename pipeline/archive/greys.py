"""What the greys of exported slices stand for, from the slices themselves: no window is written into a JPEG or PNG.

Of all windows that one is taken under which the air around the body, the air inside it and the body's soft tissue are likeliest
to be what they are in every chest. What a window cuts off is known to be soft tissue or air, and is given back as such.

Slices of a patient mostly come out of one viewer: those that do not contradict each other are taken to be of one window, which
tells fat in one window from muscle in another where a slice alone cannot.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import cv2
import numpy as np
import numpy.typing as npt

WORK_PX = 256
AIR_HU = -1000.0
LUNG_HU = -850.0
SOFT_HU = 40.0
LOWS_HU = np.arange(-1700.0, -480.0, 40.0)
STEPS_HU = 2.0 * 1.05 ** np.arange(44)
"""HU that black stands for, and HU from one grey to the next, on the coarse grid of windows: 510 to 4,200 HU wide."""
EVERY_HU = np.arange(-2600.0, 3400.0, 4.0)
PIXELS, LUNG_PART, FULL_LUNGS = 60.0, 0.3, 0.1
"""How many independent pixels each tissue counts for against what is usual; the lungs' part of that, for they differ among
people; and the share of a picture from which on they count in full: less is windpipe and bowel as much as lung."""
DOUBT = 30.0
"""A picture contradicts a window that is less likely than its best by this, in logs: half of one for each of its PIXELS."""
BLACK_ABOVE_HU, WHITE_BELOW_HU = (-1000.0, 60.0), (-235.0, 50.0)
"""No window is usual whose black lies (far) above air or whose white lies below the published code's."""
WHITE = 12
"""Greys below white over which a cut-off soft tissue rises."""
LEAST_SHARES = (0.02, 0.01, 0.03)
"""Of the picture: what counts as air around the body, as air in it, as a body."""
LEAST_LOG = -5.2
"""Mean log of the shares that the greys of each have: chests lie above, pictures of other things below."""
WHITE_FROM, BLACK_TO, LEAST_CONTENT = 250, 2, 0.3
"""The greys of a margin that is no anatomy, and the least share of a picture that is no margin."""

Grey = npt.NDArray[np.uint8]
Bits = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Greys:
    """How often each grey is met: around the body, in its hollows, in its soft tissue; each [256], shares of the picture."""

    outside: Floats
    inside: Floats
    soft: Floats


def own_tables(pictures: Sequence[Grey]) -> list[Floats | None]:
    """The HU of each grey [256] in each picture [R, C] of a patient; None where it shows no chest, or its lungs are black."""
    mets = [met_greys(grey) for grey in pictures]
    tables: list[Floats | None] = []
    for met, (low, step) in zip(mets, _windows(mets), strict=True):
        tables.append(table_of(low, low + 255 * step) if _shows_chest(met, low, step) else None)
    return tables


def content(grey: Grey) -> tuple[slice, slice]:
    """The picture without white or black margins or a white frame."""
    rows = _content_lines(grey)
    columns = _content_lines(grey.T)
    if rows.stop - rows.start < LEAST_CONTENT * len(grey) or columns.stop - columns.start < LEAST_CONTENT * grey.shape[1]:
        return slice(0, grey.shape[0]), slice(0, grey.shape[1])
    return rows, columns


def _content_lines(grey: Grey) -> slice:
    """The rows that are no margin; where white goes over into mostly white, it is the body."""
    least, middle = np.percentile(grey, (2, 50), axis=1)
    lines = np.flatnonzero((least < WHITE_FROM) & (grey.max(axis=1) > BLACK_TO))
    if not len(lines):
        return slice(0, len(grey))
    first = int(lines[0])
    last = int(lines[-1])
    if middle[first] >= WHITE_FROM:
        first = 0
    if middle[last] >= WHITE_FROM:
        last = len(grey) - 1
    return slice(first, last + 1)


def table_of(low: float, high: float) -> Floats:
    """The HU of each grey [256] of a window; black is air at most and white soft tissue at least, whatever is cut off."""
    table = np.linspace(low, high, 256)
    table[0] = min(low, AIR_HU)
    if high < SOFT_HU:
        table[-WHITE:] = np.linspace(table[-WHITE], SOFT_HU, WHITE)
    return table


def met_greys(grey: Grey) -> Greys:
    """The greys of each tissue, told apart by where they lie.

    Air around the body holds a corner of the picture; what else the picture's edge cuts is lung, as in the body.
    """
    small = _small(grey[content(grey)])
    threshold, _ = cv2.threshold(small, 0, 1, cv2.THRESH_BINARY | cv2.THRESH_OTSU)
    bright = (small > threshold).astype(np.uint8)
    body = _largest(cv2.morphologyEx(bright, cv2.MORPH_OPEN, np.ones((3, 3), np.uint8)))
    _, regions = cv2.connectedComponents(1 - body, connectivity=4)
    corners = (regions * (1 - bright))[[0, 0, -1, -1], [0, -1, 0, -1]]
    around = np.isin(regions, corners[corners > 0]).astype(np.uint8)
    hollow = cv2.erode((1 - body) * (1 - around), np.ones((3, 3), np.uint8))
    parts = (_eroded(around) & (1 - bright), hollow & (1 - bright), _eroded(body))
    return Greys(*(_shares(small, part) for part in parts))


def _small(grey: Grey) -> Grey:
    scale = WORK_PX / max(grey.shape)
    return (
        grey if scale >= 1 else np.asarray(cv2.resize(grey, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA), np.uint8)
    )


def _largest(mask: Bits) -> Bits:
    n, labels, stats, _ = cv2.connectedComponentsWithStats(mask, connectivity=8)
    return np.asarray(labels == 1 + int(np.argmax(stats[1:, cv2.CC_STAT_AREA])), np.uint8) if n > 1 else mask


def _eroded(mask: Bits) -> Bits:
    return np.asarray(cv2.erode(mask, np.ones((5, 5), np.uint8)), np.uint8)


def _shares(small: Grey, part: Bits) -> Floats:
    return np.bincount(small[part > 0], minlength=256) / small.size


@cache
def _expected() -> Floats:
    """Cumulative shares by HU [around, in hollows, soft tissue] of every chest, lean or fat, with contrast or not."""
    air = 0.30 * _normal(AIR_HU, 18) + 0.25 * _normal(AIR_HU, 60) + 0.15 * _level(-1000, -700)
    around = 0.22 + air + 0.05 * _normal(LUNG_HU, 70) + 0.03 * _level(-1000, 100)
    hollow = 0.70 * _normal(LUNG_HU, 55) + 0.10 * _normal(-960, 35) + 0.15 * _level(-1000, -400) + 0.05 * _level(-1000, 100)
    muscle_and_fat = 0.47 * _normal(50, 30) + 0.16 * _normal(-100, 25) + 0.08 * _level(-110, 60)
    soft = muscle_and_fat + 0.14 * _level(80, 500) + 0.15 * _level(-800, -100)
    return np.stack([around, hollow, soft])


def _normal(mean: float, spread: float) -> Floats:
    return 1 / (1 + np.exp(-1.702 * (EVERY_HU - mean) / spread))


def _level(low: float, high: float) -> Floats:
    return np.clip((EVERY_HU - low) / (high - low), 0, 1)


def _logs(lows: Floats, steps: Floats) -> Floats:
    """Log of the share that each window expects at each grey [windows, tissues, 256]."""
    edges = lows[:, None] + steps[:, None] * (np.arange(1, 256) - 0.5)
    found = []
    for expected in _expected():
        below = np.interp(edges, EVERY_HU, expected)
        whole = np.concatenate([np.zeros((len(lows), 1)), below, np.ones((len(lows), 1))], axis=1)
        found.append(np.log(np.diff(whole, axis=1) + 1e-5))
    return np.stack(found, axis=1)


@cache
def _coarse() -> tuple[Floats, Floats, npt.NDArray[np.float32]]:
    lows, steps = (each.ravel() for each in np.meshgrid(LOWS_HU, STEPS_HU, indexing="ij"))
    return lows, steps, _logs(lows, steps).astype(np.float32)


def _windows(mets: Sequence[Greys]) -> list[tuple[float, float]]:
    """(HU of black, HU a grey) of each picture: the likeliest window for all that do not contradict it, then for the others."""
    lows, steps, logs = _coarse()
    behind = [(said := _likelihood(met, lows, steps, logs)).max() - said for met in mets]
    found: dict[int, tuple[float, float]] = {}
    while left := [number for number in range(len(mets)) if number not in found]:
        best = int(np.argmin(sum(np.minimum(behind[number], DOUBT) for number in left)))
        agreed = [number for number in left if behind[number][best] < DOUBT]
        window = _refined([mets[number] for number in agreed], float(lows[best]), float(steps[best]))
        found |= dict.fromkeys(agreed, window)
    return [found[number] for number in range(len(mets))]


def _refined(mets: Sequence[Greys], low: float, step: float) -> tuple[float, float]:
    """(HU of black, HU a grey) of the window near one that is likeliest for all."""
    for reach_hu, reach in ((40.0, 0.05), (8.0, 0.01)):
        near_lows, near_steps = np.meshgrid(
            low + reach_hu * np.linspace(-1, 1, 11), step * (1 + reach * np.linspace(-1, 1, 11)), indexing="ij"
        )
        lows = near_lows.ravel()
        steps = near_steps.ravel()
        logs = _logs(lows, steps)
        best = int(np.argmax(sum(_likelihood(met, lows, steps, logs) for met in mets)))
        low = float(lows[best])
        step = float(steps[best])
    return low, step


def _likelihood(met: Greys, lows: Floats, steps: Floats, logs: npt.NDArray[np.floating]) -> Floats:
    outside, inside, soft = (part / max(part.sum(), 1e-9) for part in (met.outside, met.inside, met.soft))
    part = LUNG_PART if met.outside.sum() >= LEAST_SHARES[0] else 1.0
    lung = part * min(1.0, met.inside.sum() / FULL_LUNGS)
    said = logs[:, 0] @ outside + lung * (logs[:, 1] @ inside) + logs[:, 2] @ soft
    black = np.maximum(lows - BLACK_ABOVE_HU[0], 0)
    white = np.maximum(WHITE_BELOW_HU[0] - lows - 255 * steps, 0)
    return np.asarray(PIXELS * said - (black / BLACK_ABOVE_HU[1]) ** 2 / 2 - (white / WHITE_BELOW_HU[1]) ** 2 / 2)


def _shows_chest(met: Greys, low: float, step: float) -> bool:
    """Whether the greys are a chest's in this window, and its lungs are not black."""
    parts = (met.outside, met.inside, met.soft)
    shares = [float(part.sum()) for part in parts]
    logs = _logs(np.array([low]), np.array([step]))[0]
    means = [float(log @ part) / max(share, 1e-9) for log, part, share in zip(logs, parts, shares, strict=True)]
    seen = [share >= least and mean >= LEAST_LOG for share, least, mean in zip(shares, LEAST_SHARES, means, strict=True)]
    strange = shares[0] >= LEAST_SHARES[0] and not seen[0]
    dark = shares[1] >= LEAST_SHARES[1] and met.inside[2:].sum() < shares[1] / 2
    return seen[2] and any(seen[:2]) and not strange and not dark
