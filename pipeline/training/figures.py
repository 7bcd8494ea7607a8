"""Labels and scores -> the paper's figures, each metric with its 95 % interval, by image and by patient.

Values are scikit-learn's; intervals are intervals.py's, and each says how it was found.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.stats import rankdata
from sklearn import metrics

from pipeline.training.intervals import Scored, closed_intervals, drawn_interval, resampled

Target = npt.NDArray[np.bool_]
Score = npt.NDArray[np.float64]
N_BINS = 10
__all__ = ["Figure", "Scored", "Target", "calibration_error", "figures"]


@dataclass(frozen=True, slots=True)
class Figure:
    """One metric with its 95 % interval (NaN where none can be told), and how that was found."""

    level: str
    metric: str
    value: float
    low: float
    high: float
    method: str


def metric_functions(threshold: float) -> dict[str, Callable[[Target, Score], float]]:
    """Every metric as a function of truth and score."""
    return {
        "AUC": lambda target, score: float(metrics.roc_auc_score(target, score)),
        "average precision": lambda target, score: float(metrics.average_precision_score(target, score)),
        "recall": lambda target, score: float(metrics.recall_score(target, score >= threshold, zero_division=0)),
        "specificity": lambda target, score: float(metrics.recall_score(~target, score < threshold, zero_division=0)),
        "precision": lambda target, score: float(metrics.precision_score(target, score >= threshold, zero_division=0)),
        "F1": lambda target, score: float(metrics.f1_score(target, score >= threshold, zero_division=0)),
        "accuracy": lambda target, score: float(metrics.accuracy_score(target, score >= threshold)),
        "Brier score": lambda target, score: float(metrics.brier_score_loss(target, score)),
        "calibration error": calibration_error,
    }


def figures(level: str, scored: Scored, threshold: float, seed: int = 0) -> list[Figure]:
    """All metrics of one level; by patient with the intervals that have a formula, else by resampling patients."""
    values = {name: function(scored.target, scored.score) for name, function in metric_functions(threshold).items()}
    drawn = resampled(scored, lambda target, score: quick_metrics(target, score, threshold), seed)
    found = {name: drawn_interval(name, value, drawn, scored, threshold) for name, value in values.items()}
    if level == "patient":
        found |= closed_intervals(scored, threshold)
    return [Figure(level, name, value, *found[name]) for name, value in values.items()]


def quick_metrics(target: Target, score: Score, threshold: float) -> dict[str, float]:
    """The same metrics as `metric_functions`, a tenth of the time: a resample needs them a thousand times."""
    called = score >= threshold
    hits, false = int((called & target).sum()), int((called & ~target).sum())
    n_positive, n = int(target.sum()), len(target)
    return {
        "AUC": _area(target, score),
        "average precision": float(metrics.average_precision_score(target, score)),
        "recall": hits / n_positive,
        "specificity": 1 - false / (n - n_positive),
        "precision": hits / max(1, hits + false),
        "F1": 2 * hits / max(1, n_positive + hits + false),
        "accuracy": (hits + n - n_positive - false) / n,
        "Brier score": float(((score - target) ** 2).mean()),
        "calibration error": calibration_error(target, score),
    }


def _area(target: Target, score: Score) -> float:
    """The share of pairs in which the positive scores higher, from ranks; ties count half."""
    ranks = rankdata(score)
    n_positive = int(target.sum())
    wins = ranks[target].sum() - n_positive * (n_positive + 1) / 2
    return float(wins / (n_positive * (len(target) - n_positive)))


def calibration_error(target: Target, score: Score) -> float:
    """Expected calibration error: |mean score - share of positives| over ten equal bins, weighted by their numbers."""
    place = np.minimum((score * N_BINS).astype(int), N_BINS - 1)
    gap = np.bincount(place, score - target, N_BINS)
    return float(np.abs(gap).sum() / len(score))
