"""The checkpoints that a run is asked for, and what their networks' columns are called: after the task, or as the user says.

A network without a task has the columns `probability` and `above_threshold`, as every network had in older runs.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.errors import ConfigurationError

NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,63}")
UNNAMED = "probability"
OLD = re.compile(rf"{UNNAMED}(_\d+)?")
TAKEN = frozenset({
    "study_key", "patient_key", "series_key", "status", "reason", "warnings", "label", "n_files", "n_slices_scored",
    "n_studies_scored", "n_studies_not_scored", "manufacturer", "model", "kernel", "slice_thickness_mm", "kvp",
    "spacing_between_mm", "z_extent_mm", "n_slices", "study", "first_slice", "slice_index", "z_mm", "lung_area_mm2", "seconds",
})  # fmt: skip
"""The other columns of the tables: no network may be called so."""


@dataclass(frozen=True, slots=True)
class Weights:
    """A checkpoint's file, and the name that the user wants for its network's columns."""

    path: Path
    name: str = ""

    def __str__(self) -> str:
        """As `--weights` is told it."""
        return f"{self.name}={self.path}" if self.name else str(self.path)

    def absolute(self) -> Weights:
        """The same, with a path that holds wherever a job begins."""
        return Weights(self.path.absolute(), self.name)


def weights_of(said: str | Path | Weights) -> Weights:
    """What `PATH` or `NAME=PATH` asks for; a path that holds "=" and is there stays a path."""
    if isinstance(said, Weights):
        return said
    text = str(said)
    name, equals, path = text.partition("=")
    if isinstance(said, Path) or not (equals and NAME.fullmatch(name)) or Path(text).exists():
        return Weights(Path(said))
    return Weights(Path(path), name)


def check_names(asked: Sequence[Weights]) -> None:
    """Raises ConfigurationError for a name that is none, is a column's of the tables, or is given twice."""
    for one in asked:
        before, equals, path = str(one.path).partition("=")
        if equals and not one.path.exists() and Path(path).is_file():
            raise ConfigurationError(f"{before!r} names no column: letters, digits and _ do, the first a letter")
    _refuse_taken([one.name for one in asked if one.name])


def column_names(asked: Sequence[Weights], tasks: Sequence[str]) -> list[str]:
    """A column a network: the user's name for it, or its task's; those of one task are told apart by their files' names.

    Raises ConfigurationError where no two of them would differ.
    """
    names = [one.name or _slug(task) or UNNAMED for one, task in zip(asked, tasks, strict=True)]
    for tail in (1, 2):  # the file's name, then its folder's too
        often = Counter(names)
        told_apart = [_told_apart(one, task, tail) for one, task in zip(asked, tasks, strict=True)]
        names = [other if often[name] > 1 and not one.name else name
                 for one, name, other in zip(asked, names, told_apart, strict=True)]  # fmt: skip
    _refuse_taken(names)
    return names


def above_of(column: str) -> str:
    """The column that says who lies at or above the network's operating threshold."""
    return column.replace(UNNAMED, "above_threshold") if OLD.fullmatch(column) else f"{column}_above"


def _told_apart(one: Weights, task: str, tail: int) -> str:
    base = _slug(task) or UNNAMED
    own = _slug("_".join((*one.path.absolute().parts[-tail:-1], one.path.stem)))
    return own if own.startswith(base) else f"{base}_{own}"


def _refuse_taken(names: Sequence[str]) -> None:
    all_names = Counter([*names, *map(above_of, names), *TAKEN])
    for name in names:
        if all_names[name] > 1 or all_names[above_of(name)] > 1:
            raise ConfigurationError(
                f"two columns would be called {name}: tell the networks apart by names of your own, --weights NAME=PATH"
            )


def _slug(text: str) -> str:
    """`text` as a column's name."""
    slug = re.sub(r"[^a-z0-9]+", "_", text.lower()).strip("_")[:64].rstrip("_")
    return slug if NAME.fullmatch(slug) else ""
