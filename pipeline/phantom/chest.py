"""A procedural chest with its lung and lesion truth: patients that prove the machinery, and say nothing about accuracy.

Anatomy, acquisition and disease draw from separate seed streams, so the same seed gives a healthy and a sick twin that differ
in the lesions only, and no class can be told from the acquisition.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from pipeline.phantom.acquisition import Acquisition, Noise, blurred, draw_acquisition, paint_table
from pipeline.phantom.bones import MUSCLE, paint_ribs, paint_spine, paint_sternum, paint_wall
from pipeline.phantom.canvas import Grid, Image, Mask, Points, along, smooth_noise
from pipeline.phantom.lesions import FLUID, Label, Painter, draw_disease, with_variety
from pipeline.phantom.organs import AIR, FAT, WALL, belly, great_vessels, paint_mediastinum, windpipe
from pipeline.phantom.thorax import LEFT, RIGHT, STREAM, Thorax
from pipeline.phantom.variety import PLAIN, Variety, draw_variety
from pipeline.phantom.vessels import Trees, grow_trees, paint_vessels, spots_in

LABELS: tuple[Label, ...] = ("covid", "bacterial", "healthy")
PIPE_WALL_MM = 1.5
"""How thick the walls of trachea and main bronchi are."""
ABOVE_MM, BELOW_MM, WIDEST_STEP_MM, SHORTEST_MM = 20.0, 12.0, 9.7, 150.0
COARSE = Grid.centred(100, 320.0)


@dataclass(frozen=True, slots=True)
class Phantom:
    """hu int16 [S, R, C] along +z, its truth masks, and how it was acquired.

    `lung` holds vessels, small bronchi and lesions; windpipe, main bronchi, hila and pleural fluid are outside it.
    """

    hu: npt.NDArray[np.int16]
    lung: Mask
    lesion: Mask
    effusion: Mask
    z_mm: npt.NDArray[np.floating[Any]]
    spacing_mm: tuple[float, float]
    vendor: int
    sharp: bool


def chest(
    seed: int, label: Label, *, matrix: int = 512, slices: int = 40, severity: float | None = None, varied: bool = False
) -> Phantom:
    """One synthetic patient; `severity` 0..1 scales the disease (drawn from the seed where None).

    `varied` ones differ as people do in hearts, domes, bowel, masses, fields of view (`phantom/variety.py`).
    """
    return _drawn(seed, label, draw_variety(seed) if varied else PLAIN, severity, (matrix, slices))


def torso(
    seed: int, label: Label, beyond_mm: tuple[float, float], *, matrix: int = 512, slices: int = 150, varied: bool = False
) -> Phantom:
    """The same patient in a series that goes on for so many mm (below, above) beyond the usual margins.

    Belly and neck go on as they end: there is no more of a patient.
    """
    variety = draw_variety(seed) if varied else PLAIN
    return _drawn(seed, label, replace(variety, beyond_mm=beyond_mm), None, (matrix, slices))


def _drawn(seed: int, label: Label, variety: Variety, severity: float | None, size: tuple[int, int]) -> Phantom:
    """`size` is (matrix, slices)."""
    matrix, slices = size
    height_mm, z_mm = _heights(seed, slices, variety)
    thorax, acquisition = Thorax(seed, height_mm, variety), _acquisition(seed, variety)
    grid = Grid.centred(matrix, _field_mm(thorax, acquisition), *acquisition.shift_mm)
    spots = _lung_spots(seed, thorax)
    patient = _Patient(thorax, grid, grow_trees(seed, thorax, spots), acquisition)
    painter = Painter(with_variety(draw_disease(seed, label, severity, thorax, spots), variety, thorax, spots), thorax, grid)
    noise = Noise(seed, acquisition, grid)
    drawn = [_slice(patient, painter, noise, number, float(z)) for number, z in enumerate(z_mm)]
    hu, lung, lesion, effusion = (np.stack(part) for part in zip(*drawn, strict=True))
    return Phantom(hu, lung, lesion, effusion, z_mm, (grid.spacing_mm,) * 2, acquisition.vendor, acquisition.sharp)


def _acquisition(seed: int, variety: Variety) -> Acquisition:
    """The protocol of one seed; thicker slices have less noise."""
    drawn = draw_acquisition(seed)
    if variety.thickness_mm is None:
        return drawn
    noise_hu = float(drawn.noise_hu * np.clip((drawn.thickness_mm / variety.thickness_mm) ** 0.5, 0.5, 1.5))
    return replace(drawn, thickness_mm=variety.thickness_mm, noise_hu=noise_hu)


def _field_mm(thorax: Thorax, acquisition: Acquisition) -> float:
    """The field of view: never through the lungs, but where the patient's variety says so."""
    if thorax.variety.cut_mm is not None:
        return 2 * (thorax.a - thorax.variety.cut_mm)
    return max(acquisition.fov_mm, 2 * thorax.a + 26)


