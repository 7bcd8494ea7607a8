"""A screened run and labels -> what its networks say of labelled patients, from the run's own tables.

Labels join by pseudonym: `patient_key` as it stands; `patient_id` and `study_uid` through the run's manifest (`private/`), or,
where the run was copied without it, through the key that made the pseudonyms. Nothing is asked of the archive.
"""

from __future__ import annotations

import hashlib
import logging
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from pipeline.cohort.labels import KNOWN, Labels, label_of, names_of, read_labels, reasons, strangers
from pipeline.cohort.tasks import POSITIVE
from pipeline.errors import ConfigurationError, Reason
from pipeline.evaluation.metrics import Scored
from pipeline.evaluation.write import Measured
from pipeline.pseudonym import default_key_file, fingerprint, pseudonym, read_key
from pipeline.run.manifest import Manifest, read_manifest
from pipeline.run.paths import MANIFEST, PRIVATE
from pipeline.run.read_tables import Run, open_run
from pipeline.run.run_toml import Network, read_described

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Truth:
    """The label of every patient who has one, by patient_key, and how many labelled patients the run does not hold."""

    label: dict[str, str]
    n_strangers: int


def measure_screened(run: Path, labels: Path, key_file: Path | None) -> list[Measured]:
    """One a network of which the labels can say something. Raises ConfigurationError, naming the cure."""
    described = read_described(run)
    tables = open_run(run)
    networks = tables.networks
    manifest = _finished(run, tables)
    said = read_labels(labels, KNOWN | {name for network in networks for name in network.classes})
    truth = _by_manifest(manifest, said) if manifest else _by_key(tables, said, described.key_fingerprint, key_file)
    if not truth.label:
        raise ConfigurationError(
            f"none of the {truth.n_strangers} labelled patients is in {run} ({Reason.LABEL_MISSING}): do labels and run belong "
            "together, and are patients written as in the archive, or by patient_key?"
        )
    about = {
        "scores": f"of a screened run by drenet-pipeline {described.code_version}, manifest sha256 {described.manifest_sha256}",
        "labels": f"sha256 {hashlib.sha256(labels.read_bytes()).hexdigest()}",
    }
    return _able([measure_network(tables, network, truth, about) for network in networks])


def measure_network(tables: Run, network: Network, truth: Truth, about: Mapping[str, str]) -> Measured:
    """What one network says of the patients whose label is one of its classes; a patient's score is that of patients.csv."""
    left_out = Counter({"not in this run": truth.n_strangers})
    keys = []
    target = []
    score = []
    for key, value in tables.patients.set_index("patient_key")[network.column].sort_index().items():
        label = truth.label.get(str(key), "")
        positive = target_of(label, network) if label else None
        if not label:
            left_out[Reason.LABEL_MISSING] += 1
        elif positive is None:
            left_out[f"label {label} is not of this network"] += 1
        elif np.isnan(value):
            left_out["labelled, but none of their studies was scored"] += 1
        else:
            keys.append(str(key))
            target.append(positive)
            score.append(float(value))
    by_patient = Scored(np.array(target, bool), np.array(score, float), np.arange(len(keys)))
    told = {
        "network": f"{network.column}: {network.task or 'no task stated'}, classes {', '.join(network.classes)}, positive "
        f"{network.positive}; weights sha256 {network.sha256}" + (f"; {network.meaning}" if network.meaning else ""),
        "labels of the patients": _counts(truth.label[key] for key in keys),
        **about,
    }
    by_image = _slices(tables, network.column, keys, by_patient)
    return Measured(network.column, by_image, by_patient, tuple(keys), network.threshold, told, +left_out)


def target_of(label: str, network: Network) -> bool | None:
    """Whether a patient of that label is positive to the network; None where the label is none of its classes.

    A network that does not name its other classes in the words of labels.csv ("control", "negative") takes all others for them.
    """
    if label == network.positive or (network.positive not in KNOWN and label == POSITIVE):
        return True
    names_others = KNOWN & (set(network.classes) - {network.positive})
    return False if label in network.classes or not names_others else None


