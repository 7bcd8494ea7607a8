"""How people differ where the plain phantom is symmetric: drawn from a seed stream of its own; plain phantoms stay as they are.

Hearts that take much of the left lung's section, domes raised by gas, bowel before the liver, masses, effusion, emphysema and
fibrosis, children and the obese, contrast, turned patients, fields of view that cut the chest, thick and thin slices.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

STREAM = 9


@dataclass(frozen=True, slots=True)
class Loop:
    """Bowel under the diaphragm: middle and half axes as shares of the cage's half width and depth, HU of its content."""

    x: float
    y: float
    wide: float
    deep: float
    hu: float


@dataclass(frozen=True, slots=True)
class Mass:
    """A solid tumour of so many mm radius; 0..1 from hilum to pleura, 0..1 from base to apex."""

    radius_mm: float
    out: float
    high: float
    on_left: bool


@dataclass(frozen=True, slots=True)
class Variety:
    """One patient's departures from the plain phantom; the defaults are none."""

    size: float = 1.0
    fat: float = 1.0
    heart: float = 1.0
    heart_left_mm: float = 0.0
    recess_mm: float = 0.0
    """How far the right lung reaches over the midline, before and behind the heart."""
    raised: tuple[float, float] = (0.0, 0.0)
    dome_wall_mm: float = 0.0
    loops: tuple[Loop, ...] = ()
    contrast_hu: float = 0.0
    emphysema: float = 0.0
    fibrosis: float = 0.0
    effusion: float = 0.0
    effusion_left: bool = False
    mass: Mass | None = None
    turn_deg: float = 0.0
    bend_mm: float = 0.0
    cut_mm: float | None = None
    round_field: bool = False
    thickness_mm: float | None = None
    beyond_mm: tuple[float, float] = (0.0, 0.0)


PLAIN = Variety()


def draw_variety(seed: int) -> Variety:
    """The variety of one seed, whatever the label."""
    draw = np.random.default_rng([seed, STREAM])
    child = draw.random() < 0.08
    big_heart = draw.random() < 0.9
    left = draw.random() < 0.35
    right = draw.random() < 0.2
    cut = draw.random() < 0.12
    return Variety(
        size=float(draw.uniform(0.6, 0.85)) if child else float(draw.uniform(0.94, 1.1)),
        fat=float(draw.choice([0.6, 1.0, 1.8])),
        heart=float(draw.uniform(1.2, 1.55) if big_heart else draw.uniform(0.9, 1.1)),
        heart_left_mm=float(draw.uniform(6, 30)),
        recess_mm=float(draw.uniform(16, 45)),
        raised=(float(draw.uniform(0.05, 0.2)) * right, float(draw.uniform(0.06, 0.24)) * left),
        dome_wall_mm=8.0,
        loops=_loops(draw),
        contrast_hu=float(draw.choice([0.0, 0.0, draw.uniform(60, 260)])),
        emphysema=float(draw.choice([0.0, 0.0, 0.0, draw.uniform(0.3, 1.0)])),
        fibrosis=float(draw.choice([0.0, 0.0, 0.0, 0.0, draw.uniform(0.3, 1.0)])),
        effusion=float(draw.choice([0.0, 0.0, 0.0, 0.0, draw.uniform(0.1, 0.5)])),
        effusion_left=bool(draw.integers(2)),
        mass=_mass(draw) if draw.random() < 0.15 else None,
        turn_deg=0.0 if cut else float(draw.normal(0, 4)),
        bend_mm=0.0 if cut else float(draw.choice([0.0, 0.0, draw.uniform(-18, 18)])),
        cut_mm=float(draw.uniform(-6, 10)) if cut else None,
        round_field=bool(cut or draw.random() < 0.4),
        thickness_mm=float(draw.choice([1.0, 1.25, 2.5, 5.0, 8.0, 10.0])),
        beyond_mm=(float(draw.choice([0.0, 20.0, 60.0])), float(draw.choice([0.0, 20.0, 40.0]))),
    )


def _loops(draw: np.random.Generator) -> tuple[Loop, ...]:
    """Colon under the left dome, and, in few, before the liver."""
    loops = []
    if draw.random() < 0.5:
        for _ in range(int(draw.integers(1, 4))):
            wide = draw.uniform(0.1, 0.2)
            deep = draw.uniform(0.12, 0.26)
            loops.append(Loop(draw.uniform(0.35, 0.78), draw.uniform(-0.62, 0.1), wide, deep, draw.uniform(-990, -880)))
    if draw.random() < 0.12:
        before_liver = range(int(draw.integers(1, 3)))
        loops += [
            Loop(-draw.uniform(0.2, 0.6), draw.uniform(-0.86, -0.7), 0.16, 0.16, draw.uniform(-990, -880)) for _ in before_liver
        ]
    return tuple(loops)


def _mass(draw: np.random.Generator) -> Mass:
    return Mass(float(draw.uniform(9, 28)), float(draw.random()), float(draw.uniform(0.3, 0.8)), bool(draw.integers(2)))