def _heights(seed: int, slices: int, variety: Variety) -> tuple[float, npt.NDArray[np.float64]]:
    """The lungs' height, and where the slices lie: few slices make a shorter patient, very few see a part of one."""
    drawn = float(np.clip(np.random.default_rng([seed, STREAM, 0]).normal(238, 16), 195, 285)) * variety.size
    below_mm, above_mm = BELOW_MM + variety.beyond_mm[0], ABOVE_MM + variety.beyond_mm[1]
    margin = above_mm + below_mm
    height_mm = max(SHORTEST_MM, min(drawn, WIDEST_STEP_MM * (slices - 1) - margin))
    extent_mm = min(height_mm + margin, WIDEST_STEP_MM * (slices - 1))
    middle_mm = (height_mm + above_mm - below_mm) / 2
    return height_mm, np.linspace(middle_mm - extent_mm / 2, middle_mm + extent_mm / 2, slices)


def _lung_spots(seed: int, thorax: Thorax) -> dict[int, npt.NDArray[np.float64]]:
    z_mm = np.linspace(0.01, 0.99, 48) * thorax.height
    diaphragm = thorax.diaphragm(COARSE)
    coarse = np.stack([thorax.lungs(COARSE, float(z)) * (diaphragm < z) for z in z_mm])
    return spots_in(coarse, COARSE, z_mm, np.random.default_rng([seed, STREAM, 1]))


def _slice(
    patient: _Patient, painter: Painter, noise: Noise, number: int, z_mm: float
) -> tuple[npt.NDArray[np.int16], Mask, Mask, Mask]:
    """(HU, lung, lesion, effusion) of one slice."""
    image, sides, lumen = patient.slice(z_mm)
    fluid = painter.fluid(sides, z_mm)
    image[fluid] = FLUID
    sides[fluid] = 0
    lesion = painter.paint(image, patient.thorax.lobes(sides, patient.grid, z_mm), lumen, z_mm)
    variety = patient.thorax.variety
    if variety.turn_deg or variety.bend_mm:
        image, sides, lesion, fluid = _turned((image, sides, lesion, fluid), variety, patient.grid, patient.thorax.u(z_mm))
    streaks = float(np.clip((patient.thorax.u(z_mm) - 0.86) / 0.12, 0, 1))
    noisy = noise.add(image, number, streaks)
    if variety.round_field:
        outside = np.hypot(*np.ogrid[-1 : 1 : noisy.shape[0] * 1j, -1 : 1 : noisy.shape[1] * 1j]) > 1
        noisy[outside] = -1024
        sides[outside], lesion[outside], fluid[outside] = 0, False, False
    return np.clip(np.rint(noisy), -1024, 3071).astype(np.int16), sides > 0, lesion, fluid


