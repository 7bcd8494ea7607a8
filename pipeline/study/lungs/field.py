"""The edge of what was reconstructed: a lung that it cuts through is no hole in the body, so a wall is drawn there."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TypeVar

import cv2
import numpy as np
import numpy.typing as npt

from pipeline.study.lungs.air import SOFT_HU, WORK_MM, body
from pipeline.study.lungs.rays import BONE_HU
from pipeline.study.lungs.shapes import Bits, chosen, disk, filled

WALL_PX = 4
"""Pixels: how thick the wall is, and how much wider the pictures become."""
PADDING_HU = 8
"""HU by which padding may differ in the mean of all slices: lossy compression leaves no more of it."""
ROOM_HU = -960
"""HU up to which what the edge cuts is the room's air; lung, ill as it may be, lies between this and SOFT_HU."""
LEAST_CM2 = 3.0
"""cm2 that a region exceeds that may be a lung: less is the blur of skin, or hair."""
ENCLOSED = 0.4
"""Share of such a region's outline, the edge aside, that lies at the body; the rest of a lung's are vessels and lesions."""
FEW = 3
"""Of every such row and column of a region one tells what it measures."""
SKIN_PX = 2
"""Pixels: the table's skins are thinner than twice this, the chest's wall is thicker."""
LARGE = 0.1
"""Share of the largest part of the soft tissue from which a part of it is the body's too: lungs may lie between them."""
FRONT = 0.03
"""The same share of a chest's front, with the sternum, which lungs may part from all else."""
SPINE_PX = 15
"""Pixels: how wide the spine is, 30 mm, where most bone is."""
MIDLINE_PX = 5
"""Pixels beside its middle that the room's air and the table's foam cross beyond the body, and no lung does."""
WALL_HU = 0
"""HU of the wall that is drawn: soft tissue."""

Number = TypeVar("Number", np.int16, np.uint8)
Hu = npt.NDArray[np.int16]
Labels = npt.NDArray[np.int32]
SQUARE = np.ones((3, 3), np.uint8)
"""Pixels: one round the middle on each side, for outlines and their neighbours."""


def walled(hu: Hu, bodies: Bits) -> tuple[Hu, Bits]:
    """Slices and bodies [S, r, c], WALL_PX wider on each side; outside the field a soft wall where it cuts through a lung."""
    edge = _Edge.of(hu)
    wide = _widened(hu, -1024)
    whole = _widened(bodies, 0)
    for i, image in enumerate(wide):
        found = edge.cut(image)
        if found:
            wall, outside = found
            image[wall > 0] = WALL_HU
            whole[i] = body(image) & (1 - outside)
    return wide, whole


def _widened(part: npt.NDArray[Number], value: int) -> npt.NDArray[Number]:
    """`part` [S, r, c], WALL_PX wider on each side by `value`."""
    n, rows, columns = part.shape
    wide = np.full((n, rows + 2 * WALL_PX, columns + 2 * WALL_PX), value, part.dtype)
    unwalled(wide)[:] = part
    return wide


def unwalled(masks: npt.NDArray[Number]) -> npt.NDArray[Number]:
    """Masks [S, r, c] of walled slices, back at the size of the slices."""
    return masks[:, WALL_PX:-WALL_PX, WALL_PX:-WALL_PX]


