"""The page's data files: the table of studies by column and by hundreds of rows, and every study's slices in chunks.

A page opened as file:// may load scripts but not fetch: each file is one call, `drenet.put(name, value)`. The page loads a file
when it needs it: rows to show them, a column to sort or filter by it.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import pandas as pd

from pipeline.errors import Reason
from pipeline.records import MIN_LUNG_FRACTION
from pipeline.run.read_tables import Run
from pipeline.run.weights import above_of

CHUNK = 500
"""Studies that share a file of rows, and of slices."""
PRINTED = 3
"""Studies whose panels a printed page shows."""
MOST_CHOICES = 40
"""Different values that a filter offers as a list."""
FIRST = frozenset({"study_key", "status", "reason"})
"""Columns that a narrow screen shows at first, beside the scores."""
SCORE = "mean over the scored slices of the positive class's probability"
COLUMNS = {
    "study_key": ("study", "key", "keyed pseudonym of the study"),
    "patient_key": ("patient", "key", "keyed pseudonym of the patient"),
    "pictured": ("pictures", "choice", "yes: pictures of it were kept, and its panel shows them"),
    "status": ("status", "choice", "OK, OK_WITH_WARNINGS, EXCLUDED (sound, nothing to screen in it) or FAILED (broken)"),
    "reason": ("reason", "text", "why it was not scored"),
    "warnings": ("warnings", "text", "what was odd but usable"),
    "n_slices_scored": ("slices", "number", "slices with enough lung, of those read"),
    "label": ("label", "choice", "the truth, where it is known"),
    "manufacturer": ("maker", "choice", "manufacturer of the scanner"),
    "model": ("model", "text", "model of the scanner"),
    "kernel": ("kernel", "text", "reconstruction kernel"),
    "slice_thickness_mm": ("thick, mm", "number", "slice thickness"),
    "spacing_between_mm": ("apart, mm", "number", "distance between slices"),
    "n_slices": ("in series", "number", "slices of the scored series"),
    "kvp": ("kVp", "number", "tube voltage"),
    "n_files": ("files", "number", "files that belong to the study"),
    "seconds": ("work, s", "number", "seconds of work"),
}


def put(path: Path, name: str, value: object) -> None:
    """Write one data file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"drenet.put(%s,%s);\n" % (msgspec.json.encode(name), msgspec.json.encode(value)))


