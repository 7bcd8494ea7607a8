"""Whether a lung mask can be believed: three signs of a slice, each with one limit; all at WORK_MM a pixel.

Organ: a thick piece of soft tissue as dense as muscle, liver or blood. Outside: a part of the mask that lies beyond the body.
Lost: aerated lung in the body that the mask leaves out. Consolidated lung is soft tissue too, but a little less dense.
"""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from pipeline.study.lungs.air import WORK_MM
from pipeline.study.lungs.shapes import Bits, disk

SOFT_HU, ORGAN_HU, ORGAN_CM2 = -100, 36.0, 4.0
OUTSIDE_CM2 = 3.0
LUNG_HU, LOST_CM2, LOST_SHARE = (-960, -400), 8.0, 0.1
THICK_PX = 3
"""What is thinner than twice this is vessel, rim of a dome, or bronchus."""
PIXEL_CM2 = WORK_MM**2 / 100
SQUARE = np.ones((5, 5), np.uint8)

Hu = npt.NDArray[np.int16]
Doubts = npt.NDArray[np.bool_]


def doubted(lungs: Bits, hu: Hu, bodies: Bits) -> Doubts:
    """Which slices' masks are implausible: `lungs`, `hu` and `bodies` [S, r, c] -> bool [S]; none where there is no lung."""
    return np.array([any(signs(*each)) for each in zip(lungs, hu, bodies, strict=True)], bool)


def signs(lung: Bits, hu: Hu, body: Bits) -> tuple[bool, bool, bool]:
    """(organ, outside, lost) of one slice [r, c]."""
    if not lung.any():
        return False, False, False
    smooth = np.asarray(cv2.blur(hu, (5, 5)), np.int16)
    return organ_cm2(lung, hu, smooth) > ORGAN_CM2, outside_cm2(lung, body) > OUTSIDE_CM2, _is_lost(lung, smooth, body)


def organ_cm2(lung: Bits, hu: Hu, smooth: Hu) -> float:
    """The largest thick piece of the mask that is as dense as an organ."""
    solid = cv2.morphologyEx((smooth > SOFT_HU) * lung, cv2.MORPH_OPEN, disk(THICK_PX))
    if cv2.countNonZero(solid) * PIXEL_CM2 <= ORGAN_CM2:
        return 0.0
    n, labels = cv2.connectedComponents(solid, connectivity=4)
    pieces = [hu[labels == number] for number in range(1, n)]
    return max(len(piece) * PIXEL_CM2 if np.median(piece) > ORGAN_HU else 0.0 for piece in pieces)


def outside_cm2(lung: Bits, body: Bits) -> float:
    """How much of the mask lies outside the body, slivers aside."""
    return cv2.countNonZero(cv2.morphologyEx(lung & (1 - body), cv2.MORPH_OPEN, SQUARE[:3, :3])) * PIXEL_CM2


def _is_lost(lung: Bits, smooth: Hu, body: Bits) -> bool:
    """Whether much of the body's aerated lung is not in the mask; windpipe and bowel gas are darker."""
    airy = (smooth > LUNG_HU[0]) & (smooth < LUNG_HU[1]) & (lung == 0)
    lost = cv2.countNonZero(cv2.morphologyEx(airy * body, cv2.MORPH_OPEN, disk(THICK_PX)))
    return lost * PIXEL_CM2 > LOST_CM2 and lost > LOST_SHARE * cv2.countNonZero(lung)
