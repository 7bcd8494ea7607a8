"""The area under the ROC curve with its interval, after DeLong et al. (Biometrics 44, 837-845, 1988).

Placement values: of a positive the share of negatives that it beats, of a negative the share of positives that beat it (ties
count half). Their means are the area; their variances, divided by their numbers, add up to the area's.
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
import numpy.typing as npt
from scipy.stats import rankdata

Values = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Area:
    """An area under the curve with its standard error and 95 % interval."""

    area: float
    error: float
    low: float
    high: float


def area_with_interval(target: npt.NDArray[np.bool_], score: Values) -> Area:
    """The area of one score; needs two patients of each class."""
    beats, beaten = placements(target, score)
    return _area(float(beats.mean()), beats.var(ddof=1) / len(beats) + beaten.var(ddof=1) / len(beaten))


def paired_difference(target: npt.NDArray[np.bool_], first: Values, second: Values) -> Area:
    """The area of `first` less that of `second`, of the same patients."""
    (beats_1, beaten_1), (beats_2, beaten_2) = placements(target, first), placements(target, second)
    beats = beats_1 - beats_2
    beaten = beaten_1 - beaten_2
    return _area(float(beats.mean()), beats.var(ddof=1) / len(beats) + beaten.var(ddof=1) / len(beaten), bounded=False)


def area_under_curve(target: npt.NDArray[np.bool_], score: Values) -> float:
    """The share of pairs (positive, negative) in which the positive scores higher; ties count half."""
    beats, beaten = wins(target, score)
    return float(beats.sum() / (len(beats) * len(beaten)))


def placements(target: npt.NDArray[np.bool_], score: Values) -> tuple[Values, Values]:
    """(of every positive the share of negatives below it, of every negative the share of positives above it)."""
    beats, beaten = wins(target, score)
    return beats / len(beaten), beaten / len(beats)


def wins(target: npt.NDArray[np.bool_], score: Values) -> tuple[Values, Values]:
    """(how many negatives every positive beats, how many positives beat every negative), from ranks: exact halves."""
    ranks = rankdata(score)
    beats = ranks[target] - rankdata(score[target])
    beaten = target.sum() - (ranks[~target] - rankdata(score[~target]))
    return beats, beaten


def _area(area: float, variance: float, *, bounded: bool = True) -> Area:
    error = float(np.sqrt(variance))
    reach = NormalDist().inv_cdf(0.975) * error
    low = area - reach
    high = area + reach
    return Area(area, error, max(0.0, low), min(1.0, high)) if bounded else Area(area, error, low, high)
