"""results.h5: its columns, what each holds, and how they grow."""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import h5py
import msgspec
import numpy as np
import numpy.typing as npt

from pipeline.records import MIN_LUNG_FRACTION, NOTICE, Detail, Facts, Provenance, StudyResult
from pipeline.run.run_toml import Network

BATCH = 1000
KEY = "S26"
TEXT = h5py.string_dtype()
SCHEMA = 2
"""Of the columns: 1 had no warnings, labels, facts or networks, and the probabilities side by side in one array."""
EDGES = "top, left, bottom, right edges, half-open; 0, 0 is the upper left corner of the upper left pixel"


class Column(NamedTuple):
    """One data set: its type, what it holds, in which unit; of `width` numbers a row, or of one where that is 0."""

    kind: Any
    text: str
    unit: str = ""
    width: int = 0


FACTS = {
    "manufacturer": Column(TEXT, "of the scanner"),
    "model": Column(TEXT, "of the scanner"),
    "kernel": Column(TEXT, "reconstruction kernel of the scored series"),
    "slice_thickness_mm": Column("f8", "thickness of the scored series' slices", "mm"),
    "kvp": Column("f8", "tube voltage", "kV"),
    "spacing_between_mm": Column("f8", "distance between the scored series' slices", "mm"),
    "z_extent_mm": Column("f8", "extent of the scored series along z", "mm"),
    "n_slices": Column("i4", "slices of the scored series"),
}
STUDIES = {
    "study_key": Column(KEY, "keyed pseudonym of the study"),
    "patient_key": Column(KEY, "keyed pseudonym of the patient"),
    "series_key": Column(KEY, "keyed pseudonym of the scored series"),
    "status": Column("S16", "OK, OK_WITH_WARNINGS, EXCLUDED or FAILED"),
    "reason": Column("S32", "reason code where not scored"),
    "warnings": Column(TEXT, "reason codes of what was odd but usable, separated by ;"),
    "label": Column(TEXT, "the truth, where it is known; else empty"),
    "n_files": Column("i4", "files that belong to the study"),
    "first_slice": Column("i8", "row of /slices of the study's first slice"),
    "n_slices_scored": Column("i4", "rows of /slices that belong to the study"),
    **FACTS,
}
SLICES = {
    "study": Column("i8", "row of /studies"),
    "slice_index": Column("i4", "place in the series along +z, from 0"),
    "z_mm": Column("f8", "position along +z (superior)", "mm"),
    "lung_area_mm2": Column("f8", "lung area", "mm2"),
}
DETAILS = {
    "slice": Column("i8", "row of /slices"),
    "network": Column("i2", "row of /networks"),
    "rank": Column("i2", "place among the slice's details: small 0..2, large 0..2"),
    "score": Column("f4", "proposal score; ranks details, no probability"),
    "attention": Column("f4", "attention weight, sums to 1 over a slice's details"),
    "probability": Column("f4", "positive class's softmax of the detail's own logits"),
    "lung_fraction": Column(
        "f4", f"share of what the network looked at that shows original lung; below {MIN_LUNG_FRACTION} no finding"
    ),
    "box": Column("f4", f"{EDGES} of the network's picture, which it never leaves", "px", 4),
    "box_original": Column("f4", f"{EDGES} of the stored image, which it never leaves", "px", 4),
}
EVENTS = {
    "study": Column("i8", "row of /studies"),
    "scope": Column("S8", "file, series or study"),
    "stage": Column("S8", "where it was noted"),
    "code": Column("S32", "reason code"),
    "count": Column("i4", "how often"),
}
NETWORKS = {
    "column": Column(TEXT, "its column of probabilities in /studies and /slices, and in the other tables"),
    "above": Column(TEXT, "its column of who lies at or above the threshold; empty where it states none"),
    "task": Column(TEXT, "what it was trained to tell apart; empty where it does not say"),
    "classes": Column(TEXT, "its classes, separated by ;"),
    "positive": Column(TEXT, "the class whose probability is told"),
    "threshold": Column("f8", "operating threshold that its checkpoint states; NaN: none"),
    "sha256": Column(TEXT, "of its weights' file"),
    "meaning": Column(TEXT, "what its probability means"),
}


