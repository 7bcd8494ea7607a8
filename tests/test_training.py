"""Training: the number of ranks and a kill change nothing, patients stay in one part, labels are believed only where clear."""

import csv
import shutil
from collections import Counter
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import cv2
import msgspec
import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from pipeline.cohort.cache import cache_name
from pipeline.cohort.gather import gather_cohort
from pipeline.cohort.tasks import POSITIVE
from pipeline.config import Config
from pipeline.errors import ConfigurationError, Reason, StudyError
from pipeline.evaluation.trained_run import _left_out
from pipeline.mpi.world import Alone
from pipeline.phantom import CohortPlan, write_cohort
from pipeline.pseudonym import make_key
from pipeline.records import Box, PreparedStudy, Study
from pipeline.study.drenet import load_checkpoint
from pipeline.study.screener import SeenStudy
from pipeline.training import fit, run
from pipeline.training.events import FILE
from pipeline.training.fit import JUMP, Trainer, Validation
from pipeline.training.recipe import Recipe
from pipeline.training.run import TrainingRequest, check
from pipeline.training.state import State
from tests.fabricate import images, write

RECIPE = """
width = 0.0625
micro_batch = 2
micro_batches = 2
slices_per_epoch = 28
trunk_epochs = 2
trunk_full_size = 1
epochs = 1
optimiser = "adamw"
trunk_learning_rate = 2e-3
learning_rate = 1e-3
schedule = "one-cycle"
explore = 1.0
details = "lung"
checkpoint_every_s = 0
"""


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    """Twelve patients of two classes, and a cache that all runs share."""
    folder = tmp_path_factory.mktemp("cohort")
    write_cohort(folder / "archive", CohortPlan((5, 5, 1), seed=3, matrix=128, slices=24))
    (folder / "recipe.toml").write_text(RECIPE)
    return folder


@pytest.fixture(scope="module")
def train(cohort, drenet):
    """Start `drenet train` on the cohort."""

    def start(out, *more, **options):
        labels = cohort / "archive-truth" / "labels.csv"
        asked = ("--labels", labels, "--task", "covid-vs-bacterial", "--recipe", cohort / "recipe.toml")
        return drenet("train", cohort / "archive", *asked, "--cache", cohort / "cache", "--out", out, *more, **options)

    return start


@pytest.fixture(scope="module")
def trained(cohort, train):
    """The run of one rank, from beginning to end."""
    done = train(cohort / "one", "--tensorboard")
    assert done.returncode == 0, done.stdout
    (cohort / "one.log").write_text(done.stdout)
    return cohort / "one"


def rows(path):
    with path.open() as file:
        return list(csv.DictReader(file))


def test_a_training_tells_its_course_in_tables_pictures_event_files_and_one_line_of_the_jump(cohort, trained):
    assert all(float(row["validation_loss"]) > 0 for row in rows(trained / "epochs.csv"))
    assert (trained / "curves.png").stat().st_size > 10_000
    assert (trained / "tensorboard" / FILE).stat().st_size > 1000
    assert (cohort / "one.log").read_text().count(JUMP) == 1


@pytest.mark.long
def test_one_and_two_ranks_train_the_same_network_bit_for_bit(cohort, train, trained):
    done = train(cohort / "two", ranks=2)
    assert done.returncode == 0, done.stdout
    for name in ("steps.csv", "epochs.csv"):
        assert (cohort / "two" / name).read_bytes() == (trained / name).read_bytes()
    one, two = (load_file(folder / "best.safetensors") for folder in (trained, cohort / "two"))
    assert all(torch.equal(value, two[key]) for key, value in one.items())
    assert len(rows(trained / "steps.csv")) == 21


def test_the_network_that_training_began_with_is_the_best_where_training_makes_it_worse(cohort, trained, monkeypatch):
    first_is_right = iter([True, False])

    def validate(trainer, _epoch):
        right = next(first_is_right)
        return {
            member.patient_key: (0.9 if (member.label == POSITIVE) == right else 0.1, 0.5)
            for member in trainer.cohort.part("validation")
        }

    monkeypatch.setattr(Trainer, "validate", validate)
    recipe = msgspec.structs.replace(msgspec.toml.decode(RECIPE, type=Recipe), trunk_epochs=0, trunk_full_size=0)
    request = TrainingRequest(
        cohort / "archive", cohort / "archive-truth" / "labels.csv", "covid-vs-bacterial", cohort / "warm", recipe,
        Config(), start=trained / "best.safetensors", cache=cohort / "cache",
    )  # fmt: skip
    state = run.train(Alone(), request)
    assert (state.best, state.since_best, len(state.epochs)) == (1.0, 1, 1)
    began, best = (load_file(folder / "best.safetensors") for folder in (trained, cohort / "warm"))
    assert all(torch.equal(value, best[key]) for key, value in began.items())


