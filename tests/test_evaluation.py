"""Evaluation: figures that agree with first principles, intervals that keep a patient's slices together."""

import csv
import math
import re
from collections import Counter

import numpy as np
import pytest
from sklearn import metrics

from pipeline.evaluation.intervals import newcombe, wilson
from pipeline.evaluation.metrics import METRICS, Scored, calibration_error, figures
from pipeline.evaluation.write import Measured, interval, paired_figure, write_evaluation


@pytest.fixture(autouse=True)
def few_resamples(monkeypatch):
    monkeypatch.setattr("pipeline.evaluation.intervals.N_RESAMPLES", 60)


def cohort(n_patients=40, n_slices=6):
    """(by image, by patient): the slices of a patient agree with one another."""
    generator = np.random.default_rng(3)
    target = np.arange(n_patients) % 2 == 0
    patient = np.clip(0.35 + 0.3 * target + generator.normal(0, 0.2, n_patients), 0.01, 0.99)
    numbers = np.arange(n_patients)
    image = Scored(np.repeat(target, n_slices), np.repeat(patient, n_slices), np.repeat(numbers, n_slices))
    return image, Scored(target, patient, numbers)


def rows(path):
    with path.open() as file:
        return list(csv.DictReader(file))


def named(found):
    return {figure.metric: figure for figure in found}


def test_the_figures_by_patient_are_those_counted_by_hand():
    _, patients = cohort()
    found, above = named(figures("patient", patients, 0.5)), patients.score >= 0.5
    hits = (above & patients.target).sum()
    assert found["recall"].value == pytest.approx(hits / patients.target.sum())
    assert found["precision"].value == pytest.approx(hits / above.sum())
    assert found["accuracy"].value == pytest.approx((above == patients.target).mean())
    assert found["F1"].value == pytest.approx(2 * hits / (above.sum() + patients.target.sum()))
    assert found["Brier score"].value == pytest.approx(((patients.score - patients.target) ** 2).mean())
    assert (found["AUC"].method, found["recall"].method) == ("DeLong", "Wilson")
    assert (found["recall"].low, found["recall"].high) == wilson(hits, patients.target.sum())[1:]
    assert all(figure.low <= figure.value <= figure.high for figure in found.values() if figure.metric != "calibration error")


def test_more_slices_of_the_same_patients_make_no_interval_narrower():
    few, many = (named(figures("image", cohort(n_slices=n)[0], 0.5))["AUC"] for n in (2, 20))
    assert many.high - many.low == pytest.approx(few.high - few.low, rel=1e-6)


@pytest.mark.parametrize("decimals", [1, 8])
def test_metrics_are_what_scikit_learn_makes_of_them(decimals):
    generator = np.random.default_rng(8)
    for threshold in (0.3, 0.9):
        target = generator.random(60) < 0.3
        score = np.round(generator.random(60), decimals)
        called = score >= threshold
        wanted = {
            "AUC": metrics.roc_auc_score(target, score),
            "average precision": metrics.average_precision_score(target, score),
            "recall": metrics.recall_score(target, called, zero_division=0),
            "specificity": metrics.recall_score(~target, ~called, zero_division=0),
            "precision": metrics.precision_score(target, called, zero_division=0),
            "F1": metrics.f1_score(target, called, zero_division=0),
            "accuracy": metrics.accuracy_score(target, called),
            "Brier score": metrics.brier_score_loss(target, score),
            "calibration error": calibration_error(target, score),
        }
        found = {metric.name: metric.value(target, score, threshold) for metric in METRICS}
        assert found == pytest.approx(wanted, abs=1e-12)


@pytest.mark.parametrize("level", ["image", "patient"])
def test_perfect_scores_get_the_interval_that_the_number_of_patients_allows_and_it_says_why(level):
    image, patients = cohort(n_patients=20)
    perfect = np.where(patients.target, 0.9, 0.1)
    image, patients = (Scored(one.target, perfect[one.cluster], one.cluster) for one in (image, patients))
    found = named(figures(level, image if level == "image" else patients, 0.5))
    for metric in ("AUC", "recall", "specificity", "precision", "F1", "accuracy"):
        figure = found[metric]
        assert (figure.value, figure.high) == pytest.approx((1.0, 1.0))
        assert 0.6 < figure.low < 0.9, metric
        assert "Wilson" in figure.method or "Newcombe" in figure.method
    assert found["recall"].low == pytest.approx(wilson(10, 10)[1])  # 10 patients, however many slices
    assert found["AUC"].low == pytest.approx(newcombe(1.0, 10, 10)[0])
    assert np.isnan([found["average precision"].low, found["Brier score"].high]).all()
    assert found["Brier score"].method == "every draw is alike"


