"""Bones and the body wall: ribs as cut helical bands, sternum, spine, shoulder girdle, muscles, fat, skin, arms."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from pipeline.phantom.canvas import Grid, Image, Points, along, ellipse
from pipeline.phantom.thorax import Thorax

FAT = -102
MUSCLE = 52
SKIN = 20
CARTILAGE = 95
DISC = 85
CORTEX = 520
MARROW = 185
VERTEBRA = 190
RIB_HALF_MM = 6.0


def paint_wall(image: Image, grid: Grid, thorax: Thorax, u: float) -> None:
    """Skin, fat and muscles; the inside of the cage is left as muscle."""
    skin = thorax.skin(u)
    if thorax.arms_down:
        _paint_arms(image, grid, thorax, u)
    grid.fill(image, skin, FAT)
    grid.line(image, np.concatenate([skin, skin[:1]]), 1.6, SKIN)
    grid.fill(image, thorax.muscle_wall(u), MUSCLE)
    planes = thorax.wall(u, np.full(len(skin), 10.0))
    grid.line(image, np.concatenate([planes, planes[:1]]), 1.2, -70)
    _paint_shoulder(image, grid, thorax, u)
    _paint_back(image, grid, thorax, u)


def _paint_arms(image: Image, grid: Grid, thorax: Thorax, u: float) -> None:
    a, _, y = thorax.half(min(u, 0.9))
    for sign in (-1, 1):
        x = sign * (max(a, 0.8 * thorax.a) + thorax.fat + 62)
        grid.fill(image, ellipse(x, y + 15, 44, 48), FAT)
        grid.fill(image, ellipse(x, y + 15, 37, 40), MUSCLE)
        grid.fill(image, ellipse(x, y + 12, 11, 11), CORTEX + 250)
        grid.fill(image, ellipse(x, y + 12, 6, 6), -40)


def _paint_shoulder(image: Image, grid: Grid, thorax: Thorax, u: float) -> None:
    """Scapula with its muscles; collar bones and the heads of the upper arms at the top."""
    if u < 0.44:
        return
    a, b, y = thorax.half(u)
    size = along(u, (0.44, 0.15), (0.6, 0.8), (0.85, 1.0))
    for sign in (-1, 1):
        inner = np.array([sign * 0.62 * a - sign * 4, y + 0.86 * b + 12])
        outer = np.array([sign * (a + 22 + 14 * max(0.0, u - 0.7)), y + 0.15 * b + 6])
        start = outer + (inner - outer) * size
        middle = (start + outer) / 2 + np.array([sign * 4, 5])
        blade = np.array([start, middle, outer])
        for offset, width in ((-9, 13), (10, 15)):
            grid.line(image, blade + np.array([sign * offset * 0.6, offset * 0.8]), width * size, MUSCLE - 4)
        _bone(image, grid, blade, 5.0, 3.0)
        if u > 0.72:
            spine = np.array([middle, middle + np.array([sign * (14 + 30 * (u - 0.72)), 16])])
            _bone(image, grid, spine, 6.0, 3.0)
        if u > 0.88:
            _bone(
                image,
                grid,
                np.array(
                    [
                        [sign * 18, y - b - 5],
                        [sign * 45, y - b - 6],
                        [sign * 0.8 * a, y - 0.9 * b],
                        [sign * (a + 10), y - 0.65 * b],
                        [sign * (a + 28), y - 0.3 * b],
                    ]
                ),
                11.0,
                7.0,
            )
        if u > 0.93:
            x = sign * (a + 62)
            grid.fill(image, ellipse(x, y + 2, 23, 23), CORTEX - 60)
            grid.fill(image, ellipse(x, y + 2, 20.5, 20.5), 230)


def _paint_back(image: Image, grid: Grid, thorax: Thorax, u: float) -> None:
    """The muscles beside the spinous processes, parted by fat."""
    y = thorax.spine(u) + 37 * thorax.scale
    for sign in (-1, 1):
        for x, back, wide, deep in ((15, 0, 13, 12), (38, -7, 13, 9)):
            grid.fill(image, ellipse(sign * x, y + back, wide + 1.5, deep + 1.5, sign * -0.2), -55)
            grid.fill(image, ellipse(sign * x, y + back, wide, deep, sign * -0.2), MUSCLE)


def _bone(image: Image, grid: Grid, points: Points, width_mm: float, marrow_mm: float) -> None:
    grid.line(image, points, width_mm, CORTEX)
    grid.line(image, points, marrow_mm, MARROW)


def paint_ribs(image: Image, grid: Grid, thorax: Thorax, z_mm: float) -> None:
    """Every run of a rib's band that lies in this slice, on both sides; cartilage towards the sternum."""
    u = thorax.u(z_mm)
    turn = np.linspace(0.1, 0.97, 110) * np.pi
    cage = thorax.wall(u, np.full(len(thorax.cage(u)), 5.5))
    for sign in (-1, 1):
        line = _side(cage, sign, turn, thorax.half(u)[2])
        for rib in range(12):
            if rib >= 10 and u > 0.3:
                continue
            top = thorax.height * (1.03 - 0.083 * rib) + thorax.rib_phase + sign * 1.5
            drop = (thorax.rib_drop + 3.0 * rib - 35 * (rib == 0)) * np.sin(
                np.minimum(turn / (0.78 * np.pi), 1) * np.pi / 2
            ) ** 1.3
            height = top - drop + 34 * np.maximum(0, turn / np.pi - 0.78) / 0.2
            within = np.abs(height - z_mm) < RIB_HALF_MM
            within &= turn < np.pi * (0.45 if rib >= 10 else 1)
            for run in np.split(np.arange(len(turn)), np.flatnonzero(np.diff(within.astype(int))) + 1):
                if within[run[0]] and len(run) > 1:
                    _paint_rib(image, grid, line[run], bool(turn[run].mean() > 0.76 * np.pi))


