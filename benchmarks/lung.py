"""The lung mask measured: `python benchmarks/lung.py masks [n] [matrix]` against phantom truth, `varied [n] [matrix] [seed]`
against that of patients who differ as people do, `speed` on one core, `fill`.

Phantoms prove the machinery, never clinical accuracy. The published recipe stands beside ours in every table.
"""

import sys
import time
from dataclasses import replace

import cv2
import numpy as np
from scipy import ndimage
from skimage import filters, measure, morphology, segmentation

from pipeline.config import FillConfig, SliceConfig, WindowConfig
from pipeline.errors import StudyError
from pipeline.phantom import chest
from pipeline.study.fill import fill
from pipeline.study.lungs import judged_masks, lung_masks
from pipeline.study.slices import choose_slices, kept_slices, to_grey, without_rim

LABELS = ("covid", "bacterial", "healthy")
WAYS = {"judged": ("chest-wall", "network"), "rules alone": ("chest-wall", "none"), "published": ("published", "none")}
"""What stands side by side: (recipe, judge)."""
ORGAN_MM = 8.0
"""What is narrower than this is the outline, which lies a little outside the lung by design."""


def fifteen(number, matrix, *, varied):
    """The label of phantom `number`, and its fifteen chosen slices."""
    label = LABELS[number % 3]
    severity = float(np.random.default_rng(number).uniform(0.05, 1))
    phantom = chest(number, label, matrix=matrix, slices=40, severity=severity, varied=varied)
    at = choose_slices(phantom.z_mm, SliceConfig())
    parts = {name: getattr(phantom, name)[at] for name in ("hu", "z_mm", "lung", "lesion", "effusion")}
    return label, replace(phantom, **parts)


def chosen(number, matrix):
    """The fifteen chosen slices of a plain phantom: (label, hu, z_mm, lung, lesion, spacing_mm)."""
    label, phantom = fifteen(number, matrix, varied=False)
    return label, phantom.hu, phantom.z_mm, phantom.lung, phantom.lesion, phantom.spacing_mm


def organ_cm2(mask, phantom):
    """Of every slice, what the mask holds of neither lung nor fluid, where that is wider than ORGAN_MM."""
    radius = ORGAN_MM / 2 / phantom.spacing_mm[0]
    square = np.ones((2 * round(radius) + 1,) * 2, np.uint8)
    wrong = (mask & ~phantom.lung & ~phantom.effusion).astype(np.uint8)
    opened = [cv2.morphologyEx(image, cv2.MORPH_OPEN, square).sum() for image in wrong]
    return np.array(opened) * phantom.spacing_mm[0] ** 2 / 100


def varied(n, matrix, first):
    """All ways on `n` phantoms that differ as people do."""
    print(f"varied phantoms {first} to {first + n - 1}, {matrix} x {matrix}, the 15 chosen slices of 40")
    rows = {way: [] for way in WAYS}
    for number in range(first, first + n):
        label, phantom = fifteen(number, matrix, varied=True)
        for way, how in WAYS.items():
            mask, doubts = judged_masks(phantom.hu, phantom.z_mm, phantom.spacing_mm, *how)
            rows[way].append(varied_figures(label, phantom, mask, doubts))
    for way, found in rows.items():
        print(way)
        print_varied([row for row in found if row])
        print(f"  no lung found: {sum(not row for row in found)} of {n}")


def varied_figures(label, phantom, mask, doubts):
    """One phantom's figures; {} where no lung is found."""
    pixel_cm2 = phantom.spacing_mm[0] ** 2 / 100
    try:
        kept = kept_slices(mask.sum(axis=(1, 2)) * pixel_cm2 * 100, SliceConfig())
    except StudyError:
        return {}
    lung, lesion = phantom.lung, phantom.lesion
    return {
        "label": label,
        "dice": 2 * (mask & lung).sum() / (mask.sum() + lung.sum()),
        "lesion": int(lesion[kept].sum()),
        "held": int((lesion & mask)[kept].sum()),
        "organ": organ_cm2(mask, phantom)[kept],
        "doubted": doubts[kept],
        "area": mask[kept].sum(axis=(1, 2)) * pixel_cm2,
        "lost": 1 - (mask & lung)[kept].sum(axis=(1, 2)) / np.maximum(lung[kept].sum(axis=(1, 2)), 1),
    }


def print_varied(found):
    """The figures of all of them together."""
    dice = [row["dice"] for row in found]
    print(f"  Dice median {np.median(dice):.3f}, worst decile {np.percentile(dice, 10):.3f}, lowest {min(dice):.3f}")
    for label in ("covid", "bacterial"):
        mine = [row for row in found if row["label"] == label]
        held, total = (sum(row[name] for row in mine) for name in ("held", "lesion"))
        print(f"  {label}: {held / max(total, 1):.1%} of the lesion voxels kept")
    names = ("organ", "area", "lost", "doubted")
    organ, area, lost, doubted = (np.concatenate([row[name] for row in found]) for name in names)
    print(f"  kept slices with more than 5 cm2 of organ: {(organ > 5).mean():.1%} of {len(organ)}")
    print(f"  kept slices with at most 1 % of organ in the mask: {(organ <= 0.01 * area).mean():.1%}")
    print(f"  kept slices that lose more than 5 % of their lung: {(lost > 0.05).mean():.1%}")
    little = (organ <= 0.01 * area)[~doubted]
    print(f"  flagged: {doubted.mean():.1%}; of the others with at most 1 % of organ: {little.mean():.1%}")


