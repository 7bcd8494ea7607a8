"""DRE-Net over one slice at a time by numpy, around a trunk that is computed elsewhere; the numbers of `DreNet.forward`.

A slice is two planes, grey in 0..1 and coverage, which is 1 in the picture and 0 in padding (`planes.py`).

Shapes: P = 2 planes, H x W pixels, K = 6 details, A anchors, F features of a look.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from pipeline.study.anchors import (
    DETAIL_PX,
    IMAGE_PX,
    LARGE_LEVELS,
    N_DETAILS,
    N_LARGE,
    N_SMALL,
    SMALL_LEVELS,
    ZOOM_PX,
    anchors,
    overlapping,
)
from pipeline.study.checkpoint import Checkpoint
from pipeline.study.engine.last_layer import LastLayer, linear, softmax
from pipeline.study.engine.rows import Floats, Grey
from pipeline.study.engine.shown import ANCHORS_A4

SMALL_A4 = anchors(SMALL_LEVELS)
SMALL_OVERLAPS = overlapping(SMALL_A4)
LARGE_OVERLAPS = overlapping(anchors(LARGE_LEVELS))

Index = npt.NDArray[np.int64]
Places = npt.NDArray[np.bool_]


class Trunk(Protocol):
    """What is computed elsewhere: feature maps [n, F, h, w] of planes [n, P, H, W]."""

    def first(self, planes: Floats, /) -> Floats:
        """Of the slice [1, P, 448, 448], by which details are chosen."""

    def proposals(self, map_1FHW: Floats, /) -> Floats:
        """The score of each anchor [1, A], of that map."""

    def closer(self, planes: Floats, /) -> Floats:
        """Of the details [K, P, 224, 224], or of the second look [1, P, 448, 448]."""


class Looked(NamedTuple):
    """What a network says of a slice; of its details the anchors, scores, boxes [K, 4], attention and probabilities.

    `looks` [(K + 2) F] is what the last layer takes.
    """

    probability: float
    anchors: Index
    score: Floats
    boxes: Index
    attention: Floats
    part: Floats
    looks: Floats


class BySlice:
    """One network."""

    def __init__(self, checkpoint: Checkpoint, trunk: Trunk) -> None:
        self._trunk = trunk
        self._last = LastLayer.of(checkpoint)
        self._details = checkpoint.metadata.details
        self._attention, self._part = (
            (checkpoint.state[f"{name}.weight"], checkpoint.state[f"{name}.bias"]) for name in ("attention", "partcls_net")
        )

    def __call__(self, image_HW: Grey, zoom_HW: Grey, in_lung_A: Places, forced_K: Index | None = None) -> Looked:
        """Of one slice; `in_lung_A`: anchors that show original lung; `forced_K`: details in place of its own choice."""
        image_PHW = planes(image_HW)
        map_1FHW = self._trunk.first(image_PHW[None])
        score_A = self._trunk.proposals(map_1FHW)[0]
        index_K = self._chosen(score_A, in_lung_A) if forced_K is None else forced_K
        boxes_K4 = ANCHORS_A4[index_K]
        detail_KF = pooled(self._trunk.closer(np.stack([cut(image_PHW, box, DETAIL_PX) for box in boxes_K4])))
        closer_box = boxes_K4[N_SMALL].clip(0, IMAGE_PX) * ZOOM_PX // IMAGE_PX
        second_1F = pooled(self._trunk.closer(cut(planes(zoom_HW), closer_box, IMAGE_PX)[None]))
        attention_K = softmax(linear(detail_KF, *self._attention)[:, 0])
        weighted_KF = detail_KF * (attention_K * N_DETAILS).astype(np.float32)[:, None]
        looks = np.concatenate([weighted_KF.ravel(), pooled(map_1FHW)[0], second_1F[0]])
        return Looked(
            probability=float(self._last.probability(looks[None])[0]),
            anchors=index_K,
            score=score_A[index_K],
            boxes=boxes_K4,
            attention=attention_K.astype(np.float32),
            part=softmax(linear(detail_KF, *self._part))[:, self._last.positive].astype(np.float32),
            looks=looks,
        )

    def _chosen(self, score_A: Floats, in_lung_A: Places) -> Index:
        first = in_lung_A if self._details == "lung" else np.ones_like(in_lung_A)
        n = len(SMALL_A4)
        small = hard_nms(score_A[:n], SMALL_OVERLAPS, N_SMALL, first[:n])
        return np.concatenate([small, n + hard_nms(score_A[n:], LARGE_OVERLAPS, N_LARGE, first[n:])])


def planes(grey_HW: Grey) -> Floats:
    """Grey and coverage [P, H, W]."""
    return np.stack([np.float32(grey_HW) / np.float32(255), np.ones(grey_HW.shape, np.float32)])


def pooled(map_nFHW: Floats) -> Floats:
    """[n, F]: the mean over the map."""
    return np.asarray(map_nFHW.mean(axis=(2, 3)))


def hard_nms(score_A: Floats, overlaps_AA: Places, n_keep: int, first_A: Places) -> Index:
    """Anchors [n_keep]: the best score first, then the best that overlaps none chosen; of equals the lower number.

    Those of `first_A` come before all others, which fill up what these leave.
    """
    n_anchors = len(score_A)
    rank_A = np.argsort(np.argsort(-score_A, kind="stable"), kind="stable") + n_anchors * ~first_A
    chosen = np.empty(n_keep, np.int64)
    for place in range(n_keep):
        chosen[place] = best = rank_A.argmin()
        rank_A[overlaps_AA[best]] = 2 * n_anchors
    return chosen


def cut(planes_PHW: Floats, box: Index, size: int) -> Floats:
    """The half-open box, 0 where it reaches beyond the picture, bilinearly with aligned corners: [P, size, size]."""
    top, left, bottom, right = box.tolist()
    (rows, high, low, down), (columns, west, east, across) = _points(top, bottom, size), _points(left, right, size)
    inside_PHW = _padded(planes_PHW, rows, columns)
    lines_PSW = inside_PHW[:, high] * (1 - down)[:, None] + inside_PHW[:, low] * down[:, None]
    return np.asarray(lines_PSW[:, :, west] * (1 - across) + lines_PSW[:, :, east] * across)


def _points(start: int, end: int, size: int) -> tuple[range, Index, Index, Floats]:
    """The pixels of one axis; for each of `size` points the one before, the one after, and the share of the latter."""
    last = end - start - 1
    at = np.arange(size, dtype=np.float32) * np.float32(last / (size - 1))
    before = np.minimum(at.astype(np.int64), last)
    return range(start, end), before, np.minimum(before + 1, last), at - before.astype(np.float32)


def _padded(planes_PHW: Floats, rows: range, columns: range) -> Floats:
    """Those rows and columns of the planes, 0 where they lie beyond."""
    n_rows, n_columns = planes_PHW.shape[1:]
    top, left = max(rows.start, 0), max(columns.start, 0)
    inside = planes_PHW[:, top : min(rows.stop, n_rows), left : min(columns.stop, n_columns)]
    if inside.shape[1:] == (len(rows), len(columns)):
        return inside
    padded = np.zeros((len(planes_PHW), len(rows), len(columns)), np.float32)
    above, before = top - rows.start, left - columns.start
    padded[:, above : above + inside.shape[1], before : before + inside.shape[2]] = inside
    return padded
