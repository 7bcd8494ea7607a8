"""Trees that fill a lung: arteries with their bronchi, and veins, grown in three dimensions and drawn as tapering tubes.

A tree splits its territory in two again and again, each branch running part of the way to its territory's middle; radii follow
Murray's law, r = r0 * (share of the leaves) ** (1 / 2.55).
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from pipeline.phantom.canvas import Grid, Image
from pipeline.phantom.thorax import LEFT, RIGHT, Thorax

MURRAY = 1 / 2.55
LEAVES = 1000
BLOOD, AIRWAY_WALL, LUMEN = 42.0, -40.0, -960.0
Segments = npt.NDArray[np.float64]
"""[N, 8]: x, y, z of both ends, radius at both ends; mm."""


@dataclass(frozen=True, slots=True)
class Trees:
    """All tubes of one patient's lungs, thin ones first."""

    blood: Segments
    airway: Segments


def grow_trees(seed: int, thorax: Thorax, spots: dict[int, npt.NDArray[np.float64]]) -> Trees:
    """Trees into the places `spots[side]` [N, 3] of each lung."""
    blood, airway = [], []
    for side, places in spots.items():
        draw = np.random.default_rng([seed, 1, 10 + side])
        for kind, root in enumerate(_roots(thorax, side)):
            leaves = places[draw.permutation(len(places))[:LEAVES]]
            tree = _grow(leaves, root, draw, 7.0 * thorax.scale if kind == 0 else 6.4 * thorax.scale)
            blood.append(tree)
            if kind == 0:
                airway.append(_beside(tree))
    return Trees(_thin_first(np.concatenate(blood)), _thin_first(np.concatenate(airway)))


def _roots(thorax: Thorax, side: int) -> list[npt.NDArray[np.float64]]:
    """Where the artery (with the bronchus) and the veins enter."""
    s, h = thorax.scale, thorax.height
    _, b, y = thorax.half(0.52)
    sign = side * 2 - 3
    artery = np.array([sign * 34 * s, y + (0.12 if side == RIGHT else 0.18) * b, (0.515 if side == RIGHT else 0.525) * h])
    vein = np.array([sign * 30 * s, y + 0.1 * b, 0.45 * h])
    return [artery, vein]


def _grow(leaves: npt.NDArray[np.float64], root: npt.NDArray[np.float64], draw: np.random.Generator, thick: float) -> Segments:
    total, rows = len(leaves), []
    waiting = [(np.arange(total), root, thick, np.zeros(3))]
    while waiting:
        members, start, before, heading = waiting.pop()
        if len(members) == 1:
            rows.append((*start, *leaves[members[0]], before, 0.35))
            continue
        for part in _halves(leaves, members, draw.uniform(0.28, 0.5)):
            radius = thick * (len(part) / total) ** MURRAY
            middle = leaves[part].mean(axis=0)
            reach = 0.42 if len(part) > 1 else 0.6
            step = reach * (middle - start)
            step += 0.3 * np.linalg.norm(step) * heading * (len(part) > 1)
            end = start + step
            rows.append((*start, *end, min(before, radius * 1.15), radius))
            waiting.append((part, end, radius, step / max(1e-6, float(np.linalg.norm(step)))))
    return np.array(rows)


def _halves(leaves: npt.NDArray[np.float64], members: npt.NDArray[np.int64], share: float) -> list[npt.NDArray[np.int64]]:
    """The members on both sides of their middle, across their longest direction."""
    points = leaves[members]
    out = points - points.mean(axis=0)
    axis = np.linalg.eigh(out.T @ out)[1][:, -1]
    order = np.argsort(out @ axis, kind="stable")
    half = max(1, round(len(members) * share))
    return [members[order[:half]], members[order[half:]]]


def _beside(tree: Segments) -> Segments:
    """The bronchi that run beside an artery's branches: lumen radii, as far as walls can matter."""
    wide = tree[(tree[:, 7] > 0.62)].copy()
    shift = 0.95 * (wide[:, 6:8] + 0.3)
    for end, radius in ((slice(0, 3), shift[:, 0]), (slice(3, 6), shift[:, 1])):
        wide[:, end] += radius[:, None] * np.array([0.25, 0.55, 0.6]) * 1.15
    wide[:, 6:8] *= 0.78
    return wide


def _thin_first(segments: Segments) -> Segments:
    return segments[np.argsort(segments[:, 6], kind="stable")]


