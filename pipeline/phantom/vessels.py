"""Trees that fill a lung: arteries with their bronchi, and veins, grown in three dimensions and drawn as tapering tubes.

A tree splits its territory in two again and again, each branch running part of the way to its territory's middle; radii follow
Murray's law, r = r0 * (share of the leaves) ** (1 / 2.55).
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from pipeline.phantom.canvas import SHIFT, Grid, Image
from pipeline.phantom.thorax import LEFT, RIGHT, Thorax

MURRAY = 1 / 2.55
LEAVES = 2200
BLOOD = 42.0
AIRWAY_WALL = -150.0
LUMEN = -960.0
Points3 = npt.NDArray[np.float64]
Indices = npt.NDArray[np.int64]
Segments = npt.NDArray[np.float64]
"""[N, 8]: x, y, z of both ends, radius at both ends; mm."""


@dataclass(frozen=True, slots=True)
class Trees:
    """All tubes of one patient's lungs, thin ones first."""

    blood: Segments
    airway: Segments


def grow_trees(seed: int, thorax: Thorax, spots: dict[int, npt.NDArray[np.float64]]) -> Trees:
    """Trees into the places `spots[side]` [N, 3] of each lung."""
    blood = []
    airway = []
    for side, places in spots.items():
        draw = np.random.default_rng([seed, 1, 10 + side])
        for kind, root in enumerate(_roots(thorax, side)):
            leaves = places[draw.permutation(len(places))[:LEAVES]]
            tree = _grow(leaves, root, draw, 5.4 * thorax.scale if kind == 0 else 5.0 * thorax.scale)
            blood.append(tree)
            if kind == 0:
                airway.append(_beside(tree))
    return Trees(_thin_first(np.concatenate(blood)), _thin_first(np.concatenate(airway)))


def _roots(thorax: Thorax, side: int) -> list[npt.NDArray[np.float64]]:
    """Where the artery (with the bronchus) and the veins enter."""
    s = thorax.scale
    h = thorax.height
    _, b, y = thorax.half(0.52)
    sign = side * 2 - 3
    artery = np.array([sign * 34 * s, y + (0.12 if side == RIGHT else 0.18) * b, (0.515 if side == RIGHT else 0.525) * h])
    vein = np.array([sign * 30 * s, y + 0.1 * b, 0.45 * h])
    return [artery, vein]


def _grow(leaves: Points3, root: Points3, draw: np.random.Generator, thick: float) -> Segments:
    """Level by level: every territory sends two branches towards the middles of its halves."""
    total = len(leaves)
    rows = []
    first = np.array([0])  # leaves[first[k]:first[k + 1]] is territory k
    start = root[None]
    heading = np.zeros((1, 3))
    before = np.array([thick])
    while len(first) < total:
        leaves, first, parent = _halved(leaves, first, draw)
        size = np.diff(np.append(first, total))
        middle = np.add.reduceat(leaves, first) / size[:, None]
        radius = np.minimum(thick * (size / total) ** MURRAY, before[parent])
        reach = np.where(size > 1, draw.uniform(0.30, 0.45, len(size)), 0.85)
        step = reach[:, None] * (middle - start[parent])
        step += 0.35 * np.linalg.norm(step, axis=1)[:, None] * heading[parent] * (size > 1)[:, None]
        end = start[parent] + step
        moved = np.linalg.norm(step, axis=1)[:, None]
        row = np.hstack([start[parent], end, before[parent][:, None], radius[:, None]])
        rows.append(row[moved[:, 0] > 1e-6])
        start = end
        before = radius
        heading = step / np.maximum(moved, 1e-6)
    return np.concatenate(rows)


def _halved(leaves: Points3, first: Indices, draw: np.random.Generator) -> tuple[Points3, Indices, Indices]:
    """(leaves in new order, first leaf of each territory, its parent): each split across its longest direction, unevenly."""
    size = np.diff(np.append(first, len(leaves)))
    owner = np.repeat(np.arange(len(first)), size)
    out = leaves - (np.add.reduceat(leaves, first) / size[:, None])[owner]
    spread = np.add.reduceat(out[:, :, None] * out[:, None, :], first)
    axis = np.linalg.eigh(spread)[1][:, :, -1] * draw.choice([-1.0, 1.0], (len(first), 1))
    order = np.lexsort(((out * axis[owner]).sum(axis=1), owner))
    cut = np.clip(np.rint(size * draw.uniform(0.22, 0.5, len(size))), 1, np.maximum(size - 1, 1)).astype(int)
    both = np.sort(np.concatenate([first, (first + cut)[size > 1]]))
    return leaves[order], both, np.searchsorted(first, both, side="right") - 1


