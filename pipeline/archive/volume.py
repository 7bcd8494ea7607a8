"""Chosen slices of one series -> HU, oriented, with square pixels. Nothing else of the series is read."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from pipeline.archive.allowance import Allowance
from pipeline.archive.decode import Decoder, Stored
from pipeline.archive.describe import MAX_MATRIX
from pipeline.archive.exported import HIGHEST_HU, LOWEST_HU, read_pictures
from pipeline.archive.nifti import read_nifti
from pipeline.archive.reading import read_frames
from pipeline.errors import Reason, StudyError
from pipeline.records import Affine, Series, SliceSource, Volume

Hu = npt.NDArray[np.int16]
Values = npt.NDArray[np.float64]
PLAUSIBLE_P999_HU = 4200.0
"""Metal saturates at 3071; signed values read as unsigned ones lie far above."""
AIR_HU = -500.0
BELOW_AIR_HU = -1500.0
MAX_LEVELS_BELOW_AIR = 20


def read_volume(root: Path, series: Series, wanted: Sequence[int], decoder: Decoder) -> Volume:
    """The slices at places `wanted` of `series`. Raises StudyError with its reason."""
    if series.kind == "image":
        return read_pictures(root, series, wanted, decoder)
    sources = [series.slices[place] for place in wanted]
    if series.kind == "nifti":
        raw = read_nifti(root, sources, Allowance(decoder.tick))
    else:
        frames = read_frames(root, sources, decoder.tick)
        raw = [_slice_hu(frame, source, decoder) for frame, source in zip(frames, sources, strict=True)]
    if len({image.shape for image in raw}) > 1:
        raise StudyError(Reason.MIXED_GEOMETRY, "volume")
    _check_plausible(raw, sources)
    oriented = np.stack([orient(image, series.original_affine) for image in raw])
    hu = np.clip(np.rint(oriented), LOWEST_HU, HIGHEST_HU).astype(np.int16)
    affine, spacing = series.original_affine, series.spacing_mm
    if abs(spacing[0] - spacing[1]) > 0.01 * min(spacing):
        hu, spacing, affine = _squared(hu, spacing, affine)
    return Volume(
        hu=hu,
        z_mm=np.array([source.z_mm for source in sources]),
        slice_index=np.array([source.place for source in sources], np.int32),
        spacing_mm=spacing,
        original_affine=affine,
        n_series=series.facts.n_slices,
    )


def _slice_hu(frame: bytes, source: SliceSource, decoder: Decoder) -> Values:
    stored = decoder.decode(frame, source)
    hu = np.asarray(stored * source.slope + source.intercept, np.float64)
    hu[_padded(stored, source)] = LOWEST_HU
    return hu


def _padded(stored: Stored, source: SliceSource) -> npt.NDArray[np.bool_]:
    """Pixels outside the field of view, as the header marks them."""
    if source.padding is None:
        return np.zeros(stored.shape, bool)
    limit = source.padding if source.padding_limit is None else source.padding_limit
    low, high = sorted((source.padding, limit))
    return np.asarray((stored >= low) & (stored <= high))


def _check_plausible(raw: list[Values], sources: list[SliceSource]) -> None:
    """Finite, with air somewhere, nothing far above metal, and no sign taken for a value or the reverse."""
    sample = np.concatenate([image[::4, ::4].ravel() for image in raw])
    if not np.isfinite(sample).all() or sample.min() > AIR_HU or np.percentile(sample, 99.9) > PLAUSIBLE_P999_HU:
        raise StudyError(Reason.PIXELS_IMPLAUSIBLE, "volume")
    below = [
        image[image < BELOW_AIR_HU]
        for image, source in zip(raw, sources, strict=True)
        if source.signed and source.bits_stored < source.bits_allocated
    ]  # scanners mark the outside with one value; bone taken for negative has many
    if below and len(np.unique(np.concatenate(below))) > MAX_LEVELS_BELOW_AIR:
        raise StudyError(Reason.PIXELS_IMPLAUSIBLE, "volume")


def orient(image: Values, affine: Affine) -> Values:
    """A stored image in volume orientation; `affine` maps volume edges to stored ones."""
    a, b, _, d, e, _ = affine
    turned = image.T if a == 0 else image
    across, down = (b, d) if a == 0 else (e, a)
    turned = turned[:, ::-1] if across < 0 else turned
    return turned[::-1] if down < 0 else turned


def _squared(hu: Hu, spacing: tuple[float, float], affine: Affine) -> tuple[Hu, tuple[float, float], Affine]:
    """Resample to square pixels of the finer spacing, and keep the way back."""
    fine = min(spacing)
    rows, columns = (round(n * mm / fine) for n, mm in zip(hu.shape[1:], spacing, strict=True))
    if max(rows, columns) > MAX_MATRIX:
        raise StudyError(Reason.DECOMPRESSION_BOMB, "volume")
    resized = np.stack([cv2.resize(image, (columns, rows), interpolation=cv2.INTER_LINEAR) for image in hu])
    back_y, back_x = hu.shape[1] / rows, hu.shape[2] / columns
    a, b, c, d, e, f = affine
    return resized, (fine, fine), (a * back_y, b * back_x, c, d * back_y, e * back_x, f)
