"""Where few of the slices that were read show lung, their places are chosen again within the lung, and each slice is read once.

A series from head to pelvis has two of its fifteen places in the chest. Slices between the lowest place with lung and the next
without, and likewise above, then tell where the lung ends; the places divide what lies between, as in a series of the chest.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pipeline.archive import Decoder, every_slice, read_volume
from pipeline.config import SliceConfig
from pipeline.errors import Reason, StudyError
from pipeline.records import Event, Series, Volume
from pipeline.study.slices import MIN_LUNG_MM2, MIN_LUNG_SLICES, Chosen, Mask, areas_mm2, choose_slices, least_mm2

FEW = 0.4
"""Six of fifteen: with fewer slices that show enough lung the series goes far beyond the chest."""
EXTENT_SHARE = 0.25
"""Lung reaches as far as slices show this share of its largest area: scans of the chest that are cut close begin there."""
Areas = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Look:
    """Slices as they were read, their lungs [S, R, C], and whose masks are implausible [S]."""

    volume: Volume
    masks: Mask
    doubts: Chosen

    @property
    def areas_mm2(self) -> Areas:
        """Of the lungs [S]."""
        return areas_mm2(self.masks, self.volume.spacing_mm)

    @property
    def trusted(self) -> Chosen:
        """`doubts`, but none where no lung would be left."""
        is_left = np.where(self.doubts, 0.0, self.areas_mm2).max() >= MIN_LUNG_MM2
        return self.doubts if is_left else np.zeros_like(self.doubts)

    @property
    def places(self) -> list[int]:
        """Which slices of the series these are."""
        return [int(place) for place in self.volume.slice_index]


class Reader:
    """The slices of one series of `archive`, numbered as in a Volume, each read once. Raises StudyError."""

    def __init__(self, archive: Path, series: Series, decoder: Decoder) -> None:
        self._archive, self._series, self._decoder = archive, series, decoder
        self._read: list[Volume] = []
        self._asked = {source.place for source in series.slices}

    def first(self) -> Volume:
        """The slices that the manifest has chosen."""
        self._read = [read_volume(self._archive, self._series, range(len(self._series.slices)), self._decoder)]
        return self._read[0]

    def z_mm(self) -> list[float]:
        """Where all slices of the series lie."""
        z_mm = [source.z_mm for source in every_slice(self._series)]
        return [z_mm[0] + z_mm[-1] - z for z in reversed(z_mm)] if self._read[0].turned else z_mm

    def volume(self, places: Sequence[int]) -> Volume:
        """The slices at `places`; pictures whose greys mean nothing are not among them."""
        whole = replace(self._series, slices=every_slice(self._series))
        stored = [len(whole.slices) - 1 - place for place in places] if self._read[0].turned else places
        fresh = sorted(set(stored) - self._asked)
        self._asked.update(fresh)
        few = len(fresh) if whole.kind == "nifti" else len(self._series.slices)  # at once: memory is what the first look took
        for start in range(0, len(fresh), max(few, 1)):
            part = fresh[start : start + few]
            self._read.append(read_volume(self._archive, whole, part, self._decoder, self._read[0]))
        return _joined(self._read, places)


def _joined(volumes: Sequence[Volume], places: Sequence[int]) -> Volume:
    """Those slices of `volumes` that lie at `places`; events are all of theirs."""
    where = {int(place): (volume, row) for volume in volumes for row, place in enumerate(volume.slice_index)}
    found = [where[place] for place in sorted(places) if place in where]
    if len({volume.hu.shape[1:] for volume, _ in found}) > 1:
        raise StudyError(Reason.MIXED_GEOMETRY, "volume")
    met = Counter[tuple[str, str, str]]()
    for event in (event for volume in volumes for event in volume.events):
        met[event.scope, event.stage, event.code] += event.count
    return replace(
        volumes[0],
        hu=np.stack([volume.hu[row] for volume, row in found]),
        z_mm=np.array([volume.z_mm[row] for volume, row in found]),
        slice_index=np.array([volume.slice_index[row] for volume, row in found], np.int32),
        events=tuple(Event(*key, count) for key, count in met.items()),  # type: ignore[arg-type]
        masks=tuple(volume.masks[row] for volume, row in found) if volumes[0].masks else (),
    )


def look_again(
    first: Look, z_mm: Sequence[float], look_at: Callable[[Sequence[int]], Look], config: SliceConfig
) -> Look | None:  # fmt: skip
    """The slices chosen again within the lung, of a series whose slices lie at `z_mm`; None where the first ones shall do.

    The volume's events say LUNG_PLACES, and LUNG_TRUNCATED where the lung goes on to the series' end.
    """
    run = lung_run(first.areas_mm2, first.trusted)
    if run is None or _is_rim(run, len(first.places)):
        return None
    beside = [*places_below(z_mm, first.places, run, config), *places_above(z_mm, first.places, run, config)]
    closer = look_at(sorted({*first.places[run[0] : run[1] + 1], *beside}))
    extent = lung_run(closer.areas_mm2, closer.trusted)
    if extent is None:
        return None
    low, high = closer.places[extent[0]], closer.places[extent[1]]
    places = within(z_mm, low, high, config)
    if set(places) <= set(first.places):
        return None
    return _noted(look_at(places), is_cut=low == 0 or high == len(z_mm) - 1)


def has_few(look: Look, config: SliceConfig) -> bool:
    """Whether lungs are there, but fewer slices than FEW show enough of them to be kept."""
    areas_mm2, largest = look.areas_mm2, _largest(look.areas_mm2, look.trusted)
    return bool(largest >= MIN_LUNG_MM2 and (areas_mm2 >= least_mm2(largest, config)).sum() < FEW * len(areas_mm2))


def lung_run(areas_mm2: Areas, doubts: Chosen) -> tuple[int, int] | None:
    """First and last of the slices in a row that hold most lung; implausible ones neither begin nor end it, nor tear it."""
    on = areas_mm2 >= EXTENT_SHARE * _largest(areas_mm2, doubts)
    best: tuple[float, tuple[int, int]] | None = None
    for rows in np.split(np.arange(len(on)), np.flatnonzero(np.diff(on.astype(np.int8))) + 1):
        sound = rows[on[rows] & ~doubts[rows]]
        if len(sound) and (best is None or areas_mm2[sound].sum() > best[0]):
            best = float(areas_mm2[sound].sum()), (int(sound[0]), int(sound[-1]))
    return best[1] if best else None


def places_below(z_mm: Sequence[float], places: Sequence[int], run: tuple[int, int], config: SliceConfig) -> list[int]:
    """Places between the lowest slice of `run` and the one below it that was read, or the series' end."""
    low = places[run[0] - 1] + 1 if run[0] else 0
    return within(z_mm, low, places[run[0]] - 1, config) if low < places[run[0]] else []


