"""Soft organs: the mediastinum's vessels, heart, gullet and windpipe, and the belly under the diaphragm. No contrast agent."""

from __future__ import annotations

import numpy as np

from pipeline.phantom.canvas import Grid, Image, Points, along, cut, ellipse
from pipeline.phantom.thorax import Thorax

FAT = -102
BLOOD = 42
HEART = 46
WALL = 30
AIR = -980
CARINA = 0.60


def paint_mediastinum(image: Image, grid: Grid, thorax: Thorax, u: float) -> None:
    """Fat of the mediastinum, heart, great vessels, gullet."""
    shapes = thorax.heart_shapes(u)
    for shape in shapes:
        grid.fill(image, shape, FAT + 20)
    for shape in shapes:
        middle = shape.mean(axis=0)
        grid.fill(image, middle + (shape - middle) * 0.93, HEART + 0.8 * thorax.variety.contrast_hu)
    for shape in great_vessels(thorax, u):
        grid.fill(image, shape, BLOOD + thorax.variety.contrast_hu)
    gullet = ellipse(
        0.7 * thorax.variety.recess_mm + 7 * along(u, (0.1, 1.6), (0.4, 1), (0.8, 0.6)),
        thorax.spine(u) - 26 * thorax.scale,
        8,
        5.5,
    )
    grid.fill(image, gullet, 38)
    if 0.3 < thorax.choices[0] < 0.5 and u > 0.5:
        grid.fill(image, ellipse(gullet[:, 0].mean(), gullet[:, 1].mean(), 3, 2), -600)


UPRIGHT = (
    (0.40, 0.70, -7, -0.46, 17, 16),
    (-0.2, 0.34, -21, 0.08, 13, 11),
    (0.43, 0.95, -23, -0.22, 9, 11),
    (0.73, 1.02, -9, -0.2, 6, 6),
    (0.73, 1.02, 5, -0.06, 6, 6),
    (0.73, 1.02, 15, 0.12, 6, 6),
    (0.76, 1.02, 17, -0.34, 9, 7),
    (0.465, 0.605, 17, -0.42, 15, 15),
)
"""Vessels that run up: lowest and highest u, x (mm), y (half depths), half axes (mm). In turn: ascending aorta, inferior and
superior caval vein, three branches of the arch, left brachiocephalic vein, pulmonary trunk."""
ACROSS = (
    (0.715, 0.05, 12.5, ((-7, -0.42), (10, -0.05), (22, 0.5))),
    (0.575, 0.045, 10, ((17, -0.38), (26, -0.1), (33, 0.12))),
    (0.54, 0.045, 10, ((14, -0.3), (-8, -0.08), (-32, 0.0))),
    (0.445, 0.035, 7.5, ((-38, 0.08), (4, 0.14), (38, 0.14))),
)
"""Vessels that lie across: middle and half height (u), radius (mm), their course. In turn: arch of the aorta, left and right
pulmonary artery, pulmonary veins."""


def great_vessels(thorax: Thorax, u: float) -> list[Points]:
    """Sections of the great vessels of the mediastinum."""
    _, b, y = thorax.half(u)
    s = thorax.scale
    shapes = [descending_aorta(thorax, u)] if u < 0.71 else []
    for low, high, x, back, wide, deep in UPRIGHT:
        if low < u < high:
            size = s * min(1.0, ((u - low) / 0.03) ** 0.5, ((high - u) / 0.03) ** 0.5)
            shapes.append(ellipse(x * s, y + back * b, wide * size, deep * size))
    for middle, half, radius, course in ACROSS:
        left = cut(u, middle, half)
        if left > 0:
            shapes += _capsules(np.array([[x * s, y + back * b] for x, back in course]), radius * s * left)
    return shapes


def descending_aorta(thorax: Thorax, u: float) -> Points:
    """The aorta beside the spine; it dents the left lung."""
    s = thorax.scale
    x = along(u, (0.0, 10), (0.25, 17), (0.7, 23)) * s
    return ellipse(x, thorax.spine(u) - along(u, (0, 27), (0.5, 24), (0.7, 24)) * s, 12.5 * s, 12.5 * s)


