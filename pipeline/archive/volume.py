"""Chosen slices of one series -> HU, oriented, with square pixels. Nothing else of the series is read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
from msgspec.structs import replace as changed

from pipeline.archive.allowance import Allowance
from pipeline.archive.decode import Decoder
from pipeline.archive.describe import MAX_MATRIX
from pipeline.archive.exported import HIGHEST_HU, LOWEST_HU, read_pictures
from pipeline.archive.nifti import read_nifti
from pipeline.archive.reading import read_frames
from pipeline.errors import Reason, StudyError
from pipeline.records import Affine, Event, Series, SliceSource, Volume

Hu = npt.NDArray[np.int16]
Values = npt.NDArray[np.float64] | npt.NDArray[np.int32]
MOST_WHOLE = 2.0**31
"""What a whole number of 32 bits must stay below."""
METAL_HU = 4200
"""Bone and what a scanner without the extended scale saturates at (3071 to 3095 HU) lie below."""
MAX_METAL_SHARE = 0.02
MAX_DAMAGED_SHARE = 0.5
"""With more of the slices damaged than this a study is refused; else it is scored on the others."""
AIR_HU = -500
BELOW_AIR_HU = -1500
MAX_LEVELS_BELOW_AIR = 20
TISSUE_HU = (-200, 300)
MIN_SHARE = 0.05
"""Another reading than the header's is believed where this much of it is air, and as much tissue."""


@dataclass(frozen=True, slots=True)
class _Slice:
    """One slice in HU as it is stored, whole numbers where its scale is; `is_doubtful` and `is_damaged` as of stored.Pixels."""

    hu: Values
    is_doubtful: bool = False
    is_damaged: bool = False


def read_volume(root: Path, series: Series, wanted: Sequence[int], decoder: Decoder, like: Volume | None = None) -> Volume:
    """The slices at places `wanted` of `series` that are not damaged; `like` holds others, read before. Raises StudyError."""
    if series.kind == "image":
        return read_pictures(root, series, wanted, decoder, like)
    sources = [series.slices[place] for place in wanted]
    events: list[Event] = []
    if series.kind == "nifti":
        volume = read_nifti(root, sources, Allowance(decoder.tick))
        slices = [_Slice(hu) for hu in volume]
    else:
        frames = read_frames(root, sources, decoder.tick)
        slices = [_slice_hu(frame, source, decoder) for frame, source in zip(frames, sources, strict=True)]
        frames, sources, slices = _undamaged(frames, sources, slices, events, is_first=like is None)
        if not slices and like:
            return replace(like, hu=like.hu[:0], z_mm=like.z_mm[:0], slice_index=like.slice_index[:0], events=tuple(events))
        _check_sign(frames, sources, slices, decoder)
    raw = _plausible(slices, events)
    if len({image.shape for image in raw}) > 1:
        raise StudyError(Reason.MIXED_GEOMETRY, "volume")
    hu = _stacked([orient(image, series.original_affine) for image in raw])
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
    hu = rescaled(pixels.values, source)
    if source.padding is not None:
        hu[pixels.outside] = LOWEST_HU
    return _Slice(hu, pixels.is_doubtful, pixels.is_damaged)


def rescaled(values: npt.NDArray[np.int32], source: SliceSource) -> Values:
    """HU of stored values: in whole numbers, which is several times faster, where slope and intercept are such and it fits."""
    slope, intercept = source.slope, source.intercept
    is_whole = float(slope).is_integer() and float(intercept).is_integer()
    if is_whole and abs(slope) * 2.0**source.bits_allocated + abs(intercept) < MOST_WHOLE:
        scaled = values if slope == 1 else values * np.int32(slope)
        return scaled + np.int32(intercept)
    return np.asarray(values * slope + intercept, np.float64)


