"""The lung mask under scans unlike the usual one: `python benchmarks/lung_robust.py [phantoms]`.

Sick phantoms, 15 slices of each, in 512 x 512 unless the row says otherwise. What the phantom cannot draw is painted on it.
Phantoms prove the machinery, never clinical accuracy.
"""

import sys
import time
from dataclasses import dataclass, replace

import cv2
import numpy as np

from pipeline.config import SliceConfig
from pipeline.phantom import chest
from pipeline.study.lungs import lung_masks
from pipeline.study.slices import choose_slices, kept_slices

SEVERITY = 0.6
ARM_MM, HUMERUS_MM, BESIDE_MM = 42, 11, 110


@dataclass(frozen=True)
class Scan:
    """HU, lung, lesion and effusion [S, R, C], heights and pixel size."""

    hu: np.ndarray
    z_mm: np.ndarray
    mm: float
    lung: np.ndarray
    lesion: np.ndarray
    effusion: np.ndarray

    def each(self, change):
        """`change` applied to every picture."""
        made = {name: np.stack([change(image) for image in getattr(self, name)]) for name in ("lung", "lesion", "effusion")}
        return replace(self, hu=np.stack([change(image) for image in self.hu]), **made)


def drawn(number, matrix, every=False):
    """Phantom `number` as a scan: COVID-like where even, bacterial-like where odd."""
    phantom = chest(9000 + number, ("covid", "bacterial")[number % 2], matrix=matrix, slices=40, severity=SEVERITY)
    at = np.arange(len(phantom.z_mm)) if every else choose_slices(phantom.z_mm, SliceConfig())
    parts = (getattr(phantom, name)[at] for name in ("lung", "lesion", "effusion"))
    return Scan(phantom.hu[at], phantom.z_mm[at], phantom.spacing_mm[0], *parts)


def resampled(scan, mm):
    """`scan` with pixels of `mm`."""

    def change(image):
        scaled = cv2.resize(image.astype(np.float32), None, fx=scan.mm / mm, fy=scan.mm / mm, interpolation=cv2.INTER_LINEAR)
        return scaled > 0.5 if image.dtype == bool else np.rint(scaled).astype(np.int16)

    return replace(scan.each(change), mm=mm)


def prone(scan):
    """Turned over, table and all."""
    return scan.each(lambda image: np.ascontiguousarray(image[::-1]))


def arms_down(scan):
    """Arms painted where they touch the widest chest; the picture widened for them."""
    wide = round(BESIDE_MM / scan.mm)
    scan = scan.each(
        lambda image: np.pad(image, ((0, 0), (wide, wide)), constant_values=-1000 if image.dtype == np.int16 else 0)
    )
    body = (scan.hu > -300).sum(axis=1).max(axis=0) > 40 / scan.mm
    left, right = np.flatnonzero(body)[[0, -1]]
    y, x = np.indices(scan.hu.shape[1:])
    for centre in (left - ARM_MM / scan.mm, right + ARM_MM / scan.mm):
        far = np.hypot(y - scan.hu.shape[1] / 2, x - centre) * scan.mm
        scan.hu[:, far < ARM_MM] = 50
        scan.hu[:, far < HUMERUS_MM] = 600
    return scan


def one_lung(scan):
    """The left lung replaced by soft tissue."""
    gone = scan.lung & (np.arange(scan.hu.shape[2]) >= _middle(scan))
    noise = np.random.default_rng(0).normal(40, 20, scan.hu.shape)
    hu = np.where(gone, noise, scan.hu).astype(np.int16)
    return replace(scan, hu=hu, lung=scan.lung & ~gone, lesion=scan.lesion & ~gone)


def effusion(scan):
    """Fluid up to a level over the lower two thirds of the left lung."""
    side = scan.lung & (np.arange(scan.hu.shape[2]) >= _middle(scan))
    rows = np.flatnonzero(side.any(axis=(0, 2)))
    level = rows[0] + 0.72 * (rows[-1] - rows[0])
    wet = side & (np.arange(scan.hu.shape[1])[:, None] > level)
    wet[2 * len(wet) // 3 :] = False
    hu = np.where(wet, np.random.default_rng(0).normal(8, 20, scan.hu.shape), scan.hu).astype(np.int16)
    return replace(scan, hu=hu, lung=scan.lung & ~wet, lesion=scan.lesion & ~wet, effusion=scan.effusion | wet)


def sharp(scan):
    """The edges of a lung kernel: what is finer than 1.5 mm three times as strong."""
    soft = [cv2.GaussianBlur(image.astype(np.float32), (0, 0), 1.5 / scan.mm) for image in scan.hu]
    return replace(scan, hu=np.clip(3 * scan.hu - 2 * np.stack(soft), -1024, 3071).astype(np.int16))


def noisy(scan, hu):
    """White noise of standard deviation `hu` on top."""
    added = scan.hu + np.random.default_rng(0).normal(0, hu, scan.hu.shape)
    return replace(scan, hu=np.clip(added, -1024, 3071).astype(np.int16))


def _middle(scan):
    columns = np.flatnonzero(scan.lung.any(axis=(0, 1)))
    return (columns[0] + columns[-1]) / 2


ROWS = {
    "as drawn": lambda number: drawn(number, 512),
    "every slice instead of 15": lambda number: drawn(number, 512, every=True),
    "matrix 256": lambda number: drawn(number, 256),
    "matrix 1024": lambda number: drawn(number, 1024),
    "pixels of 0.5 mm": lambda number: resampled(drawn(number, 512), 0.5),
    "pixels of 1.0 mm": lambda number: resampled(drawn(number, 512), 1.0),
    "prone": lambda number: prone(drawn(number, 512)),
    "arms down": lambda number: arms_down(drawn(number, 512)),
    "left lung missing": lambda number: one_lung(drawn(number, 512)),
    "effusion": lambda number: effusion(drawn(number, 512)),
    "sharp kernel": lambda number: sharp(drawn(number, 512)),
    "noise of 40 HU more": lambda number: noisy(drawn(number, 512), 40),
    "noise of 90 HU more": lambda number: noisy(drawn(number, 512), 90),
}


def measured(scan):
    """(Dice, lesion voxels and those kept, effusion voxels and those taken in, milliseconds a slice)."""
    begun = time.process_time()
    mask = lung_masks(scan.hu, scan.z_mm, (scan.mm, scan.mm))
    spent = (time.process_time() - begun) / len(mask) * 1000
    kept = kept_slices(mask.sum(axis=(1, 2)) * scan.mm**2, SliceConfig())
    dice = 2 * (mask & scan.lung).sum() / (mask.sum() + scan.lung.sum())
    pairs = (((part[kept]).sum(), (part & mask)[kept].sum()) for part in (scan.lesion, scan.effusion))
    return dice, *(number for pair in pairs for number in pair), spent


def main():
    """A line a kind of scan."""
    cv2.setNumThreads(1)
    n = int(sys.argv[1]) if len(sys.argv) > 1 else 6
    print(f"{n} phantoms of severity {SEVERITY}\n| | Dice, median / lowest | lesion kept | effusion taken in | ms a slice |")
    for name, scan_of in ROWS.items():
        dice, lesion, held, fluid, taken, spent = np.array([measured(scan_of(number)) for number in range(n)]).T
        wet = f"{taken.sum() / fluid.sum():.0%}" if fluid.sum() else "-"
        kept = f"{held.sum() / lesion.sum():.1%}"
        print(f"| {name} | {np.median(dice):.3f} / {dice.min():.3f} | {kept} | {wet} | {np.median(spent):.1f} |", flush=True)


if __name__ == "__main__":
    main()
