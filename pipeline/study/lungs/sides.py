"""The two lungs told apart, along the densest path down the midline where their air touches."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from pipeline.study.lungs.air import WORK_MM
from pipeline.study.lungs.shapes import Bits

BAND = round(30.0 / WORK_MM)
"""Pixels (30 mm) on each side of the midline within which the two lungs may touch."""

Hu = npt.NDArray[np.int16]


def sides(air: Bits, hu: Hu, middle: int) -> tuple[Bits, Bits]:
    """(patient's right, patient's left): the air of one slice on either side of the midline, the seam in neither."""
    path = _seam(hu, middle) if _touching(air, middle) else np.full(len(air), middle)
    columns = np.arange(air.shape[1])
    return air & (columns < path[:, None]), air & (columns > path[:, None])


def _touching(air: Bits, middle: int) -> bool:
    """Whether one region lies on both sides of the midline."""
    near = air[:, max(0, middle - BAND) : middle + BAND + 1]
    if not air[:, middle].any():
        return False
    n, _, stats, _ = cv2.connectedComponentsWithStats(near, connectivity=8)
    left = stats[1:n, 0]
    right = stats[1:n, 0] + stats[1:n, 2]
    return bool(((left < BAND - 1) & (right > BAND + 2)).any())


def _seam(hu: Hu, middle: int) -> npt.NDArray[np.intp]:
    """The column of the densest path from top to bottom within BAND of the midline."""
    low = max(0, middle - BAND)
    density = np.clip(hu[:, low : middle + BAND + 1], -1000, 0).astype(np.int32)
    best = np.empty_like(density)
    best[0] = density[0]
    for row in range(1, len(density)):
        above = best[row - 1]
        reached = above.copy()
        np.maximum(reached[1:], above[:-1], out=reached[1:])
        np.maximum(reached[:-1], above[1:], out=reached[:-1])
        best[row] = density[row] + reached
    path = np.empty(len(density), np.intp)
    path[-1] = int(np.argmax(best[-1]))
    for row in range(len(density) - 2, -1, -1):
        start = max(0, path[row + 1] - 1)
        path[row] = start + int(np.argmax(best[row, start : path[row + 1] + 2]))
    return path + low
