"""A training run's network on one part of its split; a patient's score is the mean of its slices'."""

from __future__ import annotations

import csv
import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np

from pipeline import __version__
from pipeline.cohort.gather import CohortMember, CohortRequest, gather_cohort
from pipeline.cohort.paths import BEST, CACHE, LEFT_OUT, PREPARATION, RECIPE, SPLIT
from pipeline.cohort.tasks import POSITIVE
from pipeline.config import read_config
from pipeline.errors import ConfigurationError, Reason
from pipeline.evaluation.metrics import Scored, Target
from pipeline.evaluation.scoring import probabilities
from pipeline.evaluation.write import FOLDER, Measured
from pipeline.mpi.world import Alone
from pipeline.run.paths import PRIVATE
from pipeline.study.drenet import Baseline, DreNet, load_network


@dataclass(frozen=True, slots=True)
class Asked:
    """What `drenet evaluate` was asked.

    `part` (the test part where none is named), `archive` (without, the one trained on) and `cache` are for training runs.
    """

    run: Path
    labels: Path
    part: str | None = None
    archive: Path | None = None
    cache: Path | None = None
    key_file: Path | None = None
    against: Path | None = None


def measure_trained(asked: Asked) -> Measured:
    """The run's network on the asked part; a patient's score is the mean of its slices'."""
    if not (asked.run / BEST).exists():
        raise ConfigurationError(f"{asked.run} has no {BEST} yet: its training is not finished. Start `drenet train` again")
    network = load_network(asked.run / BEST)
    request = _cohort_of(asked)
    members = gather_cohort(Alone(), request).part(asked.part or "test")
    target = np.array([member.label == POSITIVE for member in members], bool)
    if target.all() or not target.any():
        raise ConfigurationError(
            f"the {request.out.name} part has {target.sum()} of {len(target)} patients with {POSITIVE}: nothing to tell apart "
            f"({Reason.LABEL_ONE_CLASS}); evaluate another part, or train on more patients"
        )
    by_image, by_patient = _scored(network, request, members, target)
    metadata = network.metadata
    about = {
        "network": f"{metadata.architecture} of this training run: classes {', '.join(metadata.classes)}, positive {POSITIVE}; "
        f"weights sha256 {metadata.sha256}",
        "scores": f"of the {request.out.name} part of the run's split, by drenet-pipeline {__version__}",
        "labels": f"sha256 {hashlib.sha256(asked.labels.read_bytes()).hexdigest()}",
    }
    keys = tuple(member.patient_key for member in members)
    return Measured(request.out.name, by_image, by_patient, keys, metadata.threshold, about, _left_out(request), "studies")


def _scored(
    network: DreNet | Baseline, request: CohortRequest, members: Sequence[CohortMember], target: Target
) -> tuple[Scored, Scored]:  # fmt: skip
    """(by image, by patient)."""
    scores = [probabilities(network, request.cache, m.slices)[:, network.metadata.positive] for m in members]
    n_slices = [len(score) for score in scores]
    numbers = np.arange(len(members))
    by_image = Scored(np.repeat(target, n_slices), np.concatenate(scores), np.repeat(numbers, n_slices))
    return by_image, Scored(target, np.array([score.mean() for score in scores]), numbers)


def _cohort_of(asked: Asked) -> CohortRequest:
    """The run's patients and parts, of its own or another archive; what indexing writes stays under the run's `private/`."""
    try:
        task = msgspec.toml.decode((asked.run / RECIPE).read_bytes())["task"]
    except (OSError, KeyError, msgspec.MsgspecError) as error:
        raise ConfigurationError(f"{asked.run / RECIPE} is damaged: train again, or put it back") from error
    config = read_config(asked.run / PREPARATION)
    out = asked.run / PRIVATE / FOLDER / (asked.part or "test")
    cache = asked.cache or asked.run / CACHE
    for folder in (asked.run / PRIVATE, out / PRIVATE, cache):
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    archive = asked.archive or asked.run
    return CohortRequest(archive, asked.labels, task, out, cache, config, split=asked.run / SPLIT, key_file=asked.key_file)


def _left_out(request: CohortRequest) -> Counter[str]:
    """What gathering the cohort counted, of this part and of none."""
    counts = Counter[str]()
    with (request.out / LEFT_OUT).open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            counts[row["reason"]] += int(row["studies"]) if row["part"] in ("", request.out.name) else 0
    return +counts