@pytest.mark.parametrize(
    ("schedule", "areas", "kept"),
    [
        ("one-cycle", [0.94, 0.93], [0.94, 0.93]),
        ("one-cycle", [0.94, 0.91], [0.94]),
        ("one-cycle", [0.94, 0.93, 0.915], [0.94, 0.93]),
        ("one-cycle", [0.94, 0.95, 0.945], [0.94, 0.95, 0.945]),
        ("steps", [0.94, 0.93, 0.95], [0.94, 0.95]),
    ],
)
def test_of_networks_of_one_cycle_that_are_alike_the_later_is_kept(schedule, areas, kept, monkeypatch):
    written = []
    monkeypatch.setattr(fit, "write_network", lambda *given: written.append(given[-1]))
    recipe = Recipe(trunk_epochs=3, epochs=2, schedule=schedule)
    trainer = SimpleNamespace(recipe=recipe, folders=SimpleNamespace(run=Path()), network=None, cohort=SimpleNamespace(task=""))
    state = State(epoch=3)
    for area in areas:
        fit._keep_best(trainer, state, Validation(area, threshold=area, loss=0.0))
        state.epoch += 1
    assert written == kept
    assert state.best == max(areas)


@pytest.mark.long
def test_a_run_that_was_killed_ends_with_the_same_weights(cohort, train, trained):
    done = train(cohort / "killed", fault="die_in_training")
    assert done.returncode == 76, done.stdout
    assert not (cohort / "killed" / "best.safetensors").exists()
    assert 0 < len(rows(cohort / "killed" / "steps.csv")) < 21
    done = train(cohort / "killed")
    assert done.returncode == 0, done.stdout
    assert (cohort / "killed" / "best.safetensors").read_bytes() == (trained / "best.safetensors").read_bytes()


def test_the_checkpoint_says_what_it_was_trained_for_and_screens(trained):
    metadata = load_checkpoint(trained / "best.safetensors").metadata
    assert (metadata.classes, metadata.positive, metadata.task) == (("bacterial", "covid"), 1, "covid-vs-bacterial")
    assert 0 < metadata.threshold < 1


def test_every_class_has_patients_in_every_part_and_no_patient_is_in_two(trained):
    split = rows(trained / "split.csv")
    assert len({row["patient_key"] for row in split}) == len(split) == 10
    assert {(row["label"], row["part"]) for row in split} == {
        (label, part) for label in ("covid", "bacterial") for part in ("train", "validation", "test")
    }


def test_a_resume_with_another_recipe_is_refused_naming_what_differs(cohort, train, trained):
    shutil.copytree(trained, cohort / "other")
    done = train(cohort / "other", "--model", "vgg16")
    assert done.returncode == 2
    assert "model" in done.stdout


def test_a_training_begun_under_the_earlier_identity_rule_is_refused_and_told_why(tmp_path):
    request = TrainingRequest(tmp_path, tmp_path, "covid-vs-bacterial", tmp_path / "run", Recipe(), Config())
    check(Alone(), request)
    check(Alone(), request)
    written = tmp_path / "run" / "recipe.toml"
    written.write_text("\n".join(line for line in written.read_text().splitlines() if "identity_rule" not in line))
    with pytest.raises(ConfigurationError, match="read patients' IDs without their character set"):
        check(Alone(), request)


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("patient_id,label\nA,covid\nA,healthy\n", "LABEL_CONFLICT"),
        ("patient_id,label\nA,flu\n", "LABEL_UNKNOWN"),
        ("name,label\nA,covid\n", "columns"),
    ],
)
def test_labels_that_contradict_or_are_unknown_are_refused_by_line(tmp_path, text, code):
    from pipeline.cohort.labels import read_labels

    path = tmp_path / "labels.csv"
    path.write_text(text)
    with pytest.raises(ConfigurationError, match=code):
        read_labels(path)


def test_labels_that_belong_to_no_patient_here_are_an_error_not_an_empty_training(cohort, train, tmp_path):
    labels = tmp_path / "labels.csv"
    labels.write_text("patient_id,label\nnobody,covid\nnobody-else,bacterial\n")
    done = train(tmp_path / "out", "--labels", labels)
    assert done.returncode == 2
    assert "LABEL_ONE_CLASS" in done.stdout


@pytest.mark.long
def test_a_trained_run_is_evaluated_on_the_patients_of_its_split(cohort, trained, monkeypatch, tmp_path):
    from pipeline.evaluation.evaluate import Asked, evaluate

    monkeypatch.setattr("pipeline.evaluation.intervals.N_RESAMPLES", 20)
    asked = Asked(trained, cohort / "archive-truth" / "labels.csv", cache=cohort / "cache", key_file=tmp_path / "unused.key")
    found = {(figure.level, figure.metric): figure for figure in evaluate(asked)["test"]}
    scored = rows(trained / "evaluation" / "test" / "patients.csv")
    assert {row["patient_key"] for row in scored} == {
        row["patient_key"] for row in rows(trained / "split.csv") if row["part"] == "test"
    }
    hits = [row["positive"] == "1" for row in sorted(scored, key=lambda row: float(row["probability"]))]
    assert found["patient", "AUC"].value == pytest.approx(_share_of_pairs(hits))