def _paint_rib(image: Image, grid: Grid, points: Points, cartilage: bool) -> None:
    if cartilage:
        grid.line(image, points, 8.5, CARTILAGE)
        return
    grid.line(image, points, 7.5, CORTEX)
    if len(points) > 4:
        grid.line(image, points[1:-1], 3.8, MARROW)


def _side(line: Points, sign: int, turn: npt.NDArray[np.float64], y: float) -> Points:
    """The points of one side of a closed line at angles `turn` from the middle of the back."""
    angle = np.arctan2(sign * line[:, 0], line[:, 1] - y)
    half = np.flatnonzero(angle >= -0.05)
    order = half[np.argsort(angle[half])]
    return np.stack([np.interp(turn, angle[order], line[order, k]) for k in (0, 1)], axis=1)


def paint_sternum(image: Image, grid: Grid, thorax: Thorax, u: float) -> None:
    """Manubrium, body, nothing below."""
    if not 0.24 < u < 0.93:
        return
    _, b, y = thorax.half(u)
    wide = along(u, (0.24, 7), (0.35, 15), (0.6, 14), (0.72, 17), (0.85, 26), (0.93, 20)) * thorax.scale
    grid.fill(image, ellipse(0, y - b - 6.5, wide, 5.8), CORTEX - 120)
    grid.fill(image, ellipse(0, y - b - 6.5, wide - 2, 3.9), MARROW - 60)


def paint_spine(image: Image, grid: Grid, thorax: Thorax, z_mm: float) -> None:
    """Vertebral body or disc, canal with its sac, arch, transverse and spinous processes."""
    y = thorax.spine(thorax.u(z_mm))
    s = thorax.scale
    phase = (z_mm / 23.5 + thorax.rib_phase / 10) % 1
    body = ellipse(0, y, 18 * s, 14.5 * s)
    body[:, 1] = np.minimum(body[:, 1], y + 11.5 * s)
    if phase < 0.2:
        grid.fill(image, body, DISC)
    else:
        grid.fill(image, body, CORTEX - 90)
        grid.fill(image, (body - (0, y)) * 0.87 + (0, y), VERTEBRA)
    canal = y + 19.5 * s
    if 0.3 < phase < 0.95:
        arch = ellipse(0, canal, 14 * s, 12 * s)
        grid.fill(image, arch, CORTEX - 120)
        for sign in (-1, 1):
            if phase < 0.75:
                end = np.array([[sign * 11 * s, canal + 1], [sign * 34 * s, canal + 7 * s]])
                _bone(image, grid, end, 8.5 * s, 4.5 * s)
    if phase > 0.35 or phase < 0.1:
        _bone(image, grid, np.array([[0, canal + 10 * s], [0, canal + (30 + 8 * phase) * s]]), 6.5 * s, 2.5 * s)
    grid.fill(image, ellipse(0, canal, 9.5 * s, 8.5 * s), -60)
    grid.fill(image, ellipse(0, canal, 7.5 * s, 6.5 * s), 25)
