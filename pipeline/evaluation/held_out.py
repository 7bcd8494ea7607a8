"""Shipped networks on patients that nobody trained or chose on: a synthetic cohort of its own seed, screened as any other.

What comes out proves the machinery. Synthetic patients say nothing about clinical accuracy.
"""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.cohort.cache import cache_name, read_cached, write_study
from pipeline.cohort.tasks import POSITIVE
from pipeline.config import Config
from pipeline.evaluation.delong import area_with_interval
from pipeline.evaluation.intervals import wilson
from pipeline.evaluation.localise import Tally, summed, tally
from pipeline.phantom import CohortPlan, write_cohort
from pipeline.pseudonym import pseudonym, read_or_make_key
from pipeline.records import DEFAULT_THRESHOLD
from pipeline.run.manifest import read_manifest
from pipeline.run.paths import PRIVATE
from pipeline.run.read_tables import open_run
from pipeline.screening import screen
from pipeline.study.drenet import DreNet, load_checkpoint
from pipeline.study.screener import Preparer

HELD_OUT = {
    "varied": CohortPlan((100, 60, 60), seed=7722, matrix=192, slices=24, varied=True),
    "plain": CohortPlan((100, 60, 60), seed=7718, matrix=192, slices=24),
}
"""Patients who differ as people do, like those to learn from; and plain ones, as earlier networks were measured on."""


def held_out(folder: Path, weights: Mapping[str, Path], plan: CohortPlan) -> dict[str, dict[str, Any]]:
    """By task the figures by patient of the network at `weights[task]`; everything made on the way stays in `folder`."""
    write_cohort(folder / "archive", plan)
    key_file = folder / "held-out.key"
    key = read_or_make_key(key_file)
    screen(folder / "archive", list(weights.values()), folder / "run", key_file=key_file)
    labels = by_patient_key(folder / "archive-truth" / "labels.csv", key, "label")
    run = open_run(folder / "run")
    patients = run.patients.set_index("patient_key")
    found = {}
    for (task, path), network in zip(weights.items(), run.networks, strict=True):
        column = patients[network.column].dropna()
        metadata = load_checkpoint(path).metadata
        keys = [key for key in column.index if labels[key] in metadata.classes]
        target = np.array([labels[key] == POSITIVE for key in keys])
        figures = patient_figures(target, column.loc[keys].to_numpy(float), metadata.threshold or DEFAULT_THRESHOLD)
        n_not_scored = sum(label in metadata.classes for label in labels.values()) - len(keys)
        sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
        localised = localisation(folder, load_checkpoint(path), labels)
        found[task] = {"sha256": sha256, "not_scored": n_not_scored, **figures, "localisation": localised}
    return found


def localisation(folder: Path, network: DreNet, labels: Mapping[str, str]) -> dict[str, Any]:
    """Findings, and top details, against the lesions that the phantom knows of: of all patients, and of each class."""
    manifest = read_manifest(folder / "run" / PRIVATE)
    cache = folder / "cache"
    config = Config()
    cache.mkdir(exist_ok=True)
    tallies: dict[str, list[tuple[Tally, Tally]]] = {"all": []}
    with Preparer(folder / "archive", config) as preparer:
        studies = (manifest.study(number) for number in range(len(manifest.entries)))
        for study in sorted(studies, key=lambda study: study.patient_id):  # by keys the draws would differ with each new key
            name = study.patient_id.rpartition("CANARYID-")[2]
            label = labels[study.patient_key]
            lesion = np.load(folder / "archive-truth" / "masks" / f"{name}.npz")["lesion"]
            if label not in network.metadata.classes or not lesion.any():
                continue
            file = cache_name(study, config)
            if not (cache / f"{file}.json").exists():
                write_study(cache, file, preparer, study)
            counted = tally(network, cache, read_cached(cache, file), lesion)
            for group in ("all", label):
                tallies.setdefault(group, []).append(counted)
    return {
        what: {group: summed([pair[which] for pair in members]) for group, members in tallies.items()}
        for which, what in enumerate(("findings", "top_details"))
    }


def patient_figures(target: np.ndarray[Any, Any], score: np.ndarray[Any, Any], threshold: float) -> dict[str, Any]:
    """AUC (DeLong), recall, specificity and precision (Wilson) at `threshold`, each with its 95 % interval."""
    area = area_with_interval(target, score)
    above = score >= threshold
    hits = int((above & target).sum())
    false = int((above & ~target).sum())
    n_positive = int(target.sum())
    n_negative = int((~target).sum())
    return {
        "patients": len(target),
        "positive": n_positive,
        "threshold": threshold,
        "auc": [area.area, area.low, area.high],
        "recall": wilson(hits, n_positive),
        "specificity": wilson(n_negative - false, n_negative),
        "precision": wilson(hits, hits + false),
    }


def by_patient_key(table: Path, key: bytes, column: str) -> dict[str, str]:
    """patient_key -> `column` of a cohort's labels.csv or truth.csv."""
    with table.open(encoding="utf-8", newline="") as file:
        return {pseudonym(key, "patient", f"\\{row['patient_id']}"): row[column] for row in csv.DictReader(file)}
