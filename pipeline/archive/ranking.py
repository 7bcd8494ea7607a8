"""Which candidate series of a study is screened: strictly one criterion after the other, and why each loser lost."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.archive.geometry import Stack, middle
from pipeline.archive.patient import Who
from pipeline.archive.rules import preference
from pipeline.config import MAX_RULES, SeriesConfig
from pipeline.errors import Reason
from pipeline.records import Series

FULL_EXTENT_MM = 200.0
EXTENT_STEP_MM = 10.0
REFORMATS = frozenset({"MPR", "REFORMATTED"})
IRREGULAR_MM = 0.1
IRREGULAR_SHARE = 0.05
SHARP_NAMES = frozenset({"LUNG", "BONE", "BONEPLUS", "EDGE", "CHST", "SHARP", "PULMO", "L", "D", "E", "YA", "YB", "YC", "YD"})
SHARP_FROM = 50
"""Siemens (B30f, Br36, Bl57) and Canon (FC10, FC52) number their kernels by sharpness; from 50 on they are for lung or bone."""


@dataclass(frozen=True, slots=True)
class SeriesRank:
    """The marks of a candidate, most important first; more is better."""

    preferred: int
    original: int
    extent: int
    thickness: int
    kernel: int
    regular: int
    plain: int
    n_slices: int

    def marks(self) -> tuple[int, ...]:
        """All marks in order."""
        return self.preferred, self.original, self.extent, self.thickness, self.kernel, self.regular, self.plain, self.n_slices

    def score(self) -> float:
        """The marks as one number that sorts as they do."""
        total = 0
        for mark, span in zip(self.marks(), SPANS, strict=True):
            total = total * span + min(mark, span - 1)
        return float(total)

    @classmethod
    def of_score(cls, score: float) -> SeriesRank:
        """The marks behind a score."""
        rest = int(score)
        marks = list[int]()
        for span in reversed(SPANS):
            rest, mark = divmod(rest, span)
            marks.append(mark)
        return cls(*reversed(marks))


SPANS = (1 << MAX_RULES, 10, 100, 10, 10, 10, 10, 100_000)
"""What each mark is below; its place in the score."""
LOST_BY = (
    Reason.LOST_PREFERENCE,
    Reason.LOST_DERIVED,
    Reason.LOST_EXTENT,
    Reason.LOST_THICKNESS,
    Reason.LOST_KERNEL,
    Reason.LOST_SPACING,
    Reason.LOST_CONTRAST,
    Reason.LOST_SLICES,
)


def rank(stack: Stack, config: SeriesConfig) -> SeriesRank:
    """The marks of a stack that has passed the hard filters."""
    first = stack.images[0]
    gaps = np.diff(stack.z_mm)
    median = middle(gaps)
    extent = min(FULL_EXTENT_MM, float(stack.z_mm[-1] - stack.z_mm[0]))
    uneven = float(np.abs(gaps - median).max())
    return SeriesRank(
        preferred=preference(first, config),
        original=int("DERIVED" not in first.image_type[:1] and REFORMATS.isdisjoint(first.image_type)),
        extent=int(extent // EXTENT_STEP_MM),
        thickness=_thickness_mark(first.facts.slice_thickness_mm or median),
        kernel=int(config.kernels == "any" or is_sharp(first.facts.kernel) == (config.kernels == "lung")),
        regular=int(uneven <= max(IRREGULAR_MM, IRREGULAR_SHARE * median)),
        plain=int(not first.contrast),
        n_slices=len(stack.z_mm),
    )


@dataclass(frozen=True, slots=True)
class Candidate:
    """A series that could be screened, its marks, and whose it is."""

    rank: SeriesRank
    series: Series
    who: Who


def best_first(candidates: Sequence[Candidate]) -> list[Candidate]:
    """Candidates in the order in which they are tried; ties go to the smallest SeriesInstanceUID."""
    return sorted(candidates, key=lambda one: (*(-mark for mark in one.rank.marks()), one.series.series_uid))


def why_lost(loser: SeriesRank, winner: SeriesRank) -> Reason:
    """The first criterion in which a candidate fell behind."""
    pairs = zip(LOST_BY, loser.marks(), winner.marks(), strict=True)
    return next((reason for reason, mine, best in pairs if mine < best), Reason.LOST_UID)


def is_sharp(kernel: str) -> bool:
    """Whether this is a lung or bone kernel, by the four large vendors' names."""
    name = kernel.upper().split("\\")[0].strip()
    numbered = re.match(r"(?:[A-Z]{1,2})(\d\d)", name)
    if numbered:
        return int(numbered[1]) >= SHARP_FROM
    return name in SHARP_NAMES


def _thickness_mark(thickness_mm: float) -> int:
    if 0.6 <= thickness_mm <= 2.5:
        return 3
    return 2 if thickness_mm <= 5 else int(thickness_mm <= 10)