def _capsules(points: Points, radius: float) -> list[Points]:
    """A thick bent line as overlapping round shapes."""
    steps = np.linspace(0, len(points) - 1, 25)
    at = np.stack([np.interp(steps, np.arange(len(points)), points[:, k]) for k in (0, 1)], axis=1)
    return [ellipse(x, y, radius, radius) for x, y in at]


def windpipe(thorax: Thorax) -> list[tuple[Points, float]]:
    """Trachea and main bronchi as lines [N, 3] with the radius of their lumen."""
    s = thorax.scale
    h = thorax.height

    def at(x: float, u: float, back: float) -> list[float]:
        _, b, y = thorax.half(u)
        return [x * s, y + back * b, u * h]

    trachea = np.array([at(0, 1.2, -0.05), at(1, 0.9, 0.0), at(0, 0.72, 0.12), at(0, CARINA, 0.2)])
    right = np.array([at(0, CARINA, 0.2), at(-14, CARINA - 0.02, 0.2), at(-30, CARINA - 0.055, 0.14), at(-34, 0.49, 0.14)])
    left = np.array([at(0, CARINA, 0.2), at(14, CARINA - 0.025, 0.22), at(28, CARINA - 0.055, 0.22), at(35, 0.505, 0.2)])
    return [(trachea, 8.3 * s), (right, 6.6 * s), (left, 5.8 * s)]


def belly(grid: Grid, thorax: Thorax, u: float) -> Image:
    """What lies under the diaphragm at this height, over the whole slice."""
    a, b, y = thorax.half(u)
    image = grid.blank(FAT + 4)
    stomach = ellipse(0.46 * a, y - 0.2 * b, 0.30 * a, 0.44 * b, 0.4)
    choices = thorax.choices
    grid.fill(image, stomach, WALL + 12)
    grid.fill(image, ellipse(0.46 * a, y - 0.2 * b, 0.27 * a, 0.40 * b, 0.4), 18)
    if choices[1] < 0.7:
        gas = ellipse(0.46 * a, y - 0.2 * b, 0.26 * a, 0.39 * b, 0.4)
        gas[:, 1] = np.minimum(gas[:, 1], y - (0.2 + 0.3 * choices[2] - 0.1) * b)
        grid.fill(image, gas, AIR)
    if choices[3] < 0.6 and u < 0.2:
        for k in range(3):
            spot = ellipse((0.55 + 0.13 * k) * a, y - (0.62 - 0.26 * k) * b, 0.09 * a, 0.13 * b, 0.3 * k)
            grid.fill(image, spot, WALL)
            grid.fill(image, spot.mean(axis=0) + (spot - spot.mean(axis=0)) * 0.8, -940)
    spleen = ellipse(0.70 * a, y + 0.34 * b, 0.17 * a, 0.44 * b, -0.35)
    grid.fill(image, spleen, 50)
    liver = np.concatenate([
        ellipse(-0.40 * a, y - 0.02 * b, 0.66 * a, 0.97 * b)[9:64],
        [[0.05 * a, y - 0.85 * b], [0.36 * a, y - 0.72 * b], [0.30 * a, y - 0.4 * b], [0.02 * a, y + 0.1 * b]],
    ])  # fmt: skip
    grid.fill(image, liver, 58)
    for loop in thorax.variety.loops:
        x = loop.x * a
        deep = y + loop.y * b
        grid.fill(image, ellipse(x, deep, loop.wide * a + 3, loop.deep * b + 3), WALL)
        grid.fill(image, ellipse(x, deep, loop.wide * a, loop.deep * b), loop.hu)
    if u < 0.02:
        for sign in (-1, 1):
            grid.fill(image, ellipse(sign * 0.42 * a, y + 0.52 * b, 27, 22, sign * 0.5), 32)
    return image
