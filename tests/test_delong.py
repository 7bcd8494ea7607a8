"""DeLong's interval, against an independent way to the same figures."""

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from pipeline.training.delong import area_with_interval, paired_difference


def by_jackknife_of_u(target, score):
    """Sen's form of the variance, from sums over ranks with loops: no line in common with delong.py."""
    positive, negative = score[target].tolist(), score[~target].tolist()

    def wins(a, b):
        return 1.0 if a > b else 0.5 if a == b else 0.0

    v10 = [sum(wins(a, b) for b in negative) / len(negative) for a in positive]
    v01 = [sum(wins(a, b) for a in positive) / len(positive) for b in negative]
    area = sum(v10) / len(v10)
    s10 = sum((v - area) ** 2 for v in v10) / (len(v10) - 1)
    s01 = sum((v - area) ** 2 for v in v01) / (len(v01) - 1)
    return area, (s10 / len(v10) + s01 / len(v01)) ** 0.5


@pytest.mark.parametrize("decimals", [1, 8])
def test_area_and_error_agree_with_an_independent_reckoning_to_1e_10_with_and_without_ties(decimals):
    generator = np.random.default_rng(5)
    target = generator.random(70) < 0.4
    score = np.round(generator.normal(size=70) + target, decimals)
    found, (area, error) = area_with_interval(target, score), by_jackknife_of_u(target, score)
    assert found.area == pytest.approx(area, abs=1e-10)
    assert found.area == pytest.approx(roc_auc_score(target, score), abs=1e-10)
    assert found.error == pytest.approx(error, abs=1e-10)


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
