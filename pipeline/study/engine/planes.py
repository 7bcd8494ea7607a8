"""A grey slice as two planes, and the first convolution over them; used by every engine.

A grey slice enters DRE-Net as three affine copies of itself, (grey - mean_c) / std_c, padded with 0.0 after that. Cutting,
resizing, padding and convolving are linear, so two planes carry the same: the grey in 0..1, and the coverage, which is 1 in the
picture and 0 in any padding. The first convolution takes them with

    w_grey = sum over c of w_c / std_c        w_coverage = - sum over c of w_c * mean_c / std_c

which is exact at every border too, and a third less to cut and resize.
"""

from __future__ import annotations

import numpy as np

from pipeline.study.engine.rows import Floats

MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)


def over_planes(weight_O3hw: Floats) -> Floats:
    """The weights [O, 2, h, w] of a first convolution that takes planes."""
    scale = 1 / np.array(STD).reshape(1, 3, 1, 1)
    shift = -np.array(MEAN).reshape(1, 3, 1, 1) * scale
    weight = weight_O3hw.astype(np.float64)
    both = [(weight * factor).sum(axis=1, keepdims=True) for factor in (scale, shift)]
    return np.concatenate(both, axis=1).astype(np.float32)
