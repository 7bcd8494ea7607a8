"""What the rules let in and the network takes for no lung leaves again: heart, aorta, liver, mediastinum, muscle, windpipe.

To the side, where lesions lie and no heart does, it has to be surer. All at WORK_MM a pixel.
"""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from pipeline.study.lungs.network import Share
from pipeline.study.lungs.plausible import PIXEL_CM2, pieces
from pipeline.study.lungs.shapes import Bits, disk

SOFT_HU = -300
"""HU above which, over 3 x 3 pixels, tissue is soft."""
THICK_PX = 2
"""Pixels: what is thinner than twice this, 8 mm, is outline, vessel or bronchus, and stays."""
LEAST_CM2 = 1.0
"""cm2 from which a piece counts."""
LATERAL = 0.45
"""Share of half the lungs' width from the middle beyond which a piece lies to the side."""
DENIED = 0.4
"""Share of lung below which thick soft tissue near the middle is an organ."""
DENIED_LATERALLY = 0.05
"""The same to the side: there lie most lesions, and a larger one takes pleural consolidation for muscle."""
SUPPORTED = 0.8
"""Share of lung in the slice below from which a piece to the side stays: below liver, spleen and muscle lie the same."""
UNSURE = 0.5
"""Share below which the rim of such a piece goes with it."""
LUMEN_HU = -850
"""HU below which, over 3 x 3 pixels, what is no lung is the air of windpipe, bronchi or bowel."""
NO_LUNG = 0.1
"""Share of lung below which such air is none."""
LUMEN_CM2 = (0.7, 12.0)
"""cm2 of a piece of it: larger ones are lung darker than any that the network saw."""
DARKEST_HU = -32768
"""HU above which the rim of such air goes with it: any."""

Hu = npt.NDArray[np.int16]
Lateral = npt.NDArray[np.bool_]


def questions(lungs: Bits, hu: Hu) -> list[int]:
    """The slices whose lungs [S, r, c] hold a thick piece of soft tissue: those that the network is asked about."""
    return [at for at, each in enumerate(zip(lungs, hu, strict=True)) if pieces(_thick(_soft(*each)), LEAST_CM2)]


def without_organs(lungs: Bits, hu: Hu, share: Share) -> Bits:
    """`lungs` [S, r, c], the lowest first, less the thick pieces of soft tissue and of dark air that `share` says are none."""
    below = np.minimum(share, lungs)[[0, *range(len(lungs) - 1)]]
    below[0] = 0
    lateral = _lateral(lungs)
    return np.stack([_without(*each, lateral) for each in zip(lungs, hu, share, below, strict=True)])


def _lateral(lungs: Bits) -> Lateral:
    """The columns [c] far from the middle of all lungs, where no heart and no great vessel lies."""
    columns = np.flatnonzero(lungs.any(axis=(0, 1)))
    if not len(columns):
        return np.zeros(lungs.shape[2], bool)
    half = (columns[-1] - columns[0] + 1) / 2
    return np.asarray(np.abs(np.arange(lungs.shape[2]) - (columns[0] + half - 0.5)) > LATERAL * half)


def _without(lung: Bits, hu: Hu, share: Share, below: Share, lateral: Lateral) -> Bits:
    """The same of one slice."""
    soft = _soft(lung, hu)
    aside = lateral & np.ones_like(lung, bool)
    organs = pieces(_thick(soft & (share < np.where(aside, DENIED_LATERALLY, DENIED))), LEAST_CM2)
    organs = [piece for piece in organs if aside[piece].mean() < 0.5 or below[piece].mean() < SUPPORTED]
    dark = pieces(_thick(lung & (cv2.blur(hu, (3, 3)) < LUMEN_HU) & (share < NO_LUNG)), LUMEN_CM2[0])
    lumens = [piece for piece in dark if np.count_nonzero(piece) * PIXEL_CM2 < LUMEN_CM2[1]]
    for found, least_hu in ((organs, SOFT_HU), (lumens, DARKEST_HU)):
        if found:
            gone = np.logical_or.reduce(found).astype(np.uint8)
            rim = cv2.dilate(gone, disk(THICK_PX)) & lung & (hu > least_hu) & (share < UNSURE)
            lung = np.asarray(lung & ~(gone | rim), np.uint8)
    return lung


def _soft(lung: Bits, hu: Hu) -> Bits:
    return np.asarray(lung * (cv2.blur(hu, (3, 3)) > SOFT_HU), np.uint8)


def _thick(mask: Bits) -> Bits:
    return np.asarray(cv2.morphologyEx(mask, cv2.MORPH_OPEN, disk(THICK_PX)), np.uint8)
