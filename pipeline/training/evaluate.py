"""`drenet evaluate`: a trained network on the patients of one part of its split -> tables, curves, differences to another run.

What is measured on synthetic patients proves the machinery and says nothing about clinical accuracy.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from pathlib import Path

import msgspec
import numpy as np

from pipeline.config import read_config
from pipeline.errors import ConfigurationError, Reason
from pipeline.model import Baseline, DreNet, load_baseline, load_checkpoint
from pipeline.ranks import Alone
from pipeline.store import write_whole
from pipeline.training.delong import paired_difference
from pipeline.training.figures import Figure, Scored, figures
from pipeline.training.plots import draw
from pipeline.training.recipe import POSITIVE, Recipe
from pipeline.training.run import Request, gather_cohort
from pipeline.training.scoring import probabilities
from pipeline.training.state import BEST

NOTICE = "Research use only. Figures of synthetic patients say nothing about clinical accuracy."


@dataclass(frozen=True, slots=True)
class Asked:
    """What `drenet evaluate` was asked; without `archive` the one that the run was trained on."""

    run: Path
    labels: Path
    part: str = "test"
    archive: Path | None = None
    cache: Path | None = None
    key_file: Path | None = None
    against: Path | None = None


def evaluate(asked: Asked) -> list[Figure]:
    """Write RUN/evaluation/PART/ and return its figures. Raises ConfigurationError."""
    network = read_network(asked.run / BEST)
    by_image, by_patient, keys = score_part(asked, network)
    stated = network.metadata.threshold
    threshold = 0.5 if stated is None else stated
    found = figures("image", by_image, threshold) + figures("patient", by_patient, threshold)
    out = _folder(asked)
    _write_scores(out / "patients.csv", keys, by_patient)
    if asked.against is not None:
        found.append(_difference(asked, keys, by_patient))
    _write_tables(out, found, stated)
    for name, picture in draw(by_image, by_patient, threshold):
        write_whole(out / name, picture)
    return found


def read_network(path: Path) -> DreNet | Baseline:
    """A DRE-Net, or else a baseline. Raises ConfigurationError."""
    try:
        return load_checkpoint(path)
    except ConfigurationError:
        return load_baseline(path)


def score_part(asked: Asked, network: DreNet | Baseline) -> tuple[Scored, Scored, list[str]]:
    """(by image, by patient, the patients' keys) of the asked part; a patient's score is the mean of its slices'."""
    request = _request(asked)
    members = gather_cohort(Alone(), request).part(asked.part)
    target = np.array([member.label == POSITIVE for member in members], bool)
    if target.all() or not target.any():
        raise ConfigurationError(
            f"the {asked.part} part has {target.sum()} of {len(target)} patients with {POSITIVE}: nothing to tell apart "
            f"({Reason.LABEL_ONE_CLASS})"
        )
    scores = [probabilities(network, request.place.cache, m.slices)[:, network.metadata.positive] for m in members]
    n_slices = [len(score) for score in scores]
    numbers = np.arange(len(members))
    by_image = Scored(np.repeat(target, n_slices), np.concatenate(scores), np.repeat(numbers, n_slices))
    by_patient = Scored(target, np.array([score.mean() for score in scores]), numbers)
    return by_image, by_patient, [member.patient_key for member in members]


def _request(asked: Asked) -> Request:
    """The run's own settings, for its own or another archive."""
    try:
        described = msgspec.toml.decode((asked.run / "recipe.toml").read_bytes())
        task = described.pop("task")
        recipe = msgspec.convert(described, Recipe)
    except (OSError, KeyError, msgspec.MsgspecError) as error:
        raise ConfigurationError(f"{asked.run} is no training run's folder: recipe.toml is missing or damaged") from error
    config = read_config(asked.run / "preparation.toml")
    out, cache = _folder(asked), asked.cache or asked.run / "private" / "cache"
    for folder in (out / "private", cache):
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


def _folder(asked: Asked) -> Path:
    """The only place that evaluating writes to, besides the cache of prepared slices: the training run stays as it is."""
    return asked.run / "evaluation" / asked.part


def _difference(asked: Asked, keys: Sequence[str], scored: Scored) -> Figure:
    """The area less that of another run on the same patients, which was evaluated before (paired DeLong)."""
    path = (asked.against or asked.run) / "evaluation" / asked.part / "patients.csv"
    try:
        with path.open(encoding="utf-8", newline="") as file:
            other = {row["patient_key"]: float(row["probability"]) for row in csv.DictReader(file)}
    except OSError as error:
        raise ConfigurationError(f"{path} is not there: evaluate that run first, on the same part") from error
    if set(other) != set(keys):
        raise ConfigurationError(f"{path} holds other patients: train both runs on the same split (--split)")
    area = paired_difference(scored.target, scored.score, np.array([other[key] for key in keys]))
    return Figure("patient", "AUC difference", area.area, area.low, area.high, "DeLong, paired")


def _write_scores(path: Path, keys: Sequence[str], scored: Scored) -> None:
    rows = zip(keys, scored.target.astype(int).tolist(), scored.score.tolist(), strict=True)
    lines = [f"{key},{target},{score!r}" for key, target, score in rows]
    write_whole(path, "\n".join(["patient_key,positive,probability", *lines, ""]).encode())


def _write_tables(out: Path, found: Sequence[Figure], stated: float | None) -> None:
    """figures.csv and figures.md."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(Figure.__dataclass_fields__)
    writer.writerows(astuple(figure) for figure in found)
    write_whole(out / "figures.csv", text.getvalue().encode())
    threshold = "0.5, since the checkpoint states none" if stated is None else f"{stated:.3f}, chosen on validation"
    lines = [
        f"Threshold {threshold}. {NOTICE}",
        "",
        "| level | metric | value | 95 % interval | by |",
    ]
    lines.append("|---|---|---|---|---|")
    lines += [f"| {f.level} | {f.metric} | {f.value:.3f} | {f.low:.3f} to {f.high:.3f} | {f.method} |" for f in found]
    write_whole(out / "figures.md", ("\n".join(lines) + "\n").encode())
