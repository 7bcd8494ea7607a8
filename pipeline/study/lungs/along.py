"""Lesions that other places know: soft tissue where the slices below and above, or the other lung, show lung is lung too.

Heart, aorta and diaphragm lie there as well, so disease must show itself near: consolidation that is already part of the
lung, open bronchi, or lung nearly all round. Fluid in the pleural space is told by its HU.
"""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from pipeline.study.lungs.consolidation import mirrored
from pipeline.study.lungs.rays import RAYS, Line, Rays
from pipeline.study.lungs.shapes import Bits, disk

PASSES = 2
"""How often: what joins in one pass is the neighbour of what joins in the next."""
REACH_MM = 45.0
"""mm along z: how far below and above slices are asked; farther ones show other parts of the chest."""
LUMEN_HU = -700
"""HU: what is darker is an open lumen and never joins."""
SOFT_HU = -200
"""HU below which a spot outside the lung is air, blurred by the tissue round it."""
NEAR_PX = 21
"""Pixels: side of the square in which disease is near, 21 mm each way."""
HAZE_HU = -450
"""HU above which lung is hazy: denser than healthy lung."""
HAZE = 0.15
"""Share of hazy lung near that is disease, where lung lies both below and above."""
DENSE_HU = -120
"""HU above which lung is consolidated."""
DENSE = 0.06
"""Share of consolidated lung near that is disease, where lung lies on one side only; less is a vessel or a blurred edge."""
SURROUNDED = 0.5
"""Share of the chest near that is lung, where what is enclosed joins without other signs."""
BRONCHUS_PX = 12
"""Pixels: the largest spot of air that is a bronchus cut across, 48 mm2."""
BRONCHUS_NEAR_PX = 23
"""Pixels: side of the square round a bronchus in which tissue counts as near it, 22 mm each way."""
SQUARE = np.ones((2, 2), np.uint8)
"""The least that joins, in pixels."""
WALL_PX = 3
"""Pixels that a lesion may seem to lie outside the line of the pleura."""
FLUID_HU = (-2, 16)
"""HU between which the mean of watery tissue is that of fluid; consolidated lung is denser."""
FLUID_PX = 9
"""Pixels: side of the square over which that mean is taken, wide enough to average noise out."""
WATERY = 0.7
"""Share of that square that is watery, or its mean says nothing."""
WATERY_HU = (-40, 120)
"""HU of what may be fluid: bronchi, fat and ribs beside it have no say in its mean."""

Hu = npt.NDArray[np.int16]
Chosen = npt.NDArray[np.bool_]


def bridged(lungs: Bits, hu: Hu, free: Bits, z_mm: npt.NDArray[np.float64], through: list[Rays]) -> Bits:
    """`lungs` [S, r, c] with what is `free` to join, known as lung elsewhere and near disease; rays go `through` each."""
    whole = lungs
    changed = np.ones(len(lungs), bool)
    reach = np.zeros((len(lungs), RAYS), np.float32)
    for _ in range(PASSES):
        before = whole
        whole = whole.copy()
        for place in np.flatnonzero(changed):
            reach[place] = through[place].reach(before[place])
        for i, (image, rays) in enumerate(zip(hu, through, strict=True)):
            low, high = np.searchsorted(z_mm, (z_mm[i] - REACH_MM, z_mm[i] + REACH_MM))
            if changed[low:high].any():
                below = before[low:i].max(axis=0, initial=0)
                above = before[i + 1 : high].max(axis=0, initial=0)
                reaches = reach[i], reach[low:high].max(axis=0)
                whole[i] |= _joining(before[i], image, free[i], (below, above), reaches, rays)
        changed = (whole != before).any(axis=(1, 2))
    return whole


def _joining(lung: Bits, hu: Hu, free: Bits, stacked: tuple[Bits, Bits], reaches: tuple[Line, Line], rays: Rays) -> Bits:
    """What joins the `lung` of one slice, given what lies below and above it, and how far it and all of them reach."""
    reach, chest = reaches
    known = _known(lung, hu, free, stacked, rays.within(chest), mirrored(lung, rays.middle))
    joining = known & free & (1 - lung) & (hu > LUMEN_HU)
    if not cv2.erode(joining, SQUARE).any():
        return np.zeros_like(joining)
    ribs, _ = rays.ribs(reach)
    inside = rays.within(np.where(ribs > 0, np.minimum(ribs + np.float32(WALL_PX), chest), chest))
    free = free & inside & ~fluid(hu)
    joining = cv2.morphologyEx(joining & free, cv2.MORPH_OPEN, SQUARE)
    seams = cv2.morphologyEx(lung | joining, cv2.MORPH_CLOSE, disk(2)) & cv2.dilate(joining, disk(2)) & free
    return np.asarray(joining | seams, np.uint8)


def _known(lung: Bits, hu: Hu, free: Bits, stacked: tuple[Bits, Bits], chest: Bits, across: Bits) -> Bits:
    """Where other places show lung and disease shows itself near: in the `lung`, or in open bronchi outside it."""
    below, above = stacked
    airy = _bronchi(lung, hu, free)
    sicker = _near(_dense(lung, hu, DENSE_HU)) > DENSE * NEAR_PX**2
    # lung above or across says little alone: it is there over every heart and diaphragm too
    known = (below | ((above | across) & airy)) & sicker
    surrounded = _near(lung) > SURROUNDED * _near(chest)
    sick = (_near(_dense(lung, hu, HAZE_HU)) > HAZE * NEAR_PX**2) | airy | surrounded
    return np.asarray(known | (below & above & sick), np.uint8)


def _near(chosen: Bits) -> npt.NDArray[np.uint16]:
    """How many pixels of the square round each are `chosen`."""
    return np.asarray(cv2.boxFilter(chosen, cv2.CV_16U, (NEAR_PX, NEAR_PX), normalize=False), np.uint16)


def _dense(lung: Bits, hu: Hu, least_hu: int) -> Bits:
    """The lung that measures more than `least_hu` and is wider than a vessel."""
    return np.asarray(cv2.morphologyEx((hu > least_hu) * lung, cv2.MORPH_OPEN, disk(2)), np.uint8)


def _bronchi(lung: Bits, hu: Hu, free: Bits) -> Bits:
    """The neighbourhood of small spots of air outside the lung."""
    air = ((hu < SOFT_HU) & (cv2.dilate(lung, disk(1)) == 0)) * free
    _, labels = cv2.connectedComponents(air, connectivity=8)
    small = np.bincount(labels[air > 0]) <= BRONCHUS_PX
    spots = np.zeros_like(air)
    spots[air > 0] = small[labels[air > 0]]
    return np.asarray(cv2.dilate(spots, np.ones((BRONCHUS_NEAR_PX, BRONCHUS_NEAR_PX), np.uint8)))


def fluid(hu: Hu) -> Chosen:
    """Where what is neither air, fat nor bone measures as little as fluid."""
    watery = ((hu > WATERY_HU[0]) & (hu < WATERY_HU[1])).astype(np.uint8)
    count, total = (cv2.boxFilter(x, cv2.CV_32S, (FLUID_PX, FLUID_PX), normalize=False) for x in (watery, hu * watery))
    return np.asarray((count > WATERY * FLUID_PX**2) & (total > FLUID_HU[0] * count) & (total < FLUID_HU[1] * count))
