"""What int8 does to patients: every one of a synthetic cohort in fp32 and in int8, by OpenVINO.

    drenet phantom cohort --cohort 100,60,60 --matrix 192 --slices 24 --seed 7718
    python benchmarks/rounding.py cohort NETWORK-INT8 [NETWORK-INT8 ...]

The networks are those that `drenet quantise` has written, measured on other patients. Patients come in an order by hash, and
the figures are printed anew after every tenth, so that it may be stopped early.
"""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from pipeline.config import Config, EngineConfig
from pipeline.errors import StudyError
from pipeline.evaluation.delong import area_with_interval
from pipeline.mpi.world import Alone
from pipeline.records import PreparedStudy
from pipeline.run.index import Private, index
from pipeline.run.manifest import read_manifest
from pipeline.study.checkpoint import Checkpoint, read_checkpoint
from pipeline.study.engine import Engine
from pipeline.study.screener import Preparer

PRECISIONS = ("fp32", "int8")
EVERY = 10
Patient = tuple[bool, list[list[float]]]
"""Whether positive, and the probability of each slice in fp32 and in int8."""


def main() -> None:
    """Print what moved, by network."""
    archive = Path(sys.argv[1])
    networks = [read_checkpoint(path) for path in sys.argv[2:]]
    engines = [[Engine([one], EngineConfig(precision=precision)) for precision in PRECISIONS] for one in networks]
    seen: list[list[Patient]] = [[] for _ in networks]
    for number, (label, study) in enumerate(prepared(archive), start=1):
        for network, pair, patients in zip(networks, engines, seen, strict=True):
            if label in network.metadata.classes:
                slices = [[of_slice[0].probability for of_slice in engine.predict(study)] for engine in pair]
                patients.append((label == network.metadata.classes[network.metadata.positive], slices))
        if number % EVERY == 0:
            tell(networks, seen)
    tell(networks, seen)


def prepared(archive: Path) -> Iterator[tuple[str, PreparedStudy]]:
    """Every patient that can be prepared: the label, and the slices."""
    table = archive.with_name(f"{archive.name}-truth") / "labels.csv"
    labels = {row["patient_id"]: row["label"] for row in csv.DictReader(table.read_text().splitlines())}
    with TemporaryDirectory() as folder, Preparer(archive, Config()) as preparer:
        index(Alone(), archive, Private(Path(folder), bytes(32)), Config())
        manifest = read_manifest(Path(folder))
        for number in range(len(manifest.entries)):
            study = manifest.study(number)
            try:
                yield labels[study.patient_id.rpartition("\\")[2]], preparer.best(study).prepared
            except StudyError as error:
                print(f"one patient is left out: {error.reason}")


def tell(networks: list[Checkpoint], seen: list[list[Patient]]) -> None:
    """One line a network, of all patients until now."""
    for network, patients in zip(networks, seen, strict=True):
        target = np.array([positive for positive, _ in patients])
        if min(target.sum(), (~target).sum()) < 2:  # no curve, or one without a deviation
            continue
        exact, rough = (np.array([np.mean(slices[which]) for _, slices in patients]) for which in range(2))
        moved = np.abs(rough - exact)
        of_slices = np.concatenate([np.abs(np.subtract(*slices)) for _, slices in patients])
        areas = [area_with_interval(target, scores).area for scores in (exact, rough)]
        print(
            f"{network.metadata.task}: {len(patients)} patients, most {moved.max():.4f} median {np.median(moved):.4f}; "
            f"{len(of_slices)} slices, most {of_slices.max():.4f} median {np.median(of_slices):.4f}; "
            f"AUC {areas[0]:.4f} and {areas[1]:.4f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
