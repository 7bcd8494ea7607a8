"""csv-metadata.json: what the CSV tables' columns hold, in the form of the W3C's "CSV on the Web", to be read beside them.

The notice, what each network's score means, whose weights made it and the threshold's value stand here, not in the tables.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from pipeline.records import NOTICE
from pipeline.run.paths import EXCLUSIONS, PATIENTS, STUDIES
from pipeline.run.run_toml import Network
from pipeline.run.write_csv import EXCLUSIONS_HEAD, Scores, patients_head, studies_head
from pipeline.run.write_hdf5 import EVENTS
from pipeline.run.write_hdf5 import STUDIES as COLUMNS

OTHERS = {
    "study_key": "keyed pseudonym of the study; empty for files of none",
    "n_slices_scored": "slices that the scores are of",
    "n_studies_scored": "studies of the patient that were scored",
    "n_studies_not_scored": "studies of the patient that were not",
    **{name: column.text for name, column in EVENTS.items()},
}
WHOLE = frozenset({"n_files", "n_slices", "n_slices_scored", "n_studies_scored", "n_studies_not_scored", "count"})
REAL = frozenset({"slice_thickness_mm", "kvp", "spacing_between_mm", "z_extent_mm"})


def sidecar(networks: Sequence[Network]) -> bytes:
    """The file's content."""
    scores = Scores(tuple(networks))
    heads = {STUDIES: studies_head(scores), PATIENTS: patients_head(scores), EXCLUSIONS: EXCLUSIONS_HEAD}
    told = {name: column for network in networks for name, column in _network(network)}
    tables = [_table(name, head, told) for name, head in heads.items()]
    described = {"@context": "http://www.w3.org/ns/csvw", "rdfs:comment": NOTICE, "tables": tables}
    return msgspec.json.format(msgspec.json.encode(described), indent=1) + b"\n"


def _table(name: str, head: Iterable[str], told: dict[str, dict[str, Any]]) -> dict[str, Any]:
    return {"url": name, "rdfs:comment": NOTICE, "tableSchema": {"columns": [told.get(one) or _column(one) for one in head]}}


def _column(name: str) -> dict[str, Any]:
    kind = "integer" if name in WHOLE else "double" if name in REAL else "string"
    column = COLUMNS.get(name)
    told = {"name": name, "titles": name, "datatype": kind, "dc:description": column.text if column else OTHERS[name]}
    return told | {"schema:unitText": column.unit} if column and column.unit else told


def _network(network: Network) -> list[tuple[str, dict[str, Any]]]:
    """Its columns by name."""
    said = f"mean over the scored slices of the probability of {network.positive}"
    meaning = f"{said}; task {network.task or 'not stated'}; {network.meaning or 'meaning not stated'}"
    score = {"datatype": "double", "dc:description": meaning, "dc:source": f"weights sha256 {network.sha256}"}
    columns: dict[str, dict[str, Any]] = {network.column: score}
    if network.threshold is not None:
        above = f"1: {network.column} is {network.threshold!r} or more, the threshold that its checkpoint states"
        columns[network.above] = {"datatype": "integer", "dc:description": f"{above}; {network.meaning}".rstrip("; ")}
    return [(name, {"name": name, "titles": name, **told}) for name, told in columns.items()]
