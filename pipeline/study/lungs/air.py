"""The lung's own air, slice by slice and followed along z; all at WORK_MM a pixel.

Three kinds of air are not lung: what lies outside the body, what soft tissue encloses on its own (windpipe, main bronchi,
stomach and bowel gas: darker than lung, with soft tissue around), and what no lung lies above or below.
"""

from __future__ import annotations

import math

import cv2
import numpy as np
import numpy.typing as npt

from pipeline.study.lungs.shapes import Bits, chosen, disk, filled, largest, widened, window

WORK_MM = 2.0
"""mm: the side of the pixels that all rules look at, each the mean of those under it."""
TOGETHER = 4
"""Slices that are shrunk at once, which takes half the time and gives the same."""
AIR_HU = -400
"""HU below which tissue in the body is air or lung; ground glass above it joins later, by HAZE_HU."""
SOFT_HU = -300
"""HU above which what is not air counts as body, a little denser than the densest air."""
LEAST_MM2 = 60.0
"""mm2: regions of air that are smaller are specks: noise, or a bronchus cut across."""
LUMEN_LEAST_MM2 = 24.0
"""mm2: dark regions that are smaller are too few pixels to tell what encloses them."""
ENCLOSED = 0.75
"""Share of soft tissue round a dark region that makes it a lumen, not a bulla."""
GAS_HU = -975
"""HU below which air is pure gas, which says nothing of what this study's lung measures."""
GAS_SHARE = 0.15
"""Share of a small basal region's pixels that are as dark as a lumen: more is gas among stool."""
GAS_MM2 = 1000.0
"""mm2: what is larger is lung, whatever dark spots it has."""
FOLLOWED = 0.45
"""Share of a region that lies under the neighbouring slice's lung if it is lung too: nearly half, as bases taper."""
REGROW = 4
"""Pixels by which the lung grows back into the thin ends of its air, which the opening of the regions took."""
HAZE_HU = -140
"""HU below which tissue that touches the lung is ground glass; over 5 pixels the mean must lie below twice that."""
STEP_MM = 4.0
"""mm: how far the lung may lie sideways of its neighbour, however near the slices."""
SLOPE = 0.3
"""mm more of that for each mm between the slices."""

Hu = npt.NDArray[np.int16]


def shrunk(image: Hu, spacing_mm: tuple[float, float]) -> Hu:
    """A slice, or several as channels, at WORK_MM a pixel, each the mean of the pixels under it."""
    rows, columns = (max(8, round(n * mm / WORK_MM)) for n, mm in zip(image.shape[:2], spacing_mm, strict=True))
    return np.asarray(cv2.resize(image, (columns, rows), interpolation=cv2.INTER_AREA), np.int16)


def all_shrunk(hu: Hu, spacing_mm: tuple[float, float]) -> Hu:
    """Slices [S, R, C], each as it is shrunk alone."""
    groups = [list(hu[at : at + TOGETHER]) for at in range(0, len(hu), TOGETHER)]
    whole = [cv2.merge(group + [group[-1]] * (TOGETHER - len(group))) for group in groups]
    return np.stack([image for together in whole for image in cv2.split(shrunk(together, spacing_mm))][: len(hu)])


def body(image: Hu) -> Bits:
    """The largest soft region, holes filled, thin sheets (table, blankets) stripped; found at twice WORK_MM.

    A pixel there is soft if any of the four under it is, so that no thin chest wall opens a lung to the air outside.
    """
    soft = cv2.dilate((image > SOFT_HU).view(np.uint8), np.ones((2, 2), np.uint8), anchor=(0, 0))
    found = largest(cv2.morphologyEx(filled(largest(np.ascontiguousarray(soft[::2, ::2]))), cv2.MORPH_OPEN, disk(3)))
    return np.ascontiguousarray(found.repeat(2, axis=0).repeat(2, axis=1)[: image.shape[0], : image.shape[1]])


def lung_air(hu: Hu, bodies: Bits, z_mm: npt.NDArray[np.float64]) -> Bits:
    """Air of the lungs [S, r, c]: lumens taken out, regions followed from the fullest slice up and down."""
    air = ((hu < AIR_HU) & (bodies > 0)).astype(np.uint8)
    usual = _usual_hu(hu, air)
    lumen_hu = math.ceil(min(-900.0, (usual - 1000.0) / 2))
    free = [mask & ~_lumens(image, mask, lumen_hu) for image, mask in zip(hu, air, strict=True)]
    regions = [_regions(cv2.morphologyEx(mask, cv2.MORPH_OPEN, disk(1))) for mask in free]
    fullest = int(np.argmax([cv2.countNonZero(mask) for mask in regions]))
    for place in range(fullest):
        regions[place] = _without_gas(regions[place], hu[place], lumen_hu)
    lungs = _follow(regions, fullest, z_mm)
    return np.stack([_softened(_regrown(*each), image) for image, *each in zip(hu, lungs, free, strict=True)])


