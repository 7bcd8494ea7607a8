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
        grey_HW = scaled(image_HW)
        map_1FHW = self._trunk.first(np.stack([grey_HW, np.ones_like(grey_HW)])[None])
        score_A = self._trunk.proposals(map_1FHW)[0]
        index_K = self._chosen(score_A, in_lung_A) if forced_K is None else forced_K
        boxes_K4 = ANCHORS_A4[index_K]
        detail_KF = pooled(self._trunk.closer(cut(grey_HW, boxes_K4, DETAIL_PX)))
        closer_14 = boxes_K4[N_SMALL : N_SMALL + 1].clip(0, IMAGE_PX) * ZOOM_PX // IMAGE_PX
        second_1F = pooled(self._trunk.closer(cut(scaled(zoom_HW), closer_14, IMAGE_PX)))
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


def scaled(pixels_HW: Grey) -> Floats:
    """0..1."""
    return pixels_HW.astype(np.float32) / np.float32(255)


def pooled(map_nFHW: Floats) -> Floats:
    """[n, F]: the mean over the map."""
    return np.asarray(map_nFHW.mean(axis=(2, 3)))


def hard_nms(score_A: Floats, overlaps_AA: Places, n_keep: int, first_A: Places) -> Index:
    """Anchors [n_keep]: the best score first, then the best that overlaps none chosen; of equals the lower number.

    Those of `first_A` come before all others, which fill up what these leave.
    """
    n_anchors = len(score_A)
    known_A = np.where(np.isnan(score_A), np.inf, score_A)  # what is no number comes first, so that the slice fails
    rank_A = np.argsort(np.argsort(-known_A, kind="stable"), kind="stable") + n_anchors * ~first_A
    chosen = np.empty(n_keep, np.int64)
    for place in range(n_keep):
        chosen[place] = best = rank_A.argmin()
        rank_A[overlaps_AA[best]] = 2 * n_anchors
    return chosen


def cut(grey_HW: Floats, boxes_n4: Index, size: int) -> Floats:
    """Half-open boxes as planes [n, P, size, size], bilinearly with aligned corners; they may reach beyond the picture."""
    planes = np.empty((len(boxes_n4), 2, size, size), np.float32)
    for (grey, coverage), (top, left, bottom, right) in zip(planes, boxes_n4.tolist(), strict=True):
        down, across = _Points.of(top, bottom, size), _Points.of(left, right, size)
        inside = _padded(grey_HW, top, left, bottom, right)
        lines_SW = inside.take(down.before, 0) * (1 - down.share)[:, None] + inside.take(down.after, 0) * down.share[:, None]
        grey[:] = lines_SW.take(across.before, 1) * (1 - across.share) + lines_SW.take(across.after, 1) * across.share
        np.multiply.outer(down.covered(top, grey_HW.shape[0]), across.covered(left, grey_HW.shape[1]), out=coverage)
    return planes


class _Points(NamedTuple):
    """Points on one axis of a box: for each the pixel before, the one after, and the share of the latter."""

    before: Index
    after: Index
    share: Floats

    @staticmethod
    def of(start: int, end: int, size: int) -> _Points:
        """`size` points from the first pixel to the last."""
        last = end - start - 1
        at = np.arange(size, dtype=np.float32) * np.float32(last / (size - 1))
        before = np.minimum(at.astype(np.int64), last)
        return _Points(before, np.minimum(before + 1, last), at - before.astype(np.float32))

    def covered(self, start: int, n_pixels: int) -> Floats:
        """How much of each point lies in a picture of so many pixels, the box beginning at `start`."""
        before, after = (((start + at >= 0) & (start + at < n_pixels)).astype(np.float32) for at in (self.before, self.after))
        return before * (1 - self.share) + after * self.share


def _padded(grey_HW: Floats, top: int, left: int, bottom: int, right: int) -> Floats:
    """The pixels of a box, 0 where it reaches beyond the picture."""
    n_rows, n_columns = grey_HW.shape
    inside = grey_HW[max(top, 0) : min(bottom, n_rows), max(left, 0) : min(right, n_columns)]
    beyond = [(max(-start, 0), max(end - n, 0)) for start, end, n in ((top, bottom, n_rows), (left, right, n_columns))]
    return np.pad(inside, beyond) if any(map(any, beyond)) else inside
