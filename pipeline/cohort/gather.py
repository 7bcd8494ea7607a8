"""Archive and labels -> the cohort: indexed, matched with the labels, split, its slices prepared; over all ranks."""

from __future__ import annotations

import logging
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import msgspec

from pipeline.cohort.cache import CachedStudy, cache_studies
from pipeline.cohort.labels import Labelled, labelled, read_labels
from pipeline.cohort.paths import LEFT_OUT, SPLIT
from pipeline.cohort.split import read_split, split, write_split
from pipeline.cohort.tasks import CLASSES
from pipeline.config import Config
from pipeline.errors import ConfigurationError, Reason
from pipeline.files import write_whole
from pipeline.mpi.agreement import agreed, root_first
from pipeline.mpi.world import Alone, World
from pipeline.pseudonym import key_of
from pipeline.records import Study
from pipeline.run.beforehand import check_archive
from pipeline.run.index import Private, index
from pipeline.run.manifest import read_heading, read_manifest
from pipeline.run.paths import MANIFEST, PRIVATE

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class CohortRequest:
    """Whose cohort is wanted: `archive` is an archive or the folder of a run that holds a manifest of one.

    Tables go to `out`, prepared slices to `cache`. The patients' parts are read from `split`, or drawn by `seed` and `shares`.
    """

    archive: Path
    labels: Path
    task: str
    out: Path
    cache: Path
    config: Config
    split: Path | None = None
    seed: int = 0
    shares: tuple[float, float, float] = (0.6, 0.1, 0.3)
    key_file: Path | None = None


@dataclass(frozen=True, slots=True)
class CohortMember:
    """A patient of the cohort; `target` is the index of the label among the classes."""

    patient_key: str
    label: str
    target: int
    part: str
    studies: tuple[CachedStudy, ...]

    @property
    def slices(self) -> list[tuple[CachedStudy, int]]:
        """Every kept slice as (study, row)."""
        return [(study, row) for study in self.studies for row in range(len(study.slice_index))]


@dataclass(frozen=True, slots=True)
class Cohort:
    """Everybody who takes part, in an order that all ranks share."""

    task: str
    members: tuple[CohortMember, ...]

    def part(self, name: str) -> list[CohortMember]:
        """The patients of one part of the split."""
        return [member for member in self.members if member.part == name]


class Chosen(NamedTuple):
    """The task's patients, the part of each by key, and how many studies were left out by (reason, part or "")."""

    patients: list[Labelled]
    parts: dict[str, str]
    left_out: Counter[tuple[str, str]]


def gather_cohort(world: Alone | World, request: CohortRequest) -> Cohort:
    """Index, labels, split, prepared slices: the cohort, alike on all ranks."""
    archive = Path(agreed(world, lambda: str(_archive_of(request)).encode()).decode())
    if not (request.archive / PRIVATE / MANIFEST).exists():
        private: Private | None = None
        with root_first(world):
            if world.rank == 0:
                private = Private(request.out / PRIVATE, key_of(request.key_file))
        index(world, archive, private, request.config)
    chosen: Chosen | None = None
    with root_first(world):
        if world.rank == 0:
            chosen = _chosen(request)
    studies = [study for patient in chosen.patients for study in patient.studies] if chosen else None
    cached = cache_studies(world, archive, request.cache, request.config, studies)
    told = agreed(world, lambda: msgspec.json.encode(_cohort(request, chosen, cached)))
    return msgspec.json.decode(told, type=Cohort)


def _archive_of(request: CohortRequest) -> Path:
    """The archive's own folder, where `archive` is that or a run with its manifest."""
    if (request.archive / PRIVATE / MANIFEST).exists():
        return Path(read_heading(request.archive / PRIVATE).root)
    check_archive(request.archive)
    return request.archive.absolute()


def _chosen(request: CohortRequest) -> Chosen:
    """The task's patients and the part of each; written to split.csv, what was left out to left_out.csv."""
    indexed = request.archive if (request.archive / PRIVATE / MANIFEST).exists() else request.out
    manifest = read_manifest(indexed / PRIVATE)
    studies = [_without_label(manifest.study(number)) for number in range(len(manifest.entries))]
    patients, left_out = labelled(studies, read_labels(request.labels), request.task)
    parts = read_split(request.split, patients) if request.split else split(patients, request.seed, request.shares)
    left_out["not in the split that was given"] += sum(patient.patient_key not in parts for patient in patients)
    patients = [patient for patient in patients if patient.patient_key in parts]
    write_split(request.out / SPLIT, parts, {patient.patient_key: patient.label for patient in patients})
    counts = Counter({(reason, ""): count for reason, count in left_out.items()})
    _write_left_out(request.out / LEFT_OUT, counts)
    return Chosen(patients, parts, counts)


def _without_label(study: Study) -> Study:
    return replace(study, label="")


def _write_left_out(path: Path, left_out: Counter[tuple[str, str]]) -> None:
    """Studies by reason and, where they belong to one, by the part that lacks them."""
    found = sorted((reason, part, count) for (reason, part), count in left_out.items() if count)
    lines = ["reason,part,studies", *(f"{reason},{part},{count}" for reason, part, count in found)]
    write_whole(path, ("\n".join(lines) + "\n").encode())
    for reason, part, count in found:
        log.info("left out: %d studies%s, %s", count, f" of the {part} part" if part else "", reason)


def _cohort(request: CohortRequest, chosen: Chosen | None, cached: dict[str, CachedStudy]) -> Cohort:
    """The patients of whom at least one slice was prepared; studies without any are counted in left_out.csv."""
    patients, parts, left_out = chosen or Chosen([], {}, Counter())
    classes = CLASSES[request.task]
    members = []
    for patient in patients:
        studies = tuple(cached[study.study_key] for study in patient.studies if cached[study.study_key].slice_index)
        if studies:
            part = parts[patient.patient_key]
            members.append(CohortMember(patient.patient_key, patient.label, classes.index(patient.label), part, studies))
    prepared = [(cached[study.study_key], parts[patient.patient_key]) for patient in patients for study in patient.studies]
    failed = Counter((one.reason, part) for one, part in prepared if one.reason)
    if failed:
        log.warning("left out: %d studies could not be prepared", failed.total())
        _write_left_out(request.out / LEFT_OUT, left_out + failed)
    for part in ("train", "validation"):
        if {member.label for member in members if member.part == part} != set(classes):
            raise ConfigurationError(f"the {part} part lacks a class once unusable studies are gone ({Reason.LABEL_ONE_CLASS})")
    return Cohort(request.task, tuple(members))
