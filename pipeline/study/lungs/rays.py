"""A slice seen along rays from the middle of the body: what is outermost, and where the ribs stand."""

from __future__ import annotations

from dataclasses import dataclass, replace

import cv2
import numpy as np
import numpy.typing as npt

from pipeline.study.lungs.air import WORK_MM
from pipeline.study.lungs.shapes import Bits

RAYS = 256
"""Rays round the middle of the body, as many as a byte can number."""
BONE_HU = 130
"""HU above which a pixel is bone: soft tissue is below it."""
CENTRAL_MM = 22.0
"""mm from the midline within which bone is spine or sternum, no rib."""
SPINE_MM = 40.0
"""mm that spine and sternum may stand from the middle of the body's outline."""
RIB_GAP = RAYS * 40 // 360
"""Rays (40 degrees) between two ribs that are bridged; where they lie farther apart, one was missed."""
ARC_GAP = RAYS * 75 // 360
"""Rays (75 degrees) between two that touch the hull which an arc bridges: as far as one lesion may dent the lung."""
SPIKE = RAYS * 30 // 360
"""Rays (30 degrees): a narrower spike outwards leads to the scapula, and is cut off."""
PLEURA_MM = 3.0
"""mm that the pleura lies inside the bone's inner face."""
SPIKES = np.ones((1, SPIKE), np.uint8)
"""Along the rays of a side."""
TURNS = np.cos((np.arange(RAYS // 2) + 0.5) * 2 * np.pi / RAYS)
"""Share of a side's rays that runs along the midline."""

EVERY = np.arange(RAYS)
"""The rays' numbers."""

Hu = npt.NDArray[np.int16]
Line = npt.NDArray[np.float32]
Numbers = npt.NDArray[np.intp]


@dataclass(frozen=True, slots=True)
class Rays:
    """Ray number and radius of each pixel; rays run from posterior over the patient's right, anterior and left."""

    middle: int
    angle: Bits
    radius: npt.NDArray[np.float32]
    bone: tuple[Bits, Line] = (np.zeros(0, np.uint8), np.zeros(0, np.float32))
    """Ray and radius of each pixel of bone beside the midline, where the rays go through one slice."""

    @classmethod
    def round_middle(cls, bodies: Bits, hu: Hu) -> Rays:
        """Rays from half the bodies' height, in the column of spine and sternum; one centre for the stack."""
        row, middle = (_centre(bodies, axis) for axis in (2, 1))
        middle = _spine(bodies, hu, middle)
        y, x = (np.arange(n, dtype=np.float32) for n in bodies.shape[1:])
        y = (y - row)[:, None]
        x = x - middle + 0.5
        angle = ((np.arctan2(x, -y) / (2 * np.pi) + 0.5) * RAYS).astype(np.int32)
        return cls(middle, (angle % RAYS).astype(np.uint8), np.hypot(y, x).astype(np.float32))

    def within(self, reach: Line) -> Bits:
        """The pixels not farther out than `reach` on their ray."""
        return np.asarray(self.radius <= cv2.LUT(self.angle, reach)).view(np.uint8)

    def reach(self, mask: Bits) -> Line:
        """Radius of the outermost pixel of `mask` on each ray; 0 where there is none."""
        reach = np.zeros(RAYS, np.float32)
        inside = np.flatnonzero(mask.view(np.bool_))
        np.maximum.at(reach, self.angle.ravel()[inside], self.radius.ravel()[inside])
        return reach

    def through(self, hu: Hu) -> Rays:
        """The same rays through one slice, whose bone they meet."""
        x = np.abs(np.arange(hu.shape[1]) - self.middle + 0.5)
        bone = np.flatnonzero((hu > BONE_HU) & (x > CENTRAL_MM / WORK_MM))
        return replace(self, bone=(self.angle.ravel()[bone], self.radius.ravel()[bone]))

    def cut(self, box: tuple[slice, slice]) -> Rays:
        """The rays as a part of the slice sees them."""
        angle = np.ascontiguousarray(self.angle[box])
        return replace(self, middle=self.middle - box[1].start, angle=angle, radius=np.ascontiguousarray(self.radius[box]))

    def ribs(self, reach: Line) -> tuple[Line, npt.NDArray[np.bool_]]:
        """Radius of the pleura inside the ribs on each ray (bridged between ribs, 0 far from any); and whether it meets one.

        Ribs are the first bone of the slice beyond the `reach` of the lung.
        """
        angle, radius = self.bone
        beyond = radius > reach[angle]
        first = np.full(RAYS, np.inf, np.float32)
        np.minimum.at(first, angle[beyond], radius[beyond])
        first[np.isinf(first)] = 0
        halves = first.reshape(2, -1).copy()
        halves[1] = halves[1, ::-1].copy()
        line = _bridged(halves)
        for half in line:
            _to_spine(half)
        both = np.concatenate([line[0], line[1, ::-1]])
        return both, (first > 0) & (both > first - 2 * PLEURA_MM / WORK_MM)


def arched(reach: Line, hull: Line) -> Line:
    """Radius of a rounded wall: `reach` where it touches its `hull`, bridged between such rays on each side of the body."""
    touching = (reach > 0) & (reach >= hull - 1)
    return np.concatenate([_arc(*half) for half in zip(reach.reshape(2, -1), touching.reshape(2, -1), strict=True)])


def around(chosen: npt.NDArray[np.bool_], width: int) -> npt.NDArray[np.bool_]:
    """The rays within `width` of a chosen one."""
    return np.asarray(
        np.convolve(np.concatenate([chosen[-width:], chosen, chosen[:width]]), np.ones(2 * width + 1), "valid") > 0
    )


def flanked(met: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """The rays that are met, or lie on the same side of the body between two that are and are near."""
    halves = cv2.copyMakeBorder(met.reshape(2, -1).astype(np.uint8), 0, 0, ARC_GAP, ARC_GAP, cv2.BORDER_CONSTANT, value=0)
    bridged = cv2.morphologyEx(halves, cv2.MORPH_CLOSE, np.ones((1, ARC_GAP), np.uint8))
    return np.asarray(bridged[:, ARC_GAP:-ARC_GAP].ravel() > 0)


def _arc(reach: Line, touching: npt.NDArray[np.bool_]) -> Line:
    known = np.flatnonzero(touching)
    at = np.arange(len(reach))
    if len(known) < 2:
        return reach
    place = 1 + np.searchsorted(known[1:-1], at)
    near = (known[place] - known[place - 1] <= ARC_GAP) & (at >= known[0]) & (at <= known[-1])
    return np.where(near, np.interp(at, known, reach[known]), reach).astype(np.float32)


def _bridged(first: Line) -> Line:
    """Of each side [2, rays]: straight lines between neighbouring ribs; spikes to the scapula between two ribs cut off."""
    whole = first.ravel()
    n = first.shape[1]
    known = np.flatnonzero(whole)
    line = np.zeros(2 * n, np.float32)
    if len(known) > 1:
        at, before, after = _neighbours(known, n)
        turn = 2 * np.pi / RAYS
        gap = np.sin((after - before) * turn)
        line[at] = gap / (np.sin((after - at) * turn) / whole[before] + np.sin((at - before) * turn) / whole[after])
    opened = cv2.morphologyEx(line.reshape(2, -1), cv2.MORPH_OPEN, SPIKES)
    return np.asarray(np.maximum(opened - np.float32(PLEURA_MM / WORK_MM), 0), np.float32)


def _neighbours(known: Numbers, n: int) -> tuple[Numbers, Numbers, Numbers]:
    """The rays between two `known` ones of the same side, of `n` rays, that are near each other; and these two."""
    number = np.searchsorted(known, EVERY)  # of the known ray at or after each
    second = int(np.searchsorted(known, n))
    for first in {0, second} - {len(known)}:
        number[known[first]] += 1  # a side's first begins the line to its second
    at = EVERY[known[0] : known[-1] + 1]
    number = np.minimum(number[at], len(known) - 1)
    before = known[number - 1]
    after = known[number]
    near = (after - before <= RIB_GAP) & (before // n == after // n)
    return at[near], before[near], after[near]


def _to_spine(line: Line) -> None:
    """The rays of one side, from posterior to anterior, that lie before its first rib end as deep as that rib lies."""
    first = int(np.argmax(line != 0))
    if 0 < first <= len(line) // 4:
        line[:first] = line[first] * TURNS[first] / TURNS[:first]


def _spine(bodies: Bits, hu: Hu, middle: int) -> int:
    """The median column of the bone that is near `middle`; `middle` itself where there is none."""
    low = max(0, middle - round(SPINE_MM / WORK_MM))
    near = (slice(None), slice(None), slice(low, middle + round(SPINE_MM / WORK_MM) + 1))
    bone = np.cumsum(((hu[near] > BONE_HU) & (bodies[near] > 0)).sum(axis=(0, 1)))
    return low + int(np.searchsorted(bone, bone[-1] / 2)) if bone[-1] else middle


def _centre(bodies: Bits, axis: int) -> int:
    lines = [np.flatnonzero(mask.any(axis=axis - 1)) for mask in bodies if mask.any()]
    return int(np.median([(line[0] + line[-1]) / 2 for line in lines])) if lines else bodies.shape[3 - axis] // 2
