"""Diseased lung that the rules leave out joins where the network is sure of it and enough else speaks for it.

The network alone is no mask: on real scans it has taken aortas, domes of livers and vessels of the neck for lung. What joins is
the rim of dense lung, up to 6 mm, or a thick piece inside the outline of both lungs that lies beside lung or is a whole lobe,
and is known to a neighbouring slice; the network has to be surer of a lobe, near the midline, and of what measures as fluid or
fat. All at WORK_MM a pixel.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from pipeline.study.lungs.network import Share
from pipeline.study.lungs.plausible import PIXEL_CM2, pieces
from pipeline.study.lungs.shapes import Bits, disk, mirrored, off_middle

SOFT_HU = (-700, 150)
"""HU between which, over 3 x 3 pixels, tissue may be diseased lung: darker is air of bronchus or bowel, denser is bone."""
EDGE_PX = 3
"""Pixels inside the body's edge where nothing joins."""
BEYOND_PX = 4
"""Pixels beyond the outline of all lungs within which soft tissue may be lung: there it may be ill in every slice."""
THICK_PX = 2
"""Pixels: what is thinner than twice this, 8 mm, does not join."""
LEAST_CM2 = 1.0
"""cm2 that a piece exceeds that joins."""
DENSE_HU = -500
"""HU above which, over 3 x 3 pixels, lung is diseased."""
RIM_PX = 2
"""Pixels beyond diseased lung, 4 mm, that join wherever the network takes them for lung."""
WIDE_RIM_PX = 3
"""The same, 6 mm, where the slice below shows lung too: below a dome lies organ."""
LIKELY = 0.5
"""Share of lung of every pixel that joins."""
SURE = 0.9
"""Share of lung from which the network is sure of a pixel."""
PARTLY = 0.15
"""Part of a piece that it is sure of."""
NEARLY_ALL = 0.8
"""The same of a piece near the midline, of a lobe, and of what measures as fluid or fat."""
LATERAL = 0.45
"""Share of half the lungs' width within which, on average, a piece lies near the midline, where aorta and great vessels are."""
CENTRAL_CM2 = 4.0
"""cm2 that such a piece exceeds, unless it is embedded."""
EMBEDDED = 0.6
"""Share of the ring round it that is lung, if it is: a nodule at the spine."""
LOBE_CM2 = 8.0
"""cm2 that a piece exceeds that may be a lobe, or its base where the slice below shows no lung; a dome's tip is smaller."""
WHOLE_CM2 = 15.0
"""cm2 that a piece exceeds that may be a whole lung; of organs so large in real series as they are, a third is sure."""
HALF = 0.5
"""Part of such a piece that it is sure of."""
ROUND = 0.8
"""Share of the ring round a piece that is lung, from which it may be a dome's tip, which lung surrounds."""
AGREED = 0.5
"""Share of lung, or of the mask, that a neighbouring slice shows where such a piece lies."""
WHOLE_AGREED = 0.7
"""The same of a piece taken for a whole lung of which it is half sure: an aorta beside consolidation is known by less."""
BESIDE = 0.1
"""Share of the ring round a piece that is lung already, unless it is a lobe."""
AT_WALL = 0.1
"""Share of that ring that lies outside the lungs' outline, if the piece lies at the chest wall."""
FAT_HU = (-130.0, -50.0)
"""HU of fat, and of a piece's median if it is taken for fat: of that the network has to be surer."""
RING_PX = 3
"""Pixels: how wide that ring is."""
FLUID = 0.3
"""Share of a piece that measures what fluid measures, from which the network has to be surer of it."""
FLUID_HU = (-2, 16)
"""HU between which the mean of watery tissue is that of fluid; consolidated lung is denser."""
FLUID_PX = 9
"""Pixels: side of the square over which that mean is taken, wide enough to average noise out."""
WATERY = 0.7
"""Share of that square that is watery, or its mean says nothing."""
WATERY_HU = (-40, 120)
"""HU of what may be fluid: bronchi, fat and ribs beside it have no say in its mean."""


Hu = npt.NDArray[np.int16]
Piece = npt.NDArray[np.bool_]
Line = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Slice:
    """One slice [r, c]: its lung so far, HU, the network's share of lung, both lungs' outline; how far off columns [c] lie."""

    lung: Bits
    hu: Hu
    share: Share
    outline: Bits
    off: Line


def restored(lungs: Bits, hu: Hu, bodies: Bits, share: Share) -> Bits:
    """`lungs` [S, r, c] with what the network takes for lung beside them: thick pieces, and the rim of dense lung.

    `share` [S, r, c] is how sure the network is of lung, and 1 all over a slice that it was not asked about.
    """
    asked = np.asarray((share < 1).any(axis=(1, 2)))
    believed = np.where(asked[:, None, None], np.maximum(share, lungs), lungs)
    whole = lungs.copy()
    for at, free, outline, off in _candidates(lungs, hu, bodies, np.flatnonzero(asked)):
        near = [believed[other] for other in (at - 1, at + 1) if 0 <= other < len(hu)] or [np.zeros_like(share[at])]
        likely = np.asarray(free * (share[at] >= LIKELY), np.uint8)
        thick = pieces(likely, LEAST_CM2, THICK_PX)
        slice_ = Slice(lungs[at], hu[at], share[at], outline, off)
        found = [piece for piece in thick if _belongs(piece, slice_) and _is_known(piece, slice_, near)]
        whole[at] |= _rim(slice_, near[0]) & likely
        if found:
            whole[at] |= _joined(lungs[at], np.logical_or.reduce(found).astype(np.uint8), likely)
    return whole


