"""A decoded study -> the slices that a network sees: choose, keep, window, crop, fill, resize.

The fill (`fill.py`) is seeded by series and slice, never by rank. The outermost RIM_MM of the lung, where the blur of the chest
wall would draw the contour again, is filled over too; `PreparedStudy.lung` is what is shown of the original.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import cv2
import numpy as np
import numpy.typing as npt

from pipeline.config import Config, SliceConfig, WindowConfig
from pipeline.errors import Reason, StudyError
from pipeline.records import Box, Event, PreparedStudy, Volume
from pipeline.study.fill import fill

Grey = npt.NDArray[np.uint8]
Mask = npt.NDArray[np.bool_]
Chosen = npt.NDArray[np.bool_]

MIN_LUNG_MM2 = 7000.0
"""The fullest slice of a chest shows more lung than this (8,000 to 60,000 mm2); heads and abdomens show less."""
MIN_LUNG_SLICES = 3
LOWEST_SHARE = 0.10
TRUNCATED_SHARE = 0.3
"""A series whose first or last slice shows more than this share of its largest lung ends inside the lung."""
RIM_MM = 2.0
IMPLAUSIBLE_SHARE = 0.5
"""A study with implausible masks on more of the slices that would count than this is refused."""


def choose_slices(z_mm: Sequence[float], config: SliceConfig) -> list[int]:
    """Places of the slices nearest to `count` equally spaced positions of the z range; ties to the lower z."""
    z = np.asarray(z_mm, float)
    low, high = z[0] + config.first * (z[-1] - z[0]), z[0] + config.last * (z[-1] - z[0])
    wanted = low + (np.arange(config.count) + 0.5) / config.count * (high - low)
    return sorted(set(np.abs(z - wanted[:, None]).argmin(axis=1).tolist()))


def areas_mm2(masks: Mask, spacing_mm: tuple[float, float]) -> npt.NDArray[np.float64]:
    """Of the lung on each slice: masks [S, R, C] -> [S]; counted slice by slice, which is far faster than a sum over axes."""
    n_pixels = np.array([np.count_nonzero(mask) for mask in masks])
    return n_pixels * (spacing_mm[0] * spacing_mm[1])


def kept_slices(area_mm2: npt.NDArray[np.float64], config: SliceConfig) -> list[int]:
    """Slices with enough lung: a share of the study's largest, and never below a tenth of it."""
    wanted = min(MIN_LUNG_SLICES, -(-len(area_mm2) // 3))  # patients of one or two exported pictures are none the less some
    if (area_mm2 > MIN_LUNG_MM2 / 4).sum() < wanted or area_mm2.max() < MIN_LUNG_MM2:
        raise StudyError(Reason.NO_LUNG_FOUND, "lung")
    return _enough(area_mm2, config)


def _enough(area_mm2: npt.NDArray[np.float64], config: SliceConfig) -> list[int]:
    return np.flatnonzero(area_mm2 >= least_mm2(float(area_mm2.max()), config)).tolist()


def least_mm2(largest_mm2: float, config: SliceConfig) -> float:
    """The lung that a slice must show to be kept in a study whose largest is that."""
    return max(config.keep_fraction, LOWEST_SHARE) * largest_mm2


def believed_slices(area_mm2: npt.NDArray[np.float64], doubts: Chosen, config: SliceConfig) -> tuple[list[int], int]:
    """`kept_slices` without those of implausible masks, and how many these are; areas are held against believed ones only.

    Raises StudyError NO_LUNG_FOUND, or LUNG_IMPLAUSIBLE where too few can be believed.
    """
    n_kept = len(kept := kept_slices(area_mm2, config))
    n_doubted = int(doubts[kept].sum())
    if n_doubted > IMPLAUSIBLE_SHARE * n_kept:
        raise StudyError(Reason.LUNG_IMPLAUSIBLE, "lung")
    return _enough(np.where(doubts, 0.0, area_mm2), config), n_doubted


def prepare(volume: Volume, masks: Mask, seed: int, config: Config, doubts: Chosen | None = None) -> PreparedStudy:
    """The kept slices as a network sees them; `masks` [S, R, C], `doubts` [S]: whose masks are implausible (None: none).

    Raises StudyError NO_LUNG_FOUND, LUNG_IMPLAUSIBLE.
    """
    area_mm2 = areas_mm2(masks, volume.spacing_mm)
    kept, n_doubted = believed_slices(area_mm2, np.zeros(len(masks), bool) if doubts is None else doubts, config.slices)
    crops = [_crop(masks[row], config.lung.margin_px) for row in kept]
    pictures, lungs, zooms = [], [], []
    for row, (top, left, bottom, right) in zip(kept, crops, strict=True):
        crop = row, slice(top, bottom), slice(left, right)
        picture, lung = to_grey(volume.hu[crop], config.window), masks[crop]
        shown = lung if config.fill.kind == "black" else without_rim(lung, volume.spacing_mm[0])
        generator = np.random.default_rng([seed, config.fill.run_seed, int(volume.slice_index[row])])
        filled = fill(picture, shown, config.fill, generator)
        pictures.append(_resized(filled, config.window.image_px))
        zooms.append(_resized(filled, config.window.zoom_px))
        lungs.append(_resized(shown.astype(np.uint8) * 255, config.window.image_px) > 127)
    cut_off = [Event("study", "lung", Reason.LUNG_TRUNCATED)] if truncated(volume, area_mm2) else []
    doubted = [Event("study", "lung", Reason.LUNG_IMPLAUSIBLE, n_doubted)] if n_doubted else []
    return PreparedStudy(
        images=np.stack(pictures),
        zoom=np.stack(zooms),
        lung=np.stack(lungs),
        slice_index=volume.slice_index[kept],
        z_mm=volume.z_mm[kept],
        crops=tuple(Box(*map(float, crop)) for crop in crops),
        lung_area_mm2=area_mm2[kept].astype(np.float64),
        original_affine=volume.original_affine,
        events=(*volume.events, *cut_off, *doubted),
    )


def truncated(volume: Volume, area_mm2: npt.NDArray[np.float64]) -> bool:
    """Whether the series ends inside the lung; slices chosen far from its ends, or within the lung, cannot tell."""
    if any(event.code == Reason.LUNG_PLACES for event in volume.events):
        return False
    last = max(volume.n_series, int(volume.slice_index[-1]) + 1) - 1
    limit = TRUNCATED_SHARE * area_mm2.max()
    low = volume.slice_index[0] <= last / 10 and area_mm2[0] > limit
    high = volume.slice_index[-1] >= last - last / 10 and area_mm2[-1] > limit
    return bool(low or high)


def to_grey(hu: npt.NDArray[np.int16], config: WindowConfig) -> Grey:
    """HU -> 0..255: the lung window, or the published code's JPEG mapping."""
    words = hu.view(np.uint16)
    flat = words if words.ndim == 2 else words.reshape(-1, words.shape[-1])
    return np.asarray(cv2.LUT(flat, _grey_of_every_word(config)), np.uint8).reshape(hu.shape)


@cache
def _grey_of_every_word(config: WindowConfig) -> Grey:
    """[65536]: by the number that the two bytes of a HU are without their sign."""
    if config.kind == "jpeg":
        low, width = -1000.0, 3 * 255.0
    else:
        low, width = config.level_hu - config.width_hu / 2, config.width_hu
    every = np.arange(1 << 16, dtype=np.uint16).view(np.int16).astype(np.float64).clip(-1024, 3071)
    return np.asarray(np.clip(np.rint((every - low) * (255.0 / width)), 0, 255), np.uint8)


def without_rim(lung: Mask, pixel_mm: float) -> Mask:
    """`lung` less its outermost RIM_MM, as it is shown."""
    width = round(RIM_MM / pixel_mm)
    core = cv2.erode(lung.astype(np.uint8), np.ones((2 * width + 1, 2 * width + 1), np.uint8)) > 0
    return np.asarray(core if core.any() else lung)


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
