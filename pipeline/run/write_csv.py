"""The tables that people open: studies.csv, exclusions.csv, patients.csv and slices.parquet."""

from __future__ import annotations

import csv
import math
import sys
from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Any, BinaryIO, TextIO

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.records import Facts, Found, StudyResult

FACTS = tuple(Facts.__dataclass_fields__)
_facts = attrgetter(*FACTS)


@dataclass(slots=True)
class Patient:
    """What is pooled of one patient: `scores` of all slices, an array a network."""

    label: str = ""
    scores: list[array[float]] = field(default_factory=list)
    n_scored: int = 0
    n_not_scored: int = 0


@dataclass(frozen=True, slots=True)
class Probabilities:
    """The tables' columns of probabilities; those whose network states an operating threshold say too who lies above it."""

    networks: tuple[str, ...]
    thresholds: dict[str, float]

    @property
    def head(self) -> list[str]:
        """Their names, `above_threshold` behind the probability it belongs to."""
        named = ((name, name.replace("probability", "above_threshold")) for name in self.networks)
        return [name for pair in named for name in (pair if pair[0] in self.thresholds else pair[:1])]

    def cells(self, values: Sequence[float]) -> list[str]:
        """What stands under `head`; nothing where nothing was scored."""
        if not values:
            return [""] * len(self.head)
        cells = []
        for name, value in zip(self.networks, values, strict=True):
            cells.append(repr(value))
            if name in self.thresholds:
                cells.append(str(int(value >= self.thresholds[name])))
        return cells


class Tables:
    """studies.csv and exclusions.csv while they grow, in files opened as UTF-8 without newline's translation."""

    def __init__(self, studies: TextIO, exclusions: TextIO, scores: Probabilities) -> None:
        self._studies = csv.writer(studies, lineterminator="\n")
        self._exclusions = csv.writer(exclusions, lineterminator="\n")
        head = ("study_key", "patient_key", "status", "reason", "warnings")
        self._studies.writerow((*head, *scores.head, "n_slices_scored", "n_files", "label", "series_key", *FACTS))
        self._exclusions.writerow(("scope", "study_key", "stage", "code", "count"))
        self._scores = scores

    def add(self, result: StudyResult) -> None:
        """One study's line, and one for each thing of it that was left out."""
        head = (result.study_key, result.patient_key, result.status, result.reason, ";".join(result.warnings))
        chances = self._scores.cells(result.probabilities)
        tail = (len(result.slices), result.n_files, _safe(result.label), result.series_key)
        facts = [_safe(value) for value in _facts(result.facts)]
        self._studies.writerow((*head, *chances, *tail, *facts))
        for event in result.events:
            self._exclusions.writerow((event.scope, result.study_key, event.stage, event.code, event.count))

    def found(self, found: Found) -> None:
        """The files that belong to no study."""
        for event in found.events:
            self._exclusions.writerow((event.scope, "", event.stage, event.code, event.count))


def _safe(value: object) -> object:
    """A CSV cell that no spreadsheet takes for a formula."""
    if value is None:
        return ""
    if not isinstance(value, str):
        return value
    text = " ".join(value.split())
    return f"'{text}" if text[:1] in tuple("=+-@") else text


def pool(patient: Patient, result: StudyResult) -> None:
    """Add one study's slices to its patient's."""
    if not result.slices:
        patient.n_not_scored += 1
        return
    patient.n_scored += 1
    if not patient.scores:
        patient.scores = [array("d") for _ in result.slices[0].predictions]
    for network, scores in enumerate(patient.scores):
        scores.extend(scored.predictions[network].probability for scored in result.slices)
    patient.label = patient.label or sys.intern(result.label)


def write_patients(file: TextIO, patients: dict[str, Patient], scores: Probabilities) -> None:
    """patients.csv, in order of patient_key."""
    writer = csv.writer(file, lineterminator="\n")
    counts = ("n_slices_scored", "n_studies_scored", "n_studies_not_scored", "label")
    writer.writerow(("patient_key", *scores.head, *counts))
    for key in sorted(patients):
        patient = patients[key]
        means = scores.cells([math.fsum(column) / len(column) for column in patient.scores])
        n_slices = len(patient.scores[0]) if patient.scores else 0
        writer.writerow((key, *means, n_slices, patient.n_scored, patient.n_not_scored, _safe(patient.label)))


def open_parquet(file: BinaryIO, networks: list[str]) -> Any:
    """A writer of slices.parquet into `file`, which the caller closes: Arrow leaves its own open where the disk is full."""
    kinds = [
        ("study_key", pa.string()),
        ("slice_index", pa.int32()),
        ("z_mm", pa.float64()),
        ("lung_area_mm2", pa.float64()),
    ]
    schema = pa.schema([*kinds, *((name, pa.float64()) for name in networks)])
    return pq.ParquetWriter(file, schema)


def write_slices(parquet: Any, batch: list[StudyResult], networks: list[str]) -> None:
    """One row group of slices.parquet; empties `batch`."""
    rows = [(result.study_key, scored) for result in batch for scored in result.slices]
    columns: dict[str, Any] = {
        "study_key": pa.array([key for key, _ in rows], pa.string()),
        "slice_index": pa.array([scored.slice_index for _, scored in rows], pa.int32()),
        "z_mm": pa.array([scored.z_mm for _, scored in rows], pa.float64()),
        "lung_area_mm2": pa.array([scored.lung_area_mm2 for _, scored in rows], pa.float64()),
    }
    for number, name in enumerate(networks):
        columns[name] = pa.array([scored.predictions[number].probability for _, scored in rows], pa.float64())
    parquet.write_table(pa.table(columns))
    batch.clear()
