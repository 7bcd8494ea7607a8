"""Air -> lung: each side closed towards the chest wall, never across the mediastinum."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from pipeline.study.lungs.air import WORK_MM
from pipeline.study.lungs.rays import RAYS, Line, Rays, arched, around, flanked
from pipeline.study.lungs.shapes import BESIDE_PX, Bits, chosen, closed, disk, filled, window
from pipeline.study.lungs.sides import sides

CHORD_MM = 45.0
"""mm: radius of the closing that bridges what a pleural lesion takes from the lung's outline."""
INNER_PX = 3
"""Pixels: radius of the closing that takes vessels in, 6 mm."""
ALONG_MM = 80.0
"""mm along z within which slices below and above say how far the chest wall is."""
SLACK_MM = 2.0
"""mm that the wall may lie beyond what those slices reach, inside the ribs."""
RIB_SLACK_MM = 12.0
"""mm of that where a rib is met at a dent of the outline: a lesion there may reach to the rib."""
DENT_MM = 3.0
"""mm that the outline lies inside its hull, if it is dented there."""
DENT_RAYS = RAYS * 12 // 360
"""Rays (12 degrees) beside a dent that belong to it."""
MIDLINE_MM = 18.0
"""mm from the midline within which soft tissue is mediastinum and joins no lung at large."""
SMALL_MM2 = 80.0
"""mm2: a smaller pocket at the outline is lesion or vessel, whatever it measures."""
HOLE_MM2 = 200.0
"""mm2: a smaller hole within the lung is lesion or vessel too."""
RAGGED = 0.62
"""Share of its box: a hole that fills less is ragged, which the round dome of a diaphragm is not."""
CENTRAL_MM = 30.0
"""mm from the middle: a ray on which the lung ends nearer backs no pocket, beyond it lies the mediastinum."""
DEPTH_MM = 30.0
"""mm along a ray that a pocket may be deep, and lung inside it may back it."""
BELOW_MM = 32.0
"""mm along z within which lung below supports a pocket."""
SUPPORTED = 0.4
"""Share of a pocket that has lung below, if it is lesion and not diaphragm."""
AIRY_HU = -150
"""HU below which soft tissue in a pocket holds air."""
AIRY = 0.4
"""Share of a pocket that holds air, if it is lung."""
FAT_HU = (-130, -30)
"""HU of fat; a pocket that is mostly fat is none of the lung."""
THICK_PX = 4
"""Pixels: what is thicker than twice this (16 mm) may be liver, spleen or muscle, and needs lung below."""

Hu = npt.NDArray[np.int16]


def closed_lungs(air: Bits, hu: Hu, bodies: Bits, z_mm: npt.NDArray[np.float64]) -> Bits:
    """Lung air [S, r, c] -> lungs [S, r, c], from the lowest slice up, so that each knows the lung below."""
    rays = Rays.round_middle(bodies, hu)
    pairs = np.stack([sides(mask, image, rays.middle) for mask, image in zip(air, hu, strict=True)], axis=1)
    free = np.stack([_inside(image, mask) for image, mask in zip(hu, bodies, strict=True)])
    free &= np.abs(np.arange(hu.shape[2]) - rays.middle + 0.5) > MIDLINE_MM / WORK_MM
    lungs = np.zeros_like(air)
    for side in pairs:
        box = window(side.max(axis=0), BESIDE_PX)
        part = (slice(None), *box)
        lungs[part] |= _closed(side[part], hu[part], free[part], z_mm, rays.cut(box))
    return lungs


def _closed(air: Bits, hu: Hu, free: Bits, z_mm: npt.NDArray[np.float64], rays: Rays) -> Bits:
    """One lung of every slice, of the part of the slices that is near it; what is `free` may join."""
    wall = _wall_reach(np.stack([rays.reach(mask) for mask in air]), z_mm)
    lungs = np.zeros_like(air)
    for i, image in enumerate(hu):
        first = min(max(i - 1, 0), int(np.searchsorted(z_mm, z_mm[i] - BELOW_MM)))
        below = lungs[first:i].max(axis=0, initial=0)
        lungs[i] = _whole(air[i], image, free[i], below, wall[i], rays.through(image))
    return lungs


def _inside(hu: Hu, body: Bits) -> Bits:
    """Where lung may be beyond its air, the midline aside: inside the body, not bone."""
    return np.asarray((hu < 200) * cv2.erode(body, disk(4)), np.uint8)


def _wall_reach(reach: Line, z_mm: npt.NDArray[np.float64]) -> Line:
    """How far the chest wall is: what slices above and below both reach, a closing of the air's reach [S, rays] along z."""
    wall = reach.copy()
    for i in range(1, len(reach) - 1):
        low, high = np.searchsorted(z_mm, (z_mm[i] - ALONG_MM, z_mm[i] + ALONG_MM))
        below = reach[min(int(low), i - 1) : i].max(axis=0)
        above = reach[i + 1 : max(int(high), i + 2)].max(axis=0)
        wall[i] = np.maximum(reach[i], np.minimum(below, above))
    return wall


