"""Labels and scores -> the paper's figures, each metric with its 95 % interval, by image and by patient.

A metric is one row of METRICS: its name, how it is reckoned and what interval it has. Values are scikit-learn's, to 1e-12.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt
from sklearn.metrics import average_precision_score

from pipeline.evaluation.delong import area_under_curve
from pipeline.evaluation.intervals import (
    Counted,
    Interval,
    Scored,
    area_interval,
    drawn_interval,
    f1_over_patients,
    newcombe_over_patients,
    proportion_interval,
    resampled,
    wilson_over_patients,
)

Target = npt.NDArray[np.bool_]
Score = npt.NDArray[np.float64]
N_BINS = 10
__all__ = ["METRICS", "Figure", "Metric", "Scored", "Target", "area_under_curve", "calibration_error", "figures"]


@dataclass(frozen=True, slots=True)
class Figure:
    """One metric with its 95 % interval (NaN where none can be told), and how that was found."""

    level: str
    metric: str
    value: float
    low: float
    high: float
    method: str


@dataclass(frozen=True, slots=True)
class Metric:
    """`value` of truth, score and threshold; it must be quick, since a thousand resamples are measured too.

    `by_formula` gives the interval by patient, where there is a formula. `without_spread` gives it where every resample has the
    same value, as if each patient were one observation of it; None: nothing can be said then.
    """

    name: str
    value: Callable[[Target, Score, float], float]
    by_formula: Callable[[Scored, float], Interval] | None = None
    without_spread: Callable[[float, Scored, float], Interval] | None = None


def calibration_error(target: Target, score: Score) -> float:
    """Expected calibration error: |mean score - share of positives| over ten equal bins, weighted by their numbers."""
    bin_of = np.minimum((score * N_BINS).astype(int), N_BINS - 1)
    gap = np.bincount(bin_of, score - target, N_BINS)
    return float(np.abs(gap).sum() / len(score))


def _share(counted: Counted, target: Target, score: Score, threshold: float) -> float:
    """0 where there is nothing to count of."""
    counts, of = counted(target, score >= threshold)
    return int(counts.sum()) / max(1, int(of.sum()))


def _f1(target: Target, score: Score, threshold: float) -> float:
    called = score >= threshold
    return 2 * int((called & target).sum()) / max(1, int(target.sum()) + int(called.sum()))


def _proportion(name: str, counted: Counted) -> Metric:
    return Metric(
        name,
        partial(_share, counted),
        by_formula=partial(proportion_interval, counted),
        without_spread=partial(wilson_over_patients, counted),
    )


METRICS = (
    Metric(
        "AUC",
        lambda target, score, _: area_under_curve(target, score),
        by_formula=lambda scored, _: area_interval(scored.target, scored.score),
        without_spread=newcombe_over_patients,
    ),
    Metric("average precision", lambda target, score, _: float(average_precision_score(target, score))),
    _proportion("recall", lambda target, called: (called & target, target)),
    _proportion("specificity", lambda target, called: (~called & ~target, ~target)),
    _proportion("precision", lambda target, called: (called & target, called)),
    Metric("F1", _f1, without_spread=f1_over_patients),
    _proportion("accuracy", lambda target, called: (called == target, np.ones_like(target))),
    Metric("Brier score", lambda target, score, _: float(((score - target) ** 2).mean())),
    Metric("calibration error", lambda target, score, _: calibration_error(target, score)),
)


def figures(level: str, scored: Scored, threshold: float, seed: int = 0) -> list[Figure]:
    """All metrics of one level; by patient with the intervals that have a formula, else by resampling patients."""
    drawn = resampled(scored, lambda target, score: [metric.value(target, score, threshold) for metric in METRICS], seed)
    found = []
    for number, metric in enumerate(METRICS):
        value = metric.value(scored.target, scored.score, threshold)
        if level == "patient" and metric.by_formula:
            interval = metric.by_formula(scored, threshold)
        else:
            interval = drawn_interval(drawn, number) or _without_spread(metric, value, scored, threshold)
        found.append(Figure(level, metric.name, value, *interval))
    return found


def _without_spread(metric: Metric, value: float, scored: Scored, threshold: float) -> Interval:
    why = "every draw is alike"
    if metric.without_spread is None:
        return math.nan, math.nan, why
    low, high, method = metric.without_spread(value, scored, threshold)
    return low, high, f"{method}, since {why}"
