"""Millimetres -> pixels: where a slice lies on the table, and the few brushes that paint it.

x runs to the patient's left, y to the back, z to the head; all in mm. Shapes are painted hard; the scanner's blur softens them.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

Image = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]
Points = npt.NDArray[np.float64]
"""[N, 2] x, y in mm."""

SHIFT = 4
TURN = np.linspace(0, 2 * np.pi, 73)[:-1]


@dataclass(frozen=True, slots=True)
class Grid:
    """A square matrix of square pixels; `left_mm` and `top_mm` are the centre of its first pixel."""

    matrix: int
    spacing_mm: float
    left_mm: float
    top_mm: float

    @classmethod
    def centred(cls, matrix: int, fov_mm: float, x_mm: float = 0.0, y_mm: float = 0.0) -> Grid:
        """The grid whose field of view has (x_mm, y_mm) in its middle."""
        spacing = fov_mm / matrix
        half = (fov_mm - spacing) / 2
        return cls(matrix, spacing, x_mm - half, y_mm - half)

    @property
    def x(self) -> Image:
        """Column centres [1, C] in mm."""
        return (self.left_mm + self.spacing_mm * np.arange(self.matrix)).astype(np.float32)[None, :]

    @property
    def y(self) -> Image:
        """Row centres [R, 1] in mm."""
        return (self.top_mm + self.spacing_mm * np.arange(self.matrix)).astype(np.float32)[:, None]

    def blank(self, value: float = 0.0) -> Image:
        """An image of one value."""
        return np.full((self.matrix, self.matrix), value, np.float32)

    def fixed(self, points: Points) -> npt.NDArray[np.int32]:
        """Points in OpenCV's fixed-point pixels."""
        pixels = (points - (self.left_mm, self.top_mm)) / self.spacing_mm
        return np.asarray(np.rint(pixels.clip(-2000, 6000) * (1 << SHIFT)), np.int32)

    def fill(self, image: npt.NDArray[np.generic], points: Points, value: float) -> None:
        """Paint the inside of a closed line."""
        cv2.fillPoly(image, [self.fixed(points)], value, shift=SHIFT)

    def line(self, image: npt.NDArray[np.generic], points: Points, width_mm: float, value: float) -> None:
        """Paint an open line."""
        width = max(1, round(width_mm / self.spacing_mm))
        cv2.polylines(image, [self.fixed(points)], False, value, width, cv2.LINE_8, SHIFT)

    def region(self, *shapes: Points) -> npt.NDArray[np.uint8]:
        """1 inside any of the closed lines."""
        mask = np.zeros((self.matrix, self.matrix), np.uint8)
        for points in shapes:
            self.fill(mask, points, 1)
        return mask


def ellipse(x: float, y: float, a: float, b: float, turn: float = 0.0) -> Points:
    """The closed line of an ellipse with half axes a and b, turned by `turn` radians."""
    across = a * np.cos(TURN)
    deep = b * np.sin(TURN)
    c = np.cos(turn)
    s = np.sin(turn)
    return np.stack([x + c * across - s * deep, y + s * across + c * deep], axis=1)


def superellipse(a: float, b: float, y: float = 0.0, power: float = 2.35, n: int = 144) -> Points:
    """|x / a| ** power + |(y - y0) / b| ** power = 1, from the patient's left round by the back."""
    angle = np.linspace(0, 2 * np.pi, n + 1)[:-1]
    c = np.cos(angle)
    s = np.sin(angle)
    across = a * np.sign(c) * np.abs(c) ** (2 / power)
    return np.stack([across, y + b * np.sign(s) * np.abs(s) ** (2 / power)], axis=1)


def along(u: float, *knots: tuple[float, float]) -> float:
    """A value that changes with height u (0 at the bases, 1 at the apices), smooth between its knots."""
    at = np.array([knot[0] for knot in knots])
    value = np.array([knot[1] for knot in knots])
    below = int(np.clip(np.searchsorted(at, u) - 1, 0, len(at) - 2))
    t = float(np.clip((u - at[below]) / (at[below + 1] - at[below]), 0, 1))
    return float(value[below] + (value[below + 1] - value[below]) * t * t * (3 - 2 * t))


def cut(u: float, centre: float, half: float) -> float:
    """What is left, 0..1, of a ball's half axis where it is cut at height u; 0 where it is missed."""
    return float(np.sqrt(max(0.0, 1 - ((u - centre) / half) ** 2)))


def smooth_noise(layer: Image, grid: Grid, cell_mm: float) -> Image:
    """A small layer of noise spread over the grid, `cell_mm` a value, repeated where it ends."""
    scale = grid.spacing_mm / cell_mm
    middle = len(layer) / 2
    matrix = np.array([[scale, 0, grid.left_mm / cell_mm + middle], [0, scale, grid.top_mm / cell_mm + middle]])
    how = cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP
    return np.asarray(cv2.warpAffine(layer, matrix, (grid.matrix, grid.matrix), flags=how, borderMode=cv2.BORDER_WRAP))
