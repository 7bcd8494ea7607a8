"""A screened run and labels: figures are those that scikit-learn finds in the run's own tables; bad labels are refused."""

import csv
import json
import os
import re
import shutil
from contextlib import redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from sklearn import metrics

from pipeline.cli import main
from pipeline.errors import ConfigurationError
from pipeline.evaluation.evaluate import Asked, evaluate
from pipeline.evaluation.screened_run import measure_screened, target_of
from pipeline.phantom import CohortPlan, write_cohort
from pipeline.pseudonym import make_key, pseudonym, read_key
from pipeline.records import DRAWN
from pipeline.run.run_toml import Network
from pipeline.study.shipped import shipped_weights


@dataclass(frozen=True)
class Screened:
    """A cohort that no network was trained on, screened with two networks as a user would, and evaluated."""

    archive: Path
    run: Path
    labels: Path
    key: Path
    said: str
    screening: str


@pytest.fixture(scope="module")
def screened(tmp_path_factory, weights):
    folder = tmp_path_factory.mktemp("screened")
    write_cohort(folder / "archive", CohortPlan((3, 3, 1), seed=11, matrix=128, slices=24))
    labels, key = folder / "archive-truth" / "labels.csv", folder / "key"
    make_key(key)
    networks = ["--weights", shipped_weights()["covid-vs-bacterial"], "--weights", weights]
    screening = drenet("screen", folder / "archive", *networks, "--out", folder / "run", "--key-file", key)
    said = drenet("evaluate", folder / "run", "--labels", labels)
    drenet("report", folder / "run")
    return Screened(folder / "archive", folder / "run", labels, key, said, screening)


def drenet(*arguments):
    """Do as the command does, in this process and no child of it, and return what it says."""
    said, process = StringIO(), os.getpid()
    with redirect_stdout(said):
        assert main([str(argument) for argument in arguments]) == 0
    assert os.getpid() == process
    return said.getvalue()


@pytest.fixture(autouse=True)
def few_resamples(monkeypatch):
    monkeypatch.setattr("pipeline.evaluation.intervals.N_RESAMPLES", 20)


def rows(path):
    with path.open() as file:
        return list(csv.DictReader(file))


def figures_of(run, name):
    return {(row["level"], row["metric"]): row for row in rows(run / "evaluation" / name / "figures.csv")}


def truth_of(screened):
    """patient_key -> label, by the key alone: no line in common with the package's join."""
    key = read_key(screened.key)
    return {pseudonym(key, "patient", f"\\{row['patient_id']}"): row["label"] for row in rows(screened.labels)}


@pytest.mark.parametrize(("column", "classes"), [("covid_vs_bacterial", ("covid", "bacterial")), ("probability", None)])
def test_the_figures_are_those_that_scikit_learn_finds_in_the_runs_tables(screened, column, classes):
    truth, found = truth_of(screened), figures_of(screened.run, column)
    patients = pd.read_csv(screened.run / "patients.csv").set_index("patient_key")[column].dropna()
    patients = patients[[classes is None or truth[key] in classes for key in patients.index]]
    slices = pd.read_parquet(screened.run / "slices.parquet")
    slices["patient"] = slices["study_key"].map(pd.read_csv(screened.run / "studies.csv").set_index("study_key")["patient_key"])
    slices = slices[slices["patient"].isin(patients.index)]
    stated = re.search(r"threshold = ([\d.]+)", (screened.run / "run.toml").read_text())
    threshold = float(stated[1]) if column == "covid_vs_bacterial" else 0.5
    for level, keys, score in (("patient", patients.index, patients), ("image", slices["patient"], slices[column])):
        target, called = [truth[key] == "covid" for key in keys], score.to_numpy() >= threshold
        wanted = {
            "AUC": metrics.roc_auc_score(target, score),
            "average precision": metrics.average_precision_score(target, score),
            "recall": metrics.recall_score(target, called),
            "specificity": metrics.recall_score(target, called, pos_label=False),
            "precision": metrics.precision_score(target, called, zero_division=0),
            "F1": metrics.f1_score(target, called),
            "accuracy": metrics.accuracy_score(target, called),
            "Brier score": metrics.brier_score_loss(target, score),
        }
        assert {name: float(found[level, name]["value"]) for name in wanted} == pytest.approx(wanted, abs=1e-12)


def test_the_command_says_the_figures_and_the_report_shows_them_with_the_curves(screened):
    area = float(figures_of(screened.run, "covid_vs_bacterial")["patient", "AUC"]["value"])
    assert f"patient  AUC                {area:.3f}" in screened.said
    page = (screened.run / "report" / "index.html").read_text()
    assert "Evaluation against the labels" in page
    assert f"<td>AUC</td><td>{area!r}</td>" in page.replace("\n", "")
    for title in ("covid vs bacterial: curves", "covid vs bacterial: confusion", "probability: curves"):
        assert f"<strong>{title}</strong>" in page
    assert "Figures of synthetic patients say nothing about clinical accuracy" in page