def _beside(tree: Segments) -> Segments:
    """The bronchi that run beside an artery's branches: lumen radii, as far as they could be seen in white lung."""
    wide = tree[tree[:, 7] > 0.64].copy()
    for end, radius in ((slice(0, 3), wide[:, 6]), (slice(3, 6), wide[:, 7])):
        wide[:, end] += (1.75 * radius + 0.3)[:, None] * np.array([0.3, 0.65, 0.7])
    wide[:, 6:8] *= 0.72
    return wide


def _thin_first(segments: Segments) -> Segments:
    return segments[np.argsort(segments[:, 6], kind="stable")]


def paint_vessels(image: Image, grid: Grid, trees: Trees, z_mm: float, slab_mm: float) -> Image:
    """Draw what crosses the slab around z; returns the share (0..1) of bronchial lumen in every pixel."""
    blood = _Tubes(grid)
    walls = _Tubes(grid)
    lumen = _Tubes(grid)
    blood.draw(trees.blood, z_mm, slab_mm)
    visible = trees.airway[trees.airway[:, 7] > 0.75]
    walls.draw(visible, z_mm, slab_mm, wall=0.22)
    lumen.draw(trees.airway, z_mm, slab_mm)
    image += blood.share() * (BLOOD - image)
    image += walls.share() * np.maximum(AIRWAY_WALL - image, 0)
    air = lumen.share()
    image += air * np.minimum(LUMEN - image, 0)
    return air


class _Tubes:
    """Tubes collected on a canvas of twice the resolution."""

    def __init__(self, grid: Grid) -> None:
        self.grid = grid
        half = grid.spacing_mm / 2
        self.fine = Grid(2 * grid.matrix, half, grid.left_mm - half / 2, grid.top_mm - half / 2)
        self.canvas = np.zeros((self.fine.matrix, self.fine.matrix), np.uint8)

    def draw(self, segments: Segments, z_mm: float, slab_mm: float, wall: float = 0.0) -> None:
        """Draw the segments that cross the slab; `wall` widens them by that share of their radius."""
        reach = slab_mm / 2 + 0.8 * segments[:, 6]
        low = np.minimum(segments[:, 2], segments[:, 5])
        high = np.maximum(segments[:, 2], segments[:, 5])
        crossing = (low < z_mm + reach) & (high > z_mm - reach)
        segments = segments[crossing]
        reach = reach[crossing]
        start = segments[:, :3]
        along = segments[:, 3:6] - segments[:, :3]
        rise = np.where(np.abs(along[:, 2]) < 1e-6, 1e-6, along[:, 2])
        at = np.sort(np.stack([(z_mm - reach - start[:, 2]) / rise, (z_mm + reach - start[:, 2]) / rise]), axis=0).clip(0, 1)
        middle = at.mean(axis=0)
        radius = (segments[:, 6] + (segments[:, 7] - segments[:, 6]) * middle) * (1 + wall) + 0.35 * (wall > 0)
        seen = (np.abs(rise) * (at[1] - at[0]) + 2 * radius) / (slab_mm + 0.4)
        width = 2 * radius / self.fine.spacing_mm
        pixels = np.maximum(1, np.rint(width)).astype(int)
        value = np.rint(255 * np.minimum(1, seen) * np.minimum(1, width / pixels) * np.clip(radius / 0.65, 0.3, 1)).astype(int)
        ends = [self.fine.fixed((start + at[k][:, None] * along)[:, :2]).tolist() for k in (0, 1)]
        for one, other, shade, thick in zip(*ends, value.tolist(), pixels.tolist(), strict=True):
            cv2.line(self.canvas, one, other, shade, thick, cv2.LINE_AA, SHIFT)

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
