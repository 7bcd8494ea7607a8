"""A labelled cohort of synthetic patients to train and evaluate on: as many of each class as asked, as plain DICOM.

Started again it goes on where it stopped. Beside the archive `folder` stands `folder-truth` with labels.csv, truth.csv (with
severities, and the class that each chest shows) and the masks. What is measured on such patients proves the machinery, never
clinical accuracy.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np

from pipeline.errors import ConfigurationError
from pipeline.files import write_whole
from pipeline.phantom.chest import LABELS, Phantom, chest
from pipeline.phantom.images import series
from pipeline.phantom.lesions import Label
from pipeline.phantom.writer import write_series

SEVERITY_STREAM = 7
ATYPICAL_STREAM = 8
SEED_STEP = 100_000


@dataclass(frozen=True, slots=True)
class CohortPlan:
    """Who is in a cohort; `counts` are covid, bacterial, healthy; severities are drawn evenly from the range.

    `atypical` is the share of patients whose chest shows another class than their label: labels come from a laboratory, and
    early COVID-19 may show nothing, as a healthy person may show an old or another infection. No reader can tell those.
    `varied` patients differ as people do (`phantom/variety.py`).
    """

    counts: tuple[int, int, int]
    seed: int = 0
    severity: tuple[float, float] = (0.1, 0.95)
    matrix: int = 256
    slices: int = 24
    atypical: float = 0.0
    varied: bool = False


def write_cohort(folder: Path, plan: CohortPlan, *, rank: int = 0, size: int = 1) -> None:
    """Write the patients that are not there yet: of `size` ranks, rank's share of them. Raises ConfigurationError."""
    truth = folder.with_name(folder.name + "-truth")
    (truth / "masks").mkdir(parents=True, exist_ok=True)
    _keep_to(plan, truth / "plan.json", is_first=rank == 0)
    rows = []
    for number, label in enumerate(_labels(plan.counts)):
        name = f"{plan.seed}-{label}-{number}"
        masks = truth / "masks" / f"{name}.npz"
        severity = severity_of(plan, number)
        shows = shown_class(plan, number, label)
        if number % size == rank and not masks.exists():
            _write_patient(folder / name, masks, chest_of(plan, number, label), name)
        rows.append((f"CANARYID-{name}", label, shows, f"{severity:.3f}", name))
    if rank:
        return
    _write_csv(truth / "truth.csv", ("patient_id", "label", "shows", "severity", "masks"), rows)
    _write_csv(truth / "labels.csv", ("patient_id", "label"), [row[:2] for row in rows])


def _keep_to(plan: CohortPlan, path: Path, *, is_first: bool) -> None:
    """Patients of two plans in one folder would make its truth a lie."""
    said = msgspec.to_builtins(plan)
    if not plan.varied:  # as plans were written before there was a choice
        del said["varied"]
    text = msgspec.json.encode(said)
    if path.exists() and path.read_bytes() != text:
        raise ConfigurationError(f"{path} is of another cohort ({path.read_text()}): name another folder")
    if is_first:
        write_whole(path, text)


def chest_of(plan: CohortPlan, number: int, label: Label) -> Phantom:
    """The patient of that number."""
    seed = plan.seed * SEED_STEP + number
    shows = shown_class(plan, number, label)
    return chest(seed, shows, matrix=plan.matrix, slices=plan.slices, severity=severity_of(plan, number), varied=plan.varied)


def shown_class(plan: CohortPlan, number: int, label: Label) -> Label:
    """What the chest of the patient of that number shows: its label, or, of the atypical, one of the other two classes."""
    draw = np.random.default_rng([plan.seed, ATYPICAL_STREAM, number])
    if draw.random() >= plan.atypical:
        return label
    others = [other for other in LABELS if other != label]
    return others[draw.integers(len(others))]


def severity_of(plan: CohortPlan, number: int) -> float:
    """How ill the patient of that number is, if ill at all."""
    return float(np.random.default_rng([plan.seed, SEVERITY_STREAM, number]).uniform(*plan.severity))


def _labels(counts: tuple[int, int, int]) -> list[Label]:
    """The classes in turn, as long as each has patients left."""
    turns = [(turn, which) for which, count in enumerate(counts) for turn in range(count)]
    return [LABELS[which] for _, which in sorted(turns)]


def _write_patient(folder: Path, masks: Path, phantom: Phantom, name: str) -> None:
    """The series, then the masks, whose presence says that the series is whole."""
    write_series(folder, series(phantom, name))
    buffer = io.BytesIO()
    np.savez_compressed(buffer, lung=phantom.lung, lesion=phantom.lesion, z_mm=phantom.z_mm)
    write_whole(masks, buffer.getvalue())


def _write_csv(path: Path, head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> None:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(head)
    writer.writerows(rows)
    write_whole(path, text.getvalue().encode())
