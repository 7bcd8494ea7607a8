"""Whether a network's details lie on lesions, where the truth is known: hits against chance, and the overlap of boxes.

Two counts of a slice. Its findings, as the report draws them: of the details that show at least half original lung (the fill
copies lesions; a detail in it is no finding) the two that score highest for the positive class. And its top details: of all
six the two that the network's own pyramid ranks highest, those in the fill being misses. A detail hits when its centre lies
in a lesion. Chance is the same share over all anchors of the same size whose centre lies in lung: what endless draws would
give. Shapes: R x C pixels of the network's picture.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import torch

from pipeline.cohort.cache import CachedSlice, CachedStudy, read_slice
from pipeline.evaluation.scoring import plain_batch
from pipeline.records import MIN_LUNG_FRACTION, Box
from pipeline.study.anchors import ANCHORS_BY_LEVEL, IMAGE_PX
from pipeline.study.drenet import DreNet
from pipeline.study.engine.shown import lung_integral, lung_shares

Mask = npt.NDArray[np.bool_]
N_FINDINGS = 2
N_RESAMPLES = 10_000


@dataclass(frozen=True, slots=True)
class Tally:
    """One patient's findings, or top details: how many, how many hit, how many would by chance, and the sum of their IoU."""

    n: int
    hits: int
    chance: float
    overlap: float


@dataclass(frozen=True, slots=True)
class Seen:
    """One of a slice's details: its box (picture pixels), whether it shows at least half original lung, and its scores.

    `positive` is the softmax of its own logits for the positive class, `proposal` the pyramid's score by which it was chosen.
    """

    box: list[int]
    in_lung: bool
    positive: float
    proposal: float


def tally(network: DreNet, folder: Path, study: CachedStudy, lesion: Mask) -> tuple[Tally, Tally]:
    """(of findings, of top details); `lesion` [S, rows, columns] is the truth of the whole series, in volume pixels."""
    findings = []
    top = []
    for row, index in enumerate(study.slice_index):
        ct_slice = read_slice(folder, study, row)
        truth = in_picture(lesion[index], study.crops[row])
        seen = details(network, ct_slice)
        found = sorted((one for one in seen if one.in_lung), key=lambda one: -one.positive)[:N_FINDINGS]
        first = sorted(seen, key=lambda one: -one.proposal)[:N_FINDINGS]
        findings += [judged(one, ct_slice.lung, truth) for one in found]
        top += [judged(one, ct_slice.lung, truth) for one in first]
    return _sum(findings), _sum(top)


def _sum(parts: Sequence[tuple[bool, float, float]]) -> Tally:
    hits, chance, overlap = (sum(column) for column in zip(*parts, strict=True)) if parts else (0, 0.0, 0.0)
    return Tally(len(parts), int(hits), float(chance), float(overlap))


def in_picture(mask: Mask, crop: Box) -> Mask:
    """A volume slice's mask as the network's picture shows it [448, 448]."""
    part = mask[round(crop.top) : round(crop.bottom), round(crop.left) : round(crop.right)].astype(np.uint8)
    return np.asarray(cv2.resize(part, (IMAGE_PX, IMAGE_PX), interpolation=cv2.INTER_NEAREST) > 0)


@torch.inference_mode()
def details(network: DreNet, ct_slice: CachedSlice) -> list[Seen]:
    """The slice's six details."""
    batch = plain_batch([ct_slice]).to(torch.device("cpu"))
    output = network(batch.image, batch.zoom, in_lung=batch.in_lung)
    positive = torch.softmax(output.part_logits[0], dim=1)[:, network.metadata.positive].tolist()
    boxes = output.boxes[0].numpy()
    shares = lung_shares(lung_integral(ct_slice.lung), boxes).tolist()
    rows = zip(boxes.tolist(), shares, positive, output.detail_score[0].tolist(), strict=True)
    return [Seen(box, share >= MIN_LUNG_FRACTION, *scores) for box, share, *scores in rows]


def summed(tallies: Sequence[Tally]) -> dict[str, object]:
    """Of some patients: how many were counted, the share that hits, the share that chance would, their ratio, the mean IoU."""
    n = sum(one.n for one in tallies)
    return {
        "patients": len(tallies),
        "n": n,
        "hits": sum(one.hits for one in tallies) / max(1, n),
        "chance": sum(one.chance for one in tallies) / max(1, n),
        "ratio": ratio_with_interval(tallies),
        "iou": sum(one.overlap for one in tallies) / max(1, n),
    }


def ratio_with_interval(tallies: Sequence[Tally], seed: int = 0) -> tuple[float, float, float]:
    """(hits / chance, low, high): 95 % by resampling patients."""
    hits = np.array([one.hits for one in tallies], float)
    chance = np.array([one.chance for one in tallies])
    generator = np.random.default_rng([seed, 15])
    rows = generator.integers(len(tallies), size=(N_RESAMPLES, len(tallies)))
    drawn = hits[rows].sum(axis=1) / np.maximum(chance[rows].sum(axis=1), 1e-9)
    low, high = np.percentile(drawn, [2.5, 97.5]).tolist()
    return float(hits.sum() / max(chance.sum(), 1e-9)), low, high


def judged(seen: Seen, lung: Mask, truth: Mask) -> tuple[bool, float, float]:
    """(hit, its chance, IoU with the lesion that overlaps most); what lies in the fill hits and overlaps nothing."""
    top, left, bottom, right = seen.box
    middle = (top + bottom) // 2, (left + right) // 2
    hit = seen.in_lung and max(middle) < IMAGE_PX and bool(truth[middle])
    return hit, chance_of(bottom - top, lung, truth), best_overlap(seen.box, truth) if seen.in_lung else 0.0


def chance_of(side: int, lung: Mask, truth: Mask) -> float:
    """Of the anchors of that side whose centre lies in lung, the share whose centre lies in a lesion."""
    level = next(boxes for boxes in ANCHORS_BY_LEVEL if boxes[0, 2] - boxes[0, 0] == side)
    middle = (level[:, :2] + level[:, 2:]) // 2
    y, x = middle[(middle < IMAGE_PX).all(axis=1)].T  # the last large anchors are centred on the picture's very edge
    inside = lung[y, x]
    return float(truth[y, x][inside].mean()) if inside.any() else 0.0


def best_overlap(box: list[int], truth: Mask) -> float:
    """The largest IoU of `box` with the bounding box of a lesion."""
    n, _, stats, _ = cv2.connectedComponentsWithStats(truth.astype(np.uint8))
    best, (top, left, bottom, right) = 0.0, box
    for x, y, width, height, _ in stats[1:n].tolist():
        deep = min(bottom, y + height) - max(top, y)
        across = min(right, x + width) - max(left, x)
        shared = max(0, deep) * max(0, across)
        best = max(best, shared / ((bottom - top) * (right - left) + width * height - shared))
    return best
