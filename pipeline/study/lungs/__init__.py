"""HU -> lung mask, with OpenCV and numpy.

`chest-wall` follows the chest wall instead of the air, so that lesions at the pleura stay in (docs/lung.md). `published` is the
recipe of the published code, which cuts such lesions away; it is kept for its checkpoints.
"""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from pipeline.study.lungs.air import all_shrunk, body, lung_air
from pipeline.study.lungs.field import unwalled, walled
from pipeline.study.lungs.network import Share, lung_share
from pipeline.study.lungs.plausible import Doubts, doubted
from pipeline.study.lungs.published import published_masks
from pipeline.study.lungs.rescue import restored
from pipeline.study.lungs.shapes import BESIDE_PX, Bits, Mask, window
from pipeline.study.lungs.veto import without_organs
from pipeline.study.lungs.wall import closed_lungs

__all__ = ["judged_masks", "lung_masks"]

OUTLINE = 76
"""Of 255: a little outside the middle of the edge pixel, where a hazy lesion meets the pleura."""

ASKED = 0.625
"""Share of the lung that a slice has to show to be read from which the network is asked about it, which may find more."""

APART_MM = 6.0
"""Millimetres, or about as many, that the network's slices lie apart: it was trained on such, and nearer ones look alike."""

Hu = npt.NDArray[np.int16]


def lung_masks(
    hu: Hu,
    z_mm: npt.NDArray[np.float64],
    spacing_mm: tuple[float, float],
    recipe: str = "chest-wall",
    judge: str = "network",
    keep_fraction: float = 0.4,
) -> Mask:
    """Lung of each slice: hu [S, R, C] ordered by z -> bool [S, R, C]; slices may be dense or centimetres apart.

    `judge` is "network" or "none": whether the network takes out organs that the rules of chest-wall
    let in, and puts in diseased lung that they leave out. It is asked about slices that may be read: from
    a little less than `keep_fraction` of the largest lung on, as `[slices]` says.
    """
    return judged_masks(hu, z_mm, spacing_mm, recipe, judge, keep_fraction)[0]


def judged_masks(
    hu: Hu,
    z_mm: npt.NDArray[np.float64],
    spacing_mm: tuple[float, float],
    recipe: str = "chest-wall",
    judge: str = "network",
    keep_fraction: float = 0.4,
) -> tuple[Mask, Doubts]:
    """The same, and which slices' masks are implausible, bool [S]; those of the published recipe are not judged."""
    nobody = np.zeros(len(hu), bool)
    if len(hu) == 0:
        return np.zeros(hu.shape, bool), nobody
    if len(hu) != len(z_mm):
        raise ValueError(f"{len(hu)} slices but {len(z_mm)} positions")
    if recipe == "published":
        return published_masks(hu), nobody
    small, bodies = seen(hu, spacing_mm)
    near = (slice(None), *window(bodies.max(axis=0), BESIDE_PX))
    lungs = np.zeros_like(bodies)
    lungs[near], doubts = _judged(
        np.ascontiguousarray(small[near]), np.ascontiguousarray(bodies[near]), z_mm, judge, keep_fraction
    )
    return _grown(unwalled(lungs), hu.shape), doubts


def _judged(
    small: Hu, bodies: Bits, z_mm: npt.NDArray[np.float64], judge: str, keep_fraction: float
) -> tuple[Bits, Doubts]:  # fmt: skip
    """The same of what lies near the bodies, at WORK_MM a pixel."""
    lungs = closed_lungs(lung_air(small, bodies, z_mm), small, bodies, z_mm)
    if judge == "none":
        return lungs, doubted(lungs, small, bodies)
    doubts = np.zeros(len(lungs), bool)
    for apart in _far_apart(z_mm):
        share = shares(lungs[apart], small[apart], bodies[apart], keep_fraction)
        lungs[apart] = restored(without_organs(lungs[apart], small[apart], share), small[apart], bodies[apart], share)
        doubts[apart] = doubted(lungs[apart], small[apart], bodies[apart], share)
    return lungs, doubts


def _far_apart(z_mm: npt.NDArray[np.float64]) -> list[slice]:
    """Stacks of slices that lie about APART_MM or more from each other: one of all, but several of a dense series."""
    step_mm = float(np.median(np.diff(z_mm))) if len(z_mm) > 1 else APART_MM
    step = min(max(round(APART_MM / step_mm), 1), len(z_mm)) if step_mm > 0 else 1
    return [slice(first, None, step) for first in range(step)]


def seen(hu: Hu, spacing_mm: tuple[float, float]) -> tuple[Hu, Bits]:
    """What the rules look at: slices at WORK_MM a pixel, a wall where the field of view cuts a lung; and bodies."""
    small = all_shrunk(hu, spacing_mm)
    return walled(small, np.stack([body(image) for image in small]))


def shares(lungs: Bits, small: Hu, bodies: Bits, keep_fraction: float = 0.4) -> Share:
    """How sure the network is of lung at every pixel of the slices that may be read; 1 all over the others."""
    areas = lungs.sum(axis=(1, 2))
    return lung_share(small, bodies, np.flatnonzero(areas >= ASKED * keep_fraction * areas.max()).tolist(), lungs)


def _grown(masks: Bits, shape: tuple[int, ...]) -> Mask:
    """Back to slices of the full `shape` with a smooth outline."""
    grown = np.empty(shape, bool)
    for full, mask in zip(grown, masks, strict=True):
        smooth = cv2.resize(mask * np.uint8(255), (shape[2], shape[1]), interpolation=cv2.INTER_LINEAR)
        np.greater(smooth, OUTLINE, out=full)
    return grown
