"""How a series was acquired: drawn from its own seed stream, so that it says nothing about the disease.

`draw_acquisition` costs microseconds: what a classifier could learn from the acquisition is tested on thousands of draws.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from pipeline.phantom.canvas import Grid, Image

STREAM = 2


@dataclass(frozen=True, slots=True)
class Acquisition:
    """One protocol: `vendor` 0..3, sharp or soft kernel, geometry in mm, noise in HU."""

    vendor: int
    sharp: bool
    fov_mm: float
    thickness_mm: float
    noise_hu: float
    blur_mm: float
    table_mm: float
    table_bend: float
    shift_mm: tuple[float, float]


def draw_acquisition(seed: int) -> Acquisition:
    """The acquisition of one seed, whatever the label."""
    draw = np.random.default_rng([seed, STREAM])
    sharp = bool(draw.integers(2))
    return Acquisition(
        vendor=int(draw.integers(4)),
        sharp=sharp,
        fov_mm=float(draw.triangular(290, 335, 500)),
        thickness_mm=float(draw.choice([1.0, 1.25, 2.0, 2.5, 3.0, 5.0])),
        noise_hu=float(np.clip(draw.lognormal(np.log(38 if sharp else 15), 0.35), 5, 110)),
        blur_mm=float(draw.uniform(0.35, 0.5) if sharp else draw.uniform(0.6, 0.85)),
        table_mm=float(draw.uniform(3, 22)),
        table_bend=float(draw.uniform(0.0, 0.0009)),
        shift_mm=(float(draw.normal(0, 4)), float(draw.normal(0, 5))),
    )


def paint_table(image: Image, grid: Grid, acquisition: Acquisition, back_mm: float) -> None:
    """The table top, a shallow trough of foam between two skins, under a back at `back_mm`."""
    x = np.linspace(-260, 260, 60)
    top = back_mm + acquisition.table_mm - acquisition.table_bend * x**2
    bottom = top + 28
    grid.fill(image, np.concatenate([np.stack([x, top], 1), np.stack([x, bottom], 1)[::-1]]), -930)
    grid.line(image, np.stack([x, top], 1), 2.0, -250)
    grid.line(image, np.stack([x, bottom], 1), 1.6, -350)


def blurred(image: Image, grid: Grid, acquisition: Acquisition) -> Image:
    """The scanner's in-plane blur."""
    sigma = max(0.45, acquisition.blur_mm / grid.spacing_mm)
    return np.asarray(cv2.GaussianBlur(image, (0, 0), sigma), np.float32)


class Noise:
    """Noise with the texture of the kernel: soft grain, or sharp grain whose neighbours oppose each other."""

    def __init__(self, seed: int, acquisition: Acquisition, grid: Grid) -> None:
        self.seed = seed
        self.acquisition = acquisition
        self.sigma = max(0.35, (0.42 if acquisition.sharp else 0.75) / grid.spacing_mm)
        radius = np.hypot(grid.x, grid.y + 10.0) / 190.0
        self.level = (acquisition.noise_hu * (1.12 - 0.55 * np.minimum(radius, 1.0) ** 2)).astype(np.float32)
        self.scale = 1.0
        self.scale = 1 / float(self._grain(np.random.default_rng(0)).std())

    def _grain(self, draw: np.random.Generator) -> Image:
        white = draw.standard_normal(self.level.shape, np.float32)
        grain = cv2.GaussianBlur(white, (0, 0), self.sigma)
        if self.acquisition.sharp:
            grain -= cv2.GaussianBlur(grain, (0, 0), 2.2 * self.sigma)
        return np.asarray(grain, np.float32) * np.float32(self.scale)

    def add(self, image: Image, slice_number: int, streaks: float) -> Image:
        """`image` with its noise; `streaks` 0..1 adds the horizontal ones of the shoulders."""
        grain = self._grain(np.random.default_rng([self.seed, STREAM, 1 + slice_number]))
        if streaks > 0:
            grain += np.float32(2.2 * streaks) * cv2.GaussianBlur(grain, (0, 0), sigmaX=9, sigmaY=0.5)
        return np.asarray(image + grain * self.level, np.float32)
