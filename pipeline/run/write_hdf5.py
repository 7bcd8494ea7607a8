"""results.h5: its columns, what each holds, and how they grow."""

from __future__ import annotations

import math
from array import array
from collections.abc import Sequence
from typing import Any

import h5py
import msgspec
import numpy as np
import numpy.typing as npt

from pipeline.records import MIN_LUNG_FRACTION, NOTICE, Detail, Provenance, StudyResult

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
    "lung_fraction": ("f4", f"share of the box that shows original lung; below {MIN_LUNG_FRACTION} no finding"),
}


class Columns:
    """The growing columns of results.h5, written a batch of studies at a time."""

    def __init__(self, file: h5py.File, n_networks: int) -> None:
        self._n_networks = n_networks
        self._studies: list[tuple[Any, ...]] = []
        self._slices = _Numbers(2, 2 + n_networks)
        self._details = _Numbers(3, 12)
        self._events: list[tuple[Any, ...]] = []
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
        self._studies.append((*head, self._n_slices, len(result.slices), list(result.probabilities) or none))
        for scored in result.slices:
            self._slices.whole.extend((number, scored.slice_index))
            self._slices.real.extend((scored.z_mm, scored.lung_area_mm2, *(one.probability for one in scored.predictions)))
            for network, prediction in enumerate(scored.predictions):
                self._add_details(network, prediction.details)
            self._n_slices += 1
        self._events += [(number, e.scope, e.stage, e.code, e.count) for e in result.events]
        if len(self._studies) >= BATCH:
            self.close()

    def _add_details(self, network: int, details: Sequence[Detail]) -> None:
        whole, real = self._details.whole.extend, self._details.real.extend
        for place, d in enumerate(details):
            box, original = d.box, d.original
            whole((self._n_slices, network, place))
            edges = (box.top, box.left, box.bottom, box.right, original.top, original.left, original.bottom, original.right)
            real((d.score, d.attention, d.probability, d.lung_fraction, *edges))

    def close(self) -> None:
        """Write what is buffered."""
        self._write("studies", [list(values) for values in zip(*self._studies, strict=True)])
        whole, real = self._slices.take()
        self._write("slices", [*whole.T, *real[:, :2].T, real[:, 2:]])
        whole, real = self._details.take()
        self._write("details", [*whole.T, *real[:, :4].T, real[:, 4:8], real[:, 8:]])
        self._write("events", [list(values) for values in zip(*self._events, strict=True)])
        self._studies.clear()
        self._events.clear()

    def _write(self, group: str, columns: Sequence[Any]) -> None:
        """Extend the columns of `group`, given in the order of its layout, if there is anything to add."""
        for (name, (kind, _, _)), values in zip(self._layout[group].items(), columns, strict=bool(columns)):
            if len(values):
                _extend(self._file[group][name], np.array(values, dtype=kind))


class _Numbers:
    """Rows of numbers while they are gathered: compact, and made into arrays without a look at each."""

    def __init__(self, n_whole: int, n_real: int) -> None:
        self.whole, self.real = array("q"), array("d")
        self._widths = n_whole, n_real

    def take(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
        """The rows so far [row, column], which are forgotten."""
        whole, real = np.array(self.whole, np.int64), np.array(self.real, np.float64)
        self.whole, self.real = array("q"), array("d")
        return whole.reshape(-1, self._widths[0]), real.reshape(-1, self._widths[1])


def _extend(dataset: Any, values: np.ndarray[Any, Any]) -> None:
    start = len(dataset)
    dataset.resize(start + len(values), axis=0)
    dataset[start:] = values


def _narrow(layout: dict[str, tuple[str, str]]) -> dict[str, tuple[str, str, int]]:
    return {name: (kind, text, 0) for name, (kind, text) in layout.items()}


def describe_run(file: h5py.File, provenance: Provenance | None) -> None:
    """What stands beside the columns."""
    file.attrs["schema_version"] = 1
    file.attrs["notice"] = NOTICE
    if provenance is not None:
        file.attrs["provenance"] = msgspec.json.encode(provenance).decode()
