"""Real series as other scanners would show them: `python benchmarks/lung_altered.py DATA`, where lung_real.py finds them.

The mask of each altered series is held against that of the series as it is, altered alike: it should follow a turned picture or
a narrower field, and not care about noise, kernel and calibration. A slice is wrong where over 5 cm2 came in, or over 5 % of
the lung is lost. What was wrong already is not told here, but by docs/lung-verdicts.csv.
"""

import sys
from collections import Counter
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import cv2
import numpy as np
from lung_real import each_series

from pipeline.config import SliceConfig
from pipeline.study.lungs import judged_masks

AIR_HU = -1024
IN_CM2, LOST = 5.0, 0.05
PIECE_MM = 8.0
"""What is narrower than this is the outline."""


@dataclass(frozen=True)
class Chest:
    """A series [S, R, C], and the mask that is wanted."""

    hu: np.ndarray
    z_mm: np.ndarray
    spacing_mm: tuple[float, float]
    wanted: np.ndarray

    def px(self, mm):
        """A length in pixels."""
        return round(mm / self.spacing_mm[0])


def padding(hu):
    """Where nothing was reconstructed: what the corners are, in every slice."""
    corners = hu[:, [0, 0, -1, -1], [0, -1, 0, -1]]
    return (hu == corners[0, 0]).all(axis=0) & (np.ptp(corners) == 0)


def within(chest, hu):
    """The chest with other HU, its padding as it was."""
    hu = np.clip(np.rint(hu), AIR_HU, 3071).astype(np.int16)
    return replace(chest, hu=np.where(padding(chest.hu), chest.hu, hu))


def noise(chest, sigma_hu, grain_mm):
    """White noise, or of grains as a smooth kernel leaves them."""
    generator = np.random.default_rng(5)
    drawn = [generator.standard_normal(chest.hu.shape[1:], np.float32) for _ in chest.hu]
    if grain_mm:
        drawn = [cv2.GaussianBlur(one, (0, 0), grain_mm / chest.spacing_mm[0]) for one in drawn]
    return within(chest, chest.hu + sigma_hu * np.stack([one / one.std() for one in drawn]))


def blur(chest, sigma_mm):
    """A smoother kernel."""
    smooth = [cv2.GaussianBlur(image.astype(np.float32), (0, 0), sigma_mm / chest.spacing_mm[0]) for image in chest.hu]
    return within(chest, np.stack(smooth))


def sharp(chest):
    """A sharp kernel: edges stand out, and noise."""
    return noise(within(chest, 2.2 * chest.hu - 1.2 * blur(chest, 1.0).hu), 60, 0)


def calibrated(chest, factor, offset_hu):
    """HU of another calibration, or of another tube voltage."""
    return within(chest, (chest.hu + 1000.0) * factor - 1000 + offset_hu)


def sized(chest, factor):
    """A smaller or a larger patient."""
    rows, columns = chest.spacing_mm
    return replace(chest, z_mm=chest.z_mm * factor, spacing_mm=(rows * factor, columns * factor))


def moved(chest, degrees=0, right_mm=0, down_mm=0, wider=1.0, taller=1.0):
    """Turned, off centre or of another build; what leaves the picture is gone."""
    rows, columns = chest.hu.shape[1:]
    centre = np.array([columns / 2 - 0.5, rows / 2 - 0.5])
    turn = cv2.getRotationMatrix2D(tuple(centre), degrees, 1.0)[:, :2] @ np.diag([wider, taller])
    matrix = np.column_stack([turn, centre - turn @ centre + [chest.px(right_mm), chest.px(down_mm)]])
    outside = int(chest.hu[0, 0, 0]) if padding(chest.hu).any() else AIR_HU
    warp = partial(cv2.warpAffine, M=matrix, dsize=(columns, rows), borderMode=cv2.BORDER_CONSTANT)
    hu = np.stack([warp(image, flags=cv2.INTER_LINEAR, borderValue=outside) for image in chest.hu])
    wanted = np.stack([warp(mask.astype(np.uint8), flags=cv2.INTER_NEAREST) for mask in chest.wanted]) > 0
    return replace(chest, hu=hu, wanted=wanted)


def lung_box(chest):
    """(rows, columns) of all lungs, each first and last + 1."""
    shadow = chest.wanted.any(axis=0)
    return [(lines[0], lines[-1] + 1) for lines in (np.flatnonzero(shadow.any(axis=axis)) for axis in (1, 0))]


def round_field(chest, share, right_mm=0, down_mm=0, padding_hu=AIR_HU):
    """Reconstructed in a circle of this share of the lungs' width."""
    (top, bottom), (left, right) = lung_box(chest)
    y, x = np.ogrid[: chest.hu.shape[1], : chest.hu.shape[2]]
    middle = (top + bottom) / 2 + chest.px(down_mm), (left + right) / 2 + chest.px(right_mm)
    outside = np.hypot(y - middle[0], x - middle[1]) > share / 2 * max(bottom - top, right - left)
    return replace(chest, hu=np.where(outside, np.int16(padding_hu), chest.hu), wanted=chest.wanted & ~outside)


