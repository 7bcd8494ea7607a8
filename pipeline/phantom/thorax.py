"""One patient's chest as shapes: skin, rib cage, diaphragm, mediastinum, lungs, fissures.

Heights are u = z / height: 0 where the lungs end behind the liver, 1 at their apices. Lung truth is what the cage leaves
when diaphragm, mediastinum, hila and spine are taken away.
"""

from __future__ import annotations

from functools import lru_cache

import cv2
import numpy as np
import numpy.typing as npt

from pipeline.phantom.canvas import Grid, Image, Points, along, cut, ellipse, superellipse
from pipeline.phantom.variety import PLAIN, Variety

STREAM = 1
RIGHT = 1
LEFT = 2
DEPTHS = np.array([-1.0, -0.8, -0.6, -0.4, -0.2, 0.0, 0.2, 0.4, 0.6, 0.8, 1.0, 1.15])
"""Where the mediastinum's half widths are given, from the sternum (-1) to the back (1), in half depths of the cage."""
LEVELS = np.array([0.0, 0.2, 0.35, 0.48, 0.58, 0.72, 0.86, 1.0])
BEFORE_HEART = slice(0, 4)
ROUND_HEART = slice(0, 8)
LOW = np.array([0.3, 1.0, 1.0, 1.0, 0.9, 0.6, 0.0, 0.0])
RIGHT_MM = np.array([
    [10, 13, 20, 26, 24, 18, 12, 12, 19, 22, 31, 52],
    [10, 13, 20, 26, 24, 18, 12, 12, 19, 22, 31, 52],
    [8, 8, 16, 26, 28, 26, 15, 11, 18, 21, 30, 52],
    [6, 3, 11, 24, 33, 36, 27, 12, 18, 21, 30, 52],
    [5, 1, 9, 21, 27, 31, 25, 12, 18, 21, 30, 52],
    [6, 2, 9, 20, 23, 19, 11, 10, 18, 21, 30, 52],
    [14, 10, 12, 17, 19, 18, 15, 16, 21, 27, 40, 56],
    [32, 28, 25, 24, 24, 24, 23, 24, 26, 29, 40, 50],
], float)  # fmt: skip
LEFT_MM = np.array([
    [12, 24, 36, 38, 31, 22, 12, 14, 20, 22, 31, 52],
    [12, 24, 36, 38, 31, 22, 12, 14, 20, 22, 31, 52],
    [10, 16, 30, 36, 34, 25, 14, 14, 19, 21, 30, 52],
    [8, 5, 15, 26, 31, 33, 26, 15, 19, 21, 30, 52],
    [6, 2, 10, 20, 25, 30, 26, 16, 19, 21, 30, 52],
    [6, 2, 7, 15, 19, 20, 18, 15, 19, 21, 30, 52],
    [14, 10, 12, 17, 20, 20, 17, 17, 22, 27, 40, 56],
    [32, 28, 25, 24, 24, 24, 23, 24, 26, 29, 40, 50],
], float)  # fmt: skip