@pytest.mark.long
def test_evaluating_leaves_the_training_run_as_it_was_whatever_the_labels_lack(cohort, trained, monkeypatch, tmp_path):
    from pipeline.evaluation.evaluate import Asked, evaluate

    monkeypatch.setattr("pipeline.evaluation.intervals.N_RESAMPLES", 20)
    labels = (cohort / "archive-truth" / "labels.csv").read_text().splitlines(keepends=True)
    (tmp_path / "partial.csv").write_text("".join(labels[:1] + labels[2:]))
    before = _files_but_evaluation(trained)
    make_key(tmp_path / "key")
    asked = Asked(trained, tmp_path / "partial.csv", part="train", key_file=tmp_path / "key")  # and without the run's --cache
    evaluate(asked)
    with pytest.raises(ConfigurationError, match="another pseudonym key"):
        evaluate(replace(asked, archive=cohort / "archive"))
    assert _files_but_evaluation(trained) == before
    assert "LABEL_MISSING" in (trained / "evaluation" / "train" / "left_out.csv").read_text()
    assert not [path for path in (trained / "evaluation").rglob("*") if path.name == "private"]


def _files_but_evaluation(run):
    kept = (path for path in run.rglob("*") if path.is_file() and not {"evaluation", "cache"} & set(path.parts[-4:]))
    return {path: path.read_bytes() for path in kept}


def _share_of_pairs(ascending):
    """Of all pairs (positive, negative) the share in which the positive comes later."""
    pairs = [(p, n) for p, positive in enumerate(ascending) if positive for n, other in enumerate(ascending) if not other]
    return sum(p > n for p, n in pairs) / len(pairs)


def test_a_trained_network_says_where_it_looks_for_details(trained):
    assert load_checkpoint(trained / "best.safetensors").metadata.details == "lung"


def test_prepared_slices_are_prepared_again_by_other_code(monkeypatch):
    study, config = Study("s1", "p1", "uid", "id"), Config()
    name = cache_name(study, config)
    assert cache_name(study, config) == name
    monkeypatch.setattr("pipeline.cohort.cache.code_digest", lambda _: "of another day")
    assert cache_name(study, config) != name


class _Preparer:
    """Prepares a blank slice of every study, but of some, whose lungs are missing or which meet a fault of any kind."""

    faults = (StudyError(Reason.NO_LUNG_FOUND, "lung"), ZeroDivisionError("CANARY"), MemoryError(), cv2.error("CANARY"))

    def __init__(self, *_, **__):
        self.n_met = 0

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def best(self, _):
        self.n_met += 1
        if self.n_met <= len(self.faults):
            raise self.faults[self.n_met - 1]
        pictures = np.zeros((1, 448, 448), np.uint8), np.zeros((1, 600, 600), np.uint8), np.zeros((1, 448, 448), bool)
        prepared = PreparedStudy(*pictures, np.zeros(1, np.int32), np.zeros(1), (Box(0, 0, 1, 1),), np.zeros(1))
        return SeenStudy(None, None, None, prepared)


def test_a_study_that_cannot_be_prepared_is_left_out_with_its_code_whatever_the_fault(tmp_path, monkeypatch, caplog):
    lines = ["patient_id,label"]
    for number in range(11):
        write(tmp_path / "archive" / str(number), images(f"{number}"))
        lines.append(f"CANARYID-{number},{'healthy' if number == 10 else ('covid', 'bacterial')[number % 2]}")
    labels = tmp_path / "labels.csv"
    labels.write_text("\n".join(lines))
    monkeypatch.setattr("pipeline.cohort.cache.Preparer", _Preparer)
    make_key(tmp_path / "key")
    (tmp_path / "run" / "private").mkdir(parents=True)
    asked = (tmp_path / "archive", labels, "covid-vs-bacterial", tmp_path / "run", Recipe(), Config())
    request = TrainingRequest(*asked, key_file=tmp_path / "key").cohort
    request.cache.mkdir(parents=True)
    with suppress(ConfigurationError):  # which it raises where a part has lost a class
        gather_cohort(Alone(), request)
    counted = rows(tmp_path / "run" / "left_out.csv")
    by_reason = Counter()
    for row in counted:
        by_reason[row["reason"]] += int(row["studies"])
    assert by_reason == {
        "INTERNAL_ERROR": 2, "NO_LUNG_FOUND": 1, "OUT_OF_MEMORY": 1, "label healthy is not of this task": 1
    }  # fmt: skip
    parts = {row["part"] for row in counted if row["reason"] != "label healthy is not of this task"}
    assert parts <= {"train", "validation", "test"}
    assert "CANARY" not in caplog.text
    for part in ("train", "validation", "test"):
        told = _left_out(replace(request, out=request.out.rename(tmp_path / part)))
        wanted = [row for row in counted if row["part"] in ("", part)]
        assert told.total() == sum(int(row["studies"]) for row in wanted)
        request = replace(request, out=tmp_path / part)