def cropped(chest, margin_mm):
    """A picture no wider than the lungs and so much on each side."""
    (top, bottom), (left, right) = lung_box(chest)
    rows = slice(max(0, top - chest.px(40)), bottom + chest.px(60))
    columns = slice(max(0, left - chest.px(margin_mm)), right + chest.px(margin_mm))
    return replace(chest, hu=chest.hu[:, rows, columns], wanted=chest.wanted[:, rows, columns])


def flipped(chest, part):
    """As the slices' `part` has it, an index."""
    return replace(chest, hu=chest.hu[part], wanted=chest.wanted[part])


def thinned(chest, step):
    """Every so many slices."""
    return replace(chest, hu=chest.hu[::step], z_mm=chest.z_mm[::step], wanted=chest.wanted[::step])


def halved(chest):
    """At half the matrix."""
    size = tuple(n // 2 for n in chest.hu.shape[:0:-1])
    hu = np.stack([cv2.resize(image, size, interpolation=cv2.INTER_AREA) for image in chest.hu])
    wanted = np.stack([cv2.resize(mask.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST) for mask in chest.wanted]) > 0
    rows, columns = chest.spacing_mm
    return replace(chest, hu=hu, wanted=wanted, spacing_mm=(2 * rows, 2 * columns))


def compressed(chest, quality):
    """Through an 8-bit JPEG of steps of 8 HU, padding too."""
    greys = np.clip((chest.hu.astype(np.int32) - AIR_HU) // 8, 0, 255).astype(np.uint8)
    coded = [cv2.imencode(".jpg", grey, [cv2.IMWRITE_JPEG_QUALITY, quality])[1] for grey in greys]
    return replace(chest, hu=np.stack([cv2.imdecode(one, cv2.IMREAD_GRAYSCALE).astype(np.int16) * 8 + AIR_HU for one in coded]))


WAYS = {
    "noise": [partial(noise, sigma_hu=40, grain_mm=1.5), *(partial(noise, sigma_hu=hu, grain_mm=0) for hu in (100, 200))],
    "kernel": [sharp, partial(blur, sigma_mm=1.5)],
    "calibration": [
        *(partial(calibrated, factor=1.0, offset_hu=hu) for hu in (-20, 20)),
        *(partial(calibrated, factor=factor, offset_hu=0) for factor in (0.96, 1.04)),
    ],
    "size of the patient": [partial(sized, factor=factor) for factor in (0.8, 0.85, 0.92, 1.1, 1.2)],
    "turned": [partial(moved, degrees=degrees) for degrees in (-18, -8, 8, 15)],
    "off centre": [partial(moved, right_mm=25), partial(moved, right_mm=-25, down_mm=10)],
    "squeezed": [partial(moved, taller=0.88), partial(moved, wider=0.88)],
    "round field": [
        *(partial(round_field, share=share) for share in (1.0, 0.9, 0.8)),
        partial(round_field, share=0.9, right_mm=20),
        partial(round_field, share=0.95, right_mm=-15, down_mm=15),
        partial(round_field, share=1.1, down_mm=-20),
    ],
    "picture cut": [partial(cropped, margin_mm=mm) for mm in (-12, 0, 8)],
    "fewer slices, half the matrix": [partial(thinned, step=2), partial(thinned, step=3), halved],
    "lossy compression": [partial(compressed, quality=90)],
    "heart on the right; head down": [
        partial(flipped, part=np.s_[:, :, ::-1]),
        partial(flipped, part=np.s_[:, ::-1, ::-1]),
    ],
}


def wrong(chest):
    """Of each slice that is kept: whether it is wrong, and whether it is flagged."""
    masks, doubts = judged_masks(np.ascontiguousarray(chest.hu), chest.z_mm, chest.spacing_mm)
    areas = masks.sum(axis=(1, 2))
    kept = (areas >= SliceConfig().keep_fraction * areas.max()) & chest.wanted.any(axis=(1, 2))
    piece = np.ones((2 * chest.px(PIECE_MM / 2) + 1,) * 2, np.uint8)
    came_in = [cv2.morphologyEx(more.astype(np.uint8), cv2.MORPH_OPEN, piece).sum() for more in masks & ~chest.wanted]
    lost = (chest.wanted & ~masks).sum(axis=(1, 2)) / chest.wanted.sum(axis=(1, 2)).clip(1)
    bad = (np.array(came_in) * np.prod(chest.spacing_mm) / 100 > IN_CM2) | (lost > LOST)
    return list(zip(bad[kept].tolist(), doubts[kept].tolist(), strict=True))


def main():
    """A line for each kind of other scanner."""
    found = {kind: Counter() for kind in WAYS}
    for _, hu, masks, z_mm, spacing_mm in each_series(Path(sys.argv[1])):
        chest = Chest(hu, z_mm, spacing_mm, masks)
        for kind, ways in WAYS.items():
            for way in ways:
                found[kind].update(wrong(way(chest)))
    found["all"] = sum(found.values(), Counter())
    print("| as others would show it | kept slices | wrong, not flagged | wrong, flagged | flagged |\n|---|---|---|---|---|")
    for kind, n in found.items():
        print(f"| {kind} | {n.total()} | {n[True, False]} | {n[True, True]} | {n[True, True] + n[False, True]} |")


if __name__ == "__main__":
    main()