def _rim(seen: Slice, below: Share) -> Bits:
    """What lies near the diseased part of a lung: what is left out of its outline there is likely diseased too."""
    dense = np.asarray(seen.lung * (cv2.blur(seen.hu, (3, 3)) > DENSE_HU), np.uint8)
    dense = np.asarray(cv2.morphologyEx(dense, cv2.MORPH_OPEN, np.ones((2, 2), np.uint8)), np.uint8)
    wide = cv2.dilate(dense, disk(WIDE_RIM_PX)) & (below >= AGREED)
    return np.asarray(cv2.dilate(dense, disk(RIM_PX)) | wide, np.uint8)


def _candidates(lungs: Bits, hu: Hu, bodies: Bits, places: npt.NDArray[np.intp]) -> Iterator[tuple[int, Bits, Bits, Line]]:
    """Of each of `places`: itself, soft tissue that may be lung, the lungs' outline, how far off the midline columns lie."""
    if not len(places):
        return
    columns = np.flatnonzero(bodies.any(axis=(0, 1)))
    middle = (int(columns[0]) + int(columns[-1]) + 1) // 2
    outline = _outline(lungs.max(axis=0), middle)
    wide = cv2.dilate(outline, disk(BEYOND_PX))
    for at in places.tolist():
        smooth = cv2.blur(hu[at], (3, 3))
        soft = (smooth > SOFT_HU[0]) & (smooth < SOFT_HU[1]) & (lungs[at] == 0)
        free = np.asarray(wide * soft * cv2.erode(bodies[at], disk(EDGE_PX)), np.uint8)
        near = lungs[max(at - 1, 0) : at + 2].max(axis=0)
        yield at, free, outline, off_middle(near | mirrored(near, middle), middle)


def _outline(mask: Bits, middle: int) -> Bits:
    """The convex outline of `mask` and its mirror image, filled: where lung may be."""
    whole = np.zeros_like(mask)
    contours, _ = cv2.findContours(mask | mirrored(mask, middle), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    if contours:
        cv2.fillConvexPoly(whole, cv2.convexHull(np.concatenate(contours)), (1,))
    return whole


def _belongs(piece: Piece, seen: Slice) -> bool:
    """Whether the network is sure of a piece that is not fat; and surer where it measures as fluid, and of one not beside lung.

    What is not beside lung is large: a whole lobe, or all that a slice shows of a lung.
    """
    hu = seen.hu[piece]
    is_fat = FAT_HU[0] < np.median(hu) < FAT_HU[1]
    if _sureness(piece, seen) < (NEARLY_ALL if is_fat else PARTLY):
        return False
    if seen.lung[_ring(piece)].mean() < BESIDE:
        return _is_lobe(piece, seen)
    return _is_surer(piece, seen) or bool(fluid(seen.hu)[piece].mean() <= FLUID)


def _is_known(piece: Piece, seen: Slice, near: list[Share]) -> bool:
    """Whether enough of the slices `near`, the lower first, agree that a piece is lung.

    At the chest wall one is enough, and for what may be a lobe, unless lung surrounds it. What lies inside otherwise may be a
    dome, which is lung above and organ below: there the lower one has to agree; and near the midline both, and the network has
    to be surer.
    """
    shares = [float(other[piece].mean()) for other in near]
    agreed = [share >= AGREED for share in shares]
    if _is_lobe(piece, seen) and seen.lung[_ring(piece)].mean() < ROUND:
        return max(shares) >= (AGREED if _is_surer(piece, seen) else WHOLE_AGREED)
    if seen.off[np.nonzero(piece)[1]].mean() < LATERAL:
        is_embedded = seen.lung[_ring(piece)].mean() > EMBEDDED
        return _is_surer(piece, seen) and (_cm2(piece) > CENTRAL_CM2 or is_embedded) and all(agreed)
    return any(agreed) if seen.outline[_ring(piece)].mean() < 1 - AT_WALL else agreed[0]


def _is_lobe(piece: Piece, seen: Slice) -> bool:
    """Whether a piece is so large, and the network so sure of it, that it is taken for a lobe, or a part of one, or a lung."""
    if _cm2(piece) > WHOLE_CM2:
        return _sureness(piece, seen) >= HALF
    return _is_surer(piece, seen) and _cm2(piece) > LOBE_CM2


def _is_surer(piece: Piece, seen: Slice) -> bool:
    return _sureness(piece, seen) >= NEARLY_ALL


def _cm2(piece: Piece) -> float:
    return np.count_nonzero(piece) * PIXEL_CM2


def _sureness(piece: Piece, seen: Slice) -> float:
    """The part of a piece that the network is sure of."""
    return float((seen.share[piece] >= SURE).mean())


def _ring(piece: Piece) -> Piece:
    """What lies round a piece."""
    return np.asarray((cv2.dilate(piece.astype(np.uint8), disk(RING_PX)) > 0) & ~piece)


def _joined(lung: Bits, more: Bits, likely: Bits) -> Bits:
    """`lung` with `more`, its rim that is `likely` lung, and the seam between them."""
    more = more | (cv2.dilate(more, disk(THICK_PX)) & likely)
    whole = lung | more
    return np.asarray(
        whole | (cv2.morphologyEx(whole, cv2.MORPH_CLOSE, disk(2)) & cv2.dilate(more, disk(2)) & likely), np.uint8
    )


def fluid(hu: Hu) -> Piece:
    """Where what is neither air, fat nor bone measures as little as fluid."""
    watery = ((hu > WATERY_HU[0]) & (hu < WATERY_HU[1])).astype(np.uint8)
    count, total = (cv2.boxFilter(x, cv2.CV_32S, (FLUID_PX, FLUID_PX), normalize=False) for x in (watery, hu * watery))
    return np.asarray((count > WATERY * FLUID_PX**2) & (total > FLUID_HU[0] * count) & (total < FLUID_HU[1] * count))
