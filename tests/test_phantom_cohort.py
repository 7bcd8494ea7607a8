"""A labelled cohort: who is in it depends on its plan alone, and its truth says what each chest shows."""

import csv
from dataclasses import replace

import numpy as np
import pytest

from pipeline.errors import ConfigurationError
from pipeline.phantom import CohortPlan, write_cohort
from pipeline.phantom.chest import LABELS
from pipeline.phantom.cohort import chest_of, shown_class

PLAN = CohortPlan((1, 1, 1), seed=6, matrix=128, slices=24)


def test_without_atypical_patients_every_chest_shows_its_label():
    assert all(shown_class(PLAN, number, label) == label for number in range(200) for label in LABELS)


def test_the_share_asked_for_shows_one_of_the_other_classes():
    plan = replace(PLAN, atypical=0.2)
    shows = [shown_class(plan, number, "covid") for number in range(4000)]
    assert abs(np.mean([one == "covid" for one in shows]) - 0.8) < 0.02  # three standard errors
    assert abs(np.mean([one == "healthy" for one in shows]) - 0.1) < 0.015


def test_who_is_atypical_stays_so_as_the_share_grows():
    def atypical(share):
        plan = replace(PLAN, atypical=share)
        return {number for number in range(300) if shown_class(plan, number, "healthy") != "healthy"}

    assert atypical(0.1) < atypical(0.3) < atypical(0.6)


def test_an_atypical_healthy_chest_has_lesions_and_the_truth_says_what_it_shows(tmp_path):
    plan = replace(PLAN, atypical=1.0)
    write_cohort(tmp_path / "archive", plan)
    with (tmp_path / "archive-truth" / "truth.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["label"] for row in rows] == list(LABELS)
    assert all(row["shows"] != row["label"] for row in rows)
    lesions = [np.load(tmp_path / "archive-truth" / "masks" / f"{row['masks']}.npz")["lesion"].any() for row in rows]
    assert lesions == [row["shows"] != "healthy" for row in rows]
    assert chest_of(plan, 2, "healthy").lesion.any()
    write_cohort(tmp_path / "archive", plan)  # all there already
    with pytest.raises(ConfigurationError, match="another cohort"):
        write_cohort(tmp_path / "archive", PLAN)
