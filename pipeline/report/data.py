"""The page's data files: the table of studies, column by column, and every study's slices in chunks.

A page opened as file:// may load scripts but not fetch: each file is one call, `drenet.put(name, value)`.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from pathlib import Path
from typing import Any

import msgspec
import pandas as pd

from pipeline.run.read_tables import Run
from pipeline.run.weights import above_of

CHUNK = 500
"""Studies whose slices share a file."""
COLUMNS = {
    "study_key": ("study", "key", "keyed pseudonym of the study"),
    "patient_key": ("patient", "key", "keyed pseudonym of the patient"),
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
}


def put(path: Path, name: str, value: object) -> None:
    """Write one data file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"drenet.put(%s,%s);\n" % (msgspec.json.encode(name), msgspec.json.encode(value)))


def choose_shown(studies: pd.DataFrame, networks: list[str], most: int, wanted: Collection[str]) -> pd.DataFrame:
    """At most `most` studies for the page, those of `wanted` and then the highest scores, in order of study_key.

    Of equal scores and of those without one the lower key goes first.
    """
    if len(studies) <= most:
        return studies
    scores = studies[networks].max(axis=1).mask(studies["study_key"].isin(list(wanted)), math.inf)
    return studies.loc[scores.sort_values(ascending=False, kind="stable").index[:most]].sort_index()


def write_studies(folder: Path, studies: pd.DataFrame, networks: list[str], pictured: set[str], timing: pd.DataFrame) -> None:
    """studies.js: the columns of the table, in order of study_key; `pictured` studies have their pictures in a file."""
    table = studies.copy()
    wanted = list(COLUMNS)
    wanted[3:3] = [one for name in networks for one in (name, above_of(name)) if one in table]
    columns: list[dict[str, Any]] = [_column(table, name, networks) for name in wanted]
    seconds = timing.set_index("study_key").drop(columns=["rank", "at_s"]).sum(axis=1)
    spent = table["study_key"].map(seconds).round(2)
    columns.append(
        {"name": "seconds", "label": "work, s", "kind": "number", "told": "seconds of work", "values": _plain(spent)}
    )
    value = {
        "columns": columns,
        "networks": networks,
        "pictured": [int(key in pictured) for key in table["study_key"]],
        "chunk": CHUNK,
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
        told = "mean over the scored slices of the positive class's probability"
        return {"name": name, "label": name, "kind": "score", "told": told, "values": _plain(table[name].round(4))}
    if name in map(above_of, networks):
        told = "1: at or above the threshold that the network states for its operating point"
        return {"name": name, "label": name.replace("_", " "), "kind": "number", "told": told, "values": _plain(table[name])}
    label, kind, told = COLUMNS[name]
    return {"name": name, "label": label, "kind": kind, "told": told, "values": _plain(table[name])}


def _plain(column: pd.Series[Any]) -> list[Any]:
    """Values for JSON: what is missing is null, whole numbers have no point."""
    if pd.api.types.is_float_dtype(column) and (column.dropna() % 1 == 0).all():
        column = column.astype("Int64")
    return [None if missing else value for value, missing in zip(column.tolist(), column.isna().tolist(), strict=True)]
