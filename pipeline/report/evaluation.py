"""What `drenet evaluate` left in the run's folder, for the page: its pictures and its tables as they stand there."""

from __future__ import annotations

import base64
import csv
from dataclasses import dataclass
from pathlib import Path

FOLDER = "evaluation"
KINDS = {".svg": "image/svg+xml", ".png": "image/png"}
MAX_ROWS = 100


@dataclass(frozen=True, slots=True)
class EvaluationPicture:
    """A figure of the evaluation as a data URI; `said` is its alternative text."""

    title: str
    said: str
    source: str


@dataclass(frozen=True, slots=True)
class Table:
    """A CSV table, its first rows."""

    title: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    left_out: int = 0


@dataclass(frozen=True, slots=True)
class Evaluation:
    """All of it."""

    pictures: tuple[EvaluationPicture, ...]
    tables: tuple[Table, ...]


def read_evaluation(run: Path) -> Evaluation | None:
    """The figures (an SVG rather than its PNG twin) and tables under `evaluation/`, or None where there are none."""
    files = sorted(path for path in (run / FOLDER).rglob("*") if path.is_file())
    drawn = {path.with_suffix(""): path for path in reversed(files) if path.suffix in KINDS}
    drawn |= {path.with_suffix(""): path for path in files if path.suffix == ".svg"}
    pictures = tuple(_picture(path, run / FOLDER) for _, path in sorted(drawn.items()))
    tables = tuple(_table(path, run / FOLDER) for path in files if path.suffix == ".csv")
    return Evaluation(pictures, tables) if pictures or tables else None


def _picture(path: Path, folder: Path) -> EvaluationPicture:
    title = _title(path, folder)
    said = f"Figure of the evaluation: {title}. Its numbers stand in the tables below and in evaluation/."
    data = base64.b64encode(path.read_bytes()).decode()
    return EvaluationPicture(title, said, f"data:{KINDS[path.suffix]};base64,{data}")


def _table(path: Path, folder: Path) -> Table:
    with path.open(newline="", encoding="utf-8") as file:
        head, *rows = list(csv.reader(file)) or [[]]
    shown = tuple(tuple(row) for row in rows[:MAX_ROWS])
    return Table(_title(path, folder), tuple(head), shown, len(rows) - len(shown))


def _title(path: Path, folder: Path) -> str:
    return path.relative_to(folder).with_suffix("").as_posix().replace("_", " ").replace("/", ": ")
