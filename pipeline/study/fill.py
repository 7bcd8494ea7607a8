"""The blank around the lung covered with translated and rotated copies of it, so that its contour says nothing (paper, step 2).

The paper's ten copies are placed where most is blank, then copies of what is covered by then until nothing is. Copies have
ragged edges, so that none draws the contour a second time, and where they meet the lung they take on its brightness and
go over into its mirror image. Lung is never covered. Everything random comes from the generator that is passed in.
"""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from pipeline.config import FillConfig

COARSE = 8
"""Blank, depth and brightness are looked at on every eighth row and column."""
MOST_COPIES = 60
RAGGED = 0.4
"""Share of a coarse step by which the edge of a copy wanders."""
SEAM, SHARE = 6.0, 0.95
"""Pixels over which a copy goes over into the lung, and the mirror's share in the first."""
MEETING = 5
"""Coarse steps over which a copy's brightness goes over into the lung's."""
LONGEST_LINE = 30_000
USUAL_SPREAD = 20.0
MOST_SHIFT = 30.0
NOISE = 20.0

Grey = npt.NDArray[np.uint8]
Mask = npt.NDArray[np.bool_]
Plane = npt.NDArray[np.float32]


def fill(picture: Grey, lung: Mask, config: FillConfig, generator: np.random.Generator) -> Grey:
    """`picture` [R, C] inside `lung`; outside, copies of its lung until nothing is blank (or black)."""
    inside = lung.astype(np.uint8)
    original = np.asarray(picture * inside, np.uint8)
    if config.kind == "black" or not lung.any():
        return original
    canvas = _copied(np.maximum(original, inside), inside, config, generator)
    filled = _blended(_as_bright_as_the_lung(canvas, inside), inside)
    cv2.copyTo(picture, inside, filled)
    return filled


def _copied(canvas: Grey, lung: Grey, config: FillConfig, generator: np.random.Generator) -> Grey:
    """`canvas` [R, C], in which 0 is blank, covered by copies of its lung, then of itself."""
    turn_deg = config.max_rotation_deg if config.kind == "warped" else 0.0
    source = canvas * _ragged(lung, generator)
    anchors = _deep(lung[::COARSE, ::COARSE])
    for number in range(MOST_COPIES):
        blank = (canvas[::COARSE, ::COARSE] == 0).astype(np.uint8)
        if number >= config.copies:
            if not blank.any():
                break
            source = canvas.copy()
            anchors = _deep(1 - blank)
        targets = _deep(blank) if blank.any() else anchors
        place = _placement(targets, anchors, blank.shape[1], turn_deg, generator)
        copy = cv2.warpAffine(source, place, canvas.shape[::-1], flags=cv2.INTER_NEAREST)
        cv2.copyTo(copy, cv2.compare(canvas, 0, cv2.CMP_EQ), canvas)
    return _patched(canvas)


def _ragged(lung: Grey, generator: np.random.Generator) -> Grey:
    """The lung cut back by a different length at each place of its edge; whole where that would leave nothing."""
    coarse = cv2.blur(
        cv2.resize(lung.astype(np.float32), None, fx=1 / COARSE, fy=1 / COARSE, interpolation=cv2.INTER_AREA), (3, 3)
    )
    coarse -= generator.uniform(0, RAGGED, coarse.shape).astype(np.float32)
    ragged = lung & (cv2.resize(coarse, lung.shape[::-1], interpolation=cv2.INTER_LINEAR) > 0.5)
    return np.asarray(ragged if ragged.any() else lung, np.uint8)


def _deep(coarse: Grey) -> npt.NDArray[np.intp]:
    """The places far from the edge of a coarse mask, numbered row by row."""
    if not coarse.any():
        return np.zeros(1, np.intp)
    depth = cv2.distanceTransform(cv2.copyMakeBorder(coarse, 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=0), cv2.DIST_L2, 3)
    return np.flatnonzero(depth[1:-1, 1:-1] >= 0.6 * depth.max())


def _placement(
    targets: npt.NDArray[np.intp], anchors: npt.NDArray[np.intp], width: int, turn_deg: float, generator: np.random.Generator
) -> npt.NDArray[np.float64]:
    """A random turn, and the shift that brings one of `anchors` onto one of `targets`, coarse places in lines of `width`."""
    from_y, from_x = divmod(int(anchors[generator.integers(len(anchors))]), width)
    to_y, to_x = divmod(int(targets[generator.integers(len(targets))]), width)
    middle = (float(from_x * COARSE), float(from_y * COARSE))
    matrix = cv2.getRotationMatrix2D(middle, generator.uniform(-turn_deg, turn_deg), 1.0)
    matrix[:, 2] += ((to_x - from_x) * COARSE, (to_y - from_y) * COARSE)
    return np.asarray(matrix)


