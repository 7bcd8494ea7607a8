"""The recipe of the published code, in full pixels: < -600 HU, no border, two largest regions, erode 2, close 10, fill.

It cuts away lesions that touch the pleura; it is kept for checkpoints that were trained on its masks.
"""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from pipeline.study.lungs.shapes import Mask, disk, filled

AIR_HU = -600
"""HU below which the published code takes a pixel for lung."""
LEAST_SHARE = 3000 / 512**2
"""Share of the slice: a smaller region is none, as 3000 pixels of 512 x 512 are in the published code."""
MARGIN = 13
"""Pixels round the regions that erosion, closing and the last dilation can touch."""


def published_masks(hu: npt.NDArray[np.int16]) -> Mask:
    """Lung of each slice for itself: hu [S, R, C] -> bool [S, R, C]."""
    return np.stack([published_mask(image) for image in hu])


def published_mask(image: npt.NDArray[np.int16]) -> Mask:
    """The lung of one slice [R, C], pixel for pixel what the scikit-image recipe gives."""
    labels, kept, box = _two_largest((image < AIR_HU).astype(np.uint8))
    mask = np.zeros(image.shape, bool)
    if kept:
        region = np.isin(labels[box], kept).astype(np.uint8)
        region = cv2.morphologyEx(cv2.erode(region, disk(2)), cv2.MORPH_CLOSE, disk(10))
        mask[box] = filled(cv2.dilate(region, np.ones((2, 2), np.uint8), anchor=(0, 0)))
    return mask


def _two_largest(air: npt.NDArray[np.uint8]) -> tuple[npt.NDArray[np.int32], list[int], tuple[slice, slice]]:
    """The labelled regions, the numbers of the two largest that touch no border, and the window that holds them."""
    _, labels, stats, _ = cv2.connectedComponentsWithStats(air, connectivity=8)
    left, top, width, height, area = stats.T
    inner = (left > 0) & (top > 0) & (left + width < air.shape[1]) & (top + height < air.shape[0])
    inner[0] = False
    area = np.where(inner, area, 0)
    kept = [int(number) for number in np.argsort(-area, kind="stable")[:2] if area[number] >= LEAST_SHARE * air.size]
    if not kept:
        return labels, [], (slice(0), slice(0))
    low_y = max(0, min(top[kept]) - MARGIN)
    low_x = max(0, min(left[kept]) - MARGIN)
    high_y = max((top + height)[kept]) + MARGIN
    high_x = max((left + width)[kept]) + MARGIN
    return labels, kept, (slice(low_y, high_y), slice(low_x, high_x))
