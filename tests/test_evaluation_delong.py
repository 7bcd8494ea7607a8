"""DeLong's interval, against an independent way to the same figures."""

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from pipeline.evaluation.delong import area_with_interval, paired_difference


def by_leaving_out(target, *scores):
    """(area, error) of the first score, or of its difference to the second: two-sample jackknife of scikit-learn's area.

    Leaving a patient out and drawing the curve again needs no placement value, yet is the same estimate (Frangos, Schucany).
    """

    def area(rows):
        first, *second = (roc_auc_score(target[rows], score[rows]) for score in scores)
        return first - sum(second)

    everybody, variance = np.arange(len(target)), 0.0
    for members in (np.flatnonzero(target), np.flatnonzero(~target)):
        left = np.array([area(np.delete(everybody, member)) for member in members])
        variance += (len(left) - 1) / len(left) * ((left - left.mean()) ** 2).sum()
    return area(everybody), variance**0.5


def by_pairs_of_pairs(target, first, second):
    """The difference's error as var + var - 2 cov, each a sum over pairs of patients of products of kernel differences."""

    def kernel(score):
        return np.heaviside(score[target][:, None] - score[~target][None, :], 0.5)

    def covariance(one, other):
        m = len(one)
        gaps = np.einsum("ikj,ikl->", one[:, None] - one[None, :], other[:, None] - other[None, :])
        return gaps / one.shape[1] ** 2 / (2 * m * (m - 1)) / m

    def of_areas(one, other):
        return covariance(one, other) + covariance(one.T, other.T)

    a, b = kernel(first), kernel(second)
    return (of_areas(a, a) + of_areas(b, b) - 2 * of_areas(a, b)) ** 0.5


@pytest.mark.parametrize("decimals", [1, 8])
def test_area_and_error_agree_with_an_independent_reckoning_to_1e_10_with_and_without_ties(decimals):
    generator = np.random.default_rng(5)
    target = generator.random(70) < 0.4
    score = np.round(generator.normal(size=70) + target, decimals)
    found, (area, error) = area_with_interval(target, score), by_leaving_out(target, score)
    assert found.area == pytest.approx(area, abs=1e-10)
    assert found.error == pytest.approx(error, abs=1e-10)


@pytest.mark.parametrize("decimals", [1, 8])
def test_the_paired_error_agrees_with_two_independent_reckonings_to_1e_10(decimals):
    generator = np.random.default_rng(12)
    for share, n in ((0.2, 41), (0.5, 60)):
        target = generator.random(n) < share
        first = np.round(generator.normal(size=n) + target, decimals)
        second = np.round(first * 0.5 + generator.normal(size=n) + 0.4 * target, decimals)
        found, (difference, error) = paired_difference(target, first, second), by_leaving_out(target, first, second)
        assert found.area == pytest.approx(difference, abs=1e-10)
        assert found.error == pytest.approx(error, abs=1e-10)
        assert found.error == pytest.approx(by_pairs_of_pairs(target, first, second), abs=1e-10)
        reach = 1.959963984540054 * error
        assert (found.low, found.high) == pytest.approx((difference - reach, difference + reach), abs=1e-10)


def test_the_paired_difference_is_that_of_the_areas_and_surer_than_if_the_patients_were_others():
    generator = np.random.default_rng(6)
    target = generator.random(90) < 0.5
    first = generator.normal(size=90) + target
    second = first + generator.normal(size=90) * 0.3
    one, two = area_with_interval(target, first), area_with_interval(target, second)
    found = paired_difference(target, first, second)
    assert found.area == pytest.approx(one.area - two.area, abs=1e-12)
    assert found.error < np.hypot(one.error, two.error)
    assert paired_difference(target, first, first).error == 0.0


def test_the_interval_holds_the_truth_about_as_often_as_it_says():
    generator = np.random.default_rng(7)
    truth, held = 0.7602499389065233, 0  # of two normals one deviation apart: Phi(1 / sqrt 2)
    target = np.arange(100) < 50
    for _ in range(300):
        found = area_with_interval(target, generator.normal(size=100) + target)
        held += found.low <= truth <= found.high
    assert 0.90 <= held / 300 <= 0.99
