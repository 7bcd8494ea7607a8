"""What DRE-Net looks at: the sizes of its pictures, and the square anchors among which it chooses its details.

Boxes (y0, x0, y1, x1) are pixels of the picture, and may reach beyond it.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

IMAGE_PX = 448
ZOOM_PX = 600
DETAIL_PX = 224
PAD_PX = 224
N_SMALL = N_LARGE = 3
N_DETAILS = N_SMALL + N_LARGE
MAX_IOU = 0.1
SMALL_LEVELS = ((48, 32, 14), (96, 64, 7))
"""(side px, stride px, cells a side), in the order of the anchors' numbers."""
LARGE_LEVELS = ((192, 128, 4),)


def anchors(levels: tuple[tuple[int, int, int], ...]) -> npt.NDArray[np.int64]:
    """Boxes [A, 4] in pixels of the picture, some beyond its edges; level by level, row by row."""
    boxes = []
    for side, stride, n_cells in levels:
        centre = stride // 2 + stride * np.arange(n_cells)
        y, x = (grid.ravel() for grid in np.meshgrid(centre, centre, indexing="ij"))
        half = side // 2
        boxes.append(np.stack([y - half, x - half, y + half, x + half], axis=1))
    return np.concatenate(boxes)


ANCHORS_BY_LEVEL = tuple(anchors((level,)) for level in (*SMALL_LEVELS, *LARGE_LEVELS))
"""The anchors [A, 4] of each level of the pyramid, the finest first."""


def overlapping(boxes_A4: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    """[A, A]: pairs whose IoU exceeds MAX_IOU."""
    low = np.maximum(boxes_A4[:, None, :2], boxes_A4[None, :, :2])
    high = np.minimum(boxes_A4[:, None, 2:], boxes_A4[None, :, 2:])
    shared = np.clip(high - low, 0, None).prod(axis=2).astype(np.float64)
    area = (boxes_A4[:, 2:] - boxes_A4[:, :2]).prod(axis=1)
    return np.asarray(shared / (area[:, None] + area[None, :] - shared) > MAX_IOU)
