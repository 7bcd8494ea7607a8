"""Journals -> results.h5, CSV and Parquet: one pass finds the last record of every study, one streams in key order.

Everything written here can be rebuilt from the journals at any time; the old files stay until the new ones are whole. The
payload (columns and tables) holds no host, time, rank or attempt, so its digest is the same however the run was carried out.
"""

from __future__ import annotations

import hashlib
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np

from pipeline.columns import Columns, describe_run
from pipeline.errors import ConfigurationError
from pipeline.records import Provenance, StudyResult
from pipeline.rows import Patient, Probabilities, Tables, open_parquet, patients_csv, pool, write_slices
from pipeline.sink import Sink
from pipeline.store import Found, Place, decode, last_places, raw, storage_error, write_whole

BATCH = 1000


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
    part = run / ".gathered.part"
    try:
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir()
        with Sink(part / "results.h5") as sink, h5py.File(sink, "w", libver="v110") as file:
            summary = _write_all(part, file, places, found, Probabilities(tuple(networks), dict(thresholds or {})), sink.check)
            describe_run(file, provenance)
        for path in sorted(part.iterdir()):
            path.replace(run / path.name)
    except OSError as error:
        raise storage_error(error, run) from error
    finally:
        shutil.rmtree(part, ignore_errors=True)
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
    folder: Path, file: h5py.File, places: dict[str, Place], found: Found, scores: Probabilities, check: Callable[[], None]
) -> tuple[int, int, dict[str, int], dict[str, int]]:
    networks = list(scores.networks)
    columns = Columns(file, len(networks))
    patients: dict[str, Patient] = {}
    status: Counter[str] = Counter()
    reasons: Counter[str] = Counter()
    n_files = 0
    tables = Tables(scores)
    tables.found(found)
    parquet = open_parquet(folder, networks)
    batch: list[StudyResult] = []
    try:
        for number, result in enumerate(_results(places)):
            columns.add(number, result)
            tables.add(result)
            pool(patients.setdefault(result.patient_key, Patient(result.label)), result)
            status[result.status] += 1
            reasons.update([result.reason] if result.reason else [])
            n_files += result.n_files
            batch.append(result)
            if len(batch) == BATCH:
                write_slices(parquet, batch, networks)
                check()
        write_slices(parquet, batch, networks)
    finally:
        parquet.close()
    columns.close()
    write_whole(folder / "studies.csv", tables.studies.getvalue().encode())
    write_whole(folder / "exclusions.csv", tables.exclusions.getvalue().encode())
    write_whole(folder / "patients.csv", patients_csv(patients, scores))
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
