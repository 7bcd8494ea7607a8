"""What a rank and the owner of its GPU both see: the slices of one batch, and the numbers that come of them.

The memory has no name: its descriptor goes over a socket, so that whoever dies leaves nothing behind.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np

from pipeline.study.anchors import IMAGE_PX, ZOOM_PX
from pipeline.study.engine.rows import ROW, Grey, Lung, SliceRows

ALIGNED = 4096
"""Bytes from whose multiples every array begins."""


class Region:
    """`slots` slices and, for networks of `looks_F` features in all looks together, their rows and looks."""

    def __init__(self, descriptor: int, slots: int, looks_F: Sequence[int]) -> None:
        arrays: list[tuple[tuple[int, ...], np.dtype[np.generic]]] = [
            ((slots, IMAGE_PX, IMAGE_PX), np.dtype(np.uint8)),
            ((slots, ZOOM_PX, ZOOM_PX), np.dtype(np.uint8)),
            ((slots, IMAGE_PX, IMAGE_PX), np.dtype(np.bool_)),
            ((slots, len(looks_F), ROW), np.dtype(np.float64)),
            *(((slots, n_features), np.dtype(np.float32)) for n_features in looks_F),
        ]
        starts = [0]
        for shape, dtype in arrays:
            starts.append(starts[-1] + -(-prod(shape) * dtype.itemsize // ALIGNED) * ALIGNED)
        if os.fstat(descriptor).st_size < starts[-1]:
            os.ftruncate(descriptor, starts[-1])
        memory = mmap.mmap(descriptor, starts[-1])
        laid: list[Any] = [
            np.frombuffer(memory, dtype, prod(shape), start).reshape(shape)
            for (shape, dtype), start in zip(arrays, starts, strict=False)
        ]
        self.image, self.zoom, self.lung, self.rows, *self.looks = laid

    def put(self, image_NHW: Grey, zoom_NHW: Grey, lung_NHW: Lung) -> None:
        """Lay slices down, from the first slot on."""
        for slots, given in zip((self.image, self.zoom, self.lung), (image_NHW, zoom_NHW, lung_NHW), strict=True):
            slots[: len(given)] = given

    def seen(self, n_slices: int) -> SliceRows:
        """What is said of the first `n_slices`, as one's own."""
        return SliceRows(self.rows[:n_slices].copy(), [looks[:n_slices].copy() for looks in self.looks])
