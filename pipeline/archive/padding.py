"""Where exported pictures show nothing: padding round what was reconstructed, and the letters and scale bars that lie on it.

What the lung mask knows of a field that cuts a chest it knows from padding that is the same everywhere. Compression blurs it,
and viewers write on it.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
import numpy.typing as npt

from pipeline.archive.greys import Bits, Grey

FEWEST = 3
"""Pictures from which on what never changes can be told from anatomy."""
FLAT, APART = 4, 4
"""Greys by which the corners of all pictures may differ, and by which the mean of the pictures leaves that of the corners."""
LARGEST_MARK, WHITE = 0.01, 200
"""Share of a picture and mean grey of letters and bars: smaller and whiter than bodies and tables."""
STILL, ALIKE, MOSTLY = 24, 2, 0.9
"""Greys by which the white of a mark differs among pictures, compressed as each is, and by which any part of one differs where
all are compressed alike; in this share of it."""

Mask = npt.NDArray[np.bool_]


def beyond_field(pictures: Sequence[Grey]) -> Mask | None:
    """Where [R, C] all pictures of a patient are padding or a mark on it; None where they have none, or it cannot be told."""
    stack = np.array(pictures)
    if len(stack) < FEWEST:
        return None
    corners = stack[:, [0, 0, -1, -1], [0, -1, 0, -1]]
    if int(corners.max()) - int(corners.min()) > FLAT:
        return None
    mean = stack.mean(axis=0, dtype=np.float32)
    bright, _ = cv2.threshold(mean.astype(np.uint8), 0, 1, cv2.THRESH_BINARY | cv2.THRESH_OTSU)
    if corners.mean() > bright:
        return None  # a frame, or the chest's wall in a picture cut to the lungs
    shown = cv2.morphologyEx(
        (np.abs(mean - corners.mean()) > APART).astype(np.uint8), cv2.MORPH_OPEN, np.ones((3, 3), np.uint8)
    )
    anatomy = _without_marks(shown, mean > WHITE, stack.max(axis=0) - stack.min(axis=0))
    outlines, _ = cv2.findContours(anatomy, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    if not outlines:
        return None
    return np.asarray(cv2.fillConvexPoly(np.zeros_like(shown), cv2.convexHull(np.concatenate(outlines)), (1,)) == 0)


def _without_marks(shown: Bits, white: Mask, differing: Grey) -> Bits:
    """What is shown [R, C], without its small parts that are the same in every picture, or whose white is."""
    n, labels, stats, _ = cv2.connectedComponentsWithStats(shown, connectivity=8)
    areas = stats[:, cv2.CC_STAT_AREA]
    alike, whites, still_whites = (
        np.bincount(labels[where], minlength=n) for where in (differing <= ALIKE, white, white & (differing <= STILL))
    )
    is_mark = (areas < LARGEST_MARK * shown.size) & ((alike > MOSTLY * areas) | (still_whites > MOSTLY * whites))
    is_mark[0] = True
    return np.asarray(~is_mark[labels], np.uint8)
