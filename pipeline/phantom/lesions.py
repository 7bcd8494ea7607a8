"""Pneumonia: irregular foci in three dimensions, kept within their lobe, and fluid in the pleural space.

Drawn from their own seed stream. They are laid on the finished healthy image, so nothing changes outside lesion and fluid.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import numpy.typing as npt

from pipeline.phantom.canvas import Grid, Image, Mask, smooth_noise
from pipeline.phantom.thorax import LEFT, RIGHT, Thorax
from pipeline.phantom.variety import Variety

STREAM = 3
FLUID = 8.0
Label = Literal["covid", "bacterial", "healthy"]
GLASS = 0
PAVING = 1
HALO = 2
CONSOLIDATION = 3
CORE = 4
KINDS = ("ground glass", "crazy paving", "reversed halo", "consolidation", "ground glass round a dense core")


@dataclass(frozen=True, slots=True)
class Focus:
    """One lesion: an ellipsoid (middle, half axes, turn in the slice; mm) with a ragged edge of `kind`."""

    middle: tuple[float, float, float]
    half: tuple[float, float, float]
    turn: float
    hu: float
    kind: int
    lobe: int


@dataclass(frozen=True, slots=True)
class Disease:
    """All lesions of one patient; `fluid` is (side, height of its level 0..1), or None."""

    foci: tuple[Focus, ...]
    fluid: tuple[int, float] | None
    diffuse: float
    raggedness: npt.NDArray[np.float32]


def draw_disease(
    seed: int, label: Label, severity: float | None, thorax: Thorax, spots: dict[int, npt.NDArray[np.float64]]
) -> Disease:
    """The disease of one patient; `severity` 0 (barely visible) .. 1 (white lung) is drawn where None."""
    draw = np.random.default_rng([seed, STREAM])
    drawn = float(draw.uniform(0.1, 0.95))
    weight = drawn if severity is None else severity
    noise = draw.standard_normal((28, 40, 40)).astype(np.float32)
    if label == "healthy":
        return Disease((), None, 0.0, noise)
    if label == "covid":
        return Disease(_viral(draw, weight, thorax, spots), None, max(0.0, weight - 0.75) * 4, noise)
    foci, side = _bacterial(draw, weight, thorax, spots)
    fluid = (side, float(0.1 + 0.5 * weight * draw.random())) if draw.random() < 0.25 + 0.5 * weight else None
    return Disease(foci, fluid, 0.0, noise)


def with_variety(disease: Disease, variety: Variety, thorax: Thorax, spots: dict[int, npt.NDArray[np.float64]]) -> Disease:
    """`disease` with the mass and the fluid that the patient's variety brings; a mass is a lesion, whatever the class."""
    fluid = disease.fluid
    if fluid is None and variety.effusion > 0:
        fluid = (LEFT if variety.effusion_left else RIGHT, variety.effusion)
    if variety.mass is None:
        return replace(disease, fluid=fluid)
    mass = variety.mass
    places = spots[LEFT if mass.on_left else RIGHT]
    a, _, y = thorax.half(mass.high)
    wanted = np.array([(0.35 + 0.6 * mass.out) * a * (1 if mass.on_left else -1), y, mass.high * thorax.height])
    place = places[np.argmin(np.linalg.norm(places - wanted, axis=1))]
    focus = Focus(tuple(place), (mass.radius_mm,) * 3, 0.0, 40.0, CONSOLIDATION, _lobe_at(thorax, place))
    return replace(disease, foci=(*disease.foci, focus), fluid=fluid)


def _lobe_at(thorax: Thorax, place: npt.NDArray[np.float64]) -> int:
    grid = Grid(1, 1.0, float(place[0]), float(place[1]))
    side = np.full((1, 1), RIGHT if place[0] < 0 else LEFT, np.uint8)
    return int(thorax.lobes(side, grid, float(place[2]))[0, 0])


