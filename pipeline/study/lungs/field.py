"""The edge of what was reconstructed: a lung that it cuts through is no hole in the body, so a wall is drawn there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

import cv2
import numpy as np
import numpy.typing as npt

from pipeline.study.lungs.air import SOFT_HU, body
from pipeline.study.lungs.shapes import Bits, chosen, disk

WALL_PX = 4
"""Pixels: how thick the wall is, and how much wider the pictures become."""
BAND_PX = 3
"""Pixels inside the field's edge that are looked at."""
NEAR_PX = 3
"""Pixels from the body within which the edge is the body's."""
SKIN_PX = 2
"""Pixels: the table's skins are thinner than twice this, the chest's wall is thicker."""
LARGE = 0.1
"""Share of the largest part of the soft tissue from which a part of it is the body's too: lungs may lie between them."""
ARCS = 180
"""Arcs of 2 degrees round the field's middle, each with a mean of its own."""
SMOOTH = 1
"""Arcs on each side over which that mean is taken, against noise."""
LONGEST = 45
"""Arcs (90 degrees): a longer run that looks like lung is the table's foam."""
AIR_HU = -960
"""HU up to which the edge's mean is the room's air."""
TISSUE_HU = -500
"""HU above which the edge's mean is the body's wall; what lies between this and AIR_HU is lung."""
WALL_HU = 0
"""HU of the wall that is drawn: soft tissue."""

Number = TypeVar("Number", np.int16, np.uint8)
Hu = npt.NDArray[np.int16]
Arcs = npt.NDArray[np.bool_]


def walled(hu: Hu, bodies: Bits) -> tuple[Hu, Bits]:
    """Slices and bodies [S, r, c], WALL_PX wider on each side; outside the field a soft wall where it cuts through a lung."""
    edge = _Edge.of(hu[0])
    wide = _widened(hu, -1024)
    whole = _widened(bodies, 0)
    for i, image in enumerate(wide):
        arcs = edge.cut_arcs(image)
        if arcs.any():
            image.ravel()[edge.wall[arcs[edge.wall_arc]]] = WALL_HU
            whole[i] = body(image)
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


@dataclass(frozen=True, slots=True)
class _Edge:
    """The pixels just outside and just inside the field's edge, numbered row by row, and the arc that each lies on."""

    wall: npt.NDArray[np.intp]
    wall_arc: npt.NDArray[np.intp]
    band: npt.NDArray[np.intp]
    band_arc: npt.NDArray[np.intp]
    counted: npt.NDArray[np.float64]
    """How many of those inside lie on an arc and those beside it."""

    @classmethod
    def of(cls, image: Hu) -> _Edge:
        """The edge of slices like `image`, WALL_PX wider."""
        field = np.pad(_field(image), WALL_PX)
        wall = np.flatnonzero(cv2.dilate(field, disk(WALL_PX)) & (1 - field))
        band = np.flatnonzero(field & (1 - cv2.erode(field, disk(BAND_PX))))
        band_arc = _arcs(band, field.shape)
        return cls(
            wall, _arcs(wall, field.shape), band, band_arc, np.maximum(_smooth(np.bincount(band_arc, minlength=ARCS)), 1)
        )

    def cut_arcs(self, hu: Hu) -> Arcs:
        """Where the edge runs through a lung: neither air nor tissue, from one end of the body's own wall to the other."""
        nothing = np.zeros(ARCS, bool)
        mean = _smooth(np.bincount(self.band_arc, hu.ravel()[self.band], ARCS)) / self.counted
        if not ((mean > AIR_HU) & (mean <= TISSUE_HU)).any():
            return nothing
        thick = cv2.morphologyEx((hu > SOFT_HU).view(np.uint8), cv2.MORPH_OPEN, disk(SKIN_PX))
        near_body = cv2.dilate(_large_parts(thick), disk(NEAR_PX)).ravel()[self.band] > 0
        if not near_body.any():
            return nothing
        wall = (mean > TISSUE_HU) & (np.bincount(self.band_arc[near_body], minlength=ARCS) > 0)
        lung = (mean > AIR_HU) & ~wall
        if not (lung.any() and wall.any()):
            return nothing
        return _between(lung, wall)


def _large_parts(soft: Bits) -> Bits:
    """What lungs that are cut on both sides leave of a body: its front, its back and what lies between them."""
    n, labels = cv2.connectedComponents(soft, connectivity=4)
    sizes = np.bincount(labels[soft > 0], minlength=n)
    return chosen(labels, (sizes > 0) & (sizes >= LARGE * sizes.max()))


def _arcs(pixels: npt.NDArray[np.intp], shape: tuple[int, ...]) -> npt.NDArray[np.intp]:
    """The arc round the middle of a picture of this `shape` that each of its `pixels` lies on."""
    rows, columns = shape
    angle = np.arctan2(pixels // columns - (rows / 2 - 0.5), pixels % columns - (columns / 2 - 0.5))
    return np.asarray(np.minimum((angle / (2 * np.pi) + 0.5) * ARCS, ARCS - 1), np.intp)


def _between(lung: Arcs, wall: Arcs) -> Arcs:
    """The runs of `lung` that have `wall` at both ends, and the wall itself; none where there is no such run."""
    start = int(np.flatnonzero(wall)[0])
    turned = np.roll(lung, -start)
    walls = np.roll(wall, -start)
    cut = np.zeros_like(lung)
    for run in np.split(np.arange(len(lung)), np.flatnonzero(np.diff(turned)) + 1):
        if turned[run[0]] and len(run) <= LONGEST and walls[run[0] - 1] and walls[(run[-1] + 1) % len(lung)]:
            cut[run] = True
    return np.roll(cut | walls, start) if cut.any() else cut


def _smooth(line: npt.NDArray[np.float64] | npt.NDArray[np.intp]) -> npt.NDArray[np.float64]:
    """The sum over SMOOTH arcs on each side."""
    return np.convolve(np.concatenate([line[-SMOOTH:], line, line[:SMOOTH]]), np.ones(2 * SMOOTH + 1), "valid")


def _field(image: Hu) -> Bits:
    """The inscribed circle where the corners hold nothing but padding, else the whole picture."""
    y, x = np.ogrid[: image.shape[0], : image.shape[1]]
    far = np.hypot(y - image.shape[0] / 2 + 0.5, x - image.shape[1] / 2 + 0.5) - min(image.shape) / 2
    corners = image[far > 2]
    empty = corners.size > 0 and int(corners.min()) == int(corners.max())
    return np.asarray((far <= 0) if empty else np.ones(image.shape, bool), np.uint8)