def _able(found: list[Measured]) -> list[Measured]:
    """Those with patients of both kinds. Raises ConfigurationError where there are none."""
    able = []
    said = []
    for measured in found:
        n = len(measured.keys)
        n_positive = int(measured.by_patient.target.sum())
        if 0 < n_positive < n:
            able.append(measured)
            continue
        said.append(
            f"{measured.name}: of {n} patients with a score and a label of its classes {n_positive} are positive: nothing to "
            f"tell apart ({Reason.LABEL_ONE_CLASS}); left out: {reasons(measured.left_out)}"
        )
    if not able:
        raise ConfigurationError("; ".join(said) + "; do labels, run and networks belong together?")
    for line in said:
        log.warning("not evaluated: %s", line)
    return able


def _finished(run: Path, tables: Run) -> Manifest | None:
    """The run's manifest, where it is there. Raises ConfigurationError where studies of it are missing from the tables."""
    if not (run / PRIVATE / MANIFEST).exists():
        return None
    manifest = read_manifest(run / PRIVATE)
    n_open = len({entry.study_key for entry in manifest.entries} - set(tables.studies["study_key"]))
    if n_open:
        raise ConfigurationError(
            f"{run} is not finished: {n_open} of {len(manifest.entries)} studies are open. Start its `drenet screen` again"
        )
    return manifest


def _by_manifest(manifest: Manifest, said: Labels) -> Truth:
    """The manifest knows every study's names."""
    found: dict[str, set[str]] = {}
    met: set[str] = set()
    for number in range(len(manifest.entries)):
        study = manifest.study(number)
        found.setdefault(study.patient_key, set()).add(label_of(study, said))
        met |= names_of(study, said)
    return Truth(_agreed(found), sum(strangers(said, met).values()))


def _by_key(tables: Run, said: Labels, recorded: str, key_file: Path | None) -> Truth:
    """The key makes the run's pseudonyms of the names in the labels; needed only where they hold names."""
    patients = {name: {name} for name in said.patients}
    studies: dict[str, str] = {}
    if not said.by_key or said.studies:
        path = key_file or default_key_file()
        key = read_key(path) if path.exists() else b""
        if fingerprint(key) != recorded:
            raise ConfigurationError(
                "the run's private/ folder is not here, and the pseudonym key is another than the one it was screened with: "
                "name that with --key-file, or write labels by patient_key"
            )
        studies = {pseudonym(key, "study", uid): label for uid, (label, _) in said.studies.items()}
        if not said.by_key:
            patients = {name: {pseudonym(key, "patient", form) for form in (name, f"\\{name}")} for name in said.patients}
    labels = {key: said.patients[name][0] for name, keys in patients.items() for key in keys}
    found: dict[str, set[str]] = {}
    for study, patient in zip(tables.studies["study_key"], tables.studies["patient_key"], strict=True):
        found.setdefault(patient, set()).add(studies.get(study) or labels.get(patient, ""))
    return Truth(_agreed(found), said.n_nameless + sum(not keys & found.keys() for keys in patients.values()))


def _agreed(found: Mapping[str, set[str]]) -> dict[str, str]:
    """One label a patient. Raises ConfigurationError for one with two."""
    agreed = {}
    for key, labels in found.items():
        known = sorted(labels - {""})
        if len(known) > 1:
            raise ConfigurationError(
                f"patient {key} has the labels {' and '.join(known)} ({Reason.LABEL_CONFLICT}): a patient has one; correct the "
                "rows of its studies, or leave them out"
            )
        if known:
            agreed[key] = known[0]
    return agreed


def _slices(tables: Run, column: str, keys: list[str], by_patient: Scored) -> Scored:
    """Every scored slice of those patients."""
    number = pd.Series(np.arange(len(keys)), index=keys)
    patient_of = tables.studies.set_index("study_key")["patient_key"]
    patient = tables.slices["study_key"].map(patient_of).map(number)
    cluster = patient.dropna().to_numpy(np.int64)
    return Scored(by_patient.target[cluster], tables.slices[column][patient.notna()].to_numpy(float), cluster)


def _counts(labels: Iterable[str]) -> str:
    return ", ".join(f"{count} {label}" for label, count in sorted(Counter(labels).items()))