def _regrown(lung: Bits, free: Bits) -> Bits:
    """`lung` with the thin ends of its air."""
    for _ in range(REGROW):
        lung = cv2.dilate(lung, np.ones((3, 3), np.uint8)) & free
    return lung


def _softened(lung: Bits, hu: Hu) -> Bits:
    """`lung` with the ground glass that touches it; the blurred rim of every lung is too thin to count."""
    hazy = ((hu < HAZE_HU) | (cv2.blur(hu, (5, 5)) < 2 * HAZE_HU)) & (lung == 0) & (hu > AIR_HU - 200)
    haze = cv2.morphologyEx(hazy.astype(np.uint8), cv2.MORPH_OPEN, np.ones((3, 3), np.uint8))
    n, labels = cv2.connectedComponents(haze, connectivity=8)
    touching = np.zeros(n, np.uint8)
    touching[labels[cv2.dilate(lung, disk(1)) > 0]] = 1
    touching[0] = 0
    return np.asarray(lung | chosen(labels, touching))


def _usual_hu(hu: Hu, air: Bits) -> float:
    """What lung measures in this study: the median of the fullest slice's air, pure gas aside."""
    fullest = int(np.argmax([cv2.countNonZero(mask) for mask in air]))
    values = hu[fullest][(air[fullest] > 0) & (hu[fullest] > GAS_HU)]
    return float(np.median(values)) if len(values) else -850.0


def _lumens(image: Hu, air: Bits, lumen_hu: int) -> Bits:
    """Dark regions that soft tissue encloses, with their rims."""
    dark = ((cv2.blur(image, (3, 3)) < lumen_hu) & (air > 0)).astype(np.uint8)
    found = np.zeros_like(air)
    if not cv2.countNonZero(dark):
        return found
    n, labels = cv2.connectedComponents(dark, connectivity=4)
    large = np.bincount(labels[dark > 0], minlength=n) * WORK_MM**2 >= LUMEN_LEAST_MM2
    if not large.any():
        return found
    numbers = chosen(labels, np.where(large, np.minimum(np.cumsum(large), 255), 0).astype(np.uint8))
    box = window(numbers, 5)
    rim = cv2.dilate(numbers[box], disk(2))
    ring = cv2.dilate(numbers[box], disk(3)) * (rim == 0)
    near_soft = cv2.dilate((image[box] > -500).view(np.uint8), np.ones((3, 3), np.uint8))
    enclosed = np.bincount(ring[near_soft > 0], minlength=256) > ENCLOSED * np.bincount(ring.ravel(), minlength=256)
    enclosed[0] = False
    found[box] = enclosed.astype(np.uint8)[rim]
    return found


def _regions(mask: Bits) -> Bits:
    """`mask` without specks, its regions numbered."""
    n, labels = cv2.connectedComponents(mask, connectivity=8)
    keep = np.bincount(labels[mask > 0], minlength=n) * WORK_MM**2 >= LEAST_MM2
    return chosen(labels, np.where(keep, np.minimum(np.cumsum(keep), 255), 0).astype(np.uint8))


def _without_gas(regions: Bits, hu: Hu, lumen_hu: int) -> Bits:
    """Numbered `regions` of a basal slice less the small ones with dark spots: gas among stool is no pure lumen."""
    area = np.bincount(regions[regions > 0], minlength=256)
    dark = np.bincount(regions[(regions > 0) & (hu < lumen_hu)], minlength=256)
    gas = (dark > GAS_SHARE * area) & (area * WORK_MM**2 < GAS_MM2)
    return np.where(gas[regions], 0, regions).astype(np.uint8)


def _follow(candidates: list[Bits], start: int, z_mm: npt.NDArray[np.float64]) -> Bits:
    """From slice `start` outwards, keep the regions that mostly lie under the (widened) lung of the slice before."""
    lungs = np.zeros((len(candidates), *candidates[0].shape), np.uint8)
    lungs[start] = candidates[start] > 0
    for step in (1, -1):
        before = lungs[start]
        at = float(z_mm[start])
        for place in range(start + step, len(lungs) if step > 0 else -1, step):
            reach = (STEP_MM + SLOPE * abs(float(z_mm[place]) - at)) / WORK_MM
            box = window(before | candidates[place])
            inside = candidates[place][box] > 0
            region = candidates[place][box][inside]
            near = widened(before[box], reach)[inside]
            keep = np.bincount(region[near > 0], minlength=256) > FOLLOWED * np.bincount(region, minlength=256)
            lungs[place][box][inside] = keep[region]
            if lungs[place].any():
                before = lungs[place]
                at = float(z_mm[place])
    return lungs
