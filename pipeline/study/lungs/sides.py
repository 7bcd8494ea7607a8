"""The two lungs told apart, along the densest path down the midline where their air touches."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from pipeline.study.lungs.air import WORK_MM
from pipeline.study.lungs.shapes import Bits

BAND = round(30.0 / WORK_MM)
"""Pixels (30 mm) on each side of the midline within which the two lungs may touch."""
NO_PATH = -(1 << 30)
"""Less than the sum of any path."""

Hu = npt.NDArray[np.int16]


def sides(air: Bits, hu: Hu, middle: int) -> tuple[Bits, Bits]:
    """(patient's right, patient's left): the air of one slice on either side of the midline, the seam in neither."""
    path = np.full(len(air), middle)
    if _touching(air, middle):
        rows = np.flatnonzero(air[:, middle])
        around = slice(max(0, int(rows[0]) - BAND), int(rows[-1]) + BAND + 1)
        path[around] = _seam(hu[around], middle)
    columns = np.arange(air.shape[1])
    return air & (columns < path[:, None]), air & (columns > path[:, None])


def _touching(air: Bits, middle: int) -> bool:
    """Whether one region lies on both sides of the midline."""
    near = air[:, max(0, middle - BAND) : middle + BAND + 1]
    if not air[:, middle].any():
        return False
    n, labels = cv2.connectedComponents(near, connectivity=8)
    left, right = np.zeros((2, n), bool)
    left[labels[:, : BAND - 1]] = True
    right[labels[:, BAND + 2 :]] = True
    return bool((left & right)[1:].any())


def _seam(hu: Hu, middle: int) -> npt.NDArray[np.intp]:
    """The column of the densest path from top to bottom within BAND of the midline."""
    low = max(0, middle - BAND)
    density = np.clip(hu[:, low : middle + BAND + 1], -1000, 0)
    best = np.full((density.shape[0], density.shape[1] + 2), NO_PATH, np.int32)
    best[:, 1:-1] = density
    before, middles, after = (list(best[:, start : start + density.shape[1]]) for start in range(3))
    for row in range(1, len(best)):
        reached = np.maximum(before[row - 1], after[row - 1])
        middles[row] += np.maximum(reached, middles[row - 1], out=reached)
    return np.array(_way_back(best[:, 1:-1].tolist()), np.intp) + low


def _way_back(best: list[list[int]]) -> list[int]:
    """The column of each row on the way to the last row's highest sum, the first of equal ones."""
    column = best[-1].index(max(best[-1]))
    path = [column]
    for sums in reversed(best[:-1]):
        start = max(0, column - 1)
        near = sums[start : column + 2]
        column = start + near.index(max(near))
        path.append(column)
    return path[::-1]
