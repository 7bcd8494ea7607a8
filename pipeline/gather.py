"""Journals -> results.h5, CSV and Parquet: one pass finds the last record of every study, one streams in key order.

Everything written here can be rebuilt from the journals at any time. The payload (columns and tables) holds no host, time,
rank or attempt, so its digest is the same however the run was carried out.
"""

from __future__ import annotations

import csv
import hashlib
import io
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass, field
from pathlib import Path
from typing import Any

import h5py
import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.errors import ConfigurationError
from pipeline.records import Box, Facts, Provenance, StudyResult
from pipeline.store import Found, Place, decode, last_places, raw, storage_error, write_whole

BATCH = 1000
KEY = "S26"
FACTS = tuple(Facts.__dataclass_fields__)

STUDIES: dict[str, tuple[str, str]] = {
    "study_key": (KEY, "keyed pseudonym of the study"),
    "patient_key": (KEY, "keyed pseudonym of the patient"),
    "series_key": (KEY, "keyed pseudonym of the scored series"),
    "status": ("S16", "OK, OK_WITH_WARNINGS, EXCLUDED or FAILED"),
    "reason": ("S32", "reason code where not scored"),
    "n_files": ("i4", "files that belong to the study"),
    "first_slice": ("i8", "row of /slices of the study's first slice"),
    "n_slices_scored": ("i4", "rows of /slices that belong to the study"),
}
SLICES: dict[str, tuple[str, str]] = {
    "study": ("i8", "row of /studies"),
    "slice_index": ("i4", "place in the series along +z, from 0"),
    "z_mm": ("f8", "position along +z (superior), mm"),
    "lung_area_mm2": ("f8", "lung area, mm2"),
}
DETAILS: dict[str, tuple[str, str]] = {
    "slice": ("i8", "row of /slices"),
    "network": ("i2", "column of probability"),
    "rank": ("i2", "place among the slice's details: small 0..2, large 0..2"),
    "score": ("f4", "proposal score; ranks details, no probability"),
    "attention": ("f4", "attention weight, sums to 1 over a slice's details"),
    "probability": ("f4", "positive class's softmax of the detail's own logits"),
    "lung_fraction": ("f4", "share of the box that shows original lung; below 0.5 no finding"),
}


@dataclass
class Patient:
    """What is pooled of one patient."""

    label: str = ""
    scores: list[list[float]] = field(default_factory=list)
    n_scored: int = 0
    n_not_scored: int = 0


@dataclass(frozen=True, slots=True)
class Summary:
    """What a gathered run holds."""

    n_studies: int
    n_files: int
    by_status: dict[str, int]
    by_reason: dict[str, int]
    digest: str


def gather(
    run: Path, networks: Sequence[str], provenance: Provenance | None = None, *, thresholds: Mapping[str, float] | None = None
) -> Summary:  # fmt: skip
    """Rebuild every derived file of `run`; `networks` names one probability column each, `thresholds` those that have one."""
    places = last_places(run)
    if not places:
        raise ConfigurationError(f"{run} holds no journal: is it a run's folder? `drenet screen` makes one")
    found = _found(places.pop("", None))
    part = run / ".results.h5.part"
    try:
        with h5py.File(part, "w", libver="v110") as file:
            summary = _write_all(run, file, places, found, Probabilities(tuple(networks), dict(thresholds or {})))
            _provenance(file, provenance)
        part.replace(run / "results.h5")
    except OSError as error:
        raise storage_error(error, run) from error
    return Summary(*summary, digest=payload_digest(run))


def payload_digest(run: Path) -> str:
    """SHA-256 over every dataset of results.h5 (name, type, shape, bytes) and over the CSV tables."""
    total = hashlib.sha256()
    with h5py.File(run / "results.h5", "r") as file:
        for group in ("details", "events", "slices", "studies"):
            for name in sorted(file[group]):
                data = file[group][name]
                total.update(f"{group}/{name} {data.dtype} {data.shape}".encode())
                for start in range(0, len(data), 65536):
                    total.update(np.ascontiguousarray(data[start : start + 65536]).tobytes())
    for name in ("studies.csv", "patients.csv", "exclusions.csv"):
        total.update((run / name).read_bytes())
    return total.hexdigest()