def _viral(
    draw: np.random.Generator, weight: float, thorax: Thorax, spots: dict[int, npt.NDArray[np.float64]]
) -> tuple[Focus, ...]:
    """4 to 20 foci on both sides: at the pleura, low, at the back; some along bronchi."""
    foci = []
    for number in range(round(4 + 16 * weight)):
        places = spots[RIGHT if number % 2 else LEFT]
        _, b, y = thorax.half(0.3)
        side = thorax.a * 0.46
        out = np.hypot((np.abs(places[:, 0]) - side) / (0.5 * thorax.a), (places[:, 1] - y) / b)
        likely = np.clip(out, 0, 1.1) ** 6 * np.exp(1.3 * places[:, 1] / b - 2.2 * np.abs(places[:, 2] / thorax.height - 0.28))
        place = places[draw.choice(len(places), p=likely / likely.sum())].copy()
        size = float(np.clip(draw.lognormal(np.log(8.5 + 11 * weight), 0.3), 5, 22))
        outward = np.array([place[0] - np.sign(place[0]) * side, place[1] - y])
        outward /= max(1.0, float(np.linalg.norm(outward)))
        place[:2] += outward * 3
        kind = int(draw.choice([GLASS, PAVING, HALO, CORE], p=[0.36, 0.25, 0.08, 0.31]))
        hu = float(draw.uniform(-640, -600 + 220 * weight))
        half = (size * draw.uniform(0.6, 0.9), size * draw.uniform(0.95, 1.25), size * draw.uniform(0.8, 1.15))
        foci.append(Focus(tuple(place), half, float(np.arctan2(outward[1], outward[0])), hu, kind, _lobe_at(thorax, place)))
    return tuple(foci)


def _bacterial(
    draw: np.random.Generator, weight: float, thorax: Thorax, spots: dict[int, npt.NDArray[np.float64]]
) -> tuple[tuple[Focus, ...], int]:
    """One or two lobes of one side: a consolidation that fills more of its lobe the worse it is, and satellites."""
    side = int(draw.choice([RIGHT, LEFT]))
    places = spots[side]
    names = np.array([_lobe_at(thorax, place) for place in places[:240]])
    lobes = draw.permutation(np.unique(names))[: 1 + int(draw.random() < 0.25 + 0.5 * weight)]
    foci = []
    for lobe in lobes:
        own = places[:240][names == lobe]
        for place in own[draw.integers(len(own), size=1 + round(2.4 * weight))]:
            size = float(np.clip((13 + 21 * weight) * draw.uniform(0.75, 1.15), 9, 34))
            half = (size * draw.uniform(0.85, 1.1), size * draw.uniform(0.85, 1.1), size * draw.uniform(0.9, 1.3))
            foci.append(Focus(tuple(place), half, draw.uniform(0, np.pi), draw.normal(30, 8), CONSOLIDATION, int(lobe)))
        if weight > 0.85:
            whole = own.mean(axis=0)
            foci.append(Focus(tuple(whole), (70, 75, 80), 0.0, draw.normal(30, 8), CONSOLIDATION, int(lobe)))
        for _ in range(int(draw.integers(1, 3 + round(3 * weight)))):
            near = own[draw.integers(len(own))]
            small = draw.uniform(4, 9)
            foci.append(Focus(tuple(near), (small, small, small), 0.0, draw.uniform(-420, -150), GLASS, int(lobe)))
    return tuple(foci), side


@dataclass(frozen=True, slots=True)
class _Texture:
    """What every focus of one slice is drawn with."""

    lobes: npt.NDArray[np.uint8]
    smooth: Image
    ragged: Image
    paving: Image


