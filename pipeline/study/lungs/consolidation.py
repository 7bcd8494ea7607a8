"""Consolidated lung that no air outlines: soft tissue inside the ribs, or where the other lung lies in the mirror.

Liver, heart and stomach are soft tissue there too. Consolidation shows itself by what air is left in it (bronchi that stay
open, or a haze that no solid organ has) or by the dense lung it borders; any other region is left alone.
"""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from pipeline.study.lungs.rays import Rays, to_spine
from pipeline.study.lungs.shapes import Bits, disk, window

BRONCHUS_HU, BRONCHI = -200, 0.012
HAZE_HU, HAZE = -140, 0.25
GAS_HU, GAS, GAS_LEAST = -900, 0.4, 0.06
EDGE_PX, BORDER_PX, DEPTH_PX, BETWEEN_PX = 2, 5, 28, 5
SICK_HU = -520
LEAST_PX = 16

Hu = npt.NDArray[np.int16]


def consolidated(lung: Bits, mirror: Bits, hu: Hu, free: Bits, rays: Rays) -> Bits:
    """What belongs to `lung` of one side [r, c], given the other side's `mirror` and the pixels that are `free` to join."""
    reach = rays.reach(lung)
    star = rays.within(reach)
    ribs, met = rays.ribs(hu, reach)
    ribs = np.where(met, ribs, np.minimum(ribs, reach + np.float32(BETWEEN_PX)))
    beyond = rays.within(ribs * to_spine(reach > 0)) & (1 - star)
    beyond &= 1 - rays.within(ribs - np.float32(DEPTH_PX))
    between = (beyond | mirror) & free & (1 - cv2.dilate(lung, disk(1)))
    between = cv2.morphologyEx(between, cv2.MORPH_OPEN, disk(1))
    if between.any():
        box = window(between, BORDER_PX + 1)
        between[box] = _open_or_bordering(between[box], lung[box], hu[box])
    return np.asarray(between, np.uint8)


def _open_or_bordering(between: Bits, lung: Bits, hu: Hu) -> Bits:
    """The regions of `between` that show bronchi or haze, or border on dense `lung`."""
    n, labels, stats, _ = cv2.connectedComponentsWithStats(between, connectivity=4)
    core = cv2.erode(between, disk(EDGE_PX)) > 0
    region, hu_core = labels[core], hu[core]

    def share(chosen: npt.NDArray[np.bool_]) -> npt.NDArray[np.float64]:
        return np.bincount(region[chosen], minlength=n) / np.maximum(np.bincount(region, minlength=n), 1)

    airy, gas = share(hu_core < BRONCHUS_HU), share(hu_core < GAS_HU)
    keep = (
        ((airy > BRONCHI) & (gas < np.maximum(GAS * airy, GAS_LEAST)))
        | (share(hu_core < HAZE_HU) > HAZE)
        | (bordering_hu(labels, n, lung, hu) > SICK_HU)
    )
    keep &= stats[:, cv2.CC_STAT_AREA] >= LEAST_PX
    keep[0] = False
    return np.asarray(keep.astype(np.uint8)[labels])


def bordering_hu(labels: npt.NDArray[np.int32], n: int, lung: Bits, hu: Hu) -> npt.NDArray[np.float64]:
    """Mean of the lung next to each of `n` labelled regions, its blurred edge aside: dense where disease goes on."""
    near, edge = (cv2.dilate(labels.astype(np.uint8), disk(radius)) for radius in (BORDER_PX, EDGE_PX))
    border = (near > 0) & (edge == 0) & (cv2.erode(lung, disk(1)) > 0) & (labels < 256)
    count = np.bincount(near[border], minlength=max(n, 256))[:n]
    total = np.bincount(near[border], hu[border], minlength=max(n, 256))[:n]
    return np.where(count > 0, total / np.maximum(count, 1), -1000.0)


def mirrored(mask: Bits, middle: int) -> Bits:
    """`mask` [r, c] reflected in column `middle`."""
    both = slice(max(0, 2 * middle - mask.shape[1]), 2 * middle)
    image = np.zeros_like(mask)
    image[:, both] = mask[:, both][:, ::-1]
    return image