def _turned(parts: tuple[Any, ...], variety: Variety, grid: Grid, u: float) -> tuple[Any, ...]:
    """(image, sides, lesion, fluid) of a patient who lies turned, or whose spine is bent at height u."""
    middle = ((0 - grid.left_mm) / grid.spacing_mm, (0 - grid.top_mm) / grid.spacing_mm)
    matrix = cv2.getRotationMatrix2D(middle, variety.turn_deg, 1.0)
    matrix[0, 2] += variety.bend_mm * np.sin(2 * np.pi * u) / grid.spacing_mm
    image, *masks = parts
    size = (grid.matrix, grid.matrix)
    turned = cv2.warpAffine(image, matrix, size, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT, borderValue=-1000)
    others = [cv2.warpAffine(mask.astype(np.uint8), matrix, size, flags=cv2.INTER_NEAREST) for mask in masks]
    return turned, others[0], others[1] > 0, others[2] > 0


class _Patient:
    """One healthy patient on one grid, drawn slice by slice."""

    def __init__(self, thorax: Thorax, grid: Grid, trees: Trees, acquisition: Acquisition) -> None:
        self.thorax, self.grid, self.trees, self.acquisition = thorax, grid, trees, acquisition
        self.diaphragm = thorax.diaphragm(grid)
        self.back = float(max(thorax.skin(u)[:, 1].max() for u in (0.0, 0.3, 0.6)))
        self.pipes = [(_dense(line), radius) for line, radius in windpipe(thorax)]

    def slice(self, z_mm: float) -> tuple[Image, npt.NDArray[np.uint8], Image]:
        """(noiseless HU, lung truth by side, share of bronchial lumen) at height z."""
        grid, thorax, u = self.grid, self.thorax, self.thorax.u(z_mm)
        image = grid.blank(-1000)
        paint_table(image, grid, self.acquisition, self.back)
        paint_wall(image, grid, thorax, u)
        image[(image == MUSCLE) & (self._grain(z_mm / 9, 16.0) > along(u, (0.4, 2.2), (0.7, 0.9)))] = FAT
        paint_ribs(image, grid, thorax, z_mm)
        paint_sternum(image, grid, thorax, u)
        hollow, under = self._hollow(z_mm), self._under(z_mm)
        cage = grid.region(thorax.cage(u)).astype(bool) & (u < 1.02)
        image[cage] = MUSCLE - 10 if u > 0.95 else FAT
        image[hollow > 0] = thorax.density
        self._parenchyma(image, hollow > 0, z_mm)
        if u < 1.05:
            paint_mediastinum(image, grid, thorax, min(u, 1.0))
        paint_spine(image, grid, thorax, z_mm)
        lumen = paint_vessels(image, grid, self.trees, z_mm, self.acquisition.thickness_mm) * (hollow > 0)
        self._belly(image, cage, hollow, under, u)
        pipes = self._windpipe(image, z_mm)
        sides = hollow * (under < 0.5)
        sides[pipes > 0] = 0
        return blurred(image, grid, self.acquisition), sides, lumen

    def _hollow(self, z_mm: float) -> npt.NDArray[np.uint8]:
        """Where the lungs would be without a diaphragm, the great vessels' dents taken away."""
        hollow, u = self.thorax.lungs(self.grid, z_mm), self.thorax.u(z_mm)
        for shape in great_vessels(self.thorax, u):
            self.grid.fill(hollow, shape, 0)
        return hollow

    def _under(self, z_mm: float) -> Image:
        """Share of each pixel that lies under the diaphragm, softened by the slice's thickness."""
        share = (self.diaphragm - np.float32(z_mm)) / np.float32(max(self.acquisition.thickness_mm, 1.0)) + 0.5
        return np.asarray(np.clip(share, 0, 1), np.float32)

    def _grain(self, layer: float, cell_mm: float) -> Image:
        """Smooth noise of unit spread, between two of the patient's layers."""
        layers, low = self.thorax.tissue, int(np.floor(layer))
        mixed = layers[low % len(layers)] * (low + 1 - layer) + layers[(low + 1) % len(layers)] * (layer - low)
        return smooth_noise(mixed, self.grid, cell_mm)

    def _parenchyma(self, image: Image, where: Mask, z_mm: float) -> None:
        """Gravity, the grain of what is too small to see, fissures."""
        grid, thorax, u = self.grid, self.thorax, self.thorax.u(z_mm)
        density = thorax.density + thorax.gravity * (grid.y / thorax.b) + 9 * self._grain(z_mm / 4, 4.0)
        minor = np.exp(-(((thorax.horizontal(grid.x, grid.y) - u) * thorax.height / 2.2) ** 2)) * (grid.x < 0)
        density = density + 55 * minor * (grid.y < thorax.oblique(RIGHT, u, grid.x))
        lines = np.zeros(image.shape, np.uint8)
        x = np.linspace(0.08, 0.98, 40) * thorax.a
        for side in (RIGHT, LEFT):
            across = x * (side * 2 - 3)
            grid.line(lines, np.stack([across, thorax.oblique(side, u, across)], axis=1), 0.7, 1)
        density = density + 130 * lines
        density = self._diseased(density, z_mm)
        image[where] = density[where]

    def _diseased(self, density: Image, z_mm: float) -> Image:
        """Bullae of emphysema, the net of fibrosis near the pleura."""
        variety, grid, thorax = self.thorax.variety, self.grid, self.thorax
        if variety.emphysema > 0:
            hole = np.clip(self._grain(z_mm / 7, 13.0) - (2.3 - 1.3 * variety.emphysema), 0, 0.4) / 0.4
            density = density + hole * (-985 - density)
        if variety.fibrosis > 0:
            a, b, y = thorax.half(thorax.u(z_mm))
            rim = np.clip((np.hypot(grid.x / a, (grid.y - y) / b) - 0.72) / 0.2, 0, 1)
            net = np.exp(-((self._grain(z_mm / 3, 2.6) / 0.3) ** 2))
            density = density + rim * variety.fibrosis * (80 + 420 * net)
        return np.asarray(density, np.float32)

    def _belly(self, image: Image, cage: Mask, hollow: npt.NDArray[np.uint8], under: Image, u: float) -> None:
        if u > 0.45 + max(self.thorax.variety.raised):
            return
        inside = (hollow > 0) | (cage & (self.grid.y < self.thorax.spine(u) - 22) & (u < 0.12))
        content = belly(self.grid, self.thorax, u)
        if self.thorax.variety.dome_wall_mm > 0:
            content[self.diaphragm - u * self.thorax.height < self.thorax.variety.dome_wall_mm] = WALL
        share = np.where(inside, under, 0)
        image += share * (content - image)

    def _windpipe(self, image: Image, z_mm: float) -> npt.NDArray[np.uint8]:
        """Paint trachea and main bronchi with their walls; returns where they are."""
        sections: list[tuple[Points, float]] = []
        for line, radius in self.pipes:
            left = (radius + PIPE_WALL_MM) ** 2 - (line[:, 2] - z_mm) ** 2
            sections += [(point, np.sqrt(r)) for point, r in zip(line[left > 0], left[left > 0], strict=True)]
        walls = np.zeros(image.shape, np.uint8)
        for point, radius in sections:
            _ball(walls, self.grid, point, radius)
        lumen = np.zeros(image.shape, np.uint8)
        for line, radius in self.pipes:
            left = radius**2 - (line[:, 2] - z_mm) ** 2
            for point, r in zip(line[left > 0], left[left > 0], strict=True):
                _ball(lumen, self.grid, point, float(np.sqrt(r)))
        image[walls > 0] = WALL
        image[lumen > 0] = AIR
        return walls


def _ball(mask: npt.NDArray[np.uint8], grid: Grid, point: Points, radius_mm: float) -> None:
    centre = grid.fixed(point[None, :2])[0]
    cv2.circle(mask, centre.tolist(), round(radius_mm / grid.spacing_mm * 16), 1, -1, cv2.LINE_8, 4)


def _dense(line: Points) -> Points:
    """A line [N, 3] sampled about every millimetre."""
    length = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(line, axis=0), axis=1))])
    at = np.linspace(0, length[-1], int(length[-1]) + 2)
    return np.stack([np.interp(at, length, line[:, k]) for k in range(3)], axis=1)