def _patched(canvas: Grey) -> Grey:
    """The last blank specks take the nearest covered pixel's grey."""
    blank = cv2.compare(canvas, 0, cv2.CMP_EQ)
    while blank.any():
        cv2.copyTo(cv2.dilate(canvas, np.ones((3, 3), np.uint8)), blank, canvas)
        blank = cv2.compare(canvas, 0, cv2.CMP_EQ)
    return canvas


def _blended(canvas: Grey, lung: Grey) -> Grey:
    """`canvas` whose copies go over into the lung's mirror image at its edge, so that neither grey nor noise leaps there."""
    away = cv2.blur(cv2.distanceTransform(1 - lung, cv2.DIST_L2, 5), (5, 5))
    seam = np.flatnonzero((away <= SEAM) & (lung == 0))  # one number a pixel: two would take three times as long
    y, x = np.divmod(seam, canvas.shape[1])
    away = cv2.copyMakeBorder(away, 1, 1, 1, 1, cv2.BORDER_REPLICATE)
    line = away.shape[1]
    here = (y + 1) * line + x + 1
    out = away.take(here)
    down = away.take(here + line) - away.take(here - line)
    right = away.take(here + 1) - away.take(here - 1)
    back = np.maximum(2 * out - 1, 1) / np.maximum(np.hypot(down, right), 1e-3)
    mirror_y = (y - back * down).astype(np.float32)
    mirror_x = (x - back * right).astype(np.float32)
    mirror = _at(canvas, mirror_y, mirror_x, cv2.INTER_LINEAR, cv2.BORDER_REPLICATE)
    share = SHARE * (1 - np.maximum(out - 1, 0) / SEAM) * _at(lung, mirror_y, mirror_x, cv2.INTER_NEAREST)
    usual = np.float32(np.median(canvas[::COARSE, ::COARSE]))
    own = canvas.take(seam) - usual
    noise = np.clip(own, -NOISE, NOISE)  # keeps its spread; vessels, taken whole, would brighten the seam
    mixed = share * (mirror - usual) + np.sqrt(1 - share**2) * noise + (1 - share) * (own - noise)
    blended: Grey = canvas.copy()
    blended.put(seam, np.clip(np.rint(mixed + usual), 0, 255).astype(np.uint8))
    return blended


def _at(plane: Grey, y: Plane, x: Plane, way: int, border: int = cv2.BORDER_CONSTANT) -> Grey:
    """What stands in `plane` at each place; OpenCV looks up fewer than 32,768 places in a line."""
    parts = [
        cv2.remap(plane, x[None, start : start + LONGEST_LINE], y[None, start : start + LONGEST_LINE], way, borderMode=border)[
            0
        ]
        for start in range(0, len(x), LONGEST_LINE)
    ]
    return np.concatenate(parts) if parts else np.zeros(0, np.uint8)


def _as_bright_as_the_lung(canvas: Grey, lung: Grey) -> Grey:
    """`canvas` whose copies near the lung are as bright as the lung there is."""
    usual = float(np.median(canvas[::COARSE, ::COARSE])) + USUAL_SPREAD
    calm = np.minimum(canvas, np.uint8(min(usual, 255)))  # vessels and lesions have no say in the brightness
    size = (canvas.shape[1] // COARSE + 1, canvas.shape[0] // COARSE + 1)
    planes = cv2.merge([calm * lung, lung, calm]).astype(np.float32)  # at once: a third of the time
    grey, weight, whole = cv2.split(cv2.resize(planes, size, interpolation=cv2.INTER_AREA))
    wide = (2 * MEETING + 1, 2 * MEETING + 1)
    near = cv2.blur(weight, wide)
    inner = cv2.blur(grey, wide) / np.maximum(near, 1e-3)
    outer = cv2.blur(whole - grey, wide) / np.maximum(1 - near, 1e-3)
    shift = np.clip(inner - outer, -MOST_SHIFT, MOST_SHIFT) * np.minimum(2 * near, 1)
    shifted = canvas + cv2.resize(shift, canvas.shape[::-1], interpolation=cv2.INTER_LINEAR)
    return np.asarray(np.clip(np.rint(shifted), 0, 255), np.uint8)
