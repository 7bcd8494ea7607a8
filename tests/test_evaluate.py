"""Evaluation: figures that agree with first principles, intervals that keep a patient's slices together."""

import numpy as np
import pytest

from pipeline.training.evaluate import Figure, Scored, _write_tables
from pipeline.training.figures import calibration_error, figures
from pipeline.training.plots import draw


@pytest.fixture(autouse=True)
def few_resamples(monkeypatch):
    monkeypatch.setattr("pipeline.training.figures.N_RESAMPLES", 60)


def cohort(n_patients=40, n_slices=6):
    """(by image, by patient): the slices of a patient agree with one another."""
    generator = np.random.default_rng(3)
    target = np.arange(n_patients) % 2 == 0
    patient = np.clip(0.35 + 0.3 * target + generator.normal(0, 0.2, n_patients), 0.01, 0.99)
    numbers = np.arange(n_patients)
    image = Scored(np.repeat(target, n_slices), np.repeat(patient, n_slices), np.repeat(numbers, n_slices))
    return image, Scored(target, patient, numbers)


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
    assert all(figure.low <= figure.value <= figure.high for figure in found.values() if figure.metric != "calibration error")


def test_more_slices_of_the_same_patients_make_no_interval_narrower():
    few, many = (named(figures("image", cohort(n_slices=n)[0], 0.5))["AUC"] for n in (2, 20))
    assert many.high - many.low == pytest.approx(few.high - few.low, rel=1e-6)


def test_scores_that_are_their_own_frequencies_have_no_calibration_error():
    target = np.array([True, False, False, False, True, True, True, False])
    assert calibration_error(target, np.array([0.25] * 4 + [0.75] * 4)) == pytest.approx(0.0)
    assert calibration_error(target, np.array([0.75] * 4 + [0.25] * 4)) == pytest.approx(0.5)


def test_tables_and_pictures_are_written_and_say_what_they_are_worth(tmp_path):
    image, patients = cohort()
    _write_tables(tmp_path, [Figure("patient", "AUC", 0.8, 0.7, 0.9, "DeLong")], 0.5)
    assert "| patient | AUC | 0.800 | 0.700 to 0.900 | DeLong |" in (tmp_path / "figures.md").read_text()
    assert "nothing about clinical accuracy" in (tmp_path / "figures.md").read_text()
    _write_tables(tmp_path, [], None)
    assert "0.5, since the checkpoint states none" in (tmp_path / "figures.md").read_text()
    pictures = dict(draw(image, patients, 0.5))
    assert sorted(pictures) == ["confusion.png", "confusion.svg", "curves.png", "curves.svg"]
    assert pictures["curves.png"].startswith(b"\x89PNG")
    for name, data in pictures.items():
        (tmp_path / name).write_bytes(data)
