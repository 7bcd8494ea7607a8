"""The edge of what was reconstructed: a lung that it cuts through is no hole in the body, so a wall is drawn there."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from pipeline.study.lungs.air import SOFT_HU, body
from pipeline.study.lungs.shapes import Bits, disk, largest

WALL_PX = 4
"""Pixels: how thick the wall is, and how much wider the pictures become."""
BAND_PX = 3
"""Pixels inside the field's edge that are looked at."""
NEAR_PX = 3
"""Pixels from the body within which the edge is the body's."""
SKIN_PX = 2
"""Pixels: the table's skins are thinner than twice this, the chest's wall is thicker."""
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

Hu = npt.NDArray[np.int16]
Arcs = npt.NDArray[np.bool_]


def walled(hu: Hu, bodies: Bits) -> tuple[Hu, Bits]:
    """Slices and bodies [S, r, c], WALL_PX wider on each side; outside the field a soft wall where it cuts through a lung."""
    edge = _Edge.of(hu[0])
    wide, whole = (
        np.stack([np.pad(image, WALL_PX, constant_values=value) for image in part])
        for part, value in ((hu, -1024), (bodies, 0))
    )
    for i, image in enumerate(wide):
        arcs = edge.cut_arcs(image)
        if arcs.any():
            image[edge.wall & arcs[edge.arc]] = WALL_HU
            whole[i] = body(image)
    return wide, whole


def unwalled(masks: Bits) -> Bits:
    """Masks [S, r, c] of walled slices, back at the size of the slices."""
    return masks[:, WALL_PX:-WALL_PX, WALL_PX:-WALL_PX]


@dataclass(frozen=True, slots=True)
class _Edge:
    """The innermost and outermost pixels at the field's edge, and the arc round its middle that each lies on."""

    band: npt.NDArray[np.bool_]
    wall: npt.NDArray[np.bool_]
    arc: npt.NDArray[np.intp]

    @classmethod
    def of(cls, image: Hu) -> _Edge:
        """The edge of slices like `image`, WALL_PX wider."""
        field = np.pad(_field(image), WALL_PX)
        y, x = (size / 2 - 0.5 for size in field.shape)
        angle = np.arctan2(*(np.indices(field.shape) - np.array([y, x])[:, None, None]))
        arc = np.minimum(((angle / (2 * np.pi) + 0.5) * ARCS).astype(np.intp), ARCS - 1)
        return cls(
            (field & (1 - cv2.erode(field, disk(BAND_PX)))) > 0, (cv2.dilate(field, disk(WALL_PX)) & (1 - field)) > 0, arc
        )

    def cut_arcs(self, hu: Hu) -> Arcs:
        """Where the edge runs through a lung: neither air nor tissue, from one end of the body's own wall to the other."""
        thick = cv2.morphologyEx((hu > SOFT_HU).astype(np.uint8), cv2.MORPH_OPEN, disk(SKIN_PX))
        near_body = cv2.dilate(largest(thick), disk(NEAR_PX))[self.band] > 0
        nothing = np.zeros(ARCS, bool)
        if not near_body.any():
            return nothing
        arc = self.arc[self.band]
        values = hu[self.band].astype(np.float64)
        mean = _smooth(np.bincount(arc, values, ARCS)) / np.maximum(_smooth(np.bincount(arc, minlength=ARCS)), 1)
        wall = (mean > TISSUE_HU) & (np.bincount(arc[near_body], minlength=ARCS) > 0)
        lung = (mean > AIR_HU) & ~wall
        if not (lung.any() and wall.any()):
            return nothing
        return _between(lung, wall)


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