class Thorax:
    """The shapes of one patient; every length in mm."""

    def __init__(self, seed: int, height_mm: float, variety: Variety = PLAIN) -> None:
        draw = np.random.default_rng([seed, STREAM])
        self.height = height_mm
        self.variety = variety
        self.a = float(np.clip(draw.normal(126, 8), 108, 146)) * variety.size
        self.b = self.a * float(np.clip(draw.normal(0.70, 0.035), 0.62, 0.79))
        self.scale = self.a / 126
        self.fat = float(np.clip(draw.lognormal(np.log(15), 0.5), 6, 48)) * variety.fat
        self.muscle = float(draw.uniform(0.75, 1.3))
        self.breast = float(draw.choice([0.0, draw.uniform(10, 34)]))
        self.arms_down = bool(draw.random() < 0.15)
        raised_right, raised_left = variety.raised
        self.dome = {RIGHT: float(draw.normal(0.36, 0.025)) + raised_right, LEFT: float(draw.normal(0.30, 0.025)) + raised_left}
        self.heart = float(draw.normal(1.0, 0.07)) * variety.heart
        self.wobble = draw.normal(0, 1, (5, 2))
        self.rib_drop = float(draw.normal(78, 6))
        self.rib_phase = float(draw.uniform(-5, 5))
        self.fissure = {RIGHT: float(draw.normal(0.0, 0.025)), LEFT: float(draw.normal(0.01, 0.025))}
        self.minor = float(draw.normal(0.46, 0.02))
        self.density = float(np.clip(draw.normal(-858, 20), -905, -805)) - 45 * variety.emphysema
        self.gravity = float(draw.uniform(18, 45))
        self.tissue = draw.standard_normal((24, 32, 32)).astype(np.float32)
        self.choices = draw.uniform(0, 1, 16)
        self.widths = {RIGHT: RIGHT_MM * self.scale, LEFT: LEFT_MM * self.scale}
        over_mm = variety.recess_mm * self.scale * LOW[:, None]
        self.widths[RIGHT][:, ROUND_HEART] -= over_mm
        self.widths[LEFT][:, BEFORE_HEART] += over_mm
        self.levels = draw.normal(0, 0.035, (2, len(LEVELS), 1))

    def u(self, z_mm: float) -> float:
        """Height as a share of the lungs' height."""
        return z_mm / self.height

    @lru_cache(maxsize=8)  # noqa: B019  a patient lives as long as its slices are drawn
    def half(self, u: float) -> tuple[float, float, float]:
        """Half width, half depth and middle (y) of the cage."""
        width = along(u, (-0.15, 0.94), (0.12, 0.985), (0.35, 1.0), (0.55, 0.96), (0.72, 0.88), (0.86, 0.75), (1.0, 0.5))
        depth = along(u, (-0.15, 0.97), (0.2, 1.0), (0.45, 0.96), (0.7, 0.86), (0.88, 0.71), (1.0, 0.56))
        return self.a * width, self.b * depth, 0.55 * self.b * (1 - depth)

    @lru_cache(maxsize=8)  # noqa: B019
    def cage(self, u: float) -> Points:
        """The inner chest wall as a closed line."""
        a, b, y = self.half(u)
        points = superellipse(a, b, 0.0)
        angle = np.arctan2(points[:, 1], points[:, 0])
        turns = np.arange(2, 7)
        waves = self.wobble[:, :1] * np.cos(turns[:, None] * angle + self.wobble[:, 1:] * 3 + 2.0 * u)
        grown = 1 + (0.011 / np.sqrt(turns)[:, None] * waves).sum(axis=0)
        return np.asarray(points * grown[:, None] + (0.0, y))

    def wall(self, u: float, thickness_mm: npt.NDArray[np.float64]) -> Points:
        """The cage moved outwards by a thickness given around it (as `cage` runs)."""
        points = self.cage(u)
        middle = np.array([0.0, self.half(u)[2]])
        out = points - middle
        return np.asarray(middle + out * (1 + thickness_mm[:, None] / np.linalg.norm(out, axis=1)[:, None]))

    def around(self, u: float) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """(sideways 0..1, backwards -1..1) of every point of the cage's line."""
        a, b, y = self.half(u)
        points = self.cage(u)
        return np.abs(points[:, 0]) / a, (points[:, 1] - y) / b

    def muscle_wall(self, u: float) -> Points:
        """The outside of ribs and muscles: thick beside the spine, at the pectorals and under the arms."""
        side, back = self.around(u)
        behind = np.clip(1.6 * back, 0, 1)
        before = np.clip(-1.6 * back, 0, 1)
        thick = (
            10 + 4 * side**2 + (16 + 12 * np.exp(-((side / 0.45) ** 4)) + 11 * np.exp(-(((side - 0.72) / 0.25) ** 2))) * behind
        )
        thick = thick + along(u, (0.3, 0), (0.5, 8), (0.75, 13), (1.0, 18)) * np.exp(-(((side - 0.55) / 0.3) ** 2)) * before
        thick = thick + along(u, (0.25, 0), (0.55, 9), (0.8, 26), (1.0, 52)) * side**3
        return self.wall(u, thick * (1 + (self.muscle - 1) * (1 - behind)) + along(u, (0.7, 0), (1.0, 22)) * side)

    def skin(self, u: float) -> Points:
        """The body's outside: fat over the muscles, breasts, shoulders."""
        side, back = self.around(u)
        inner = self.muscle_wall(u)
        fat = self.fat * (0.55 + 0.45 * side + 0.25 * np.clip(-2 * back, 0, 1) * along(u, (0.0, 1), (0.3, 0)))
        chest = along(u, (0.12, 0), (0.32, 1), (0.5, 1), (0.7, 0)) * self.breast
        fat = fat + chest * np.exp(-(((side - 0.55) / 0.28) ** 2)) * np.clip(-2 * back, 0, 1)
        fat = fat - 0.3 * self.fat * np.exp(-((side / 0.12) ** 2)) * (back > 0)
        out = inner - (0.0, self.half(u)[2])
        return np.asarray(inner + out * (np.maximum(fat, 3)[:, None] / np.linalg.norm(out, axis=1)[:, None]))

    def spine(self, u: float) -> float:
        """The middle (y) of the vertebral body: the back of the lungs passes beside it."""
        _, b, y = self.half(u)
        return y + b - 27 * self.scale

    def mediastinum(self, u: float) -> Points:
        """The closed line of what lies between the lungs, fat included; hila bulge into it."""
        _, b, y = self.half(u)
        fine = np.linspace(DEPTHS[0], DEPTHS[-1], 45)
        edges = []
        for side in (RIGHT, LEFT):
            table = self.widths[side] * (1 + self.levels[side - 1])
            row = np.array([np.interp(u, LEVELS, table[:, k]) for k in range(len(DEPTHS))])
            smooth = np.asarray(
                cv2.GaussianBlur(np.interp(fine, DEPTHS, row)[None], (0, 0), 1.3, borderType=cv2.BORDER_REPLICATE)
            )
            edges.append(np.stack([(side * 2 - 3) * smooth[0], y + b * fine], axis=1))
        front = np.array([[30 * self.scale, y - 1.4 * b], [-30 * self.scale, y - 1.4 * b]])
        return np.concatenate([edges[0], edges[1][::-1], front])

    def heart_shapes(self, u: float) -> list[Points]:
        """Sections of right atrium, ventricles and left atrium."""
        _, b, y = self.half(u)
        s = self.scale * self.heart
        balls = []
        for x, back, at, half, a, d, turn in (
            (18, -0.40, 0.30, 0.20, 52, 41, 0.45),
            (43, -0.28, 0.28, 0.17, 41, 38, 0.7),
            (-16, -0.22, 0.36, 0.17, 32, 36, 0.1),
            (4, 0.12, 0.42, 0.09, 33, 21, 0.05),
        ):
            left = cut(u, at, half)
            if left > 0.05:
                balls.append(ellipse(x * s + self.variety.heart_left_mm, y + back * b, a * s * left, d * s * left, turn))
        return balls

    def diaphragm(self, grid: Grid) -> Image:
        """Height (mm) of the diaphragm over every pixel: two domes, deepest behind, a saddle under the heart."""
        x = grid.x / self.a
        y = grid.y / self.b
        domes = []
        for side in (RIGHT, LEFT):
            sign = side * 2 - 3
            out = sign * x - 0.46
            across = np.where(out > 0, out / 0.545, out / 1.0)
            deep = np.where(y > -0.22, (y + 0.22) / 1.20, (y + 0.22) / 0.80)
            far = np.sqrt(across**2 + deep**2)
            away = np.maximum(far, 1e-3)
            edge = 0.10 - 0.12 * np.clip(deep / away, 0, 1) + 0.14 * np.clip(-deep / away, 0, 1) - 0.03 * np.abs(across / away)
            domes.append(
                edge
                + (self.dome[side] - edge)
                * np.sqrt(np.maximum(0.0, 1 - np.minimum(far, 1.0) ** (2.3 - 0.9 * np.clip(deep / away, 0, 1))))
            )
        blend = 1 / (1 + np.exp(-x / 0.06))
        return np.asarray((domes[0] * (1 - blend) + domes[1] * blend) * self.height, np.float32)

    def lungs(self, grid: Grid, z_mm: float) -> npt.NDArray[np.uint8]:
        """RIGHT or LEFT where lung or pleural space is, above or below the diaphragm alike; 0 elsewhere."""
        u = self.u(z_mm)
        if not -0.03 < u < 1:
            return np.zeros((grid.matrix, grid.matrix), np.uint8)
        sides = grid.region(self.cage(u))
        if u > 0.55:
            a, _, y = self.half(u)
            top = 1.32 * cut(u, 0.55, 0.45)
            centre = 0.44 * self.a
            wide = 0.52 * self.a * top
            deep = 0.92 * self.b * top
            cupola = [ellipse(sign * max(centre * a / self.a / 0.9, 40), y + 3, wide, deep) for sign in (-1, 1)]
            sides &= grid.region(*cupola)
        sides &= 1 - grid.region(self.mediastinum(u))
        for shape in self.heart_shapes(u):
            grid.fill(sides, shape, 0)
        sides[:, grid.x[0] > 0] *= LEFT
        return sides

    def oblique(self, side: int, u: float, x: Image | npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Where (y) the oblique fissure runs along x: the lower lobe lies behind it."""
        bow = (np.abs(x) / self.a - 0.5) ** 2
        return np.asarray(self.b * (-0.88 + 2.65 * (u - 0.12 - self.fissure[side]) + 0.35 * bow))

    def horizontal(self, x: Image, y: Image) -> npt.NDArray[np.float64]:
        """Height u of the horizontal fissure of the right lung: the middle lobe lies below it."""
        return np.asarray(self.minor - 0.03 * (y / self.b) - 0.05 * (np.abs(x) / self.a - 0.5) ** 2)

    def lobes(self, sides: npt.NDArray[np.uint8], grid: Grid, z_mm: float) -> npt.NDArray[np.uint8]:
        """0 outside, 1 right upper, 2 middle, 3 right lower, 4 left upper, 5 left lower."""
        u = self.u(z_mm)
        below = {side: grid.y > self.oblique(side, u, grid.x) for side in (RIGHT, LEFT)}
        right = np.where(below[RIGHT], 3, np.where(u < self.horizontal(grid.x, grid.y), 2, 1))
        left = np.where(below[LEFT], 5, 4)
        return np.asarray(np.where(sides == 0, 0, np.where(sides == RIGHT, right, left)), np.uint8)