def _write_all(
    run: Path, file: h5py.File, places: dict[str, Place], found: Found, scores: Probabilities
) -> tuple[int, int, dict[str, int], dict[str, int]]:
    networks = list(scores.networks)
    columns = Columns(file, len(networks))
    patients: dict[str, Patient] = {}
    status: Counter[str] = Counter()
    reasons: Counter[str] = Counter()
    n_files = 0
    tables = Tables(scores)
    tables.found(found)
    parquet = _parquet(run, networks)
    batch: list[StudyResult] = []
    try:
        for number, result in enumerate(_results(places)):
            columns.add(number, result)
            tables.add(result)
            _pool(patients.setdefault(result.patient_key, Patient(result.label)), result)
            status[result.status] += 1
            reasons.update([result.reason] if result.reason else [])
            n_files += result.n_files
            batch.append(result)
            if len(batch) == BATCH:
                _write_slices(parquet, batch, networks)
        _write_slices(parquet, batch, networks)
    finally:
        parquet.close()
    (run / ".slices.parquet.part").replace(run / "slices.parquet")
    columns.close()
    write_whole(run / "studies.csv", tables.studies.getvalue().encode())
    write_whole(run / "exclusions.csv", tables.exclusions.getvalue().encode())
    write_whole(run / "patients.csv", _patients_csv(patients, scores))
    return len(places), found.n_files or n_files, dict(sorted(status.items())), dict(sorted(reasons.items()))


def _results(places: dict[str, Place]) -> Iterator[StudyResult]:
    for key in sorted(places):
        line = decode(raw(places[key]))
        if line is None or line.result is None:
            raise ConfigurationError("a journal changed while it was gathered: is the run still going? Gather again")
        yield line.result


def _found(place: Place | None) -> Found:
    line = decode(raw(place)) if place else None
    return line.found if line and line.found else Found(0, ())


class Columns:
    """The growing columns of results.h5, written a batch of studies at a time."""

    def __init__(self, file: h5py.File, n_networks: int) -> None:
        self._n_networks = n_networks
        self._rows: dict[str, list[tuple[Any, ...]]] = {"studies": [], "slices": [], "details": [], "events": []}
        self._n_slices = 0
        self._file = file
        self._layout: dict[str, dict[str, tuple[str, str, int]]] = {
            "studies": {
                **_narrow(STUDIES),
                "probability": ("f8", "mean over the scored slices, a column a network", n_networks),
            },
            "slices": {
                **_narrow(SLICES),
                "probability": ("f8", "the slice's probability, a column a network", n_networks),
            },
            "details": {
                **_narrow(DETAILS),
                "box": ("f4", "top, left, bottom, right in network pixels (448 x 448)", 4),
                "box_original": ("f4", "the same in the stored image's pixels", 4),
            },
            "events": {
                "study": ("i8", "row of /studies", 0),
                "scope": ("S8", "file, series or study", 0),
                "stage": ("S8", "where it was noted", 0),
                "code": ("S32", "reason code", 0),
                "count": ("i4", "how often", 0),
            },
        }
        for group, layout in self._layout.items():
            for name, (kind, text, width) in layout.items():
                shape = (0, width) if width else (0,)
                data = file.create_dataset(
                    f"{group}/{name}",
                    shape,
                    kind,
                    maxshape=(None, *shape[1:]),
                    chunks=(8192, *shape[1:]),
                    compression=1,
                )
                data.attrs["description"] = text

    def add(self, number: int, result: StudyResult) -> None:
        """Append one study's rows."""
        none = [math.nan] * self._n_networks
        head = (result.study_key, result.patient_key, result.series_key, result.status, result.reason, result.n_files)
        row = (*head, self._n_slices, len(result.slices), list(result.probabilities) or none)
        self._rows["studies"].append(row)
        for scored in result.slices:
            chances = [prediction.probability for prediction in scored.predictions]
            self._rows["slices"].append((number, scored.slice_index, scored.z_mm, scored.lung_area_mm2, chances))
            for network, prediction in enumerate(scored.predictions):
                for place, d in enumerate(prediction.details):
                    numbers = (d.score, d.attention, d.probability, d.lung_fraction)
                    self._rows["details"].append((self._n_slices, network, place, *numbers, _edges(d.box), _edges(d.original)))
            self._n_slices += 1
        self._rows["events"] += [(number, e.scope, e.stage, e.code, e.count) for e in result.events]
        if len(self._rows["studies"]) >= BATCH:
            self.close()

    def close(self) -> None:
        """Write what is buffered."""
        for group, rows in self._rows.items():
            if rows:
                for (name, (kind, _, _)), values in zip(self._layout[group].items(), zip(*rows, strict=True), strict=True):
                    _extend(self._file[group][name], np.array(values, dtype=kind))
            rows.clear()