def _stacked(images: list[Values]) -> Hu:
    """Images in HU as a volume holds them."""
    hu = np.empty((len(images), *images[0].shape), np.int16)
    for row, image in enumerate(images):
        rounded = image if image.dtype == np.int32 else np.rint(image)
        if image.min() >= LOWEST_HU and image.max() <= HIGHEST_HU:
            hu[row] = rounded
        else:
            np.clip(rounded, LOWEST_HU, HIGHEST_HU, out=hu[row], casting="unsafe")
    return hu


def _undamaged(
    frames: list[bytes], sources: list[SliceSource], slices: list[_Slice], events: list[Event], *, is_first: bool
) -> tuple[list[bytes], list[SliceSource], list[_Slice]]:
    """What is not damaged, the rest noted. Raises StudyError PIXELS_DAMAGED where that is most of a series' first slices."""
    whole = [place for place, one in enumerate(slices) if not one.is_damaged]
    n_damaged = len(slices) - len(whole)
    if n_damaged:
        events.append(Event("series", "volume", Reason.PIXELS_DAMAGED, n_damaged))
    if is_first and n_damaged > MAX_DAMAGED_SHARE * len(slices):
        raise StudyError(Reason.PIXELS_DAMAGED, "volume")
    return [frames[place] for place in whole], [sources[place] for place in whole], [slices[place] for place in whole]


def _check_sign(frames: list[bytes], sources: list[SliceSource], slices: list[_Slice], decoder: Decoder) -> None:
    """Raises StudyError PIXELS_SIGN where the slices are a body with the other sign than their headers', too."""
    is_doubtful = any(one.is_doubtful or _has_metal_outside(one.hu) for one in slices)
    if is_doubtful or not _is_plausible(slices) or _has_bone_below(slices):
        other = _other_sign(frames, sources, decoder)
        if _differ(slices, other) and _is_body(other):
            raise StudyError(Reason.PIXELS_SIGN, "volume")


def _plausible(slices: list[_Slice], events: list[Event]) -> list[Values]:
    """The slices' HU, if a body may look so; metal beyond the scale is noted."""
    if not _is_plausible(slices):
        raise StudyError(Reason.PIXELS_IMPLAUSIBLE, "volume")
    n_metal = sum(bool((one.hu > METAL_HU).any()) for one in slices)
    if n_metal:
        events.append(Event("series", "volume", Reason.HU_CLIPPED, n_metal))
    return [one.hu for one in slices]


def _has_metal_outside(hu: Values) -> bool:
    """No metal fills a picture's corner: a mark of padding is taken for a large number there."""
    return bool((hu[[0, -1]][:, [0, -1]] > METAL_HU).any())


def _differ(slices: list[_Slice], others: list[_Slice]) -> bool:
    """Whether there is another reading, and any pixel that it tells otherwise."""
    return bool(others) and not all(np.array_equal(one.hu, other.hu) for one, other in zip(slices, others, strict=True))


def _other_sign(frames: list[bytes], sources: list[SliceSource], decoder: Decoder) -> list[_Slice]:
    """The slices as they would be with the other sign; none where they cannot be."""
    others = [changed(source, signed=not source.signed) for source in sources]
    try:
        return [_slice_hu(frame, source, decoder) for frame, source in zip(frames, others, strict=True)]
    except StudyError as error:
        if error.reason not in (Reason.PIXEL_FORMAT, Reason.PIXELS_SIGN):
            raise
        return []


def _is_plausible(slices: list[_Slice]) -> bool:
    """Finite, with air somewhere and something else, and metal in few pixels."""
    sample = _sample(slices)
    has_both = sample.min() <= AIR_HU < sample.max()
    return bool(np.isfinite(sample).all() and has_both and np.mean(sample > METAL_HU) <= MAX_METAL_SHARE)


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
    below = [one.hu[one.hu < BELOW_AIR_HU] for one in slices if not one.hu.min() >= BELOW_AIR_HU]
    return bool(below) and len(np.unique(np.concatenate(below))) > MAX_LEVELS_BELOW_AIR


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
