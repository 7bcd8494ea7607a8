"""What an engine says of slices, and how one slice's numbers become a record.

Shapes: N slices, K = 6 details, F features of a look; a row holds the probability, then of each detail NUMBERS: its box's four
edges in pixels of the network's picture, its score, attention, probability and share of lung.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from pipeline.records import Box, Detail, SlicePrediction
from pipeline.study.anchors import N_DETAILS

NUMBERS = 8
ROW = 1 + N_DETAILS * NUMBERS

Grey = npt.NDArray[np.uint8]
Lung = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float32]


class SliceRows(NamedTuple):
    """`rows` [N, networks, ROW]; by network, `looks` [N, (K + 2) F], as the last layer takes them: details, slice, second."""

    rows: npt.NDArray[np.float64]
    looks: list[Floats]


def prediction(row: Sequence[float]) -> SlicePrediction:
    """One slice's row of one network as a record."""
    details = [row[start : start + NUMBERS] for start in range(1, len(row), NUMBERS)]
    return SlicePrediction(row[0], tuple(_detail(numbers) for numbers in details))


def _detail(numbers: Sequence[float]) -> Detail:
    box = Box(*numbers[:4])
    return Detail(box, box, *numbers[4:])
