"""How much of a box shows original lung, and which anchors show mostly that: the fill copies lesions, and finds nothing.

Shapes: H x W pixels of the network's picture, K boxes (top, left, bottom, right) in its pixels, A anchors.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from pipeline.records import MIN_LUNG_FRACTION
from pipeline.study.anchors import LARGE_LEVELS, SMALL_LEVELS, anchors

ANCHORS_A4 = anchors((*SMALL_LEVELS, *LARGE_LEVELS))

Integral = npt.NDArray[np.int64]


def lung_integral(lung_HW: npt.NDArray[np.bool_]) -> Integral:
    """[H + 1, W + 1]: lung pixels above and left of each corner."""
    return np.pad(lung_HW.astype(np.int64).cumsum(axis=0).cumsum(axis=1), ((1, 0), (1, 0)))


def lung_shares(covered: Integral, boxes_K4: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """[K]: share of each box's area that shows original lung; what lies outside the picture shows none."""
    top, left, bottom, right = boxes_K4.T
    area = (bottom - top) * (right - left)
    top, bottom = (np.clip(edge, 0, covered.shape[0] - 1) for edge in (top, bottom))
    left, right = (np.clip(edge, 0, covered.shape[1] - 1) for edge in (left, right))
    inside = covered[bottom, right] - covered[top, right] - covered[bottom, left] + covered[top, left]
    return np.asarray(inside / area)


def anchors_in_lung(covered: Integral) -> npt.NDArray[np.bool_]:
    """[A]: the anchors, small before large, of which at least half shows original lung."""
    return np.asarray(lung_shares(covered, ANCHORS_A4) >= MIN_LUNG_FRACTION)
