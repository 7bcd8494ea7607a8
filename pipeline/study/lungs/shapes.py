"""Small pictures of yes and no: disks, closings, holes, connected regions."""

from __future__ import annotations

from functools import cache

import cv2
import numpy as np
import numpy.typing as npt

Mask = npt.NDArray[np.bool_]
Bits = npt.NDArray[np.uint8]
BYTE = 256
"""Numbers that a byte holds."""
FEW = 4
"""Every fourth pixel tells which region is likely the largest; counting all takes ten times as long."""
BESIDE_PX = 16
"""Pixels beside bodies and lungs that are looked at with them: more than any rule looks far."""


@cache
def disk(radius: int) -> Bits:
    """A filled disk of 2 * radius + 1 pixels."""
    y, x = np.ogrid[-radius : radius + 1, -radius : radius + 1]
    whole = np.asarray(y * y + x * x <= radius * radius, np.uint8)
    whole.setflags(write=False)
    return whole


def off_middle(mask: Bits, middle: float) -> npt.NDArray[np.float64]:
    """How far each column [c] lies from `middle`, in pixels from the left, as a share of half the width of `mask` [r, c]."""
    columns = np.flatnonzero(mask.any(axis=0))
    half = (columns[-1] - columns[0] + 1) / 2 if len(columns) else 1.0
    return np.asarray(np.abs(np.arange(mask.shape[1]) + 0.5 - middle) / half)


def window(mask: Bits, margin: int = 0) -> tuple[slice, slice]:
    """Rows and columns of the box round `mask` and `margin` pixels more, cut at the border of the picture."""
    left, top, width, height = cv2.boundingRect(mask)
    return slice(max(0, top - margin), top + height + margin), slice(max(0, left - margin), left + width + margin)


def widened(mask: Bits, radius: float) -> Bits:
    """`mask` and all within `radius` pixels of it."""
    return (cv2.distanceTransform(1 - mask, cv2.DIST_L2, 5) <= radius).astype(np.uint8) if mask.any() else mask


def closed(mask: Bits, radius: float) -> Bits:
    """Closing with a disk of any size, by two distance maps; nothing is lost at the border."""
    if not mask.any():
        return mask
    box = window(mask)
    pad = int(radius) + 2
    shut = mask.copy()
    wide = widened(cv2.copyMakeBorder(mask[box], pad, pad, pad, pad, cv2.BORDER_CONSTANT, value=0), radius)
    shut[box] |= cv2.distanceTransform(wide, cv2.DIST_L2, 5)[pad:-pad, pad:-pad] > radius
    return shut


def filled(mask: Bits) -> Bits:
    """`mask` without holes."""
    if not mask.any():
        return mask
    box = window(mask)
    whole = mask.copy()
    outside = cv2.copyMakeBorder(1 - mask[box], 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=1)
    cv2.floodFill(outside, None, (0, 0), 2)
    whole[box] = outside[1:-1, 1:-1] != 2
    return whole


def largest(mask: Bits) -> Bits:
    """The largest connected region of `mask`."""
    n, labels = cv2.connectedComponents(mask, connectivity=4)
    if n <= 2:
        return mask
    likely = 1 + int(np.argmax(np.bincount(labels[::FEW, ::FEW].ravel(), minlength=n)[1:]))
    region = np.asarray(labels == likely).view(np.uint8)
    if 2 * cv2.countNonZero(region) > cv2.countNonZero(mask):
        return region
    return np.asarray(labels == 1 + int(np.argmax(np.bincount(labels.ravel())[1:])), np.uint8)


def mirrored(mask: Bits, middle: int) -> Bits:
    """`mask` [r, c] reflected in column `middle`."""
    both = slice(max(0, 2 * middle - mask.shape[1]), 2 * middle)
    image = np.zeros_like(mask)
    image[:, both] = mask[:, both][:, ::-1]
    return image


def chosen(labels: npt.NDArray[np.int32], wanted: npt.NDArray[np.bool_] | Bits) -> Bits:
    """What is `wanted` of each numbered region, at every pixel of `labels`; thrice as fast where a byte numbers all."""
    if len(wanted) > BYTE:
        return np.asarray(wanted.astype(np.uint8)[labels])
    table = np.zeros(BYTE, np.uint8)
    table[: len(wanted)] = wanted
    return np.asarray(cv2.LUT(labels.astype(np.uint8), table), np.uint8)
