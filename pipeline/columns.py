"""results.h5: its columns, what each holds, and how they grow."""

from __future__ import annotations

import math
from typing import Any

import h5py
import msgspec
import numpy as np

from pipeline.records import Box, Provenance, StudyResult

BATCH = 1000
KEY = "S26"

STUDIES: dict[str, tuple[str, str]] = {
    "study_key": (KEY, "keyed pseudonym of the study"),
    "patient_key": (KEY, "keyed pseudonym of the patient"),
    "series_key": (KEY, "keyed pseudonym of the scored series"),
    "status": ("S16", "OK, OK_WITH_WARNINGS, EXCLUDED or FAILED"),
    "reason": ("S32", "reason code where not scored"),
    "n_files": ("i4", "files that belong to the study"),
    "first_slice": ("i8", "row of /slices of the study's first slice"),
    "n_slices_scored": ("i4", "rows of /slices that belong to the study"),
}
SLICES: dict[str, tuple[str, str]] = {
    "study": ("i8", "row of /studies"),
    "slice_index": ("i4", "place in the series along +z, from 0"),
    "z_mm": ("f8", "position along +z (superior), mm"),
    "lung_area_mm2": ("f8", "lung area, mm2"),
}
DETAILS: dict[str, tuple[str, str]] = {
    "slice": ("i8", "row of /slices"),
    "network": ("i2", "column of probability"),
    "rank": ("i2", "place among the slice's details: small 0..2, large 0..2"),
    "score": ("f4", "proposal score; ranks details, no probability"),
    "attention": ("f4", "attention weight, sums to 1 over a slice's details"),
    "probability": ("f4", "positive class's softmax of the detail's own logits"),
    "lung_fraction": ("f4", "share of the box that shows original lung; below 0.5 no finding"),
}


class Columns:
    """The growing columns of results.h5, written a batch of studies at a time."""

    def __init__(self, file: h5py.File, n_networks: int) -> None:
        self._n_networks = n_networks
        self._rows: dict[str, list[tuple[Any, ...]]] = {"studies": [], "slices": [], "details": [], "events": []}
        self._n_slices = 0
        self._file = file
        self._layout: dict[str, dict[str, tuple[str, str, int]]] = {
            "studies": {
                **_narrow(STUDIES),
                "probability": ("f8", "mean over the scored slices, a column a network", n_networks),
            },
            "slices": {
                **_narrow(SLICES),
                "probability": ("f8", "the slice's probability, a column a network", n_networks),
            },
            "details": {
                **_narrow(DETAILS),
                "box": ("f4", "top, left, bottom, right in network pixels (448 x 448)", 4),
                "box_original": ("f4", "the same in the stored image's pixels", 4),
            },
            "events": {
                "study": ("i8", "row of /studies", 0),
                "scope": ("S8", "file, series or study", 0),
                "stage": ("S8", "where it was noted", 0),
                "code": ("S32", "reason code", 0),
                "count": ("i4", "how often", 0),
            },
        }
        for group, layout in self._layout.items():
            for name, (kind, text, width) in layout.items():
                shape = (0, width) if width else (0,)
                data = file.create_dataset(
                    f"{group}/{name}",
                    shape,
                    kind,
                    maxshape=(None, *shape[1:]),
                    chunks=(8192, *shape[1:]),
                    compression=1,
                )
                data.attrs["description"] = text

    def add(self, number: int, result: StudyResult) -> None:
        """Append one study's rows."""
        none = [math.nan] * self._n_networks
        head = (result.study_key, result.patient_key, result.series_key, result.status, result.reason, result.n_files)
        row = (*head, self._n_slices, len(result.slices), list(result.probabilities) or none)
        self._rows["studies"].append(row)
        for scored in result.slices:
            chances = [prediction.probability for prediction in scored.predictions]
            self._rows["slices"].append((number, scored.slice_index, scored.z_mm, scored.lung_area_mm2, chances))
            for network, prediction in enumerate(scored.predictions):
                for place, d in enumerate(prediction.details):
                    numbers = (d.score, d.attention, d.probability, d.lung_fraction)
                    self._rows["details"].append((self._n_slices, network, place, *numbers, _edges(d.box), _edges(d.original)))
            self._n_slices += 1
        self._rows["events"] += [(number, e.scope, e.stage, e.code, e.count) for e in result.events]
        if len(self._rows["studies"]) >= BATCH:
            self.close()

    def close(self) -> None:
        """Write what is buffered."""
        for group, rows in self._rows.items():
            if rows:
                for (name, (kind, _, _)), values in zip(self._layout[group].items(), zip(*rows, strict=True), strict=True):
                    _extend(self._file[group][name], np.array(values, dtype=kind))
            rows.clear()


def _edges(box: Box) -> tuple[float, float, float, float]:
    return box.top, box.left, box.bottom, box.right


def _extend(dataset: Any, values: np.ndarray[Any, Any]) -> None:
    start = len(dataset)
    dataset.resize(start + len(values), axis=0)
    dataset[start:] = values


def _narrow(layout: dict[str, tuple[str, str]]) -> dict[str, tuple[str, str, int]]:
    return {name: (kind, text, 0) for name, (kind, text) in layout.items()}


def describe_run(file: h5py.File, provenance: Provenance | None) -> None:
    """What stands beside the columns."""
    file.attrs["schema_version"] = 1
    file.attrs["notice"] = "Research use only. Not a medical device."
    if provenance is not None:
        file.attrs["provenance"] = msgspec.json.encode(provenance).decode()