class Painter:
    """Lays one disease on the slices of one grid."""

    def __init__(self, disease: Disease, thorax: Thorax, grid: Grid) -> None:
        self.disease = disease
        self.thorax = thorax
        self.grid = grid

    def _field(self, z_mm: float, cell_mm: float) -> Image:
        """Smooth noise of unit spread at height z, its grain `cell_mm` wide."""
        layers = self.disease.raggedness
        at = (z_mm / cell_mm) % (len(layers) - 1)
        low = int(at)
        layer = layers[low] * (1 - (at - low)) + layers[low + 1] * (at - low)
        return smooth_noise(layer, self.grid, cell_mm)

    def fluid(self, sides: npt.NDArray[np.uint8], z_mm: float) -> Mask:
        """Where fluid lies in the pleural space: behind a level that climbs at the chest wall, less of it higher up."""
        empty = np.zeros(sides.shape, bool)
        if self.disease.fluid is None:
            return empty
        side, amount = self.disease.fluid
        u = self.thorax.u(z_mm)
        top = 0.25 + 0.6 * amount
        if u > top:
            return empty
        a, b, y = self.thorax.half(u)
        depth = (0.08 + 0.75 * amount) * b * np.sqrt(max(0.0, 1 - max(u, 0) / top))
        away = np.abs(self.grid.x - (side * 2 - 3) * 0.42 * a) / (0.5 * a)
        return np.asarray((sides == side) & (self.grid.y > y + b - depth - 0.25 * depth * away**2 + 0.06 * b * (away < 0)))

    def paint(self, image: Image, lobes: npt.NDArray[np.uint8], lumen: Image, z_mm: float) -> Mask:
        """Raise the lung's density in the foci of this slice; vessels stay denser, bronchi stay open. The lesion truth."""
        strength = self.grid.blank()
        target = self.grid.blank(-900)
        near = [f for f in self.disease.foci if abs(f.middle[2] - z_mm) < 1.7 * f.half[2]]
        if not near and self.disease.diffuse == 0:
            return np.zeros(image.shape, bool)
        smooth = self._field(z_mm, 11.0)
        fine = self._field(z_mm + 97, 3.2)
        paving = np.exp(-((self._field(z_mm + 41, 2.3) / 0.22) ** 2))
        texture = _Texture(lobes, smooth, 0.75 * smooth + 0.4 * fine, paving)
        for focus in near:
            self._focus(focus, z_mm, texture, strength, target)
        if self.disease.diffuse > 0:
            self._diffuse(texture, strength, target)
        air = np.clip(lumen * 1.4, 0, 1)
        image += strength * (1 - air) * np.maximum(target + 18 * fine - image, 0)
        return np.asarray(strength > 0)

    def _focus(self, focus: Focus, z_mm: float, texture: _Texture, strength: Image, target: Image) -> None:
        window = self._window(focus)
        g, (x, y, z) = self.grid, focus.middle
        across = g.x[:, window[1]] - x
        deep = g.y[window[0]] - y
        c = np.cos(focus.turn)
        s = np.sin(focus.turn)
        far = ((c * across + s * deep) / focus.half[0]) ** 2 + ((c * deep - s * across) / focus.half[1]) ** 2
        far = np.sqrt(far + ((z_mm - z) / focus.half[2]) ** 2)
        solid = focus.kind == CONSOLIDATION
        inside = 1 - far + (0.17 * texture.smooth[window] if solid else 0.24 * texture.ragged[window])
        share = np.clip(inside / (0.18 if solid else 0.32), 0, 1) * (texture.lobes[window] == focus.lobe)
        hu = np.full(share.shape, focus.hu, np.float32)
        if focus.kind == PAVING:
            hu += 150 * texture.paving[window]
        if focus.kind == CORE:
            hu += (0 - focus.hu) * 0.9 * np.clip((inside - 0.45 + 0.25 * texture.paving[window]) / 0.2, 0, 1)
        if focus.kind == HALO:
            hu += 260 * np.clip(1 - np.abs(inside - 0.22) / 0.16, 0, 1) - 90
            share *= np.clip(1.15 - 0.75 * np.clip((inside - 0.35) / 0.2, 0, 1), 0, 1)
        stronger = share > strength[window]
        target[window] = np.where(share > 0, np.maximum(target[window], hu), target[window])
        strength[window] = np.where(stronger, share, strength[window])

    def _window(self, focus: Focus) -> tuple[slice, slice]:
        reach = 1.8 * max(focus.half[:2]) + 2
        g = self.grid
        edges = [
            np.clip([int((m - reach - o) / g.spacing_mm), int((m + reach - o) / g.spacing_mm) + 2], 0, g.matrix)
            for m, o in ((focus.middle[1], g.top_mm), (focus.middle[0], g.left_mm))
        ]
        return slice(*edges[0].tolist()), slice(*edges[1].tolist())

    def _diffuse(self, texture: _Texture, strength: Image, target: Image) -> None:
        """The haze of a white lung: nearly everywhere, denser at the back."""
        back = self.grid.y / self.thorax.b
        badness = self.disease.diffuse
        share = np.clip((badness * (1.3 + 0.5 * back) - 0.35 + 0.3 * texture.ragged) / 0.6, 0, 1) * (texture.lobes > 0)
        hu = -640 + 300 * badness + 330 * np.clip(back, -0.4, 1) + 45 * texture.ragged + 90 * texture.paving
        target[...] = np.where(share > 0, np.maximum(target, hu), target)
        np.maximum(strength, share, out=strength)