def test_wherever_a_score_of_a_shipped_network_stands_it_says_what_that_was_trained_on(screened):
    run = screened.run
    with h5py.File(run / "results.h5") as results:
        meanings = [meaning.decode() for meaning in results["networks/meaning"]]
    schema = pq.read_schema(run / "slices.parquet")
    assert DRAWN in meanings[0]
    assert DRAWN not in meanings[1]
    assert DRAWN in schema.field("covid_vs_bacterial").metadata[b"meaning"].decode()
    told = json.loads((run / "csv-metadata.json").read_text())
    for table in told["tables"][:2]:
        about = {column["name"]: column["dc:description"] for column in table["tableSchema"]["columns"]}
        assert DRAWN in about["covid_vs_bacterial"]
        assert DRAWN in about["covid_vs_bacterial_above"]
    page = (run / "report" / "index.html").read_text()
    assert DRAWN in page[: page.index("<h1>")]
    for name in ("run.toml", "report/card.md", "evaluation/covid_vs_bacterial/about.csv"):
        assert DRAWN in (run / name).read_text(), name
    assert f"covid_vs_bacterial: probability of covid (covid-vs-bacterial); research use only; {DRAWN}" in screened.screening


def test_whoever_is_left_out_is_counted_and_nothing_identifies_anybody(screened):
    told = rows(screened.run / "evaluation" / "covid_vs_bacterial" / "left_out.csv")
    left_out = {row["reason"]: row["patients"] for row in told}
    assert left_out == {"label healthy is not of this network": "1"}
    assert rows(screened.run / "evaluation" / "probability" / "left_out.csv") == []
    held = b"".join(path.read_bytes() for path in (screened.run / "evaluation").rglob("*") if path.is_file())
    assert b"CANARY" not in held
    assert str(screened.labels.parent).encode() not in held


@pytest.fixture
def copy(screened, tmp_path):
    """The run, to be spoiled."""
    shutil.copytree(screened.run, tmp_path / "run", ignore=shutil.ignore_patterns("report", "evaluation", "images"))
    return tmp_path / "run"


def measured(run, labels, key=None):
    """By network the patients' truth and score."""
    found = measure_screened(run, labels, key)
    rows = {one.name: (one.keys, one.by_patient.target.tolist(), one.by_patient.score.tolist()) for one in found}
    assert len(rows) == 2
    return rows


def test_labels_join_by_key_by_id_and_by_study_with_and_without_the_private_folder(screened, copy, tmp_path):
    wanted = measured(copy, screened.labels)
    truth = truth_of(screened)
    (tmp_path / "by-key.csv").write_text("\n".join(["patient_key,label", *(f"{k},{v}" for k, v in truth.items()), ""]))
    assert measured(copy, tmp_path / "by-key.csv") == wanted
    shutil.rmtree(copy / "private")
    assert measured(copy, tmp_path / "by-key.csv") == wanted
    assert measured(copy, screened.labels, screened.key) == wanted
    with pytest.raises(ConfigurationError, match="--key-file"):
        measured(copy, screened.labels, tmp_path / "no.key")
    assert not (tmp_path / "no.key").exists()


def test_patients_without_a_label_and_labels_without_a_patient_are_stated(screened, copy, tmp_path):
    lines = screened.labels.read_text().splitlines()
    (tmp_path / "some.csv").write_text("\n".join([*lines[:1], *lines[2:], "CANARYID-elsewhere,covid", "CANARYID-blank,", ""]))
    evaluate(Asked(copy, tmp_path / "some.csv"))
    stated = {row["reason"]: row["patients"] for row in rows(copy / "evaluation" / "probability" / "left_out.csv")}
    assert stated == {"LABEL_MISSING": "1", "not in this run": "1"}


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (lambda lines: [lines[0], "nobody,covid", "nobody-else,bacterial"], "LABEL_MISSING.*belong together"),
        (lambda lines: [*lines, lines[1].replace(",covid", ",bacterial")], "LABEL_CONFLICT.*keep one"),
        (lambda lines: [line for line in lines if "bacterial" not in line and "healthy" not in line], "LABEL_ONE_CLASS"),
        (lambda lines: [*lines, "CANARYID-other,flu"], "LABEL_UNKNOWN"),
        (lambda lines: ["name,label", *lines[1:]], "needs the columns"),
    ],
)
def test_labels_that_say_nothing_or_contradict_are_refused_with_a_cure(screened, copy, tmp_path, change, code):
    (tmp_path / "bad.csv").write_text("\n".join([*change(screened.labels.read_text().splitlines()), ""]))
    with pytest.raises(ConfigurationError, match=code):
        evaluate(Asked(copy, tmp_path / "bad.csv"))
    assert not (copy / "evaluation").exists()


