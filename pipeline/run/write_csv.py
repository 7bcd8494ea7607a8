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

from pipeline.records import NOTICE, Facts, Found, StudyResult
from pipeline.run.run_toml import Network

FACTS = tuple(Facts.__struct_fields__)
_facts = attrgetter(*FACTS)
SLICES: tuple[tuple[str, Any, dict[str, str]], ...] = (
    ("study_key", pa.string(), {"description": "keyed pseudonym of the study"}),
    ("series_key", pa.string(), {"description": "keyed pseudonym of the scored series"}),
    ("slice_index", pa.int32(), {"description": "place in the series along +z, from 0"}),
    ("z_mm", pa.float64(), {"description": "position along +z (superior)", "unit": "mm"}),
    ("lung_area_mm2", pa.float64(), {"description": "lung area", "unit": "mm2"}),
)


@dataclass(slots=True)
class PooledPatient:
    """What is pooled of one patient: `scores` of all slices, an array a network."""

    label: str = ""
    scores: list[array[float]] = field(default_factory=list)
    n_scored: int = 0
    n_not_scored: int = 0


@dataclass(frozen=True, slots=True)
class Scores:
    """The tables' columns of probabilities; those whose network states an operating threshold say too who lies above it."""

    networks: tuple[Network, ...]

    @property
    def head(self) -> list[str]:
        """Their names; who lies above stands behind the probability it belongs to."""
        named = ((one.column,) if one.threshold is None else (one.column, one.above) for one in self.networks)
        return [name for names in named for name in names]

    def cells(self, values: Sequence[float]) -> list[str]:
        """What stands under `head`; nothing where nothing was scored."""
        if not values:
            return [""] * len(self.head)
        cells = []
        for network, value in zip(self.networks, values, strict=True):
            cells.append(repr(value))
            if network.threshold is not None:
                cells.append(str(int(value >= network.threshold)))
        return cells


EXCLUSIONS_HEAD = ("scope", "study_key", "stage", "code", "count")


def studies_head(scores: Scores) -> tuple[str, ...]:
    """The columns of studies.csv."""
    head = ("study_key", "patient_key", "status", "reason", "warnings")
    return (*head, *scores.head, "n_slices_scored", "n_files", "label", "series_key", *FACTS)


def patients_head(scores: Scores) -> tuple[str, ...]:
    """The columns of patients.csv."""
    return ("patient_key", *scores.head, "n_slices_scored", "n_studies_scored", "n_studies_not_scored", "label")


class Tables:
    """studies.csv and exclusions.csv while they grow, in files opened as UTF-8 without newline's translation."""

    def __init__(self, studies: TextIO, exclusions: TextIO, scores: Scores) -> None:
        self._studies = csv.writer(studies, lineterminator="\n")
        self._exclusions = csv.writer(exclusions, lineterminator="\n")
        self._studies.writerow(studies_head(scores))
        self._exclusions.writerow(EXCLUSIONS_HEAD)
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


def pool(patient: PooledPatient, result: StudyResult) -> None:
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


def write_patients(file: TextIO, patients: dict[str, PooledPatient], scores: Scores) -> None:
    """patients.csv, in order of patient_key."""
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(patients_head(scores))
    for key in sorted(patients):
        patient = patients[key]
        means = scores.cells([math.fsum(column) / len(column) for column in patient.scores])
        n_slices = len(patient.scores[0]) if patient.scores else 0
        writer.writerow((key, *means, n_slices, patient.n_scored, patient.n_not_scored, _safe(patient.label)))


def open_parquet(file: BinaryIO, networks: Sequence[Network]) -> Any:
    """A writer of slices.parquet into `file`, which the caller closes: Arrow leaves its own open where the disk is full."""
    return pq.ParquetWriter(file, _schema(networks))


def _schema(networks: Sequence[Network]) -> pa.Schema:
    """Of slices.parquet: each column says what it holds and in which unit, the whole what every table says."""
    columns = [*SLICES, *((one.column, pa.float64(), _chance(one)) for one in networks)]
    return pa.schema([pa.field(name, kind, metadata=told) for name, kind, told in columns], metadata={"notice": NOTICE})


def _chance(network: Network) -> dict[str, str]:
    told = {"description": f"probability of {network.positive}", "task": network.task, "meaning": network.meaning}
    return told if network.threshold is None else told | {"threshold": repr(network.threshold)}


def write_slices(parquet: Any, batch: list[StudyResult], networks: Sequence[Network]) -> None:
    """One row group of slices.parquet; empties `batch`."""
    rows = [(result, scored) for result in batch for scored in result.slices]
    columns: dict[str, Any] = {
        "study_key": pa.array([result.study_key for result, _ in rows], pa.string()),
        "series_key": pa.array([result.series_key for result, _ in rows], pa.string()),
        "slice_index": pa.array([scored.slice_index for _, scored in rows], pa.int32()),
        "z_mm": pa.array([scored.z_mm for _, scored in rows], pa.float64()),
        "lung_area_mm2": pa.array([scored.lung_area_mm2 for _, scored in rows], pa.float64()),
    }
    for number, network in enumerate(networks):
        columns[network.column] = pa.array([scored.predictions[number].probability for _, scored in rows], pa.float64())
    parquet.write_table(pa.table(columns, schema=_schema(networks)))
    batch.clear()
