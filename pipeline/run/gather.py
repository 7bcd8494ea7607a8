"""Journals -> results.h5, CSV and Parquet: one pass finds the last record of every study, one streams in key order.

Everything written here can be rebuilt from the journals at any time; the old files stay until the new ones are whole. The
payload (columns and tables) holds no host, time, rank or attempt, so its digest is the same however the run was carried out.
"""

from __future__ import annotations

import hashlib
import shutil
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import h5py
import msgspec
import numpy as np
import numpy.typing as npt

from pipeline.errors import ConfigurationError
from pipeline.files import storage_error, sync, write_whole
from pipeline.records import Found, Provenance, StudyResult
from pipeline.run.collector import uncollected
from pipeline.run.describe_csv import sidecar
from pipeline.run.hdf5_sink import Sink
from pipeline.run.journal import LastRecord, decode, raw, read_raw
from pipeline.run.paths import EXCLUSIONS, PATIENTS, RESULTS, SIDECAR, SLICES, STUDIES
from pipeline.run.resume import last_records
from pipeline.run.run_toml import Network
from pipeline.run.write_csv import PooledPatient, Scores, Tables, open_parquet, pool, write_patients, write_slices
from pipeline.run.write_hdf5 import Columns, describe_run

BATCH = 1000


@dataclass(frozen=True, slots=True)
class Summary:
    """What a gathered run holds."""

    n_studies: int
    n_files: int
    by_status: dict[str, int]
    by_reason: dict[str, int]
    digest: str


def gather(run: Path, networks: Sequence[Network], provenance: Provenance | None = None) -> Summary:
    """Rebuild every derived file of `run`, whose studies were screened with `networks`."""
    with uncollected():  # records hold no cycles
        return _gather(run, provenance, Scores(tuple(networks)))


def _gather(run: Path, provenance: Provenance | None, scores: Scores) -> Summary:
    records = last_records(run)
    if not records:
        raise ConfigurationError(f"{run} holds no journal: is it a run's folder? `drenet screen` makes one")
    found = _found(records.pop("", None))
    unfinished = run / ".gathered.part"
    try:
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir()
        with Sink(unfinished / RESULTS) as sink, h5py.File(sink, "w", libver="v110") as file:
            summary = _write_all(unfinished, file, records, found, scores, sink.check)
            describe_run(file, provenance)
        write_whole(unfinished / SIDECAR, sidecar(scores.networks))
        _publish(unfinished, run)
    except OSError as error:
        raise storage_error(error, run) from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return Summary(*summary, digest=payload_digest(run))


def _publish(unfinished: Path, run: Path) -> None:
    """Move every file of `unfinished` to where it belongs, once all of them are on the disk."""
    files = sorted(unfinished.iterdir())
    for path in files:
        sync(path)
    for path in files:
        path.replace(run / path.name)
    sync(run)


def payload_digest(run: Path) -> str:
    """SHA-256 over every dataset of results.h5 (name, type, shape, bytes) and over the CSV tables."""
    total = hashlib.sha256()
    with h5py.File(run / RESULTS, "r") as file:
        for group in sorted(file):  # runs of older versions have no networks there
            for name in sorted(file[group]):
                data = file[group][name]
                total.update(f"{group}/{name} {data.dtype} {data.shape}".encode())
                for start in range(0, len(data), 65536):
                    total.update(_bytes(data[start : start + 65536]))
    for name in (STUDIES, PATIENTS, EXCLUSIONS):
        with (run / name).open("rb") as table:
            while block := table.read(2**20):
                total.update(block)
    return total.hexdigest()


def _bytes(values: npt.NDArray[Any]) -> bytes:
    """Numbers as they lie in memory; texts, of which only the addresses do, as JSON."""
    if values.dtype.kind != "O":
        return np.ascontiguousarray(values).tobytes()
    return msgspec.json.encode([text.decode() for text in values])


def _write_all(
    folder: Path, file: h5py.File, records: dict[str, LastRecord], found: Found, scores: Scores, check: Callable[[], None]
) -> tuple[int, int, dict[str, int], dict[str, int]]:
    columns = Columns(file, scores.networks)
    patients: dict[str, PooledPatient] = {}
    status: Counter[str] = Counter()
    reasons: Counter[str] = Counter()
    n_files = 0
    with (
        _csv(folder / STUDIES) as studies,
        _csv(folder / EXCLUSIONS) as exclusions,
        _parquet(folder, scores) as slices,
    ):
        tables = Tables(studies, exclusions, scores)
        tables.found(found)
        for number, result in enumerate(_results(records)):
            columns.add(number, result)
            tables.add(result)
            slices(result)
            pool(patients.setdefault(result.patient_key, PooledPatient(sys.intern(result.label))), result)
            status[result.status] += 1
            reasons.update([result.reason] if result.reason else [])
            n_files += result.n_files
            if number % BATCH == 0:
                check()
    columns.close()
    with _csv(folder / PATIENTS) as table:
        write_patients(table, patients, scores)
    return len(records), found.n_files or n_files, dict(sorted(status.items())), dict(sorted(reasons.items()))


def _csv(path: Path) -> TextIO:
    return path.open("w", encoding="utf-8", newline="")


@contextmanager
def _parquet(folder: Path, scores: Scores) -> Iterator[Callable[[StudyResult], None]]:
    """slices.parquet, told study by study."""
    networks = scores.networks
    batch = list[StudyResult]()
    with (folder / SLICES).open("wb") as file, closing(open_parquet(file, networks)) as parquet:

        def add(result: StudyResult) -> None:
            batch.append(result)
            if len(batch) == BATCH:
                write_slices(parquet, batch, networks)

        yield add
        write_slices(parquet, batch, networks)


def _results(records: dict[str, LastRecord]) -> Iterator[StudyResult]:
    for raw_line in read_raw([records[key] for key in sorted(records)]):
        line = decode(raw_line)
        if line is None or line.result is None:
            raise ConfigurationError("a journal changed while it was gathered: is the run still going? Gather again")
        yield line.result


def _found(record: LastRecord | None) -> Found:
    line = decode(raw(record)) if record else None
    return line.found if line and line.found else Found(0, ())