@dataclass(frozen=True)
class _Edge:
    """What was reconstructed of slices `hu` [S, r, c], its outermost pixels (numbered row by row), and what lies around it."""

    hu: Hu
    field: Bits
    inside: npt.NDArray[np.intp]
    around: Bits

    @classmethod
    def of(cls, hu: Hu) -> _Edge:
        """The edge of slices, WALL_PX wider."""
        field = np.pad(_field(hu), WALL_PX)
        inside = np.flatnonzero(field & (1 - cv2.erode(field, SQUARE)))
        return cls(hu, field, inside, np.asarray(cv2.dilate(field, disk(WALL_PX)) & (1 - field), np.uint8))

    def cut(self, hu: Hu) -> tuple[Bits, Bits] | None:
        """The wall round a slice [r, c] whose lungs the edge cuts, and what stays outside of it; None: it cuts none."""
        at_edge = hu.ravel()[self.inside]
        if not ((at_edge > ROOM_HU) & (at_edge <= SOFT_HU)).any():
            return None
        soft = (hu > SOFT_HU).view(np.uint8)
        _, labels = cv2.connectedComponents(self.field & (1 - soft), connectivity=8)
        cut = set(labels.ravel()[self.inside].tolist()) - {0}
        lungs = {number for number in cut if _may_be_lung(hu[::FEW, ::FEW][labels[::FEW, ::FEW] == number])}
        if not lungs:
            return None
        whole, front = _parts(cv2.morphologyEx(soft, cv2.MORPH_OPEN, disk(SKIN_PX)))
        lungs -= self._beyond(labels, whole, behind=True) | self._beyond(labels, front, behind=False) | _in_corners(labels)
        lungs = {number for number in lungs if self._is_enclosed((labels == number).view(np.uint8), whole)}
        if not lungs:
            return None
        near = cv2.dilate(_numbered(labels, lungs), disk(WALL_PX + 2)) | cv2.dilate(whole, disk(WALL_PX))
        return self.around & near, _numbered(labels, cut - lungs)

    @cached_property
    def _midline(self) -> tuple[slice, bool]:
        """Columns before and behind the spine, and whether it lies below: the patient on the back, or the picture turned.

        Pictures in windows that cut bone off show none: there the body's middle stands for it, and patients lie on their backs.
        """
        bone = (self.hu > BONE_HU).view(np.uint8).reshape(-1, self.hu.shape[2])
        columns = cv2.blur(cv2.reduce(bone, 0, cv2.REDUCE_SUM, dtype=cv2.CV_32F), (SPINE_PX, 1))
        middle = int(np.argmax(columns)) if columns.any() else _middle(self.hu > SOFT_HU)
        start = max(0, middle - MIDLINE_PX)
        strip = self.hu[:, :, start : start + 2 * MIDLINE_PX + 1]
        is_below = not columns.any() or _mean_row(strip > BONE_HU) >= _mean_row(strip > SOFT_HU)
        return slice(WALL_PX + start, WALL_PX + start + strip.shape[2]), is_below

    def _beyond(self, labels: Labels, body: Bits, *, behind: bool) -> set[int]:
        """The regions that cross the midline behind a body, or in front of it: the room's air, and the table's foam."""
        columns, is_below = self._midline
        rows = np.flatnonzero(body[:, columns].any(axis=1))
        if not len(rows):
            return set()
        beyond = labels[:, columns][slice(int(rows[-1]) + 1, None) if is_below == behind else slice(int(rows[0]))]
        return set(beyond[:, 0].tolist()) & set(beyond[:, -1].tolist())

    def _is_enclosed(self, region: Bits, whole: Bits) -> bool:
        """Whether the body surrounds a region, the edge aside."""
        region = filled(region)
        outline = cv2.dilate(region, SQUARE) & (1 - region) & self.field
        return cv2.countNonZero(outline & cv2.dilate(whole, SQUARE)) > ENCLOSED * cv2.countNonZero(outline)


def _in_corners(labels: Labels) -> set[int]:
    """The regions that reach a corner of the picture, as no lung does."""
    ends = [WALL_PX, -WALL_PX - 1]
    return set(labels[ends][:, ends].ravel().tolist())


def _may_be_lung(hu: Hu) -> bool:
    """Whether a region is large and dense enough, given every FEW-th pixel of each FEW-th of its rows."""
    return len(hu) * (FEW * WORK_MM) ** 2 / 100 > LEAST_CM2 and float(np.median(hu)) > ROOM_HU


def _numbered(labels: Labels, numbers: set[int]) -> Bits:
    """The regions of these `numbers`."""
    wanted = np.zeros(int(labels.max()) + 1, bool)
    wanted[list(numbers)] = True
    return chosen(labels, wanted)


def _middle(places: npt.NDArray[np.bool_]) -> int:
    """The column with half of the places [S, r, c] on each side."""
    before = np.cumsum(places.sum(axis=(0, 1)))
    return int(np.searchsorted(before, before[-1] / 2))


def _mean_row(places: npt.NDArray[np.bool_]) -> float:
    """Of places [S, r, c]."""
    rows = places.sum(axis=(0, 2))
    return float(np.average(np.arange(len(rows)), weights=rows)) if rows.any() else 0.0


def _parts(soft: Bits) -> tuple[Bits, Bits]:
    """What lungs that are cut on both sides leave of a body: its LARGE parts, and those that may be its FRONT too."""
    n, labels = cv2.connectedComponents(soft, connectivity=8)
    sizes = np.bincount(labels[::FEW, ::FEW][soft[::FEW, ::FEW] > 0], minlength=n)
    return chosen(labels, sizes > LARGE * sizes.max()), chosen(labels, sizes > FRONT * sizes.max())


def _field(hu: Hu) -> Bits:
    """What was reconstructed, a convex shape: all but the padding that fills the corners of every slice [S, r, c] alike."""
    corners = hu[:, [0, 0, -1, -1], [0, -1, 0, -1]]
    field = np.ones(hu.shape[1:], np.uint8)
    if int(corners.max()) - int(corners.min()) > PADDING_HU:
        return field
    shown = (np.abs(hu.sum(axis=0, dtype=np.int32) - len(hu) * int(corners[0, 0])) > PADDING_HU * len(hu)).view(np.uint8)
    contours, _ = cv2.findContours(cv2.morphologyEx(shown, cv2.MORPH_OPEN, SQUARE), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    if contours:
        field = cv2.fillConvexPoly(np.zeros_like(field), cv2.convexHull(np.concatenate(contours)), (1,))
    return np.asarray(cv2.erode(field, SQUARE), np.uint8)  # of the outermost pixels a part is padding
