"""Labels and scores -> the paper's figures, each metric with its 95 % interval, by image and by patient.

By patient: DeLong for the area, Wilson for proportions. By image and else: 1,000 resamples of patients, never of slices,
since the slices of one patient are no strangers to one another. Metrics are scikit-learn's.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from sklearn import metrics

from pipeline.training.delong import area_with_interval
from pipeline.training.scoring import wilson

Target = npt.NDArray[np.bool_]
Score = npt.NDArray[np.float64]
N_RESAMPLES = 1000
N_BINS = 10


@dataclass(frozen=True, slots=True)
class Scored:
    """Truth and score of every image or patient; `cluster` numbers the patient of each."""

    target: Target
    score: Score
    cluster: npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Figure:
    """One metric with its 95 % interval, and how that was found."""

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
    """All metrics of one level; closed intervals by patient where there are some."""
    functions = metric_functions(threshold)
    drawn = resampled(scored, functions, seed)
    closed = closed_intervals(scored, threshold) if level == "patient" else {}
    found = []
    for name, function in functions.items():
        value = function(scored.target, scored.score)
        low, high = np.nanpercentile(drawn[name], [2.5, 97.5]).tolist()
        method = "bootstrap over patients"
        if name in closed:
            low, high, method = closed[name]
        found.append(Figure(level, name, value, low, high, method))
    return found


def closed_intervals(scored: Scored, threshold: float) -> dict[str, tuple[float, float, str]]:
    """(low, high, method) of the metrics that have a formula."""
    target, above = scored.target, scored.score >= threshold
    area = area_with_interval(target, scored.score)
    counts = {
        "recall": (above & target, target),
        "specificity": (~above & ~target, ~target),
        "precision": (above & target, above),
        "accuracy": (above == target, np.ones_like(target)),
    }
    found = {"AUC": (area.low, area.high, "DeLong")}
    for name, (hits, of) in counts.items():
        _, low, high = wilson(int(hits.sum()), int(of.sum()))
        found[name] = (low, high, "Wilson")
    return found


def resampled(
    scored: Scored, functions: dict[str, Callable[[Target, Score], float]], seed: int
) -> dict[str, list[float]]:  # fmt: skip
    """Every metric of N_RESAMPLES draws of patients with replacement, those with one class left out."""
    generator = np.random.default_rng([seed, 95])
    members = [np.flatnonzero(scored.cluster == patient) for patient in np.unique(scored.cluster)]
    drawn: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(N_RESAMPLES):
        rows = np.concatenate([members[place] for place in generator.integers(len(members), size=len(members))])
        target = scored.target[rows]
        if target.all() or not target.any():
            continue
        for name, function in functions.items():
            drawn[name].append(function(target, scored.score[rows]))
    return drawn


def calibration_error(target: Target, score: Score) -> float:
    """Expected calibration error: |mean score - share of positives| over ten equal bins, weighted by their numbers."""
    place = np.minimum((score * N_BINS).astype(int), N_BINS - 1)
    gaps = [abs(score[place == b].mean() - target[place == b].mean()) * (place == b).sum() for b in np.unique(place)]
    return float(sum(gaps) / len(score))
