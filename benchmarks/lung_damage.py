"""Whether damaged lung masks are told from sound ones: `python benchmarks/lung_damage.py [n] [matrix] [seed] [DATA]`.

Masks of `n` varied phantoms, and of the real series under DATA, are damaged as masks go wrong: an organ added, a lobe, half
a lung or a whole lung lost, on one slice or on all. Limits were chosen on the seeds from 30000 and on the series of
CHOSEN_ON; seeds that begin elsewhere and the other series are the test.
"""

import sys
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
from lung import fifteen, organ_cm2
from lung_real import each_series, rows_of

from pipeline.config import SliceConfig
from pipeline.errors import StudyError
from pipeline.study.lungs import lung_masks, seen, shares
from pipeline.study.lungs.plausible import doubted
from pipeline.study.slices import kept_slices

ORGANS = ("heart", "liver", "spleen", "couch")
LOSSES = ("lobe", "half a lung", "one lung")
ORGAN_CM2, LEAST_LEFT = 5.0, 0.85
"""A slice is damaged from so much organ, or below this share of its lung."""
CHOSEN_ON = ("P001", "cap001", "ldx1-L", "ricord-ge")
VERDICTS = Path(__file__).parent.parent / "docs" / "lung-verdicts.csv"
SOFT_HU, STEEP_HU, BONE_HU = -30, -300, 220


def soft_tissue(image):
    """Soft tissue of one slice, bone and what is thin left out."""
    blurred = cv2.blur(image, (3, 3))
    soft = ((blurred > SOFT_HU) & (blurred < BONE_HU)).astype(np.uint8)
    return cv2.morphologyEx(soft, cv2.MORPH_OPEN, np.ones((5, 5), np.uint8))


def seeds_of(kind, mask):
    """Where an organ of that kind borders on the lung [R, C]: where the added region may begin."""
    rows, columns = np.nonzero(mask)
    middle, centre = columns.min() + np.ptp(columns) / 2, rows.min() + np.ptp(rows) / 2
    y, x = np.mgrid[: mask.shape[0], : mask.shape[1]]
    rim = (cv2.dilate(mask, np.ones((5, 5), np.uint8)) > 0) & (mask == 0)
    where = {"heart": np.abs(x - middle) < np.ptp(columns) / 4, "liver": x < middle, "spleen": (x > middle) & (y > centre)}
    return rim & where[kind]


def with_organ(kind, image, mask, pixel_cm2, draw):
    """`mask` [R, C] and 6 to 60 cm2 of soft tissue that borders on it; None where there is none."""
    if kind == "couch":
        return with_couch(image, mask, pixel_cm2, draw)
    soft = soft_tissue(image) * (1 - mask)
    places = np.argwhere(seeds_of(kind, mask) & (soft > 0))
    if not len(places):
        return None
    grown = np.zeros_like(mask)
    grown[tuple(places[draw.integers(len(places))])] = 1
    wanted = np.exp(draw.uniform(np.log(6), np.log(60)))
    ball = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (5, 5))
    for _ in range(100):
        wider = cv2.dilate(grown, ball) & soft
        if (wider == grown).all() or grown.sum() * pixel_cm2 >= wanted:
            break
        grown = wider
    return mask | grown if grown.sum() * pixel_cm2 > ORGAN_CM2 else None


def with_couch(image, mask, pixel_cm2, draw):
    """`mask` and a part of the gap between the back and the couch."""
    body = cv2.morphologyEx((image > STEEP_HU).astype(np.uint8), cv2.MORPH_OPEN, np.ones((9, 9), np.uint8))
    columns = np.flatnonzero(mask.any(axis=0))
    middle, wide = draw.choice(columns), draw.uniform(30, 80) / np.sqrt(pixel_cm2 * 100)
    gap = np.zeros_like(mask)
    for column in range(max(0, int(middle - wide)), min(mask.shape[1], int(middle + wide))):
        rows = np.flatnonzero(body[:, column] | mask[:, column])
        lowest = np.flatnonzero(mask[:, column])
        if len(lowest):
            after = np.flatnonzero(image[lowest[-1] :, column] < STEEP_HU)
            at = lowest[-1] + (after[after > 3][0] if (after > 3).any() else 0)
            gap[at : at + int(20 / np.sqrt(pixel_cm2 * 100)), column] = len(rows) > 0
    return mask | gap if (gap & ~mask & 1).sum() * pixel_cm2 > ORGAN_CM2 else None


def without(kind, mask, turn):
    """`mask` [R, C] less a part of one lung: `turn` 0..1 says of which, and how it is cut."""
    columns = np.flatnonzero(mask.any(axis=0))
    middle = (columns[0] + columns[-1]) / 2
    y, x = np.mgrid[: mask.shape[0], : mask.shape[1]]
    side = (x < middle) if turn < 0.5 else (x >= middle)
    if not (mask & side).any():
        return None
    if kind == "one lung":
        return mask * ~side
    angle = 2 * np.pi * (turn * 7 % 1)
    along = np.cos(angle) * x + np.sin(angle) * y
    limit = np.quantile(along[(mask > 0) & side], 0.5 if kind == "half a lung" else 0.62)
    return mask * ~(side & (along > limit))


