"""HU -> lung mask, with OpenCV and numpy.

`chest-wall` finds the air inside the body, follows it from the fullest slice up and down (stomach and bowel gas have no lung
above them), then closes towards the chest wall, so that lesions at the pleura stay in. `published` is the recipe of the
published code (-600 HU, two largest regions, small closing), which cuts such lesions away; it is kept for its checkpoints.
"""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

Mask = npt.NDArray[np.bool_]
Hu = npt.NDArray[np.int16]

AIR_HU = -400
WORK_MM = 2.0
MIN_REGION_MM2 = 250.0
CLOSE_MM = 22.0
FOLLOWED = 0.45


def lung_masks(hu: Hu, z_mm: npt.NDArray[np.float64], spacing_mm: tuple[float, float], recipe: str = "chest-wall") -> Mask:
    """Lung of each slice: hu [S, R, C] ordered by z -> bool [S, R, C]; slices may be dense or centimetres apart."""
    if len(hu) == 0:
        return np.zeros(hu.shape, bool)
    if len(hu) != len(z_mm):
        raise ValueError(f"{len(hu)} slices but {len(z_mm)} positions")
    if recipe == "published":
        return np.stack([published_mask(image) for image in hu])
    small = np.stack([_shrunk(image, spacing_mm) for image in hu])
    candidates = [_air_regions(image) for image in small]
    followed = _follow(candidates)
    closed = [_closed(mask, image) for mask, image in zip(followed, small, strict=True)]
    return np.stack([_grown(mask, image) for mask, image in zip(closed, hu, strict=True)])


def _shrunk(image: Hu, spacing_mm: tuple[float, float]) -> Hu:
    rows, columns = (max(8, round(n * mm / WORK_MM)) for n, mm in zip(image.shape, spacing_mm, strict=True))
    return np.asarray(cv2.resize(image, (columns, rows), interpolation=cv2.INTER_AREA), np.int16)


def _air_regions(image: Hu) -> Mask:
    """Air inside the body, without specks and without the windpipe where it stands alone."""
    air = ((image < AIR_HU) & body(image)).astype(np.uint8)
    air = cv2.morphologyEx(air, cv2.MORPH_OPEN, np.ones((3, 3), np.uint8))
    return _keep_regions(air, lambda area, _: area * WORK_MM**2 >= MIN_REGION_MM2)


def body(image: Hu) -> Mask:
    """The largest soft region, holes filled, thin sheets (table, blankets) stripped; at WORK_MM."""
    soft = cv2.morphologyEx((image > -300).astype(np.uint8), cv2.MORPH_CLOSE, np.ones((3, 3), np.uint8))
    whole = filled(_largest(soft)).astype(np.uint8)
    return _largest(cv2.morphologyEx(whole, cv2.MORPH_OPEN, disk(6))).astype(bool)


def _largest(mask: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    n, labels, stats, _ = cv2.connectedComponentsWithStats(mask, connectivity=4)
    if n < 2:
        return np.zeros_like(mask)
    return np.asarray(labels == 1 + int(np.argmax(stats[1:, cv2.CC_STAT_AREA])), np.uint8)


def _keep_regions(mask: npt.NDArray[np.uint8], wanted: object) -> Mask:
    n, labels, stats, _ = cv2.connectedComponentsWithStats(mask, connectivity=8)
    keep = np.zeros(n, bool)
    for number in range(1, n):
        keep[number] = wanted(int(stats[number, cv2.CC_STAT_AREA]), labels == number)  # type: ignore[operator]
    return np.asarray(keep[labels])


def _follow(candidates: list[Mask]) -> list[Mask]:
    """From the fullest slice outwards, keep the regions that mostly lie under the (widened) lung of the slice before."""
    start = int(np.argmax([mask.sum() for mask in candidates]))
    masks = list(candidates)
    for step in (1, -1):
        before = masks[start]
        for place in range(start + step, len(masks) if step > 0 else -1, step):
            wide = cv2.dilate(before.astype(np.uint8), disk(4)).astype(bool)
            masks[place] = _keep_regions(
                candidates[place].astype(np.uint8), lambda area, region, w=wide: (region & w).sum() > FOLLOWED * area
            )
            before = masks[place] if masks[place].any() else before
    return masks


def _closed(mask: Mask, image: Hu) -> Mask:
    """The lung of each side closed towards its hull, within the body; the sides are never joined across the mediastinum."""
    whole = body(image)
    inside = cv2.erode(whole.astype(np.uint8), disk(5)).astype(bool)
    middle = int(np.median(np.flatnonzero(whole.any(axis=0)))) if whole.any() else 0
    size = round(CLOSE_MM / WORK_MM)
    total = mask.copy()
    for side in (slice(0, middle), slice(middle, None)):
        half = np.zeros_like(mask)
        half[:, side] = mask[:, side]
        region = cv2.copyMakeBorder(half.astype(np.uint8), 2 * size, 2 * size, 2 * size, 2 * size, cv2.BORDER_CONSTANT, value=0)
        bridged = filled(cv2.morphologyEx(region, cv2.MORPH_CLOSE, disk(size)))[2 * size : -2 * size, 2 * size : -2 * size]
        total[:, side] |= (bridged & inside)[:, side]
    return total


def _grown(mask: Mask, image: Hu) -> Mask:
    """Back to the full matrix: the smooth outline, and the air that it shaves off."""
    rows, columns = image.shape
    smooth = cv2.resize(mask.astype(np.float32), (columns, rows), interpolation=cv2.INTER_LINEAR) > 0.5
    near = cv2.dilate(smooth.astype(np.uint8), np.ones((3, 3), np.uint8)).astype(bool)
    return np.asarray(smooth | (near & (image < AIR_HU)))


def published_mask(image: Hu) -> Mask:
    """The published recipe, in full pixels: < -600 HU, no border, two largest, erode 2, close 10, fill."""
    air = (image < -600).astype(np.uint8)
    _, labels, stats, _ = cv2.connectedComponentsWithStats(air, connectivity=8)
    left, top = stats[:, cv2.CC_STAT_LEFT], stats[:, cv2.CC_STAT_TOP]
    right, bottom = left + stats[:, cv2.CC_STAT_WIDTH], top + stats[:, cv2.CC_STAT_HEIGHT]
    inner = (left > 0) & (top > 0) & (right < image.shape[1]) & (bottom < image.shape[0])
    area = np.where(inner, stats[:, cv2.CC_STAT_AREA], 0)
    area[0] = 0
    kept = [number for number in np.argsort(-area, kind="stable")[:2] if area[number] >= 3000 * image.size / 512**2]
    mask = np.isin(labels, kept).astype(np.uint8)
    mask = cv2.morphologyEx(cv2.erode(mask, disk(2)), cv2.MORPH_CLOSE, disk(10))
    return filled(mask)


def filled(mask: npt.NDArray[np.uint8]) -> Mask:
    """`mask` without holes."""
    outside = np.pad(1 - mask, 1, constant_values=1).astype(np.uint8)
    cv2.floodFill(outside, None, (0, 0), 2)
    return np.asarray(outside[1:-1, 1:-1] != 2)


def disk(radius: int) -> npt.NDArray[np.uint8]:
    """A filled disk of 2 * radius + 1 pixels."""
    y, x = np.ogrid[-radius : radius + 1, -radius : radius + 1]
    return np.asarray(y * y + x * x <= radius * radius, np.uint8)
