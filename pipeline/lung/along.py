"""Lesions bridged along z: soft tissue with lung not far below it and lung not far above it is lung too.

Heart and liver rest on the diaphragm, so no lung lies below them; fluid in the pleural space is told by its HU.
"""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from pipeline.lung.shapes import Bits

REACH_MM = 45.0
FLUID_HU = (-2, 16)
FLUID_PX = 9
WATERY, WATERY_HU = 0.7, (-40, 120)
"""What may be fluid: bronchi, fat and ribs beside it have no say in its HU."""

Hu = npt.NDArray[np.int16]


def bridged(lungs: Bits, hu: Hu, free: Bits, z_mm: npt.NDArray[np.float64]) -> Bits:
    """`lungs` [S, r, c] with what is `free` to join and has lung within REACH_MM both below and above."""
    whole = lungs.copy()
    for i, (image, here) in enumerate(zip(hu, free, strict=True)):
        low, high = np.searchsorted(z_mm, (z_mm[i] - REACH_MM, z_mm[i] + REACH_MM))
        below, above = lungs[low:i].max(axis=0, initial=0), lungs[i + 1 : high].max(axis=0, initial=0)
        whole[i] |= below & above & here & ~fluid(image)
    return whole


def fluid(hu: Hu) -> npt.NDArray[np.bool_]:
    """Where what is neither air, fat nor bone measures as little as fluid."""
    watery = ((hu > WATERY_HU[0]) & (hu < WATERY_HU[1])).astype(np.float32)
    share, mean = (cv2.blur(plane, (FLUID_PX, FLUID_PX)) for plane in (watery, hu * watery))
    return np.asarray((share > WATERY) & (mean > FLUID_HU[0] * share) & (mean < FLUID_HU[1] * share))
