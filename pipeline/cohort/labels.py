"""labels.csv -> the label of every patient of a manifest that the task asks for; everything left out is counted.

Columns: `patient_id` (or `patient`) or `patient_key`, `label`, optional `study_uid`. Messages name lines, never an ID.
"""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from pipeline.cohort.tasks import CLASSES
from pipeline.errors import ConfigurationError, Reason
from pipeline.records import Study

KNOWN = frozenset(name for classes in CLASSES.values() for name in classes)


@dataclass(frozen=True, slots=True)
class Labels:
    """What labels.csv says: the label by patient and by study, each as (label, line)."""

    patients: dict[str, tuple[str, int]]
    studies: dict[str, tuple[str, int]]
    by_key: bool


@dataclass(frozen=True, slots=True)
class Labelled:
    """A patient of the task; `identity` orders patients alike whatever the pseudonyms' key."""

    patient_key: str
    identity: str
    label: str
    studies: tuple[Study, ...]


def read_labels(path: Path, known: frozenset[str] = KNOWN) -> Labels:
    """Raises ConfigurationError for a file that cannot be read, a label not `known`, or a patient with two."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ConfigurationError(f"cannot read the labels {path}: {error}; expected a CSV file in UTF-8") from error
    columns = set(rows[0]) if rows else set()
    column = next((name for name in ("patient_key", "patient_id", "patient") if name in columns), None)
    if column is None or "label" not in columns:
        raise ConfigurationError(f"{path} needs the columns label and patient_id (or patient_key), and at least one row")
    patients: dict[str, tuple[str, int]] = {}
    studies: dict[str, tuple[str, int]] = {}
    for line, row in enumerate(rows, start=2):
        said = (_label(row["label"], known, f"{path}, line {line}"), line)
        if not said[0]:
            continue
        for names, name in ((patients, row[column]), (studies, row.get("study_uid"))):
            if name and name.strip():
                _note(names, name.strip(), said, path)
    return Labels(patients, studies, column == "patient_key")


def labelled(studies: Iterable[Study], labels: Labels, task: str) -> tuple[list[Labelled], Counter[str]]:
    """(the task's patients in the order of their identity, how many studies were left out by reason).

    Raises ConfigurationError where fewer than two classes are left.
    """
    grouped: dict[str, list[Study]] = {}
    left_out: Counter[str] = Counter()
    for study in studies:
        label = label_of(study, labels)
        if study.status != "READY" or label not in CLASSES[task]:
            reason = Reason.LABEL_MISSING if not label else f"label {label} is not of this task"
            left_out[study.reason if study.status != "READY" else reason] += 1
        else:
            grouped.setdefault(study.patient_key, []).append(study)
    found = [_labelled(members, labels) for members in grouped.values()]
    met = {patient.label for patient in found}
    if len(met) < len(CLASSES[task]):
        raise ConfigurationError(
            f"the labelled patients hold {', '.join(sorted(met)) or 'no class'} of {', '.join(CLASSES[task])} "
            f"({Reason.LABEL_ONE_CLASS}); left out: {dict(left_out)}; do labels.csv and the archive belong together?"
        )
    return sorted(found, key=lambda patient: patient.identity), left_out


def _labelled(members: list[Study], labels: Labels) -> Labelled:
    said = {label_of(study, labels) for study in members}
    if len(said) > 1:
        raise ConfigurationError(
            f"one patient's studies have the labels {', '.join(sorted(said))} ({Reason.LABEL_CONFLICT}): "
            "a patient has one label; leave out the rows of one"
        )
    ordered = sorted(members, key=lambda study: study.study_uid)
    return Labelled(members[0].patient_key, members[0].patient_id, said.pop(), tuple(ordered))


def label_of(study: Study, labels: Labels) -> str:
    """The study's own label, else its patient's, else ""."""
    patient = study.patient_key if labels.by_key else study.patient_id
    known = labels.patients.get(patient) or labels.patients.get(patient.rpartition("\\")[2])
    return (labels.studies.get(study.study_uid) or known or ("", 0))[0]


def _label(text: str | None, known: frozenset[str], place: str) -> str:
    label = (text or "").strip().lower()
    if label and label not in known:
        raise ConfigurationError(
            f"{place}: unknown label {label!r} ({Reason.LABEL_UNKNOWN}); known: {', '.join(sorted(known))}"
        )
    return label


def _note(known: dict[str, tuple[str, int]], name: str, said: tuple[str, int], path: Path) -> None:
    before = known.setdefault(name, said)
    if before[0] != said[0]:
        raise ConfigurationError(
            f"{path}: lines {before[1]} and {said[1]} give one patient two labels ({Reason.LABEL_CONFLICT}): keep one"
        )