def damaged(kind, hu, masks, pixel_cm2, rows, draw):
    """(masks damaged on `rows`, the rows that are damaged indeed)."""
    changed, hit, turn = masks.copy(), [], draw.random()
    for row in rows:
        mask = masks[row].astype(np.uint8)
        new = without(kind, mask, turn) if kind in LOSSES else with_organ(kind, hu[row], mask, pixel_cm2, draw)
        if new is None or (kind in LOSSES and new.sum() >= LEAST_LEFT * mask.sum()):
            continue
        changed[row] = new > 0
        hit.append(row)
    return changed, hit


def doubts_of(hu, masks, spacing_mm):
    """The verdict of the program on `masks` [S, R, C]."""
    small, bodies = seen(hu, spacing_mm)
    rows, columns = (max(8, round(n * mm / 2)) for n, mm in zip(hu.shape[1:], spacing_mm, strict=True))
    pad = (small.shape[1] - rows) // 2
    shrunk = [cv2.resize(mask.astype(np.uint8) * 255, (columns, rows), interpolation=cv2.INTER_AREA) > 127 for mask in masks]
    lungs = np.stack([np.pad(mask, pad) for mask in shrunk]).astype(np.uint8)
    return doubted(lungs, small, bodies, shares(lungs, small, bodies))


def counted(name, series, tally, seed):
    """Adds to `tally` what is found of the damage done to sound slices, and of slices as they are.

    `series` is (hu, masks, spacing_mm, which masks are sound).
    """
    hu, masks, spacing_mm, sound = series
    pixel_cm2 = spacing_mm[0] * spacing_mm[1] / 100
    try:
        kept = kept_slices(masks.sum(axis=(1, 2)) * pixel_cm2 * 100, SliceConfig())
    except StudyError:
        return
    doubts = doubts_of(hu, masks, spacing_mm)
    for row in kept:
        tally[name, "sound" if sound[row] else "wrong by itself", bool(doubts[row])] += 1
    draw = np.random.default_rng(seed)
    whole = [row for row in kept if sound[row]]
    for kind in (*ORGANS, *LOSSES):
        rows = whole if draw.random() < 0.5 else whole[:: max(1, len(whole) // 2)]
        changed, hit = damaged(kind, hu, masks, pixel_cm2, rows, draw)
        found = doubts_of(hu, changed, spacing_mm)
        for row in hit:
            tally[name, kind, bool(found[row])] += 1


def made(number, matrix):
    """A varied phantom's (hu, masks, spacing_mm, which masks are sound)."""
    _, phantom = fifteen(number, matrix, varied=True)
    masks = lung_masks(phantom.hu, phantom.z_mm, phantom.spacing_mm)
    return phantom.hu, masks, phantom.spacing_mm, sound_masks(masks, phantom)


def sound_masks(masks, phantom):
    """Which slices' masks hold little organ and nearly all lung, by the phantom's truth."""
    left = (masks & phantom.lung).sum(axis=(1, 2)) / np.maximum(phantom.lung.sum(axis=(1, 2)), 1)
    return (organ_cm2(masks, phantom) <= ORGAN_CM2) & (left >= LEAST_LEFT)


def main():
    """Print a line a kind of damage, for phantoms, series that limits were chosen on, and the others."""
    cv2.setNumThreads(1)
    n, matrix, first = map(int, [*sys.argv[1:4], *("60", "256", "30060")[len(sys.argv[1:4]) :]])
    tally = Counter()
    wrong = {(row["series"], row["z_mm"]) for row in rows_of(VERDICTS) if row["verdict"] != "right"}
    for number in range(first, first + n):
        counted("phantoms", made(number, matrix), tally, number)
    for name, hu, masks, z_mm, spacing_mm in each_series(Path(sys.argv[4])) if len(sys.argv) > 4 else ():
        group = "real, chosen on" if name in CHOSEN_ON else "real, others"
        sound = np.array([(name, f"{z:.1f}") not in wrong for z in z_mm])
        counted(group, (hu, masks, spacing_mm, sound), tally, 1)
    print_tally(tally)


def print_tally(tally):
    """What was found of every kind, and of all damage together."""
    for name, kind in dict.fromkeys(key[:2] for key in tally):
        print(f"{name}: {kind}: doubted {tally[name, kind, True]} of {tally[name, kind, True] + tally[name, kind, False]}")
    for name in dict.fromkeys(key[0] for key in tally):
        found, missed = (sum(tally[name, kind, verdict] for kind in (*ORGANS, *LOSSES)) for verdict in (True, False))
        print(f"{name}: all damage: found {found / max(found + missed, 1):.1%} of {found + missed}")


if __name__ == "__main__":
    main()