def _edges(box: Box) -> tuple[float, float, float, float]:
    return box.top, box.left, box.bottom, box.right


def _extend(dataset: Any, values: np.ndarray[Any, Any]) -> None:
    start = len(dataset)
    dataset.resize(start + len(values), axis=0)
    dataset[start:] = values


def _narrow(layout: dict[str, tuple[str, str]]) -> dict[str, tuple[str, str, int]]:
    return {name: (kind, text, 0) for name, (kind, text) in layout.items()}


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
    """studies.csv and exclusions.csv while they grow."""

    def __init__(self, scores: Probabilities) -> None:
        self.studies, self.exclusions = io.StringIO(), io.StringIO()
        self._studies = csv.writer(self.studies, lineterminator="\n")
        self._exclusions = csv.writer(self.exclusions, lineterminator="\n")
        head = ("study_key", "patient_key", "status", "reason", "warnings")
        self._studies.writerow((*head, *scores.head, "n_slices_scored", "n_files", "label", "series_key", *FACTS))
        self._exclusions.writerow(("scope", "study_key", "stage", "code", "count"))
        self._scores = scores

    def add(self, result: StudyResult) -> None:
        """One study's line, and one for each thing of it that was left out."""
        head = (result.study_key, result.patient_key, result.status, result.reason, ";".join(result.warnings))
        chances = self._scores.cells(result.probabilities)
        tail = (len(result.slices), result.n_files, _safe(result.label), result.series_key)
        facts = [_safe(value) for value in astuple(result.facts)]
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


def _pool(patient: Patient, result: StudyResult) -> None:
    if not result.slices:
        patient.n_not_scored += 1
        return
    patient.n_scored += 1
    patient.scores += [[p.probability for p in scored.predictions] for scored in result.slices]
    patient.label = patient.label or result.label


def _patients_csv(patients: dict[str, Patient], scores: Probabilities) -> bytes:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    counts = ("n_slices_scored", "n_studies_scored", "n_studies_not_scored", "label")
    writer.writerow(("patient_key", *scores.head, *counts))
    for key in sorted(patients):
        patient = patients[key]
        means = scores.cells([math.fsum(column) / len(column) for column in zip(*patient.scores, strict=True)])
        tail = (len(patient.scores), patient.n_scored, patient.n_not_scored, _safe(patient.label))
        writer.writerow((key, *means, *tail))
    return text.getvalue().encode()


def _parquet(run: Path, networks: list[str]) -> Any:
    kinds = [
        ("study_key", pa.string()),
        ("slice_index", pa.int32()),
        ("z_mm", pa.float64()),
        ("lung_area_mm2", pa.float64()),
    ]
    schema = pa.schema([*kinds, *((name, pa.float64()) for name in networks)])
    return pq.ParquetWriter(run / ".slices.parquet.part", schema)


def _write_slices(parquet: Any, batch: list[StudyResult], networks: list[str]) -> None:
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


def _provenance(file: h5py.File, provenance: Provenance | None) -> None:
    file.attrs["schema_version"] = 1
    file.attrs["notice"] = "Research use only. Not a medical device."
    if provenance is not None:
        file.attrs["provenance"] = msgspec.json.encode(provenance).decode()
