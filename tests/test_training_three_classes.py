"""Three classes from training to the screened tables; baselines train too, and are refused where only DRE-Net fits."""

import csv

import pytest

from pipeline.phantom import CohortPlan, write_cohort

RECIPE = """
width = 0.0625
micro_batch = 4
slices_per_epoch = 8
trunk_epochs = 1
epochs = 1
optimiser = "adamw"
shares = [0.5, 0.25, 0.25]
"""
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    """Four patients of each class."""
    folder = tmp_path_factory.mktemp("cohort")
    write_cohort(folder / "archive", CohortPlan((4, 4, 4), seed=9, matrix=128, slices=24))
    (folder / "recipe.toml").write_text(RECIPE)
    return folder


def _train(drenet, cohort, task, out, *more):
    labels, recipe = cohort / "archive-truth" / "labels.csv", cohort / "recipe.toml"
    asked = ("--labels", labels, "--task", task, "--recipe", recipe, "--cache", cohort / "cache", "--out", out)
    return drenet("train", cohort / "archive", *asked, *more)


def test_a_network_of_three_classes_is_trained_evaluated_and_screens(cohort, drenet):
    out, run, labels = cohort / "three", cohort / "run", cohort / "archive-truth" / "labels.csv"
    assert _train(drenet, cohort, "three-class", out).returncode == 0
    done = drenet("evaluate", out, "--labels", labels, "--cache", cohort / "cache")
    assert (done.returncode, "AUC" in done.stdout) == (0, True), done.stdout
    assert drenet("screen", cohort / "archive", "--weights", out / "best.safetensors", "--out", run).returncode == 0
    with (run / "studies.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 12
    assert all(0 < float(row["three_class"]) < 1 and row["three_class_above"] in "01" for row in rows)
    assert drenet("evaluate", run, "--labels", labels).returncode == 0
    with (run / "evaluation" / "three_class" / "patients.csv").open() as file:
        assert sorted(row["positive"] for row in csv.DictReader(file)) == ["0"] * 8 + ["1"] * 4


@pytest.mark.parametrize("model", ["resnet50", "vgg16", "densenet121"])
def test_a_baseline_is_trained_and_evaluated_and_refused_for_screening(model, cohort, drenet):
    out, labels = cohort / model, cohort / "archive-truth" / "labels.csv"
    assert _train(drenet, cohort, "covid-vs-bacterial", out, "--model", model).returncode == 0
    done = drenet("evaluate", out, "--labels", labels, "--cache", cohort / "cache")
    assert (done.returncode, "AUC" in done.stdout) == (0, True), done.stdout
    done = drenet("screen", cohort / "archive", "--weights", out / "best.safetensors", "--out", cohort / f"{model}-run")
    assert (done.returncode, model in done.stdout) == (2, True), done.stdout
