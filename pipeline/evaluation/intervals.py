"""95 % intervals that never claim more than the patients can tell.

By patient: DeLong for the area, Wilson for proportions. By image, and for what has no formula: N_RESAMPLES draws of patients
with replacement, never of slices, since the slices of one patient are no strangers to one another; draws of one class are left
out and counted. Where DeLong's error is zero (perfect separation), or every draw gives the same number (a proportion of 0 or
1), neither knows a spread, and an interval of no width would be a lie. There: Newcombe's score interval of the area (Statistics
in Medicine 25, 559-573, 2006, method 5), Wilson's of the proportion with patients as its number; for what has neither, none.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
import numpy.typing as npt
from scipy.optimize import brentq

from pipeline.evaluation.delong import area_with_interval, placements

Target = npt.NDArray[np.bool_]
Score = npt.NDArray[np.float64]
Interval = tuple[float, float, str]
Counted = Callable[[Target, Target], tuple[Target, Target]]
"""Of (truth, what was called positive): what counts, and what it is counted of."""
N_RESAMPLES = 1000
NO_WIDTH = 1e-12
Z = NormalDist().inv_cdf(0.975)


@dataclass(frozen=True, slots=True)
class Scored:
    """Truth and score of every image or patient; `cluster` numbers the patient of each."""

    target: Target
    score: Score
    cluster: npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Drawn:
    """Every metric of every draw that held both classes [draw][metric], and how many did not."""

    values: list[list[float]]
    n_left_out: int


def proportion_interval(counted: Counted, scored: Scored, threshold: float) -> Interval:
    """Wilson's interval of what `counted` counts."""
    counts, of = counted(scored.target, scored.score >= threshold)
    _, low, high = wilson(int(counts.sum()), int(of.sum()))
    return low, high, "Wilson"


def area_interval(target: Target, score: Score) -> Interval:
    """DeLong's, or Newcombe's where that knows no error."""
    n_positive = int(target.sum())
    n_negative = len(target) - n_positive
    if min(n_positive, n_negative) > 1:
        area = area_with_interval(target, score)
        if area.error > NO_WIDTH:
            return area.low, area.high, "DeLong"
        return *newcombe(area.area, n_positive, n_negative), "Newcombe, since DeLong's error is 0"
    beats, _ = placements(target, score)
    return *newcombe(float(beats.mean()), n_positive, n_negative), "Newcombe, since a class has one patient"


def newcombe(area: float, n_positive: int, n_negative: int) -> tuple[float, float]:
    """The areas that would not be surprised by `area`: |area - a| <= z sqrt(V(a)), V that of exponential scores."""
    n_other = (n_positive + n_negative) / 2 - 1

    def surprise(a: float) -> float:
        variance = a * (1 - a) * (1 + n_other * (1 - a) / (2 - a) + n_other * a / (1 + a)) / (n_positive * n_negative)
        return (area - a) ** 2 - Z * Z * variance

    near = 1e-9  # beside the area itself, where the equation holds for nothing when it is 0 or 1
    low = brentq(surprise, 0.0, area - near) if area > near else 0.0
    high = brentq(surprise, area + near, 1.0) if area < 1 - near else 1.0
    return float(low), float(high)


def resampled(scored: Scored, measure: Callable[[Target, Score], list[float]], seed: int) -> Drawn:
    """`measure` of N_RESAMPLES draws of patients with replacement."""
    generator = np.random.default_rng([seed, 95])
    members = [np.flatnonzero(scored.cluster == patient) for patient in np.unique(scored.cluster)]
    values = []
    for _ in range(N_RESAMPLES):
        rows = np.concatenate([members[drawn] for drawn in generator.integers(len(members), size=len(members))])
        target = scored.target[rows]
        if target.any() and not target.all():
            values.append(measure(target, scored.score[rows]))
    return Drawn(values, N_RESAMPLES - len(values))


def drawn_interval(drawn: Drawn, number: int) -> Interval | None:
    """The middle 95 % of the draws of one metric; None where all are alike."""
    draws = [values[number] for values in drawn.values]
    if len(draws) < 2:
        return None
    low, high = np.percentile(draws, [2.5, 97.5]).tolist()
    if high - low <= NO_WIDTH:
        return None
    without = f", {drawn.n_left_out} of {N_RESAMPLES} draws had one class and were left out" if drawn.n_left_out else ""
    return low, high, f"bootstrap over patients{without}"


def wilson_over_patients(counted: Counted, value: float, scored: Scored, threshold: float) -> Interval:
    """Of a proportion, as if each patient were one observation of that value."""
    _, of = counted(scored.target, scored.score >= threshold)
    n = _n_patients(scored, of)
    return *wilson(value * n, n)[1:], f"Wilson over {n} patients"


def f1_over_patients(value: float, scored: Scored, threshold: float) -> Interval:
    """F1 = 2J / (1 + J) with J, Jaccard's share of hits in all that are positive or called so."""
    n = _n_patients(scored, scored.target | (scored.score >= threshold))
    low, high = (2 * share / (1 + share) for share in wilson(value / (2 - value) * n, n)[1:])
    return low, high, f"Wilson over {n} patients, through Jaccard's index"


def newcombe_over_patients(value: float, scored: Scored, _threshold: float) -> Interval:
    """Of an area, as if each patient had one slice."""
    n_positive = _n_patients(scored, scored.target)
    n_negative = _n_patients(scored, ~scored.target)
    return *newcombe(value, n_positive, n_negative), f"Newcombe over {n_positive} and {n_negative} patients"


def _n_patients(scored: Scored, rows: Target) -> int:
    return len(np.unique(scored.cluster[rows]))


def wilson(hits: float, n: int) -> tuple[float, float, float]:
    """(share, low, high): a proportion with Wilson's 95 % interval; no hits of none is 0 with nothing known."""
    if n == 0:
        return 0.0, 0.0, 1.0
    share = hits / n
    spread = 1 + Z * Z / n
    middle = (share + Z * Z / (2 * n)) / spread
    reach = Z / spread * math.sqrt(share * (1 - share) / n + Z * Z / (4 * n * n))
    return share, max(0.0, middle - reach), min(1.0, middle + reach)