def test_two_runs_that_rank_all_patients_alike_differ_by_nothing_with_no_interval():
    _, patients = cohort()
    figure = paired_figure(patients, (patients.score / 2).tolist())
    assert figure.value == 0.0
    assert np.isnan([figure.low, figure.high]).all()
    assert interval(figure) == "no interval"


def test_scores_that_are_all_wrong_get_an_interval_too():
    _, patients = cohort(n_patients=20)
    found = named(figures("patient", Scored(patients.target, np.where(patients.target, 0.1, 0.9), patients.cluster), 0.5))
    for metric in ("AUC", "recall", "precision", "F1"):
        assert (found[metric].value, found[metric].low) == pytest.approx((0.0, 0.0), abs=1e-12)
        assert 0.1 < found[metric].high < 0.4, metric


def test_draws_of_one_class_are_counted():
    scored = Scored(np.array([True, False, False, True]), np.array([0.9, 0.2, 0.6, 0.4]), np.arange(4))
    method = named(figures("patient", scored, 0.5))["F1"].method
    assert re.fullmatch(r"bootstrap over patients, [1-9]\d* of 60 draws had one class and were left out", method)


def test_one_patient_of_a_class_leaves_the_area_an_interval():
    scored = Scored(np.array([True, False, False, False]), np.array([0.9, 0.2, 0.95, 0.4]), np.arange(4))
    area = named(figures("patient", scored, 0.5))["AUC"]
    assert area.value == pytest.approx(2 / 3)
    assert 0 < area.low < 0.3
    assert 0.8 < area.high < 1
    assert "one patient" in area.method


def test_newcombes_interval_covers_as_often_as_it_says_where_delong_would_have_no_width():
    generator = np.random.default_rng(9)
    held, perfect, distance = 0, 0, 2.5
    truth = 0.5 * (1 + math.erf(distance / 2))
    target = np.arange(24) < 12
    for _ in range(400):
        score = generator.normal(size=24) + distance * target
        area = (score[target][:, None] > score[~target]).mean()
        low, high = newcombe(area, 12, 12)
        held, perfect = held + (low <= truth <= high), perfect + (area == 1.0)
    assert perfect > 20
    assert held / 400 >= 0.93


def test_scores_that_are_their_own_frequencies_have_no_calibration_error():
    target = np.array([True, False, False, False, True, True, True, False])
    assert calibration_error(target, np.array([0.25] * 4 + [0.75] * 4)) == pytest.approx(0.0)
    assert calibration_error(target, np.array([0.75] * 4 + [0.25] * 4)) == pytest.approx(0.5)


def test_tables_and_pictures_are_written_and_what_must_be_known_stands_beside_them(tmp_path):
    image, patients = cohort()
    keys = tuple(f"K{number:02d}" for number in range(40))
    left_out = Counter({"LABEL_MISSING": 3})
    found = write_evaluation(tmp_path, Measured("test", image, patients, keys, None, {"labels": "of a test"}, left_out))
    out = tmp_path / "evaluation" / "test"
    pictures = ["confusion.png", "confusion.svg", "curves.png", "curves.svg"]
    assert sorted(path.name for path in out.iterdir()) == sorted(
        [*pictures, "about.csv", "figures.csv", "figures.md", "left_out.csv", "patients.csv"]
    )
    assert (out / "curves.png").read_bytes().startswith(b"\x89PNG")
    about = {row["item"]: row["says"] for row in rows(out / "about.csv")}
    assert "nothing about clinical accuracy" in about["notice"]
    assert about["left out"] == "LABEL_MISSING: 3 patients"
    assert about["threshold"] == "0.5, since the checkpoint states none"
    text = (out / "figures.md").read_text()
    assert all(f"- {item}: {says}" in text for item, says in about.items())
    area = next(figure for figure in found if (figure.level, figure.metric) == ("patient", "AUC"))
    assert f"| patient | AUC | {area.value:.3f} | {area.low:.3f} to {area.high:.3f} | DeLong |" in text
    assert [float(row["probability"]) for row in rows(out / "patients.csv")] == patients.score.tolist()