def choose_shown(studies: pd.DataFrame, networks: list[str], most: int, wanted: Collection[str]) -> pd.DataFrame:
    """At most `most` studies for the page, those of `wanted` and then the highest scores; those that are `doubted` go first.

    In either part the first network's highest go first, of equal scores and of those without one the lower key.
    """
    if len(studies) > most:
        first = {*wanted, *studies.loc[doubted(studies), "study_key"].head(most // 2)}
        scores = studies[networks].max(axis=1).mask(studies["study_key"].isin(list(first)), math.inf)
        studies = studies.loc[scores.sort_values(ascending=False, kind="stable").index[:most]].sort_index()
    ranked = studies.sort_values(networks[0], ascending=False, kind="stable", na_position="last")
    is_doubted = doubted(ranked)
    return pd.concat([ranked[is_doubted], ranked[~is_doubted]], ignore_index=True)


def doubted(studies: pd.DataFrame) -> pd.Series[bool]:
    """Whose lung masks are implausible: refused for it, or warned of it."""
    said = studies["reason"].fillna("") + ";" + studies["warnings"].fillna("")
    return said.str.split(";").map(lambda codes: Reason.LUNG_IMPLAUSIBLE in codes).astype(bool)


@dataclass(frozen=True, slots=True)
class Shown:
    """What a panel draws with: boxes from this normalised detail score on, and none that shows less original lung than this."""

    box_from: float
    min_lung: float


AS_PUBLISHED = Shown(0.8, MIN_LUNG_FRACTION)
"""The paper's figure 4 draws details from here on."""


def write_studies(
    folder: Path, studies: pd.DataFrame, networks: list[str], pictured: set[str], timing: pd.DataFrame, shown: Shown
) -> None:  # fmt: skip
    """The table, in the order of `studies`: studies.js says what there is, column-N.js hold a column, rows-N.js rows."""
    table = studies.copy()
    table["pictured"] = table["study_key"].isin(pictured).map({True: "yes", False: None})
    seconds = timing.set_index("study_key").drop(columns=["rank", "at_s"]).sum(axis=1)
    table["seconds"] = table["study_key"].map(seconds).round(2)
    wanted = list(COLUMNS)
    wanted[2:2] = [one for name in networks for one in (name, above_of(name)) if one in table]
    columns: list[dict[str, Any]] = [_column(table, name, networks) for name in wanted]
    for number, column in enumerate(columns):
        put(folder / f"column-{number}.js", f"column-{number}", _whole(column))
    for start in range(0, len(table), CHUNK):
        rows = list(zip(*(column["values"][start : start + CHUNK] for column in columns), strict=True))
        put(folder / f"rows-{start // CHUNK}.js", f"rows-{start // CHUNK}", rows)
    ranked = table[networks[0]].sort_values(ascending=False, kind="stable").index[:CHUNK]
    value = {
        "columns": [_described(column) for column in columns],
        "networks": networks,
        "n": len(table),
        "chunk": CHUNK,
        "doubted": int(doubted(table).sum()),
        "printed": [int(row) for row in ranked if table.loc[row, "study_key"] in pictured][:PRINTED],
        "box_from": shown.box_from,
        "min_lung": shown.min_lung,
    }
    put(folder / "studies.js", "studies", value)


def write_slices(folder: Path, studies: pd.DataFrame, run: Run, networks: list[str]) -> None:
    """slices-N.js: for each study of a chunk its slices as [index, z_mm, lung_cm2, probability, ...]."""
    keys = studies["study_key"].tolist()
    rows: dict[str, list[list[float]]] = {}
    for slices in run.slices_of(keys):
        numbers = slices[["z_mm", *networks]].round(4).assign(lung=(slices["lung_area_mm2"] / 100).round(1))
        columns = [
            slices["study_key"],
            slices["slice_index"],
            numbers["z_mm"],
            numbers["lung"],
            *(numbers[n] for n in networks),
        ]
        for key, *row in zip(*(column.tolist() for column in columns), strict=True):
            rows.setdefault(key, []).append(row)
    for start in range(0, len(keys), CHUNK):
        chunk = {key: rows[key] for key in keys[start : start + CHUNK] if key in rows}
        put(folder / f"slices-{start // CHUNK}.js", f"slices-{start // CHUNK}", chunk)


def _column(table: pd.DataFrame, name: str, networks: list[str]) -> dict[str, Any]:
    if name in networks:
        return {"name": name, "label": name, "kind": "score", "told": SCORE, "values": _plain(table[name].round(4))}
    if name in map(above_of, networks):
        told = "1: at or above the threshold that the network states for its operating point"
        return {"name": name, "label": name.replace("_", " "), "kind": "number", "told": told, "values": _plain(table[name])}
    label, kind, told = COLUMNS[name]
    return {"name": name, "label": label, "kind": kind, "told": told, "values": _plain(table[name])}


def _described(column: dict[str, Any]) -> dict[str, Any]:
    """A column without its values: with the few different ones, where few they are, and whether a narrow screen shows it."""
    said = {name: column[name] for name in ("name", "label", "kind", "told")}
    said["first"] = column["kind"] == "score" or column["name"] in FIRST
    choices = sorted({value for value in column["values"] if value is not None}) if column["kind"] == "choice" else []
    return said | ({"choices": choices} if 0 < len(choices) <= MOST_CHOICES else {})


def _whole(column: dict[str, Any]) -> dict[str, Any]:
    """All values of a column; texts that recur are written once."""
    values = column["values"]
    choices = {value: code for code, value in enumerate(sorted({one for one in values if isinstance(one, str)}))}
    if not choices or len(choices) > len(values) / 4:
        return {"values": values}
    return {"choices": list(choices), "codes": [None if value is None else choices[value] for value in values]}


def _plain(column: pd.Series[Any]) -> list[Any]:
    """Values for JSON: what is missing is null, whole numbers have no point."""
    if pd.api.types.is_float_dtype(column) and (column.dropna() % 1 == 0).all():
        column = column.astype("Int64")
    return [None if missing else value for value, missing in zip(column.tolist(), column.isna().tolist(), strict=True)]
