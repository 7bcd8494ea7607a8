"""The figures by patient are what they say, and the shipped networks still earn those that their card states."""

import json
from pathlib import Path

import numpy as np
import pytest

from pipeline.evaluation.held_out import HELD_OUT, held_out, patient_figures
from pipeline.evaluation.intervals import wilson
from pipeline.study.shipped import shipped_weights

CARD = Path(__file__).parents[1] / "docs" / "held-out.json"


def test_recall_and_precision_are_those_of_the_patients_above_the_threshold():
    target = np.array([True, True, True, False, False, False, False])
    figures = patient_figures(target, np.array([0.9, 0.8, 0.2, 0.7, 0.1, 0.1, 0.3]), threshold=0.5)
    assert figures["recall"][0] == pytest.approx(2 / 3)
    assert figures["specificity"][0] == pytest.approx(3 / 4)
    assert figures["precision"][0] == pytest.approx(2 / 3)
    assert figures["auc"][0] == pytest.approx(10 / 12)


def test_wilsons_interval_is_that_of_the_textbook_and_stays_within_0_and_1():
    assert wilson(8, 10) == pytest.approx([0.8, 0.4901625, 0.9433178], abs=1e-6)
    assert wilson(0, 5)[1] == 0.0
    assert wilson(5, 5)[2] == 1.0


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("cohort", HELD_OUT)
def test_the_shipped_networks_earn_the_figures_of_their_card_on_held_out_patients(cohort, tmp_path):
    found = held_out(tmp_path, shipped_weights(), HELD_OUT[cohort])
    stated = json.loads(CARD.read_text())[cohort]
    assert found.keys() == stated.keys()
    for task, figures in stated.items():
        assert found[task]["sha256"] == figures["sha256"]
        assert found[task]["auc"] == pytest.approx(figures["auc"], abs=1e-3)  # another processor may round otherwise
        for what in ("findings", "top_details"):
            measured, said = (one["localisation"][what]["all"]["ratio"] for one in (found[task], figures))
            assert measured == pytest.approx(said, abs=0.1)
            assert measured[1] >= 1.5
        if cohort == "plain":
            assert found[task]["auc"][1] >= {"covid-vs-healthy": 0.80, "covid-vs-bacterial": 0.70}[task]
