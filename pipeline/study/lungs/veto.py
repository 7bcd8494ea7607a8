"""Soft tissue that the rules let in and the network is sure is no lung leaves again: heart, aorta, liver, mediastinum, muscle.

Air is the rules' affair, and what the rules leave out stays out: on real scans the network alone takes bronchi and bowel for
lung. All at WORK_MM a pixel.
"""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from pipeline.study.lungs.network import Share
from pipeline.study.lungs.plausible import pieces
from pipeline.study.lungs.shapes import Bits, disk

SOFT_HU = -300
"""HU above which, over 3 x 3 pixels, tissue is soft."""
THICK_PX = 2
"""Pixels: what is thinner than twice this, 8 mm, is outline, vessel or bronchus, and stays."""
LEAST_CM2 = 1.0
"""cm2 from which a piece counts."""
SURE = 0.02
"""Share of lung below which the network is sure: a larger one costs plain phantoms more than 1 % of their consolidation."""
UNSURE = 0.3
"""Share below which the rim of such a piece goes with it."""

Hu = npt.NDArray[np.int16]


def questions(lungs: Bits, hu: Hu) -> list[int]:
    """The slices whose lungs [S, r, c] hold a thick piece of soft tissue: those that the network is asked about."""
    return [at for at, each in enumerate(zip(lungs, hu, strict=True)) if pieces(_thick(_soft(*each)), LEAST_CM2)]


def without_organs(lungs: Bits, hu: Hu, share: Share) -> Bits:
    """`lungs` [S, r, c] less their thick pieces of soft tissue that hold next to no `share` of lung."""
    return np.stack([_without(*each) for each in zip(lungs, hu, share, strict=True)])


def _without(lung: Bits, hu: Hu, share: Share) -> Bits:
    """The same of one slice."""
    soft = _soft(lung, hu)
    found = pieces(_thick(soft & (share < SURE)), LEAST_CM2)
    if not found:
        return lung
    gone = np.logical_or.reduce(found).astype(np.uint8)
    rim = cv2.dilate(gone, disk(THICK_PX)) & lung & (hu > SOFT_HU) & (share < UNSURE)
    return np.asarray(lung & ~(gone | rim), np.uint8)


def _soft(lung: Bits, hu: Hu) -> Bits:
    return np.asarray(lung * (cv2.blur(hu, (3, 3)) > SOFT_HU), np.uint8)


def _thick(mask: Bits) -> Bits:
    return np.asarray(cv2.morphologyEx(mask, cv2.MORPH_OPEN, disk(THICK_PX)), np.uint8)
