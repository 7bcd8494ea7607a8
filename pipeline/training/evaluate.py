"""`drenet evaluate`: a trained network on one part of its split, or a screened run's networks on whoever has a label.

Either way RUN/evaluation/ gets the same tables, curves and differences (written.py). What is measured on synthetic patients
proves the machinery and says nothing about clinical accuracy.
"""

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
from pipeline.config import read_config
from pipeline.errors import ConfigurationError, Reason
from pipeline.mpi.world import Alone
from pipeline.study.drenet import Baseline, DreNet, load_baseline, load_checkpoint
from pipeline.training.figures import Figure, Scored, Target
from pipeline.training.recipe import POSITIVE, Recipe
from pipeline.training.run import Request, gather_cohort
from pipeline.training.scoring import Member, probabilities
from pipeline.training.screened import measure_screened
from pipeline.training.state import BEST
from pipeline.training.written import FOLDER, Measured, write_evaluation

TRAINED, SCREENED = "recipe.toml", "run.toml"


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


def evaluate(asked: Asked) -> dict[str, list[Figure]]:
    """Write RUN/evaluation/NAME/ of the part, or of every network screened with; their figures. Raises ConfigurationError."""
    found = [measure_trained(asked)] if is_trained(asked) else measure_screened(asked.run, asked.labels, asked.key_file)
    return {measured.name: write_evaluation(asked.run, measured, asked.against) for measured in found}


def is_trained(asked: Asked) -> bool:
    """Whether the run is a training run, else a screened one: each has a file that tells. Raises ConfigurationError."""
    if (asked.run / TRAINED).exists():
        return True
    if not (asked.run / SCREENED).exists():
        raise ConfigurationError(
            f"{asked.run} is neither a training run's folder (it would hold {TRAINED}) nor a screened one's ({SCREENED}): "
            "name the --out of `drenet train` or `drenet screen`"
        )
    if asked.part or asked.archive or asked.cache:
        raise ConfigurationError(f"{asked.run} is a screened run: --part, --archive and --cache are for training runs")
    return False


def measure_trained(asked: Asked) -> Measured:
    """The run's network on the asked part; a patient's score is the mean of its slices'."""
    if not (asked.run / BEST).exists():
        raise ConfigurationError(f"{asked.run} has no {BEST} yet: its training is not finished. Start `drenet train` again")
    network, request = read_network(asked.run / BEST), _request(asked)
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
    network: DreNet | Baseline, request: Request, members: Sequence[Member], target: Target
) -> tuple[Scored, Scored]:  # fmt: skip
    """(by image, by patient)."""
    scores = [probabilities(network, request.place.cache, m.slices)[:, network.metadata.positive] for m in members]
    n_slices, numbers = [len(score) for score in scores], np.arange(len(members))
    by_image = Scored(np.repeat(target, n_slices), np.concatenate(scores), np.repeat(numbers, n_slices))
    return by_image, Scored(target, np.array([score.mean() for score in scores]), numbers)


def read_network(path: Path) -> DreNet | Baseline:
    """A DRE-Net, or else a baseline. Raises ConfigurationError."""
    try:
        return load_checkpoint(path)
    except ConfigurationError:
        return load_baseline(path)


def _request(asked: Asked) -> Request:
    """The run's own settings, for its own or another archive; what indexing writes stays under the run's `private/`."""
    try:
        described = msgspec.toml.decode((asked.run / TRAINED).read_bytes())
        task = described.pop("task")
        recipe = msgspec.convert(described, Recipe)
    except (OSError, KeyError, msgspec.MsgspecError) as error:
        raise ConfigurationError(f"{asked.run / TRAINED} is damaged: train again, or put it back") from error
    config = read_config(asked.run / "preparation.toml")
    private = asked.run / "private"
    out, cache = private / FOLDER / (asked.part or "test"), asked.cache or private / "cache"
    for folder in (private, out / "private", cache):
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    return Request(
        asked.archive or asked.run,
        asked.labels,
        task,
        out,
        recipe,
        config,
        split=asked.run / "split.csv",
        cache=cache,
        key_file=asked.key_file,
    )


def _left_out(request: Request) -> Counter[str]:
    """What gathering the cohort counted, of this part and of none."""
    counts = Counter[str]()
    with (request.out / "left_out.csv").open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            counts[row["reason"]] += int(row["studies"]) if row["part"] in ("", request.out.name) else 0
    return +counts