def test_a_study_may_have_a_label_of_its_own_but_a_patient_only_one(screened, copy, tmp_path):
    manifest = (copy / "private" / "manifest.jsonl").read_text()
    covid, bacterial = (
        next(line for line in manifest.splitlines() if f"-{label}-" in line) for label in ("covid", "bacterial")
    )
    uid, mine, other = (re.search(f'"{name}":"([^"]+)"', line)[1] for name, line in (
        ("study_uid", bacterial), ("patient_key", covid), ("patient_key", bacterial)))  # fmt: skip
    lines = [f"{line}," for line in screened.labels.read_text().splitlines()[1:]]
    (tmp_path / "own.csv").write_text("\n".join(["patient_id,label,study_uid", *lines, f",covid,{uid}", ""]))
    evaluate(Asked(copy, tmp_path / "own.csv"))
    patients = rows(copy / "evaluation" / "covid_vs_bacterial" / "patients.csv")
    positive = {row["patient_key"]: row["positive"] for row in patients}
    assert (positive[other], sum(map(int, positive.values()))) == ("1", 4)
    (copy / "private" / "manifest.jsonl").write_text(manifest.replace(other, mine))
    (copy / "private" / "manifest.heads").unlink()
    with pytest.raises(ConfigurationError, match=f"patient {mine} has the labels bacterial and covid.*LABEL_CONFLICT"):
        evaluate(Asked(copy, screened.labels))


def test_an_unfinished_run_and_a_folder_that_is_none_are_refused_with_a_cure(screened, copy, tmp_path):
    with pytest.raises(ConfigurationError, match="--part, --archive and --cache are for training runs"):
        evaluate(Asked(copy, screened.labels, part="test"))
    lines = (copy / "studies.csv").read_text().splitlines()
    (copy / "studies.csv").write_text("\n".join([*lines[:-1], ""]))
    with pytest.raises(ConfigurationError, match=r"1 of 7 studies are open. Start its `drenet screen` again"):
        evaluate(Asked(copy, screened.labels))
    (copy / "studies.csv").unlink()
    with pytest.raises(ConfigurationError, match="drenet gather"):
        evaluate(Asked(copy, screened.labels))
    with pytest.raises(ConfigurationError, match="neither a training run's folder"):
        evaluate(Asked(tmp_path, screened.labels))


@pytest.mark.long
def test_the_difference_to_another_run_is_delongs_on_the_same_patients(screened, copy, weights):
    other = copy.with_name("other")
    drenet("screen", screened.archive, "--weights", f"covid_vs_bacterial={weights}", "--out", other, "--key-file", screened.key)
    evaluate(Asked(copy, screened.labels))
    binary = screened.labels.with_name("binary.csv")  # the formula network would take the healthy for negatives too
    binary.write_text("".join(line for line in screened.labels.read_text().splitlines(keepends=True) if "healthy" not in line))
    said = drenet("evaluate", other, "--labels", binary, "--against", copy)
    found, wide = figures_of(other, "covid_vs_bacterial")["patient", "AUC difference"], figures_of(copy, "covid_vs_bacterial")
    assert f"AUC difference     {float(found['value']):.3f}" in said
    scored = [pd.read_csv(run / "evaluation" / "covid_vs_bacterial" / "patients.csv") for run in (other, copy)]
    first, second = (table["probability"].to_numpy() for table in scored)
    target = scored[0]["positive"].to_numpy(bool)
    areas = [metrics.roc_auc_score(target, score) for score in (first, second)]
    assert areas[1] == pytest.approx(float(wide["patient", "AUC"]["value"]))
    assert float(found["value"]) == pytest.approx(areas[0] - areas[1])
    reach = 1.959963984540054 * jackknife_error(target, first, second)
    interval = [float(found[edge]) for edge in ("low", "high")]
    assert interval == pytest.approx([areas[0] - areas[1] - reach, areas[0] - areas[1] + reach], abs=1e-10)
    with pytest.raises(ConfigurationError, match="holds other patients"):
        evaluate(Asked(other, screened.labels, against=copy))
    swapped = screened.labels.with_name("swapped.csv")
    swapped.write_text(binary.read_text().replace(",covid", ",x").replace(",bacterial", ",covid").replace(",x", ",bacterial"))
    with pytest.raises(ConfigurationError, match="other labels"):
        evaluate(Asked(other, swapped, against=copy))
    with pytest.raises(ConfigurationError, match="evaluate that run first"):
        evaluate(Asked(other, binary, against=screened.run.parent))


def jackknife_error(target, first, second):
    """Of the difference of areas, by leaving out every patient in turn."""
    variance, everybody = 0.0, np.arange(len(target))
    for members in (np.flatnonzero(target), np.flatnonzero(~target)):
        rest = [np.delete(everybody, member) for member in members]
        left = [np.subtract(*(metrics.roc_auc_score(target[r], score[r]) for score in (first, second))) for r in rest]
        variance += (len(left) - 1) ** 2 / len(left) * np.var(left, ddof=1)
    return variance**0.5


def test_a_network_of_unknown_classes_takes_covid_for_positive_and_all_others_for_negative():
    named = Network("probability", "", ("bacterial", "covid"), "covid")
    assert [target_of(label, named) for label in ("covid", "bacterial", "healthy")] == [True, False, None]
    for classes in (("negative", "positive"), ("control", "covid")):
        unnamed = Network("probability", "", classes, classes[1])
        assert [target_of(label, unnamed) for label in ("covid", "bacterial", "healthy")] == [True, False, False]
    assert target_of("healthy", Network("probability", "", ("healthy", "bacterial", "covid"), "covid")) is False
