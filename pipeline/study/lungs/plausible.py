"""Whether a lung mask can be believed: three signs of a slice; all at WORK_MM a pixel.

Organ: a thick piece of soft tissue as dense as muscle, liver or blood. Outside: a part of the mask that lies beyond the body.
Lost: aerated lung in the body that the mask leaves out. Consolidated lung is soft tissue too, but a little less dense.
"""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from pipeline.study.lungs.air import WORK_MM
from pipeline.study.lungs.shapes import Bits, disk

SOFT_HU = -100
"""HU above which a piece of the mask is soft tissue without air, organ or consolidated lung."""
ORGAN_HU = 38.0
"""HU that the median of a thick piece exceeds if it is an organ; consolidated lung is a little less dense."""
ORGAN_CM2 = 4.0
"""cm2 that such a piece exceeds. This and the limits below were chosen on phantoms (docs/lung.md)."""
DENSE_HU = 34
"""HU that all of a thinner piece exceeds if it is an organ, smoothed over 7 pixels: the part of a piece that lesion adjoins."""
DENSE_PX = 2
"""Pixels: such a piece is thicker than twice this, 8 mm."""
DENSE_CM2 = 4.0
"""cm2: and larger than this, as any organ."""
DENIED = 0.5
"""Share of lung below which the network, where it was asked, takes tissue for an organ."""
DENIED_CM2 = 3.5
"""cm2 that such a piece exceeds."""
KNOWN_HU = 8
"""HU that the two limits above are higher where the network was asked, which finds the lighter organs itself."""
OUTSIDE_CM2 = 2.0
"""cm2 of the mask beyond the body from which a slice is implausible."""
LUNG_HU = (-960, -400)
"""HU of lung with air in it; windpipe and bowel gas are darker."""
LOST_CM2 = 6.0
"""cm2 of such lung outside the mask from which a slice is implausible."""
LOST_SHARE = 0.1
"""Share of the mask that it must exceed as well: of a large lung 8 cm2 are little."""
NO_LUNG = 0.05
"""Share of lung up to which the network is sure that air is none: the room's, behind the wall drawn where a body is cut."""
THICK_PX = 3
"""Pixels: what is thinner than twice this is vessel, rim of a dome, or bronchus."""
PIXEL_CM2 = WORK_MM**2 / 100
"""cm2 that one pixel covers."""
SQUARE = np.ones((3, 3), np.uint8)
"""Pixels: what is thinner beyond the body is a sliver, and not counted."""

Hu = npt.NDArray[np.int16]
Share = npt.NDArray[np.float32]
Doubts = npt.NDArray[np.bool_]


def doubted(lungs: Bits, hu: Hu, bodies: Bits, share: Share | None = None) -> Doubts:
    """Which slices' masks are implausible: `lungs`, `hu` and `bodies` [S, r, c] -> bool [S]; none where there is no lung.

    `share` [S, r, c]: how sure the network is of lung, where it was asked.
    """
    shares = [None] * len(lungs) if share is None else list(share)
    return np.array([any(signs(*each)) for each in zip(lungs, hu, bodies, shares, strict=True)], bool)


def signs(lung: Bits, hu: Hu, body: Bits, share: Share | None = None) -> tuple[bool, bool, bool]:
    """(organ, outside, lost) of one slice [r, c]."""
    if not lung.any():
        return False, False, False
    smooth = np.asarray(cv2.blur(hu, (5, 5)), np.int16)
    if share is None:
        has_organ = _has_organ(lung, hu, smooth, 0)
    else:
        has_organ = _has_denied(lung, smooth, share) or _has_organ(lung, hu, smooth, KNOWN_HU)
    return has_organ, outside_cm2(lung, body) > OUTSIDE_CM2, _is_lost(lung, smooth, body, share)


def _has_organ(lung: Bits, hu: Hu, smooth: Hu, more_hu: int) -> bool:
    """Whether a thick piece of the mask is as dense as an organ: on the whole, or a smaller one throughout."""
    solid = pieces((smooth > SOFT_HU) * lung, ORGAN_CM2, THICK_PX)
    if any(np.median(hu[piece]) > ORGAN_HU + more_hu for piece in solid):
        return True
    return bool(pieces((cv2.blur(smooth, (3, 3)) > DENSE_HU + more_hu) * lung, DENSE_CM2, DENSE_PX))


def _has_denied(lung: Bits, smooth: Hu, share: Share) -> bool:
    """Whether the network takes a thick piece of the mask's soft tissue for an organ."""
    return bool(pieces(((smooth > SOFT_HU) & (share < DENIED)) * lung, DENIED_CM2, DENSE_PX))


def pieces(mask: Bits, least_cm2: float, thick_px: int) -> list[Doubts]:
    """The connected pieces of `mask` that are larger than so much, what is thinner than twice `thick_px` aside."""
    if cv2.countNonZero(mask) * PIXEL_CM2 <= least_cm2:  # it would be no more when opened
        return []
    n, labels = cv2.connectedComponents(cv2.morphologyEx(mask, cv2.MORPH_OPEN, disk(thick_px)), connectivity=4)
    sizes = np.bincount(labels.ravel(), minlength=n) * PIXEL_CM2
    return [labels == number for number in range(1, n) if sizes[number] > least_cm2]


def outside_cm2(lung: Bits, body: Bits) -> float:
    """How much of the mask lies outside the body, slivers aside."""
    return cv2.countNonZero(cv2.morphologyEx(lung & (1 - body), cv2.MORPH_OPEN, SQUARE)) * PIXEL_CM2


def _is_lost(lung: Bits, smooth: Hu, body: Bits, share: Share | None) -> bool:
    """Whether much of the body's aerated lung is not in the mask; windpipe and bowel gas are darker, the room's is known."""
    airy = (smooth > LUNG_HU[0]) & (smooth < LUNG_HU[1]) & (lung == 0)
    if share is not None:
        airy &= (share > NO_LUNG) | (share == 0)  # it never says exactly 0: that is beyond its view, where it knows nothing
    if cv2.countNonZero(airy * body) * PIXEL_CM2 <= LOST_CM2:
        return False
    lost = cv2.countNonZero(cv2.morphologyEx(airy * body, cv2.MORPH_OPEN, disk(THICK_PX)))
    return lost * PIXEL_CM2 > LOST_CM2 and lost > LOST_SHARE * cv2.countNonZero(lung)
