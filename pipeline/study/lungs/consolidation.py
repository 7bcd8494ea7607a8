"""Consolidated lung that no air outlines: soft tissue inside the ribs, or where the other lung lies in the mirror.

Liver, heart and stomach are soft tissue there too, so a region joins on proof of disease only: bronchi that stay open run
through it, or, of what lies at the ribs, a haze that no solid organ has or dense lung beside it. The lung beside a heart may
be ill too.
"""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from pipeline.study.lungs.rays import Rays, to_spine
from pipeline.study.lungs.shapes import Bits, disk, window

AIR_HU = -200
"""HU below which a spot in soft tissue is air, blurred by the tissue round it."""
BRONCHUS_PX = 12
"""Pixels: the largest spot that is a bronchus cut across (48 mm2); what is larger is windpipe or bowel."""
BRONCHI = 2
"""Spots of air that prove a region to be lung: a single one may be noise or gas."""
BRONCHUS_NEAR_PX = 17
"""Pixels: side of the square round a spot that counts as near it, 16 mm each way."""
REACHED = 0.25
"""Share of a region that lies near its spots, or they are those of a hilum at its edge."""
LUMEN_PX = 3
"""Pixels round windpipe and bowel that never join: their wall."""
HAZE_HU = -140
"""HU below which soft tissue is hazy, as no solid organ is."""
HAZE = 0.25
"""Share of a region's core that is hazy, if the region is lung; noise and fat make less."""
EDGE_PX = 2
"""Pixels at a region's edge that are blurred by what lies beside, and left out."""
BORDER_PX = 5
"""Pixels from a region within which lung lies beside it."""
DEPTH_PX = 28
"""Pixels (56 mm) inside the ribs beyond which nothing is consolidation at the ribs: there lie heart and great vessels."""
BETWEEN_PX = 5
"""Pixels (10 mm) beyond the lung that may be consolidation on rays that meet no rib."""
SICK_HU = -520
"""HU above which the lung beside a region is dense, so that disease may go on in it."""
AIRLESS_HU = -150
"""HU above which the lung beside holds no air and proves nothing: it may have joined wrongly."""
LEAST_PX = 16
"""Pixels (64 mm2): a smaller region is too few to prove anything."""

Hu = npt.NDArray[np.int16]


def consolidated(lung: Bits, mirror: Bits, hu: Hu, free: Bits, rays: Rays) -> Bits:
    """What belongs to `lung` of one side [r, c], given the other side's `mirror` and the pixels that are `free` to join."""
    free = free & (1 - cv2.dilate(lung, disk(1)))
    joined = _proven(_within_ribs(lung, rays) & free, lung, hu, bronchi_only=False)
    across = mirror & free & (1 - joined)
    if across.any():
        windpipe = cv2.morphologyEx((hu < AIR_HU) * (1 - lung), cv2.MORPH_OPEN, disk(2))
        joined |= _proven(across & (1 - cv2.dilate(windpipe, disk(LUMEN_PX))), lung, hu, bronchi_only=True)
    return np.asarray(joined, np.uint8)


def _within_ribs(lung: Bits, rays: Rays) -> Bits:
    """What lies between the lung and the ribs, beside the spine as deep as the first of them."""
    reach = rays.reach(lung)
    ribs, met = rays.ribs(reach)
    ribs = np.where(met, ribs, np.minimum(ribs, reach + np.float32(BETWEEN_PX)))
    beyond = rays.within(ribs * to_spine(reach > 0)) & (1 - rays.within(reach))
    return np.asarray(beyond & (1 - rays.within(ribs - np.float32(DEPTH_PX))), np.uint8)


def _proven(between: Bits, lung: Bits, hu: Hu, *, bronchi_only: bool) -> Bits:
    """The regions of `between` that prove to be lung."""
    between = cv2.morphologyEx(between, cv2.MORPH_OPEN, disk(1))
    if between.any():
        box = window(between, BORDER_PX + 1)
        between[box] = _ill_regions(between[box], lung[box], hu[box], bronchi_only=bronchi_only)
    return np.asarray(between, np.uint8)


def _ill_regions(between: Bits, lung: Bits, hu: Hu, *, bronchi_only: bool) -> Bits:
    """The regions of `between` that bronchi run through, or, unless `bronchi_only`, that are hazy or border on dense `lung`."""
    n, labels = cv2.connectedComponents(between, connectivity=4)
    core = cv2.erode(between, disk(EDGE_PX)) > 0
    keep = bronchial(labels, n, hu, core)
    if not bronchi_only:
        hazy = np.bincount(labels[core & (hu < HAZE_HU)], minlength=n) > HAZE * np.bincount(labels[core], minlength=n)
        keep |= hazy | (bordering_hu(labels, n, lung, hu) > SICK_HU)
    keep &= np.bincount(labels[between > 0], minlength=n) >= LEAST_PX
    keep[0] = False
    return np.asarray(keep.astype(np.uint8)[labels])


def bronchial(labels: npt.NDArray[np.int32], n: int, hu: Hu, core: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """Which of `n` labelled regions small spots of air run through, `core` being all of them but their edges."""
    air = (hu < AIR_HU) & core
    n_spots, spots = cv2.connectedComponents(air.view(np.uint8), connectivity=8)
    if n_spots <= BRONCHI:  # the first is all that is no spot
        return np.zeros(n, bool)
    small = np.bincount(spots[air], minlength=n_spots) <= BRONCHUS_PX
    small[0] = False
    chosen = small[spots]
    _, first = np.unique(spots[chosen], return_index=True)
    count = np.bincount(labels[chosen][first], minlength=n)
    near = cv2.dilate(chosen.astype(np.uint8), np.ones((BRONCHUS_NEAR_PX, BRONCHUS_NEAR_PX), np.uint8)) > 0
    reached = np.bincount(labels[core & near], minlength=n) > REACHED * np.bincount(labels[core], minlength=n)
    return np.asarray((count >= BRONCHI) & reached)


def bordering_hu(labels: npt.NDArray[np.int32], n: int, lung: Bits, hu: Hu) -> npt.NDArray[np.float64]:
    """Mean of the lung next to each of `n` labelled regions, its blurred edge aside: dense where disease goes on.

    What has no air proves nothing, or one wrong region would bring in the next.
    """
    near, edge = (cv2.dilate(labels.astype(np.uint8), disk(radius)) for radius in (BORDER_PX, EDGE_PX))
    border = (near > 0) & (edge == 0) & (cv2.erode(lung, disk(1)) > 0) & (hu < AIRLESS_HU) & (labels < 256)
    count = np.bincount(near[border], minlength=max(n, 256))[:n]
    total = np.bincount(near[border], hu[border], minlength=max(n, 256))[:n]
    return np.where(count > 0, total / np.maximum(count, 1), -1000.0)


def mirrored(mask: Bits, middle: int) -> Bits:
    """`mask` [r, c] reflected in column `middle`."""
    both = slice(max(0, 2 * middle - mask.shape[1]), 2 * middle)
    image = np.zeros_like(mask)
    image[:, both] = mask[:, both][:, ::-1]
    return image
