"""What the rules let in and the network takes for no lung leaves again: heart, aorta, liver, mediastinum, muscle, windpipe.

Where lesions lie and no heart does, to the side, it has to be surer of soft tissue. All at WORK_MM a pixel.
"""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from pipeline.study.lungs.network import Share
from pipeline.study.lungs.plausible import PIXEL_CM2, pieces
from pipeline.study.lungs.shapes import Bits, chosen, disk, off_middle

SOFT_HU = -300
"""HU above which, over 3 x 3 pixels, tissue is soft."""
THICK_PX = 1
"""Pixels: what is thinner than twice this, 4 mm, is outline, vessel or bronchus, and stays."""
LUMEN = 0.7
"""How far from this study's lung to pure air, of 1, its darkest quarter is at least: lung beside the heart may be dark too."""
WALLED_LUMEN = 0.3
"""The same of one that a wall surrounds."""
WALLED = 0.8
"""Share of the ring round it that lies at soft tissue, if a wall does."""
WALL_HU = -500
"""HU of such tissue, or more."""
LEAST_TO_AIR_HU = 40
"""HU that these shares are of at least, where the lung itself measures nearly as air."""
CENTRAL = 0.35
"""Share of half the lungs' width from the middle within which such air lies."""
LATERAL = 0.45
"""Share of half the lungs' width from the middle beyond which a piece lies to the side."""
DENIED = 0.4
"""Share of lung below which soft tissue near the middle is an organ."""
DENIED_LATERALLY = 0.05
"""The same to the side: there lie most lesions, and a larger one takes pleural consolidation for muscle."""
DENIED_AIR = 0.2
"""The same of what is not soft."""
DOME_HU = -600
"""HU that the median of what is not soft exceeds if it is a blurred dome; between this and dark air it is lung, and stays."""
LEAST_CM2 = 0.5
"""cm2 from which a piece leaves."""
AIR_CM2 = 20.0
"""cm2 from which such air stays: lung unlike any that the network saw."""
SUPPORTED = 0.8
"""Share of lung in the slice below from which a soft piece to the side stays: below liver, spleen and muscle lie the same."""
UNSURE = 0.5
"""Share below which the rim of such a piece goes with it, and below which most of an island is, if it leaves."""
ISLAND_CM2 = 4.0
"""cm2 up to which a region of lung is an island."""

Hu = npt.NDArray[np.int16]
Places = npt.NDArray[np.bool_]
Line = npt.NDArray[np.float64]


def without_organs(lungs: Bits, hu: Hu, share: Share) -> Bits:
    """`lungs` [S, r, c], the lowest first, less the thick pieces that `share` says are none."""
    below = np.minimum(share, lungs)[[0, *range(len(lungs) - 1)]]
    below[0] = 0
    off = _from_middle(lungs)
    usual_hu = _usual_hu(lungs, hu)
    return np.stack([_without(*each, off, usual_hu) for each in zip(lungs, hu, share, below, strict=True)])


def _usual_hu(lungs: Bits, hu: Hu) -> float:
    """What the lung of this study measures, in the median."""
    return float(np.median(hu[lungs > 0])) if lungs.any() else 0.0


def _to_air_hu(usual_hu: float) -> float:
    """How far such a lung is from pure air."""
    return max(usual_hu + 1000, LEAST_TO_AIR_HU)


def _from_middle(lungs: Bits) -> Line:
    """How far each column [c] lies from the middle of all lungs, as a share of half their width."""
    shadow = lungs.max(axis=0)
    columns = np.flatnonzero(shadow.any(axis=0))
    return off_middle(shadow, (columns[0] + columns[-1] + 1) / 2 if len(columns) else 0.0)


def _without(lung: Bits, hu: Hu, share: Share, below: Share, off: Line, usual_hu: float) -> Bits:
    """The same of one slice, in a study whose lung measures `usual_hu`."""
    if share.min() == 1:  # it was not asked about
        return lung
    soft = cv2.blur(hu, (3, 3)) > SOFT_HU
    limit = np.where(soft, np.where(off > LATERAL, DENIED_LATERALLY, DENIED), DENIED_AIR)
    gone = np.zeros_like(lung)
    for piece in pieces(lung * (share < limit), LEAST_CM2, THICK_PX):
        rim = cv2.dilate(piece.astype(np.uint8), disk(THICK_PX)) & (share < UNSURE)
        off_mean = float(off[np.nonzero(piece)[1]].mean())
        if soft[piece].mean() >= 0.5:
            if off_mean <= LATERAL or below[piece].mean() < SUPPORTED:
                gone |= piece | (rim & (hu > SOFT_HU))
        elif _is_dome(piece, hu) or (off_mean < CENTRAL and _is_lumen(piece, hu, usual_hu)):
            gone |= piece | rim
    return _without_islands(np.asarray(lung & ~gone, np.uint8), share)


def _without_islands(lung: Bits, share: Share) -> Bits:
    """`lung` without its small regions that the network denies: specks in a liver, air between back and couch."""
    n, labels = cv2.connectedComponents(lung, connectivity=4)
    sizes = np.bincount(labels.ravel(), minlength=n)
    known = np.bincount(labels[share >= UNSURE], minlength=n)
    keep = (sizes * PIXEL_CM2 > ISLAND_CM2) | (known > 0.5 * sizes)
    keep[0] = False
    return chosen(labels, keep)


def _is_dome(piece: Places, hu: Hu) -> bool:
    """Whether what is not soft is denser than lung."""
    return bool(np.median(hu[piece]) > DOME_HU)


def _is_lumen(piece: Places, hu: Hu, usual_hu: float) -> bool:
    """Whether a piece is air of windpipe, bronchus or bowel: much darker than lung, or a little and with a wall."""
    if np.count_nonzero(piece) * PIXEL_CM2 >= AIR_CM2:
        return False
    darker = (usual_hu - float(np.percentile(hu[piece], 25))) / _to_air_hu(usual_hu)
    rim = cv2.dilate(piece.astype(np.uint8), disk(THICK_PX))
    ring = cv2.dilate(piece.astype(np.uint8), disk(THICK_PX + 1)) > rim
    wall = cv2.dilate((hu > WALL_HU).astype(np.uint8), np.ones((3, 3), np.uint8))
    return bool(darker >= (WALLED_LUMEN if wall[ring].mean() >= WALLED else LUMEN))