class Columns:
    """The growing columns of results.h5, written a batch of studies at a time."""

    def __init__(self, file: h5py.File, networks: Sequence[Network]) -> None:
        self._networks = networks
        self._studies: list[tuple[Any, ...]] = []
        self._slices = _Numbers(2, 2 + len(networks))
        self._details = _Numbers(3, 12)
        self._events: list[tuple[Any, ...]] = []
        self._n_slices = 0
        self._file = file
        chances = {one.column: Column("f8", f"probability of {one.positive} by that network") for one in networks}
        above = {
            one.above: Column("i1", f"1: {one.column} is {one.threshold} or more; 0: less; -1: not scored")
            for one in networks
            if one.threshold is not None
        }
        self._layout: dict[str, dict[str, Column]] = {
            "networks": NETWORKS,
            "studies": {**STUDIES, **chances, **above},
            "slices": {**SLICES, **chances},
            "details": DETAILS,
            "events": EVENTS,
        }
        for group, layout in self._layout.items():
            for name, column in layout.items():
                _make(file, f"{group}/{name}", column)
        self._write("networks", [list(values) for values in zip(*map(_told, networks), strict=True)])

    def add(self, number: int, result: StudyResult) -> None:
        """Append one study's rows."""
        head = (result.study_key, result.patient_key, result.series_key, result.status, result.reason)
        tail = (";".join(result.warnings), _plain(result.label), result.n_files, self._n_slices, len(result.slices))
        self._studies.append((*head, *tail, *_facts(result.facts), *self._chances(result)))
        for scored in result.slices:
            self._slices.whole.extend((number, scored.slice_index))
            self._slices.real.extend((scored.z_mm, scored.lung_area_mm2, *(one.probability for one in scored.predictions)))
            for network, prediction in enumerate(scored.predictions):
                self._add_details(network, prediction.details)
            self._n_slices += 1
        self._events += [(number, e.scope, e.stage, e.code, e.count) for e in result.events]
        if len(self._studies) >= BATCH:
            self.close()

    def _chances(self, result: StudyResult) -> Iterator[float]:
        """What every network says, then who lies above its threshold."""
        found = result.probabilities or [math.nan] * len(self._networks)
        yield from found
        for network, value in zip(self._networks, found, strict=True):
            if network.threshold is not None:
                yield -1 if math.isnan(value) else int(value >= network.threshold)

    def _add_details(self, network: int, details: Sequence[Detail]) -> None:
        whole = self._details.whole.extend
        real = self._details.real.extend
        for rank, d in enumerate(details):
            box = d.box
            original = d.original
            whole((self._n_slices, network, rank))
            edges = (box.top, box.left, box.bottom, box.right, original.top, original.left, original.bottom, original.right)
            real((d.score, d.attention, d.probability, d.lung_fraction, *edges))

    def close(self) -> None:
        """Write what is buffered."""
        self._write("studies", [list(values) for values in zip(*self._studies, strict=True)])
        whole, real = self._slices.take()
        self._write("slices", [*whole.T, *real.T])
        whole, real = self._details.take()
        self._write("details", [*whole.T, *real[:, :4].T, real[:, 4:8], real[:, 8:]])
        self._write("events", [list(values) for values in zip(*self._events, strict=True)])
        self._studies.clear()
        self._events.clear()

    def _write(self, group: str, columns: Sequence[Any]) -> None:
        """Extend the columns of `group`, given in the order of its layout, if there is anything to add."""
        for (name, column), values in zip(self._layout[group].items(), columns, strict=bool(columns)):
            if len(values):
                _extend(self._file[group][name], np.array(values, dtype=column.kind))


class _Numbers:
    """Rows of numbers while they are gathered: compact, and made into arrays without a look at each."""

    def __init__(self, n_whole: int, n_real: int) -> None:
        self.whole = array("q")
        self.real = array("d")
        self._widths = n_whole, n_real

    def take(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
        """The rows so far [row, column], which are forgotten."""
        whole = np.array(self.whole, np.int64)
        real = np.array(self.real, np.float64)
        self.whole = array("q")
        self.real = array("d")
        return whole.reshape(-1, self._widths[0]), real.reshape(-1, self._widths[1])


def _extend(dataset: Any, values: np.ndarray[Any, Any]) -> None:
    start = len(dataset)
    dataset.resize(start + len(values), axis=0)
    dataset[start:] = values


def _make(file: h5py.File, path: str, column: Column) -> None:
    """An empty data set that can grow, and says what it holds."""
    shape = (0, column.width) if column.width else (0,)
    chunks = (8192, *shape[1:])
    data = file.create_dataset(path, shape, column.kind, maxshape=(None, *shape[1:]), chunks=chunks, compression=1)
    data.attrs["description"] = column.text
    if column.unit:
        data.attrs["unit"] = column.unit


def _told(network: Network) -> tuple[Any, ...]:
    """A row of /networks."""
    above, threshold = ("", math.nan) if network.threshold is None else (network.above, network.threshold)
    names = (network.column, above, network.task, ";".join(network.classes), network.positive)
    return (*names, threshold, network.sha256, network.meaning)


def _facts(facts: Facts) -> list[Any]:
    """What is told of the scored series; NaN for a number that is not known."""
    return [_plain(getattr(facts, name)) for name in FACTS]


def _plain(value: str | float | None) -> str | float:
    """A cell that HDF5 can hold: its texts end at a zero byte."""
    if isinstance(value, str):
        return value.replace("\0", "")
    return math.nan if value is None else value


def describe_run(file: h5py.File, provenance: Provenance | None) -> None:
    """What stands beside the columns."""
    file.attrs["schema_version"] = SCHEMA
    file.attrs["notice"] = NOTICE
    if provenance is not None:
        file.attrs["provenance"] = msgspec.json.encode(provenance).decode()
