"""Chosen slices of one series -> HU, oriented, with square pixels. Nothing else of the series is read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
from msgspec.structs import replace

from pipeline.archive.allowance import Allowance
from pipeline.archive.decode import Decoder
from pipeline.archive.describe import MAX_MATRIX
from pipeline.archive.exported import HIGHEST_HU, LOWEST_HU, read_pictures
from pipeline.archive.nifti import read_nifti
from pipeline.archive.reading import read_frames
from pipeline.errors import Reason, StudyError
from pipeline.records import Affine, Event, Series, SliceSource, Volume

Hu = npt.NDArray[np.int16]
Values = npt.NDArray[np.float64]
METAL_HU = 4200.0
"""Bone and what a scanner without the extended scale saturates at (3071 to 3095 HU) lie below."""
MAX_METAL_SHARE = 0.02
AIR_HU = -500.0
BELOW_AIR_HU = -1500.0
MAX_LEVELS_BELOW_AIR = 20
TISSUE_HU = (-200.0, 300.0)
MIN_SHARE = 0.05
"""Another reading than the header's is believed where this much of it is air, and as much tissue."""


@dataclass(frozen=True, slots=True)
class _Slice:
    """One slice in HU as it is stored; `is_doubtful` and `is_damaged` as of stored.Pixels."""

    hu: Values
    is_doubtful: bool
    is_damaged: bool


def read_volume(root: Path, series: Series, wanted: Sequence[int], decoder: Decoder, like: Volume | None = None) -> Volume:
    """The slices at places `wanted` of `series`; `like` holds others, read before. Raises StudyError with its reason."""
    if series.kind == "image":
        return read_pictures(root, series, wanted, decoder, like)
    sources = [series.slices[place] for place in wanted]
    events: list[Event] = []
    if series.kind == "nifti":
        volume = read_nifti(root, sources, Allowance(decoder.tick))
        slices = [_Slice(hu, is_doubtful=False, is_damaged=False) for hu in volume]
    else:
        slices = _of_the_right_sign(read_frames(root, sources, decoder.tick), sources, decoder)
    raw = _plausible(slices, events)
    if len({image.shape for image in raw}) > 1:
        raise StudyError(Reason.MIXED_GEOMETRY, "volume")
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
        events=tuple(events),
    )


def _slice_hu(frame: bytes, source: SliceSource, decoder: Decoder) -> _Slice:
    pixels = decoder.decode(frame, source)
    hu = np.asarray(pixels.values * source.slope + source.intercept, np.float64)
    hu[pixels.outside] = LOWEST_HU
    return _Slice(hu, pixels.is_doubtful, pixels.is_damaged)


def _of_the_right_sign(frames: list[bytes], sources: list[SliceSource], decoder: Decoder) -> list[_Slice]:
    """The slices as their headers say. Raises StudyError PIXELS_SIGN where they are a body with the other sign, too."""
    slices = [_slice_hu(frame, source, decoder) for frame, source in zip(frames, sources, strict=True)]
    is_doubtful = any(one.is_doubtful or _has_metal_outside(one.hu) for one in slices)
    if is_doubtful or not _is_plausible(slices) or _has_bone_below(slices):
        other = _other_sign(frames, sources, decoder)
        if _differ(slices, other) and _is_body(other):
            raise StudyError(Reason.PIXELS_SIGN, "volume")
    return slices


def _plausible(slices: list[_Slice], events: list[Event]) -> list[Values]:
    """The slices' HU, if a body may look so; metal beyond the scale and damage are noted."""
    if not _is_plausible(slices):
        raise StudyError(Reason.PIXELS_IMPLAUSIBLE, "volume")
    for reason, n_slices in (
        (Reason.HU_CLIPPED, sum(bool((one.hu > METAL_HU).any()) for one in slices)),
        (Reason.PIXELS_DAMAGED, sum(one.is_damaged for one in slices)),
    ):
        if n_slices:
            events.append(Event("series", "volume", reason, n_slices))
    return [one.hu for one in slices]


def _has_metal_outside(hu: Values) -> bool:
    """No metal fills a picture's corner: a mark of padding is taken for a large number there."""
    return bool((hu[[0, -1]][:, [0, -1]] > METAL_HU).any())


def _differ(slices: list[_Slice], others: list[_Slice]) -> bool:
    """Whether there is another reading, and any pixel that it tells otherwise."""
    return bool(others) and not all(np.array_equal(one.hu, other.hu) for one, other in zip(slices, others, strict=True))


def _other_sign(frames: list[bytes], sources: list[SliceSource], decoder: Decoder) -> list[_Slice]:
    """The slices as they would be with the other sign; none where they cannot be."""
    others = [replace(source, signed=not source.signed) for source in sources]
    try:
        return [_slice_hu(frame, source, decoder) for frame, source in zip(frames, others, strict=True)]
    except StudyError as error:
        if error.reason not in (Reason.PIXEL_FORMAT, Reason.PIXELS_SIGN):
            raise
        return []


def _is_plausible(slices: list[_Slice]) -> bool:
    """Finite, with air somewhere, and metal in few pixels."""
    sample = _sample(slices)
    return bool(np.isfinite(sample).all() and sample.min() <= AIR_HU and np.mean(sample > METAL_HU) <= MAX_METAL_SHARE)


def _is_body(slices: list[_Slice]) -> bool:
    """Plausible beyond doubt: much air, much tissue, and no bone taken for negative."""
    sample = _sample(slices)
    n_tissue = np.count_nonzero((sample > TISSUE_HU[0]) & (sample < TISSUE_HU[1]))
    is_rich = min(np.count_nonzero(sample < AIR_HU), n_tissue) >= MIN_SHARE * sample.size
    return bool(is_rich) and _is_plausible(slices) and not _has_bone_below(slices)


def _sample(slices: list[_Slice]) -> Values:
    return np.concatenate([one.hu[::4, ::4].ravel() for one in slices])


def _has_bone_below(slices: list[_Slice]) -> bool:
    """Scanners mark the outside with one value or few; bone, its highest bit taken for a sign, is many values below air."""
    below = np.concatenate([one.hu[one.hu < BELOW_AIR_HU] for one in slices])
    return len(np.unique(below)) > MAX_LEVELS_BELOW_AIR


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
