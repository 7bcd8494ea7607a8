"""The names of what lies in a run's folder, and of the folders in it."""

from __future__ import annotations

from pathlib import Path

RUN_TOML = "run.toml"
STUDIES = "studies.csv"
PATIENTS = "patients.csv"
EXCLUSIONS = "exclusions.csv"
SLICES = "slices.parquet"
RESULTS = "results.h5"
SIDECAR = "csv-metadata.json"
REPORT = "report"
IMAGES = "images"

PRIVATE = "private"
"""What identifies: readable by the owner alone. All names below are of this folder."""
MANIFEST = "manifest.jsonl"
MANIFEST_HEADS = "manifest.heads"
LOCK = "lock"
IDLE_LEG = "idle-leg"


def part_home(run: Path, number: int, of: int) -> Path:
    """Where a part of a run keeps its lock, journals and logs."""
    return run / "parts" / f"{number:05d}-of-{of:05d}"


def part_homes(run: Path) -> list[Path]:
    """Those of all parts that have begun."""
    return sorted(run.glob("parts/*"))


def attempts(home: Path) -> list[Path]:
    """The folders of journals, one an attempt, oldest first."""
    return sorted((home / "journal").glob("[0-9]*"))


def journal_path(home: Path, attempt: int, rank: int) -> Path:
    """Where a rank writes its records."""
    return home / "journal" / f"{attempt:04d}" / f"rank-{rank:05d}.jsonl"


def log_path(home: Path, attempt: int, rank: int) -> Path:
    """Where a rank writes its log."""
    return home / "logs" / f"{attempt:04d}" / f"rank-{rank:05d}.log"


def pack_path(run: Path, home: Path, attempt: int, rank: int) -> Path:
    """Where a rank keeps the pictures of a few studies."""
    part = f"-{home.name}" if home != run else ""
    return run / IMAGES / f"{attempt:04d}{part}-rank-{rank:05d}.pack"
