"""How well exported pictures tell their own HU: phantoms in eight windows, PNG and JPEG, resized, with marks; and real series.

    python benchmarks/pictures.py --patients 20 --seed 990000      # phantoms of seeds that no test and no rule was made with
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

from pipeline.archive.exported import pictures_hu
from pipeline.phantom.chest import chest
from pipeline.records import SliceSource
from pipeline.study.lungs import lung_masks

WINDOWS = [(-1450, 50), (-1350, 150), (-1000, -235), (-1000, 400), (-1200, 0), (-1024, 1300), (-1250, 250), (-1150, 350)]
OWN = SliceSource("", 0.0, slope=0.0)
TISSUES_HU, WITHIN_HU = (-1000, -850, 50), 60


def exported(hu, window, side, quality):
    """A slice as a grey picture: in a window, resized, with letters and a scale bar, compressed or not."""
    low, high = window
    grey = np.clip(np.rint((hu - float(low)) * 255 / (high - low)), 0, 255).astype(np.uint8)
    grey = sized(grey, side)
    unit = side / 256
    cv2.putText(grey, "R", (round(6 * unit), round(20 * unit)), cv2.FONT_HERSHEY_SIMPLEX, 0.6 * unit, 255, max(1, round(unit)))
    cv2.line(grey, (round(249 * unit), round(80 * unit)), (round(249 * unit), round(180 * unit)), 255, max(1, round(unit)))
    if not quality:
        return grey
    return cv2.imdecode(cv2.imencode(".jpg", grey, [cv2.IMWRITE_JPEG_QUALITY, quality])[1], cv2.IMREAD_GRAYSCALE)


def sized(image, side):
    """As viewers do: means when smaller. The truth goes the same way, or edges would pass for wrong greys."""
    return cv2.resize(image, (side, side), interpolation=cv2.INTER_AREA if side < len(image) else cv2.INTER_LINEAR)


def patients(n, seed, files) -> Iterator[tuple[np.ndarray, np.ndarray, tuple[float, float]]]:
    """(HU, z, spacing) of fresh phantoms, then of the named series."""
    for number in range(n):
        phantom = chest(seed + number, ("covid", "bacterial", "healthy")[number % 3], matrix=320, slices=24)
        yield phantom.hu[1::2], phantom.z_mm[1::2], phantom.spacing_mm
    for file in files:
        data = np.load(file)
        yield data["hu"], data["z"], tuple(data["sp"])


def errors_of(hu, true):
    """How far a picture is from the truth at air, lung and soft tissue, in HU: where they fill an area; edges are neither."""
    smooth = cv2.blur(true.astype(np.float32), (5, 5))
    area = np.ones((len(true) // 40,) * 2, np.uint8)
    found = []
    for tissue in TISSUES_HU:
        filled = cv2.morphologyEx((np.abs(smooth - tissue) < WITHIN_HU).astype(np.uint8), cv2.MORPH_OPEN, area) > 0
        if filled.sum() > 300:
            found.append(float(np.median(hu[filled]) - np.median(true[filled])))
    return found or [0.0]


def main() -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*")
    parser.add_argument("--patients", type=int, default=20)
    parser.add_argument("--seed", type=int, default=990_000, help="the first phantom's")
    options = parser.parse_args()
    draw = np.random.default_rng(1)
    table = defaultdict(lambda: ([], [], [], []))
    for hu, z_mm, spacing_mm in patients(options.patients, options.seed, options.files):
        truth = lung_masks(hu, z_mm, spacing_mm)
        for window in WINDOWS:
            errors, refused, dice, extra = table[window]
            side = int(draw.choice([200, hu.shape[1], 512, 700]))
            greys = [exported(image, window, side, int(draw.choice([0, 75, 85, 95]))) for image in hu]
            read = pictures_hu([grey.astype(np.int32) for grey in greys], [OWN] * len(greys), (side, side))
            kept = [place for place, picture in enumerate(read) if picture is not None]
            pictures = [picture for picture in read if picture is not None]
            refused += [place for place, picture in enumerate(read) if picture is None]
            true = [sized(image, side) for image in hu[kept]]
            errors += [max(errors_of(*each), key=abs) for each in zip(pictures, true, strict=True)]
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
