"""labels.csv -> the label of every patient of a manifest that the task asks for; everything left out is counted.

Columns: `patient_id` (or `patient`) or `patient_key`, `label`, optional `study_uid`. Messages name lines, never an ID.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from pipeline.archive.characters import UNDECODED
from pipeline.cohort.table import read_table
from pipeline.cohort.tasks import CLASSES
from pipeline.errors import ConfigurationError, Reason
from pipeline.records import Study

log = logging.getLogger(__name__)
COLUMNS = ("patient_key", "patient_id", "patient")
KNOWN = frozenset(name for classes in CLASSES.values() for name in classes)


@dataclass(frozen=True, slots=True)
class Labels:
    """What labels.csv says: the label by patient and by study, each as (label, line)."""

    patients: dict[str, tuple[str, int]]
    studies: dict[str, tuple[str, int]]
    by_key: bool
    n_nameless: int = 0


@dataclass(frozen=True, slots=True)
class Labelled:
    """A patient of the task; `identity` orders patients alike whatever the pseudonyms' key."""

    patient_key: str
    identity: str
    label: str
    studies: tuple[Study, ...]


def read_labels(path: Path, known: frozenset[str] = KNOWN) -> Labels:
    """Raises ConfigurationError for a file that cannot be read, a label not `known`, or a patient with two."""
    rows = read_table(path, "the labels")
    headings = set().union(*(row for _, row in rows))
    if "label" not in headings or not headings & set(COLUMNS):
        raise ConfigurationError(
            f"{path} needs the columns label and patient_id (or patient_key), and at least one row; columns are parted by "
            "commas, semicolons or tabs"
        )
    said = [(line, row, _label(row.get("label"), known, f"{path}, line {line}")) for line, row in rows]
    said = [(line, row, label) for line, row, label in said if label]
    column = next((name for name in COLUMNS if any(row.get(name) for _, row, _ in said)), "patient_id")
    patients: dict[str, tuple[str, int]] = {}
    studies: dict[str, tuple[str, int]] = {}
    n_nameless = 0
    for line, row, label in said:
        patient = row.get(column, "")
        study = row.get("study_uid", "")
        if not patient and any(row.get(name) for name in COLUMNS):
            raise ConfigurationError(
                f"{path}, line {line}: other rows name their patient by {column}: fill it in all or in none"
            )
        for names, name in ((patients, patient), (studies, study)):
            if name:
                _note(names, name, (label, line), path)
        n_nameless += not patient and not study
    return Labels(patients, studies, column == "patient_key", n_nameless)


def labelled(studies: Iterable[Study], labels: Labels, task: str) -> tuple[list[Labelled], Counter[str]]:
    """(the task's patients in the order of their identity, how many studies were left out by reason).

    Raises ConfigurationError where fewer than two classes are left.
    """
    grouped: dict[str, list[Study]] = {}
    left_out: Counter[str] = Counter()
    known: set[str] = set()
    for study in studies:
        known |= names_of(study, labels)
        label = label_of(study, labels)
        if study.status != "READY" or label not in CLASSES[task]:
            reason = Reason.LABEL_MISSING if not label else f"label {label} is not of this task"
            left_out[study.reason if study.status != "READY" else reason] += 1
        else:
            grouped.setdefault(study.patient_key, []).append(study)
    for cause, count in strangers(labels, known).items():
        left_out[f"rows of the labels that match nobody: {cause}"] += count
    found = [_labelled(members, labels) for members in grouped.values()]
    met = {patient.label for patient in found}
    if len(met) < len(CLASSES[task]):
        raise ConfigurationError(
            f"the labelled patients hold {', '.join(sorted(met)) or 'no class'} of {', '.join(CLASSES[task])} "
            f"({Reason.LABEL_ONE_CLASS}); left out: {reasons(left_out)}; do labels.csv and the archive belong together?"
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


def reasons(counts: Mapping[str, int]) -> str:
    """Who was left out, in words."""
    return ", ".join(f"{reason}: {count}" for reason, count in sorted(counts.items())) or "nobody"


def label_of(study: Study, labels: Labels) -> str:
    """The study's own label, else its patient's, else ""."""
    own = labels.studies.get(study.study_uid)
    said = own or next((labels.patients[name] for name in _names(study, labels) if name in labels.patients), None)
    return said[0] if said else ""


def names_of(study: Study, labels: Labels) -> set[str]:
    """What labels.csv may call the study's patient."""
    return set(_names(study, labels))


def _names(study: Study, labels: Labels) -> tuple[str, ...]:
    """The pseudonym; or the identity, and the ID as it stands in the file: of any issuer, with or without a character set."""
    if labels.by_key:
        return (study.patient_key,)
    alone = study.patient_id.partition("\\")[2]
    return study.patient_id, alone, alone.removeprefix(UNDECODED)


def strangers(labels: Labels, known: set[str]) -> Counter[str]:
    """How many labelled names match nobody among `known` names, by the likeliest cause."""
    causes: Counter[str] = Counter({"no patient is named": labels.n_nameless})
    forms = [(cause, form, {form(name) for name in known}) for cause, form in CAUSES]
    for name in labels.patients.keys() - known:
        causes[next((cause for cause, form, formed in forms if form(name) in formed), "no such patient")] += 1
    causes = +causes
    for cause, count in sorted(causes.items()):
        log.warning("%d rows of the labels match nobody here: %s", count, cause)
    return causes


def _as_number(name: str) -> str:
    """What is left where a spreadsheet took it for a number."""
    try:
        return f"{float(name.replace(',', '.')):g}"
    except ValueError:
        return name


CAUSES: tuple[tuple[str, Callable[[str], str]], ...] = (
    ("leading zeros are lost as spreadsheets do (write IDs as text)", lambda name: name.lstrip("0")),
    ("quotes or apostrophes stand around the ID", lambda name: name.strip("'\"`")),
    ("capitals and small letters differ", str.casefold),
    ("a spreadsheet made a number of the ID (write IDs as text)", _as_number),
    ("blanks differ", lambda name: "".join(name.split())),
)
"""What happens to IDs on the way, most likely first, and what makes the names alike again."""


def _label(text: str | None, known: frozenset[str], where: str) -> str:
    label = (text or "").strip().lower()
    if label and label not in known:
        raise ConfigurationError(
            f"{where}: unknown label {label!r} ({Reason.LABEL_UNKNOWN}); known: {', '.join(sorted(known))}"
        )
    return label


def _note(known: dict[str, tuple[str, int]], name: str, said: tuple[str, int], path: Path) -> None:
    before = known.setdefault(name, said)
    if before[0] != said[0]:
        raise ConfigurationError(
            f"{path}: lines {before[1]} and {said[1]} give one patient two labels ({Reason.LABEL_CONFLICT}): keep one"
        )
