"""How well exported pictures tell their own HU: phantoms in eight windows, PNG and JPEG, resized, with marks; and real series.

    python benchmarks/pictures.py --patients 20                    # phantoms of seeds that no test and no rule was made with
    python benchmarks/pictures.py --patients 0 SERIES.npz ...      # hu [S, R, C], z, sp (mm): slices of real series

Prints, a window: pictures, refused ones, the largest and the 95th percentile of the errors of air, lung and soft tissue, how
the lungs found in the pictures agree with those found in the HU themselves (Dice over a patient), and the most body for lung.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Iterator

import cv2
import numpy as np

from pipeline.archive.exported import picture_hu
from pipeline.errors import StudyError
from pipeline.phantom.chest import chest
from pipeline.records import SliceSource
from pipeline.study.lungs import lung_masks

WINDOWS = [(-1450, 50), (-1350, 150), (-1000, -235), (-1000, 400), (-1200, 0), (-1024, 1300), (-1250, 250), (-1150, 350)]
OWN = SliceSource("", 0.0, slope=0.0)
SEED = 990_000
TISSUES_HU = (-1000, -850, 50)


def exported(hu, window, side, quality):
    """A slice as a grey picture: in a window, resized, with letters and a scale bar, compressed or not."""
    low, high = window
    grey = np.clip(np.rint((hu - float(low)) * 255 / (high - low)), 0, 255).astype(np.uint8)
    grey = cv2.resize(grey, (side, side), interpolation=cv2.INTER_AREA if side < len(grey) else cv2.INTER_LINEAR)
    unit = side / 256
    cv2.putText(grey, "R", (round(6 * unit), round(20 * unit)), cv2.FONT_HERSHEY_SIMPLEX, 0.6 * unit, 255, max(1, round(unit)))
    cv2.line(grey, (round(249 * unit), round(80 * unit)), (round(249 * unit), round(180 * unit)), 255, max(1, round(unit)))
    if not quality:
        return grey
    return cv2.imdecode(cv2.imencode(".jpg", grey, [cv2.IMWRITE_JPEG_QUALITY, quality])[1], cv2.IMREAD_GRAYSCALE)


def patients(n, files) -> Iterator[tuple[np.ndarray, np.ndarray, tuple[float, float]]]:
    """(HU, z, spacing) of fresh phantoms, then of the named series."""
    for number in range(n):
        phantom = chest(SEED + number, ("covid", "bacterial", "healthy")[number % 3], matrix=320, slices=24)
        yield phantom.hu[1::2], phantom.z_mm[1::2], phantom.spacing_mm
    for file in files:
        data = np.load(file)
        yield data["hu"], data["z"], tuple(data["sp"])


def errors_of(hu, true):
    """How far a picture is from the truth at air, lung and soft tissue, in HU."""
    found = []
    for tissue in TISSUES_HU:
        near = np.abs(true - tissue) < 30
        if near.sum() > 300:
            found.append(float(np.median(hu[near]) - np.median(true[near])))
    return found or [0.0]


def main() -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*")
    parser.add_argument("--patients", type=int, default=20)
    options = parser.parse_args()
    draw = np.random.default_rng(1)
    table = defaultdict(lambda: ([], [], [], []))
    for hu, z_mm, spacing_mm in patients(options.patients, options.files):
        truth = lung_masks(hu, z_mm, spacing_mm)
        for window in WINDOWS:
            errors, refused, dice, extra = table[window]
            side, kept, pictures = int(draw.choice([200, hu.shape[1], 512, 700])), [], []
            for place, image in enumerate(hu):
                grey = exported(image, window, side, int(draw.choice([0, 75, 85, 95])))
                try:
                    pictures.append(picture_hu(grey.astype(np.int32), OWN, grey.shape))
                except StudyError:
                    refused.append(place)
                    continue
                kept.append(place)
                true = cv2.resize(image, grey.shape[::-1], interpolation=cv2.INTER_LINEAR)
                errors.append(max(errors_of(pictures[-1], true), key=abs))
            if not pictures:
                continue
            scale = hu.shape[1] / side
            found = lung_masks(np.stack(pictures), z_mm[kept], (spacing_mm[0] * scale, spacing_mm[1] * scale))
            size = truth.shape[2], truth.shape[1]
            found = np.stack([cv2.resize(mask.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST) for mask in found]) > 0
            wanted = truth[kept]
            dice.append(2 * (found & wanted).sum() / max(1, found.sum() + wanted.sum()))
            extra.append((found & ~wanted).sum(axis=(1, 2)).max() * spacing_mm[0] * spacing_mm[1] / 100)
    print("| window | pictures | refused | worst HU | 95 % HU | beyond 40 HU | Dice median, least | most body for lung, cm2 |")
    for window, (errors, refused, dice, extra) in table.items():
        sizes = np.abs(errors)
        print(
            f"| {window[0]} to {window[1]} | {len(errors) + len(refused)} | {len(refused)} | {sizes.max():.0f} | "
            f"{np.percentile(sizes, 95):.0f} | {(sizes > 40).sum()} | {np.median(dice):.3f}, {min(dice):.3f} | "
            f"{max(extra):.0f} |"
        )


if __name__ == "__main__":
    main()
