"""Lesions that other places know: soft tissue where the slices below and above, or the other lung, show lung is lung too.

Heart, aorta and diaphragm lie there as well, so disease must show itself near: consolidation that is already part of the
lung, open bronchi, or lung nearly all round. Fluid in the pleural space is told by its HU.
"""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from pipeline.lung.consolidation import mirrored
from pipeline.lung.rays import Rays
from pipeline.lung.shapes import Bits, disk

PASSES = 2
"""What joins in one pass is the neighbour of what joins in the next."""
REACH_MM = 45.0
LUMEN_HU, SOFT_HU = -700, -200
NEAR_PX = 21
HAZE_HU, HAZE = -450, 0.15
DENSE_HU, DENSE = -120, 0.06
"""Share of the lung near that measures so much: lesion where lung lies both below and above, or on one side only."""
SURROUNDED = 0.5
BRONCHUS_PX, BRONCHUS_NEAR_PX = 12, 23
WALL_PX = 3
"""How far a lesion may seem to lie outside the line of the pleura."""
FLUID_HU = (-2, 16)
FLUID_PX = 9
WATERY, WATERY_HU = 0.7, (-40, 120)
"""What may be fluid: bronchi, fat and ribs beside it have no say in its HU."""

Hu = npt.NDArray[np.int16]
Chosen = npt.NDArray[np.bool_]


def bridged(lungs: Bits, hu: Hu, free: Bits, z_mm: npt.NDArray[np.float64], rays: Rays) -> Bits:
    """`lungs` [S, r, c] with what is `free` to join, known as lung elsewhere and near disease."""
    whole = lungs
    for _ in range(PASSES):
        before, whole = whole, whole.copy()
        for i, image in enumerate(hu):
            low, high = np.searchsorted(z_mm, (z_mm[i] - REACH_MM, z_mm[i] + REACH_MM))
            below, above = before[low:i].max(axis=0, initial=0), before[i + 1 : high].max(axis=0, initial=0)
            whole[i] |= _joining(before[i], image, free[i], (below, above), rays)
    return whole


def _joining(lung: Bits, hu: Hu, free: Bits, stacked: tuple[Bits, Bits], rays: Rays) -> Bits:
    """What joins the `lung` of one slice, given what lies below and above it."""
    below, above = stacked
    reach = rays.reach(lung)
    chest = np.maximum(reach, rays.reach(below | above))
    airy = _bronchi(lung, hu, free)
    sick = (_dense(lung, hu, HAZE_HU) > HAZE) | airy | _surrounded(lung, rays.within(chest))
    sicker = _dense(lung, hu, DENSE_HU) > DENSE
    # lung above or across says little alone: it is there over every heart and diaphragm too
    known = (below & above & sick) | ((below | ((above | mirrored(lung, rays.middle)) & airy)) & sicker)
    ribs, _ = rays.ribs(hu, reach)
    inside = rays.within(np.where(ribs > 0, np.minimum(ribs + np.float32(WALL_PX), chest), chest))
    free = free & inside & ~fluid(hu)
    joining = (known & free & (1 - lung)) * (hu > LUMEN_HU)
    joining = cv2.morphologyEx(joining.astype(np.uint8), cv2.MORPH_OPEN, np.ones((2, 2), np.uint8))
    seams = cv2.morphologyEx(lung | joining, cv2.MORPH_CLOSE, disk(2)) & cv2.dilate(joining, disk(2)) & free
    return np.asarray(joining | seams, np.uint8)


def _share(chosen: Bits) -> npt.NDArray[np.float32]:
    """Share of the square round each pixel that is `chosen`."""
    return np.asarray(cv2.blur(chosen.astype(np.float32), (NEAR_PX, NEAR_PX)), np.float32)


def _dense(lung: Bits, hu: Hu, least_hu: int) -> npt.NDArray[np.float32]:
    """Share of lung near that measures `least_hu` or more and is wider than a vessel."""
    return _share(cv2.morphologyEx((hu > least_hu) * lung, cv2.MORPH_OPEN, disk(2)))


def _surrounded(lung: Bits, chest: Bits) -> Chosen:
    """Where the `chest`, as far out as lung reaches here, below or above, is mostly lung."""
    return np.asarray(_share(lung) > SURROUNDED * _share(chest))


def _bronchi(lung: Bits, hu: Hu, free: Bits) -> Bits:
    """The neighbourhood of small spots of air outside the lung."""
    air = ((hu < SOFT_HU) & (cv2.dilate(lung, disk(1)) == 0)) * free
    _, labels, stats, _ = cv2.connectedComponentsWithStats(air, connectivity=8)
    small = stats[:, cv2.CC_STAT_AREA] <= BRONCHUS_PX
    small[0] = False
    return np.asarray(cv2.dilate(small.astype(np.uint8)[labels], np.ones((BRONCHUS_NEAR_PX, BRONCHUS_NEAR_PX), np.uint8)))


def fluid(hu: Hu) -> Chosen:
    """Where what is neither air, fat nor bone measures as little as fluid."""
    watery = ((hu > WATERY_HU[0]) & (hu < WATERY_HU[1])).astype(np.float32)
    share, mean = (cv2.blur(plane, (FLUID_PX, FLUID_PX)) for plane in (watery, hu * watery))
    return np.asarray((share > WATERY) & (mean > FLUID_HU[0] * share) & (mean < FLUID_HU[1] * share))