def _whole(air: Bits, hu: Hu, free: Bits, below: Bits, wall: Line, rays: Rays) -> Bits:
    """One lung of one slice: its vessels, its holes, and what a pleural lesion took from its outline."""
    if not air.any():
        return air
    inner = cv2.morphologyEx(air, cv2.MORPH_CLOSE, disk(INNER_PX))
    reach = rays.reach(inner)
    backed = below | rays.within(np.where(reach > CENTRAL_MM / WORK_MM, reach + np.float32(DEPTH_MM / WORK_MM), 0))
    lesions = _lesions(_pockets(reach, free, wall, rays), hu, backed, small_mm2=SMALL_MM2, ragged=0)
    lung = inner | (lesions & ~_organs(lesions, below))
    lung = cv2.morphologyEx(lung, cv2.MORPH_CLOSE, disk(2))
    holes = filled(lung) & ~lung
    if holes.any():
        lung |= _lesions(holes, hu, below, small_mm2=HOLE_MM2, ragged=RAGGED)
    return np.asarray(cv2.morphologyEx(lung, cv2.MORPH_OPEN, disk(1)) | air, np.uint8)


def _organs(pockets: Bits, below: Bits) -> Bits:
    """The thick parts of `pockets` that no lung `below` supports: liver, spleen, muscle, or what the network knows better."""
    thick = cv2.morphologyEx(pockets, cv2.MORPH_OPEN, disk(THICK_PX))
    if not thick.any():
        return np.zeros_like(pockets)
    n, labels = cv2.connectedComponents(thick, connectivity=4)
    organ = np.bincount(labels[below > 0], minlength=n) <= SUPPORTED * np.bincount(labels.ravel(), minlength=n)
    organ[0] = False
    return chosen(labels, organ)


def _pockets(reach: Line, free: Bits, wall: Line, rays: Rays) -> Bits:
    """Soft tissue between the lung, which has this `reach`, and its chest wall."""
    star = rays.within(reach)
    x = np.abs(np.arange(free.shape[1]) - rays.middle + 0.5)
    free = free & (1 - star)
    hull = closed(star, CHORD_MM / WORK_MM)
    chord = hull & free
    hulled = rays.reach(hull & (x > 1))
    ribs, met = rays.ribs(reach)
    slack = np.where(met & around(hulled > reach + DENT_MM / WORK_MM, DENT_RAYS), RIB_SLACK_MM, SLACK_MM) / WORK_MM
    wall = np.maximum(wall + slack, arched(reach, hulled))
    wall = np.where(ribs > 0, np.minimum(ribs, wall), wall - slack) * flanked(reach > 0)
    cage = rays.within(wall) & free
    pockets = chord | cv2.morphologyEx(cage, cv2.MORPH_OPEN, np.ones((3, 3), np.uint8))
    return np.asarray(pockets & ~rays.within(rays.reach(pockets) - np.float32(DEPTH_MM / WORK_MM)), np.uint8)


def _lesions(pockets: Bits, hu: Hu, below: Bits, *, small_mm2: float, ragged: float) -> Bits:
    """Those regions of soft tissue that are lesion or vessel and not diaphragm.

    They are small, airy, have lung below, or fill less than `ragged` of their box (the dome of a diaphragm is round).
    """
    if not pockets.any():
        return pockets
    box = window(pockets)
    lesions = np.zeros_like(pockets)
    n, labels = cv2.connectedComponents(pockets[box], connectivity=4)
    inside = pockets[box] > 0
    region = labels[inside]
    hu = hu[box][inside]
    below = below[box][inside]
    area = np.bincount(region, minlength=n)
    supported = np.bincount(region[below > 0], minlength=n) > SUPPORTED * area
    airy = np.bincount(region[hu < AIRY_HU], minlength=n) > AIRY * area
    fat = np.bincount(region[(hu > FAT_HU[0]) & (hu < FAT_HU[1])], minlength=n) > 0.5 * area
    keep = ((supported | airy | _loose(pockets[box], area, ragged)) & ~fat) | (area * WORK_MM**2 < small_mm2)
    lesions[box][inside] = keep[region]
    return lesions


def _loose(pockets: Bits, area: npt.NDArray[np.intp], ragged: float) -> npt.NDArray[np.bool_]:
    """Which of the regions of this `area`, the first being all around them, fill less than `ragged` of their box."""
    if not ragged:
        return np.zeros(len(area), bool)
    _, _, stats, _ = cv2.connectedComponentsWithStats(pockets, connectivity=4)
    return np.asarray(area < ragged * stats[:, cv2.CC_STAT_WIDTH] * stats[:, cv2.CC_STAT_HEIGHT])