def measured(how, phantom):
    """One phantom's figures."""
    label, hu, z_mm, lung, lesion, spacing_mm = phantom
    mask = lung_masks(hu, z_mm, spacing_mm, *how)
    share = lung.sum(axis=(1, 2)) / lung.sum(axis=(1, 2)).max()
    try:
        kept = kept_slices(mask.sum(axis=(1, 2)) * spacing_mm[0] ** 2, SliceConfig())
    except StudyError:
        kept = []
    accepted = np.isin(np.arange(len(hu)), kept)
    return {
        "label": label,
        "dice": 2 * (mask & lung).sum() / (mask.sum() + lung.sum()),
        "lesion": int(lesion[kept].sum()),
        "held": int((lesion & mask)[kept].sum()),
        "whole": accepted[share >= 0.4].tolist(),
        "scant": accepted[share < 0.1].tolist(),
    }


def masks(n, matrix):
    """All ways on `n` phantoms of every class, severities 0.05 to 1."""
    rows = {way: [] for way in WAYS}
    for number in range(n):
        phantom = chosen(number, matrix)
        for way, how in WAYS.items():
            rows[way].append(measured(how, phantom))
    print(f"{n} phantoms, {matrix} x {matrix}, the 15 chosen slices of 40")
    for way, found in rows.items():
        dice = [row["dice"] for row in found]
        print(f"{way}: Dice median {np.median(dice):.3f}, worst decile {np.percentile(dice, 10):.3f}, lowest {min(dice):.3f}")
        for label in ("covid", "bacterial"):
            mine = [row for row in found if row["label"] == label]
            total, held = (sum(row[name] for row in mine) for name in ("lesion", "held"))
            typical = np.median([row["held"] / row["lesion"] for row in mine if row["lesion"]] or [np.nan])
            print(f"  {label}: {held / max(total, 1):.1%} of the lesion voxels kept, in the median phantom {typical:.1%}")
        whole = [accepted for row in found for accepted in row["whole"]]
        print(f"  slices with >= 40 % of the largest lung accepted: {np.mean(whole):.1%} of {len(whole)}")
        print(f"  slices with < 10 % accepted: {sum(accepted for row in found for accepted in row['scant'])}")


def scikit_recipe(image):
    """The published recipe in scikit-image."""
    labels = measure.label(segmentation.clear_border(image < -600))
    regions = sorted(measure.regionprops(labels), key=lambda region: -region.area)[:2]
    mask = np.isin(labels, [region.label for region in regions if region.area >= 3000 * image.size / 512**2])
    mask = ndimage.binary_erosion(mask, morphology.disk(2))
    mask = ndimage.binary_closing(mask, morphology.disk(10))
    return ndimage.binary_fill_holes(filters.roberts(mask.astype(float)) > 0)


def median_ms(work, n_slices, repeats):
    """Median CPU milliseconds a slice."""
    spent = []
    for _ in range(repeats):
        begun = time.process_time()
        work()
        spent.append((time.process_time() - begun) / n_slices * 1000)
    return float(np.median(spent))


def speed():
    """Milliseconds a 512 x 512 slice of fifteen, one thread, the four ways in turn."""
    _, hu, z_mm, _, _, spacing_mm = chosen(1, 512)
    ways = {
        "chest-wall, judged": lambda: lung_masks(hu, z_mm, spacing_mm),
        "chest-wall, rules alone": lambda: lung_masks(hu, z_mm, spacing_mm, "chest-wall", "none"),
        "published, OpenCV": lambda: lung_masks(hu, z_mm, spacing_mm, "published"),
        "published, scikit-image": lambda: [scikit_recipe(image) for image in hu],
    }
    for name, work in ways.items():
        print(f"{name:<26}{median_ms(work, len(hu), 5):>8.1f} ms a slice")


def fills():
    """Milliseconds a fill at the crop's size."""
    _, hu, _, lung, _, spacing_mm = chosen(1, 512)
    rows, columns = (np.flatnonzero(lung[7].any(axis=axis)) for axis in (1, 0))
    crop = slice(rows[0] - 13, rows[-1] + 14), slice(columns[0] - 13, columns[-1] + 14)
    picture, shown = to_grey(hu[7], WindowConfig())[crop], without_rim(lung[7][crop], spacing_mm[0])
    spent = median_ms(lambda: fill(picture, shown, FillConfig(), np.random.default_rng(0)), 1, 41)
    print(f"fill of {picture.shape[0]} x {picture.shape[1]} pixels, {1 - shown.mean():.0%} of them blank: {spent:.1f} ms")


def main():
    """Run the measurement named on the command line."""
    cv2.setNumThreads(1)
    what, *numbers = sys.argv[1:] or ["masks"]
    if what == "masks":
        masks(*map(int, numbers or ["150"]), *([256] if len(numbers) < 2 else []))
    elif what == "varied":
        varied(*map(int, [*numbers, *("200", "256", "20000")[len(numbers) :]]))
    elif what == "speed":
        speed()
    else:
        fills()


if __name__ == "__main__":
    main()
