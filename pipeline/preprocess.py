"""A decoded study -> the slices that a network sees: choose, keep, window, crop, fill, resize.

The fill (paper, step 2) covers the blank around the lung with translated and rotated copies of the slice's own lung, so that
the contour says nothing. It is seeded by series and slice, never by rank.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
import numpy.typing as npt

from pipeline.config import Config, FillConfig, SliceConfig, WindowConfig
from pipeline.errors import Reason, StudyError
from pipeline.records import Box, Event, PreparedStudy, Volume

Grey = npt.NDArray[np.uint8]
Mask = npt.NDArray[np.bool_]

MIN_LUNG_MM2 = 7000.0
"""The fullest slice of a chest shows more lung than this (8,000 to 60,000 mm2); heads and abdomens show less."""
MIN_LUNG_SLICES = 3
LOWEST_SHARE = 0.10
TRUNCATED_SHARE = 0.5
MAX_COPIES = 60


def choose_slices(z_mm: Sequence[float], config: SliceConfig) -> list[int]:
    """Places of the slices nearest to `count` equally spaced positions of the z range; ties to the lower z."""
    z = np.asarray(z_mm, float)
    low, high = z[0] + config.first * (z[-1] - z[0]), z[0] + config.last * (z[-1] - z[0])
    wanted = low + (np.arange(config.count) + 0.5) / config.count * (high - low)
    return sorted({int(np.argmin(np.abs(z - place))) for place in wanted})


def kept_slices(area_mm2: npt.NDArray[np.float64], config: SliceConfig) -> list[int]:
    """Slices with enough lung: a share of the study's largest, and never below a tenth of it."""
    if (area_mm2 > MIN_LUNG_MM2 / 4).sum() < MIN_LUNG_SLICES or area_mm2.max() < MIN_LUNG_MM2:
        raise StudyError(Reason.NO_LUNG_FOUND, "lung")
    share = max(config.keep_fraction, LOWEST_SHARE)
    return np.flatnonzero(area_mm2 >= share * area_mm2.max()).tolist()


def prepare(volume: Volume, masks: Mask, seed: int, config: Config) -> PreparedStudy:
    """The kept slices as a network sees them; `masks` [S, R, C]. Raises StudyError NO_LUNG_FOUND."""
    pixel_mm2 = volume.spacing_mm[0] * volume.spacing_mm[1]
    area_mm2 = masks.sum(axis=(1, 2)) * pixel_mm2
    kept = kept_slices(area_mm2, config.slices)
    cut_off = max(area_mm2[0], area_mm2[-1]) > TRUNCATED_SHARE * area_mm2.max()
    grey = to_grey(volume.hu[kept], config.window)
    crops = [_crop(masks[row], config.lung.margin_px) for row in kept]
    pictures, lungs, zooms = [], [], []
    for picture, row, (top, left, bottom, right) in zip(grey, kept, crops, strict=True):
        lung = masks[row, top:bottom, left:right]
        generator = np.random.default_rng([seed, config.fill.run_seed, int(volume.slice_index[row])])
        filled = fill(picture[top:bottom, left:right], lung, config.fill, generator)
        pictures.append(_resized(filled, config.window.image_px))
        zooms.append(_resized(filled, config.window.zoom_px))
        lungs.append(_resized(lung.astype(np.uint8) * 255, config.window.image_px) > 127)
    return PreparedStudy(
        images=np.stack(pictures),
        zoom=np.stack(zooms),
        lung=np.stack(lungs),
        slice_index=volume.slice_index[kept],
        z_mm=volume.z_mm[kept],
        crops=tuple(Box(*map(float, crop)) for crop in crops),
        lung_area_mm2=area_mm2[kept].astype(np.float64),
        original_affine=volume.original_affine,
        events=(*volume.events, *([Event("study", "lung", Reason.LUNG_TRUNCATED)] if cut_off else [])),
    )


def to_grey(hu: npt.NDArray[np.int16], config: WindowConfig) -> Grey:
    """HU -> 0..255: the lung window, or the published code's JPEG mapping."""
    if config.kind == "jpeg":
        low, width = -1000.0, 3 * 255.0
    else:
        low, width = config.level_hu - config.width_hu / 2, config.width_hu
    every = np.arange(-1024, 3072)
    table = np.clip(np.rint((every - low) * (255.0 / width)), 0, 255).astype(np.uint8)
    return np.asarray(table[hu.astype(np.int32) + 1024])


def fill(picture: Grey, lung: Mask, config: FillConfig, generator: np.random.Generator) -> Grey:
    """`picture` [R, C] inside `lung`; outside, copies of its lung until nothing is blank (or black)."""
    canvas = np.where(lung, picture, 0).astype(np.uint8)
    if config.kind == "black" or not lung.any():
        return canvas
    covered = lung.copy()
    source, inside = canvas.copy(), lung.astype(np.uint8)
    n_least = config.copies
    for number in range(max(n_least, MAX_COPIES)):
        if number >= n_least and covered.all():
            break
        placement = _placement(covered, lung, config, generator)
        copy, shape = (_warped(layer, placement) for layer in (source, inside))
        new = (shape > 0) & ~covered
        canvas[new] = copy[new]
        covered |= new
    return _patched(canvas, covered)


def _placement(covered: Mask, lung: Mask, config: FillConfig, generator: np.random.Generator) -> npt.NDArray[np.float64]:
    """A random rotation, and a translation that brings a random lung pixel onto a random blank one."""
    turn = generator.uniform(-config.max_rotation_deg, config.max_rotation_deg) if config.kind == "warped" else 0.0
    blank = np.flatnonzero(~covered.ravel())
    target = blank if len(blank) else np.arange(covered.size)
    from_place = int(generator.choice(np.flatnonzero(lung.ravel())))
    to_y, to_x = divmod(int(generator.choice(target)), covered.shape[1])
    from_y, from_x = divmod(from_place, covered.shape[1])
    matrix = cv2.getRotationMatrix2D((float(from_x), float(from_y)), turn, 1.0)
    matrix[:, 2] += (to_x - from_x, to_y - from_y)
    return np.asarray(matrix)


def _warped(layer: Grey, matrix: npt.NDArray[np.float64]) -> Grey:
    return np.asarray(cv2.warpAffine(layer, matrix, layer.shape[::-1], flags=cv2.INTER_NEAREST), np.uint8)


def _patched(canvas: Grey, covered: Mask) -> Grey:
    """The last blank specks take the nearest covered pixel's grey."""
    if covered.all():
        return canvas
    _, nearest = cv2.distanceTransformWithLabels((~covered).astype(np.uint8), cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL)
    values = np.zeros(int(nearest.max()) + 1, np.uint8)
    values[nearest[covered]] = canvas[covered]
    return np.where(covered, canvas, values[nearest]).astype(np.uint8)


def _crop(lung: Mask, margin: int) -> tuple[int, int, int, int]:
    rows, columns = np.flatnonzero(lung.any(axis=1)), np.flatnonzero(lung.any(axis=0))
    height, width = lung.shape
    return (
        max(0, int(rows[0]) - margin),
        max(0, int(columns[0]) - margin),
        min(height, int(rows[-1]) + 1 + margin),
        min(width, int(columns[-1]) + 1 + margin),
    )


def _resized(picture: Grey, size: int) -> Grey:
    return np.asarray(cv2.resize(picture, (size, size), interpolation=cv2.INTER_LINEAR), np.uint8)
