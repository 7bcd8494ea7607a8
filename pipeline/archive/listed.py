"""A CSV that names exported pictures or NIfTI volumes one by one: for public sets, a heap of files and a table.

Columns: `file`, `patient` (or `patient_id`), optional `mask`; `label` is read by training and evaluation. `file` and `mask` are
paths from the CSV's folder, and stay within it. A patient's pictures are one study, in the order of their rows; a volume is a
study of its own. A mask shows the lung, white on black; without one the lung is found as in any other study. Messages name
lines, never what stands there.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from pipeline.archive.found import FileRecord, FoundFile
from pipeline.archive.pictures import picture_study
from pipeline.archive.walk import looked_at, native, portable
from pipeline.config import SeriesConfig
from pipeline.errors import ConfigurationError
from pipeline.records import Study

PATIENT = ("patient_id", "patient")


@dataclass(frozen=True, slots=True)
class Listed:
    """One row: whose picture, where it lies and where its mask does (`portable` paths), and the row's line."""

    patient: str
    file: str
    mask: str
    line: int


def is_list(archive: Path) -> bool:
    """Whether the archive is a CSV of pictures, rather than a folder."""
    return archive.suffix.lower() == ".csv"


def root_of(archive: Path) -> Path:
    """The folder that the archive's paths start from."""
    return archive.parent if is_list(archive) else archive


def read_list(path: Path) -> list[Listed]:
    """Every row of the CSV. Raises ConfigurationError, naming the line."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as table:
            rows = list(csv.DictReader(table))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ConfigurationError(f"cannot read the list of pictures {path}: expected a CSV file in UTF-8") from error
    column = next((name for name in PATIENT if rows and name in rows[0]), None)
    if column is None or "file" not in rows[0]:
        raise ConfigurationError(f"{path} needs the columns file and patient (or patient_id), and at least one row")
    listed: list[Listed] = []
    met: dict[str, int] = {}
    for line, row in enumerate(rows, start=2):
        patient = (row[column] or "").strip()
        file = _inside(path, line, row["file"])
        if not patient or not file:
            raise ConfigurationError(f"{path}, line {line}: file and patient must not be empty")
        if met.setdefault(file, line) != line:
            raise ConfigurationError(f"{path}: lines {met[file]} and {line} name the same file: keep one")
        mask = _inside(path, line, row.get("mask"))
        if mask and not (path.parent / native(mask)).is_file():
            raise ConfigurationError(f"{path}, line {line}: the mask is not there; name another, or leave it empty")
        listed.append(Listed(patient, file, mask, line))
    return listed


def listed_files(path: Path, rows: Sequence[Listed]) -> list[FoundFile]:
    """The files, looked at, not yet read."""
    return [looked_at(path.parent / native(row.file), row.file) for row in rows]


def listed_study(rows: Sequence[Listed], records: dict[str, FileRecord], config: SeriesConfig, key: bytes) -> Study:
    """One patient's pictures, however few; `records` by path of those that could be read."""
    found = [(row, records[row.file]) for row in rows if row.file in records]
    return picture_study(rows[0].patient, [(record, row.mask) for row, record in found], config, key)


def _inside(path: Path, line: int, text: str | None) -> str:
    """A path below the CSV's folder, `portable`; "" where there is none."""
    if not text or not text.strip():
        return ""
    place = PurePosixPath(text.strip().replace("\\", "/"))
    if place.is_absolute() or ".." in place.parts:
        raise ConfigurationError(f"{path}, line {line}: paths start at the CSV's folder and stay within it")
    return portable(str(place))
