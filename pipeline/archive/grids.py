"""Positions of a series -> regular grids that lie in each other, where no header tells its acquisitions apart."""

from __future__ import annotations

import numpy as np

from pipeline.archive.acquisitions import MIN_SWEEP, Floats, Images, Labels, Numbers, number_of, sweeps
from pipeline.archive.geometry import MAX_DROPPED, middle
from pipeline.archive.ranking import IRREGULAR_MM, IRREGULAR_SHARE

MAX_GRIDS = 4
"""Grids that are looked for in each other."""
MIN_EVENNESS = 0.7
"""Share of steps over all grids that are alike ..."""
MORE_EVEN = 0.1
"""... and how much larger it is than that of single steps."""
NEAR_SHARE = 0.4
"""Share of a short step within which a slice is on a grid."""
ROUNDING_MM = 1e-6
"""Of sums of decimal strings."""


def grid_labels(images: Images, places: Numbers, all_mm: Floats) -> Labels:
    """Slices by regular grid: where steps differ but repeat after every second to fourth, that many grids lie in each other."""
    together = [0] * len(images)
    z_mm = np.full(int(places.max()) + 1, np.nan)
    z_mm[places] = all_mm
    if len(z_mm) < 2 * MIN_SWEEP:
        return together
    steps = np.diff(z_mm)
    bearable = max(IRREGULAR_MM, IRREGULAR_SHARE * middle(steps)) + ROUNDING_MM
    evenness = _evenness(steps, bearable)
    if evenness >= 1 - MAX_DROPPED or _is_one_pass(images, all_mm):
        return together
    for n_grids in range(2, MAX_GRIDS + 1):
        pitches = z_mm[n_grids:] - z_mm[:-n_grids]
        if _evenness(pitches, bearable) >= max(MIN_EVENNESS, evenness + MORE_EVEN):
            nearest = min(bearable, NEAR_SHARE * float(np.quantile(steps, 0.1)))
            grids = _on_grids(z_mm, middle(pitches), n_grids, nearest)
            return [grids[number] for number in places.tolist()] if grids else together
    return together


def _is_one_pass(images: Images, z_mm: Floats) -> bool:
    """Whether times say that the scanner went along the body once, a few slices at a time: such gaps are its own."""
    times = [number_of(image.traits.time) for image in images]
    n_times = len(set(times))
    return None not in times and n_times * MAX_GRIDS >= len(images) and not any(sweeps(times, z_mm))


def _evenness(steps_mm: Floats, bearable_mm: float) -> float:
    """The share of steps that are alike."""
    return float(np.mean(np.abs(steps_mm - middle(steps_mm)) <= bearable_mm))


def _on_grids(z_mm: Floats, pitch_mm: float, n_grids: int, bearable_mm: float) -> list[int]:
    """The grid on which each place lies, [] where they fit none: steps along a grid are whole numbers of pitches."""
    last: list[float] = []
    grids = []
    n_misfits = 0
    for z in z_mm.tolist():
        off = [abs((z - there + pitch_mm / 2) % pitch_mm - pitch_mm / 2) for there in last]
        nearest = min(range(len(off)), key=off.__getitem__, default=-1)
        misfits = nearest < 0 or off[nearest] > bearable_mm
        if misfits and len(last) < n_grids:
            nearest = len(last)
            last.append(z)
        elif misfits:
            n_misfits += 1
        last[nearest] = z
        grids.append(nearest)
    return grids if n_misfits <= MAX_DROPPED * len(grids) else []
