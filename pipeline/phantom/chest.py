"""A procedural chest: implicit shapes a slice, HU-calibrated, with lung and lesion truth.

Anatomy, acquisition and disease draw from separate seed streams, so the same seed gives a healthy and a sick twin that differ
in the lesions only, and no class can be told from the acquisition. Plain shapes: proof of machinery, not of realism.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import cv2
import numpy as np
import numpy.typing as npt

Label = Literal["covid", "bacterial", "healthy"]
LABELS: tuple[Label, ...] = ("covid", "bacterial", "healthy")
ANATOMY, ACQUISITION, DISEASE = 1, 2, 3
AIR, LUNG, FAT, MUSCLE, BLOOD, BONE, LUMEN = -1000, -858, -102, 52, 42, 420, -960

Hu = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Phantom:
    """hu int16 [S, R, C] along +z, its truth masks, and how it was acquired."""

    hu: npt.NDArray[np.int16]
    lung: Mask
    lesion: Mask
    z_mm: npt.NDArray[np.floating[Any]]
    spacing_mm: tuple[float, float]
    vendor: int
    sharp: bool


def chest(seed: int, label: Label, *, matrix: int = 512, slices: int = 40, severity: float | None = None) -> Phantom:
    """One synthetic patient; `severity` 0..1 scales the lesions (drawn from the seed where None)."""
    acquisition = np.random.default_rng([seed, ACQUISITION])
    fov_mm = acquisition.uniform(340, 420)
    spacing = fov_mm / matrix
    height_mm = float(np.random.default_rng([seed, ANATOMY, 0]).normal(238, 12))
    extent_mm = min(height_mm + 30.0, 9.7 * (slices - 1))  # few slices: a shorter patient, not a wider spacing
    height_mm = extent_mm - 30.0
    z_mm = np.linspace(0.0, extent_mm, slices)
    vendor, sharp, sigma = int(acquisition.integers(4)), bool(acquisition.integers(2)), acquisition.uniform(8, 25)
    axis = (np.arange(matrix) + 0.5) * spacing - fov_mm / 2
    body = _Body(seed, height_mm, axis)
    foci = _foci(seed, label, severity, body)
    hu, lung, lesion = [], [], []
    for z in z_mm:
        image, lungs = body.slice(float(z))
        sick = _infected(image, lungs, float(z), foci, axis)
        noise = acquisition.normal(0, sigma, image.shape).astype(np.float32)
        hu.append(np.clip(np.rint(cv2.GaussianBlur(image, (3, 3), 0) + noise), -1024, 3071).astype(np.int16))
        lung.append(lungs)
        lesion.append(sick)
    return Phantom(np.stack(hu), np.stack(lung), np.stack(lesion), z_mm, (spacing, spacing), vendor, sharp)


class _Body:
    """The anatomy of one patient, drawn slice by slice."""

    def __init__(self, seed: int, height_mm: float, axis: npt.NDArray[np.floating[Any]]) -> None:
        draw = np.random.default_rng([seed, ANATOMY, 1])
        self.height = height_mm
        self.y, self.x = np.meshgrid(axis, axis, indexing="ij")
        self.a = draw.normal(148, 6)
        self.b = self.a * draw.normal(0.70, 0.03)
        self.fat = draw.uniform(8, 20)
        self.heart = draw.normal(46, 3)
        self.vessels = draw.uniform([-1, -1, 0], [1, 1, 1], (120, 3))
        self.radius = draw.uniform(1.2, 4.0, 120)

    def slice(self, z: float) -> tuple[Hu, Mask]:
        """(HU, lung truth) of the slice at height z above the lowest lung."""
        up = z / self.height  # 0 at the bases, 1 at the apices
        thorax = (np.abs(self.x) / self.a) ** 2.35 + (np.abs(self.y) / self.b) ** 2.35
        image = np.where(thorax < 1, FAT, AIR).astype(np.float32)
        wall = 1 - self.fat / self.b
        image[thorax < wall] = MUSCLE
        lungs = self._lungs(up)
        self._bones(image, thorax, z, lungs)
        image[lungs] = LUNG + 40 * (self.y[lungs] / self.b)  # gravity: denser at the back
        self._vessels(image, lungs, up)
        trachea = (self.x**2 + (self.y + 8) ** 2 < 81) & (up > 0.6)
        image[trachea & ~lungs] = LUMEN
        return image, lungs

    def _lungs(self, up: float) -> Mask:
        """Two ellipses that leave the mediastinum, narrow towards the apex and rise over the diaphragm."""
        if not -0.02 <= up <= 1.0:
            return np.zeros(self.x.shape, bool)
        size = float(np.sqrt(max(0.0, 1 - max(0.0, (up - 0.45) / 0.56) ** 2.2))) * min(1.0, 0.45 + 1.6 * max(up, 0.0))
        both = np.zeros(self.x.shape, bool)
        for side in (-1, 1):
            across, deep = 0.39 * self.a * size, 0.70 * self.b * size
            x, y = self.x - side * 0.46 * self.a, self.y - 0.02 * self.b
            both |= (x / max(across, 1.0)) ** 2 + (y / max(deep, 1.0)) ** 2 < 1
        dome = ((self.x / (0.80 * self.a)) ** 2 + ((self.y + 0.25 * self.b) / (0.62 * self.b)) ** 2) < (0.30 - up) / 0.30
        heart = ((self.x - 18) / self.heart) ** 2 + ((self.y + 28) / (0.8 * self.heart)) ** 2 < (1 - ((up - 0.35) / 0.25) ** 2)
        return np.asarray(both & ~dome & ~heart)

    def _bones(self, image: Hu, thorax: npt.NDArray[np.floating[Any]], z: float, lungs: Mask) -> None:
        spine = (self.x / 20) ** 2 + ((self.y - 0.72 * self.b) / 17) ** 2 < 1
        image[spine & ~lungs] = BONE / 2
        angle = np.arctan2(self.y, np.abs(self.x))
        rib = (np.abs(((z + 22 * angle) % 26) - 13) < 4) & (thorax > 0.66) & (thorax < 0.76)
        image[rib & ~lungs] = BONE

    def _vessels(self, image: Hu, lungs: Mask, up: float) -> None:
        """Round cuts of vessels that run outwards from the hilum as z changes."""
        spacing = self.x[0, 1] - self.x[0, 0]
        canvas = np.zeros(image.shape, np.uint8)
        for (u, v, w), radius in zip(self.vessels, self.radius, strict=True):
            out = 0.25 + 0.6 * abs(up - w)
            x, y = np.sign(u) * self.a * (0.30 + 0.5 * out * abs(u)), self.b * 0.75 * v * out
            centre = (round((x - self.x[0, 0]) / spacing), round((y - self.y[0, 0]) / spacing))
            cv2.circle(canvas, centre, max(1, round(radius * (1.2 - out) / spacing)), 1, -1)
        image[(canvas > 0) & lungs] = BLOOD


def _foci(seed: int, label: Label, severity: float | None, body: _Body) -> npt.NDArray[np.floating[Any]]:
    """Lesions [n, 5]: x, y, z, radius (mm), HU."""
    draw = np.random.default_rng([seed, DISEASE])
    weight = float(draw.uniform(0.3, 1.0)) if severity is None else severity
    if label == "healthy":
        return np.zeros((0, 5))
    n = round(4 + 14 * weight) if label == "covid" else 2
    side = draw.choice([-1.0, 1.0], n) if label == "covid" else np.full(n, draw.choice([-1.0, 1.0]))
    angle = draw.uniform(-0.4, 1.3, n)  # mostly posterior
    out = draw.uniform(0.75, 1.0, n) if label == "covid" else draw.uniform(0.3, 0.8, n)
    x = side * body.a * (0.46 + 0.36 * out * np.cos(angle))
    y = 0.66 * body.b * out * np.sin(angle)
    z = body.height * draw.uniform(0.15, 0.7, n)
    radius = draw.uniform(6, 18, n) if label == "covid" else draw.uniform(18, 36, n) * (0.6 + 0.6 * weight)
    density = draw.uniform(-640, -380, n) if label == "covid" else draw.normal(30, 10, n)
    return np.stack([x, y, z, radius, density], axis=1)


def _infected(image: Hu, lungs: Mask, z: float, foci: npt.NDArray[np.floating[Any]], axis: npt.NDArray[np.floating]) -> Mask:
    """Raise the lung's density where a focus cuts this slice; vessels stay. Returns the lesion truth."""
    lesion = np.zeros(image.shape, bool)
    for x, y, at, radius, density in foci:
        if abs(z - at) >= radius:
            continue
        near = (axis[None, :] - x) ** 2 + (axis[:, None] - y) ** 2 < radius**2 - (z - at) ** 2
        spot = near & lungs
        image[spot] = np.maximum(image[spot], density)
        lesion |= spot
    return lesion