def places_above(z_mm: Sequence[float], places: Sequence[int], run: tuple[int, int], config: SliceConfig) -> list[int]:
    """The same above its highest slice."""
    high = places[run[1] + 1] - 1 if run[1] + 1 < len(places) else len(z_mm) - 1
    return within(z_mm, places[run[1]] + 1, high, config) if high > places[run[1]] else []


def within(z_mm: Sequence[float], low: int, high: int, config: SliceConfig) -> list[int]:
    """Places that divide the slices `low` to `high` as a series of their own."""
    return [low + place for place in choose_slices(z_mm[low : high + 1], config)]


def _largest(areas_mm2: Areas, doubts: Chosen) -> float:
    """The largest area that can be believed."""
    return float(np.where(doubts, 0.0, areas_mm2).max())


def _is_rim(run: tuple[int, int], n_read: int) -> bool:
    """The lowest lung of an abdomen, or the highest of a neck, is no chest."""
    return (run[0] == 0 or run[1] == n_read - 1) and run[1] - run[0] + 1 < MIN_LUNG_SLICES


def _noted(look: Look, *, is_cut: bool) -> Look:
    codes = [Reason.LUNG_PLACES, *([Reason.LUNG_TRUNCATED] if is_cut else [])]
    events = (*look.volume.events, *(Event("study", "lung", code) for code in codes))
    return replace(look, volume=replace(look.volume, events=events))
