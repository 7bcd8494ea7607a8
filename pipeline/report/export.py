"""Chosen studies of a run in a folder of their own, to be handed on: their rows, all that the networks said, and the pictures.

By keys only; DICOM objects, which carry the patients' identity, only where they are asked for.
"""

from __future__ import annotations

import csv
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from pipeline.errors import ConfigurationError
from pipeline.files import storage_error, write_whole
from pipeline.records import NOTICE, StudyResult
from pipeline.run.journal import LastRecord, decode, read_raw
from pipeline.run.paths import PATIENTS, RUN_TOML, SIDECAR, STUDIES
from pipeline.run.read_tables import Run, open_run
from pipeline.run.resume import noted_records
from pipeline.study.picture_pack import PackLine, find_pictures, read_pictures

RESULT = "result.json"
PICTURES = "pictures"
DICOM = "dicom"


@dataclass(frozen=True, slots=True)
class Exported:
    """How many studies were written, how many of them with pictures, and how many DICOM objects."""

    n_studies: int
    n_pictured: int
    n_objects: int


def export(folder: Path, to: Path, keys: Sequence[str] = (), *, top: int = 10, dicom: bool = False) -> Exported:
    """Write the studies of `keys`, or the `top` highest scores, of the run at `folder` into `to`, new or empty.

    Raises ConfigurationError for a key that is none of the run's, before anything is written.
    """
    run = open_run(folder)
    chosen = _chosen(run, keys, top)
    records = noted_records(folder)
    found = find_pictures(folder, {key: records[key].input for key in chosen})
    try:
        to.mkdir(parents=True, exist_ok=True)
        if any(to.iterdir()):
            raise ConfigurationError(f"{to} is not empty: name a new folder for the export")
        _tables(run, to, set(chosen))
        for key in chosen:
            _study(run, to / key, records[key], found.get(key))
    except OSError as error:
        raise storage_error(error, to) from error
    return Exported(len(chosen), len(found), _objects(folder, to, chosen) if dicom else 0)


def _chosen(run: Run, keys: Sequence[str], top: int) -> list[str]:
    """Study keys, each once."""
    studies = run.studies
    scores = studies[[network.column for network in run.networks]].max(axis=1)
    highest = scores.dropna().sort_values(ascending=False, kind="stable").index[:top]
    if not keys:
        return [str(key) for key in studies.loc[highest, "study_key"]]
    unknown = sorted(set(keys) - set(studies["study_key"]))
    if unknown:
        raise ConfigurationError(f"no study of the run has the key {unknown[0]}: studies.csv names them all")
    return list(dict.fromkeys(keys))


def _tables(run: Run, to: Path, keys: set[str]) -> None:
    """The rows of the chosen studies and their patients, as they stand, and what must be read beside them."""
    patients = set(run.studies.loc[run.studies["study_key"].isin(list(keys)), "patient_key"])
    for name, wanted in ((STUDIES, keys), (PATIENTS, patients)):
        with (run.folder / name).open(encoding="utf-8", newline="") as table:
            head, *rows = csv.reader(table)
        with (to / name).open("w", encoding="utf-8", newline="") as table:
            csv.writer(table, lineterminator="\n").writerows([head, *(row for row in rows if row[0] in wanted)])
    for name in (SIDECAR, RUN_TOML):
        if (run.folder / name).exists():  # runs of older versions have no sidecar
            shutil.copyfile(run.folder / name, to / name)


def _study(run: Run, to: Path, record: LastRecord, pack: PackLine | None) -> None:
    to.mkdir()
    write_whole(to / RESULT, msgspec.json.format(msgspec.json.encode(_told(run, _result(record))), indent=1) + b"\n")
    if pack is None:
        return
    (to / PICTURES).mkdir()
    for one in read_pictures(pack).slices:
        (to / PICTURES / f"{one.index:04d}.webp").write_bytes(one.original)
        if one.seen is not None:
            (to / PICTURES / f"{one.index:04d}-seen.webp").write_bytes(one.seen)


def _told(run: Run, result: StudyResult) -> dict[str, object]:
    return {"notice": NOTICE, "networks": run.networks, "result": result}


def _result(record: LastRecord) -> StudyResult:
    (raw,) = read_raw([record])
    line = decode(raw)
    if line is None or line.result is None:
        raise ConfigurationError("a journal changed while it was read: is the run still going? Try again")
    return line.result


def _objects(run: Path, to: Path, keys: Sequence[str]) -> int:
    from pipeline.report.dicom import write_dicom

    return write_dicom(run, to / DICOM, keys=keys).n_objects
