"""Patients -> train, validation, test: 60/10/30 by default, stratified, no patient ever in two parts; kept as split.csv.

The order comes from a hash of seed and identity, so that it depends neither on the pseudonyms' key nor on who else is there.
"""

from __future__ import annotations

import csv
import hashlib
import io
from collections.abc import Sequence
from pathlib import Path

from pipeline.cohort.labels import Labelled
from pipeline.errors import ConfigurationError
from pipeline.files import write_whole

PARTS = ("train", "validation", "test")


def split(patients: Sequence[Labelled], seed: int, shares: tuple[float, float, float]) -> dict[str, str]:
    """patient_key -> part; every class is shared out alike, and has somebody in every part. Raises ConfigurationError."""
    parts: dict[str, str] = {}
    for label in sorted({patient.label for patient in patients}):
        members = sorted((_rank(patient.identity, seed), patient.patient_key) for patient in patients if patient.label == label)
        if len(members) < len(PARTS):
            raise ConfigurationError(f"{len(members)} patients are {label}: a split into three parts needs three at least")
        n_validation, n_test = (max(1, round(share * len(members))) for share in shares[1:])
        for number, (_, key) in enumerate(members):
            parts[key] = PARTS[2] if number < n_test else PARTS[1] if number < n_test + n_validation else PARTS[0]
    return parts


def write_split(path: Path, parts: dict[str, str], labels: dict[str, str]) -> None:
    """patient_key, label, part; a row a patient."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("patient_key", "label", "part"))
    writer.writerows((key, labels[key], parts[key]) for key in sorted(parts))
    write_whole(path, text.getvalue().encode())


def read_split(path: Path, patients: Sequence[Labelled]) -> dict[str, str]:
    """The parts of `patients` as `path` has them; patients it does not name are left out. Raises ConfigurationError."""
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = {row["patient_key"]: row["part"] for row in csv.DictReader(file)}
    except (OSError, KeyError) as error:
        raise ConfigurationError(f"cannot read the split {path}: it needs the columns patient_key and part") from error
    wrong = sorted(set(rows.values()) - set(PARTS))
    if wrong:
        raise ConfigurationError(f"{path}: unknown part {wrong[0]!r}; known: {', '.join(PARTS)}")
    known = {patient.patient_key: rows[patient.patient_key] for patient in patients if patient.patient_key in rows}
    if set(known.values()) != set(PARTS):
        raise ConfigurationError(f"{path} leaves a part empty: was it made with another pseudonym key? Use the same --key-file")
    return known


def _rank(identity: str, seed: int) -> str:
    return hashlib.sha256(f"{seed}\0{identity}".encode("utf-8", "surrogateescape")).hexdigest()