def paint_vessels(image: Image, grid: Grid, trees: Trees, z_mm: float, slab_mm: float) -> Image:
    """Draw what crosses the slab around z; returns the share (0..1) of bronchial lumen in every pixel."""
    blood = _Tubes(grid)
    blood.draw(trees.blood, z_mm, slab_mm, 0.0)
    share = blood.share()
    image += share * (BLOOD - image)
    walls = _Tubes(grid)
    walls.draw(trees.airway, z_mm, slab_mm, 0.9)
    lumen = _Tubes(grid)
    lumen.draw(trees.airway, z_mm, slab_mm, 0.0)
    air, wall = lumen.share(), walls.share()
    image += np.maximum(wall, 0) * 0.85 * np.maximum(AIRWAY_WALL - image, 0)
    image += air * np.minimum(LUMEN - image, 0)
    return air


class _Tubes:
    """Tubes collected on a canvas of twice the resolution."""

    def __init__(self, grid: Grid) -> None:
        self.grid = grid
        self.fine = Grid(
            2 * grid.matrix, grid.spacing_mm / 2, grid.left_mm - grid.spacing_mm / 4, grid.top_mm - grid.spacing_mm / 4
        )
        self.canvas = np.zeros((self.fine.matrix, self.fine.matrix), np.uint8)

    def draw(self, segments: Segments, z_mm: float, slab_mm: float, wall_mm: float) -> None:
        """Draw the segments that cross the slab; `wall_mm` widens them."""
        if wall_mm > 0:
            segments = segments[segments[:, 7] > 1.05]
        reach = slab_mm / 2 + np.minimum(segments[:, 6] + wall_mm, 12) * 0.8
        low, high = np.minimum(segments[:, 2], segments[:, 5]), np.maximum(segments[:, 2], segments[:, 5])
        for segment, half in zip(
            segments[(low < z_mm + reach) & (high > z_mm - reach)],
            reach[(low < z_mm + reach) & (high > z_mm - reach)],
            strict=True,
        ):
            self._segment(segment, z_mm, half, slab_mm, wall_mm)

    def _segment(self, segment: npt.NDArray[np.float64], z_mm: float, half: float, slab_mm: float, wall_mm: float) -> None:
        start, end = segment[:3], segment[3:6]
        rise = end[2] - start[2]
        first, last = 0.0, 1.0
        if abs(rise) > 1e-6:
            first, last = sorted(((z_mm - half - start[2]) / rise, (z_mm + half - start[2]) / rise))
            first, last = max(first, 0.0), min(last, 1.0)
        if first >= last:
            return
        radius = segment[6] + (segment[7] - segment[6]) * (first + last) / 2 + wall_mm
        seen = min(1.0, (abs(rise) * (last - first) + 2 * radius) / (slab_mm + 0.6))
        width = 2 * radius / self.fine.spacing_mm
        pixels = max(1, round(width))
        value = round(255 * min(1.0, seen * min(1.0, width / pixels)))
        ends = self.fine.fixed(np.stack([start + first * (end - start), start + last * (end - start)])[:, :2])
        cv2.line(self.canvas, ends[0].tolist(), ends[1].tolist(), value, pixels, cv2.LINE_AA, 4)

    def share(self) -> Image:
        """Coverage 0..1 on the grid itself."""
        small = cv2.resize(self.canvas, (self.grid.matrix, self.grid.matrix), interpolation=cv2.INTER_AREA)
        return np.asarray(small, np.float32) / np.float32(255)


def spots_in(
    coarse: npt.NDArray[np.uint8], grid: Grid, z_mm: npt.NDArray[np.float64], draw: np.random.Generator
) -> dict[int, npt.NDArray[np.float64]]:
    """Places [N, 3] spread evenly through each lung of a coarse volume of sides, a little away from the pleura."""
    spots = {}
    step = float(z_mm[1] - z_mm[0])
    for side in (RIGHT, LEFT):
        inside = np.stack([cv2.erode((s == side).astype(np.uint8), np.ones((3, 3), np.uint8)) for s in coarse])
        z, r, c = np.nonzero(inside)
        pick = draw.permutation(len(z))[: 3 * LEAVES]
        where: npt.NDArray[np.float64] = np.stack(
            [grid.left_mm + grid.spacing_mm * c[pick], grid.top_mm + grid.spacing_mm * r[pick], z_mm[z[pick]]], axis=1
        )
        spots[side] = where + draw.uniform(-0.5, 0.5, where.shape) * np.array([grid.spacing_mm, grid.spacing_mm, step])
    return spots
