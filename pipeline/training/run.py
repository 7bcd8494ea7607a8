"""`drenet train`: archive and labels -> split, cached slices, a network; over all ranks, resumable by the same command."""

from __future__ import annotations

import csv
import logging
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import msgspec
import torch

from pipeline.config import Config, EngineConfig, to_toml
from pipeline.errors import ConfigurationError, Reason
from pipeline.files import write_whole
from pipeline.mpi.agreement import agreed, on_root
from pipeline.mpi.launch import local_rank
from pipeline.mpi.world import Alone, World
from pipeline.pseudonym import key_of
from pipeline.records import Study
from pipeline.run.beforehand import check_archive
from pipeline.run.index import index
from pipeline.run.lock import hold
from pipeline.run.manifest import NAME, read_heading, read_manifest
from pipeline.screening import asked_to_stop
from pipeline.study.drenet import Baseline, DreNet, Metadata, load_checkpoint
from pipeline.study.drenet.checkpoint import load_backbone
from pipeline.study.engine.device import open_device
from pipeline.training.cache import CachedStudy, cache_studies
from pipeline.training.exchange import Exchange
from pipeline.training.fit import Cohort, Place, Trainer, fit
from pipeline.training.labels import Labelled, labelled, read_labels
from pipeline.training.recipe import CLASSES, Recipe
from pipeline.training.scoring import Member
from pipeline.training.split import read_split, split, write_split
from pipeline.training.state import State

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Request:
    """What `drenet train` was asked: `archive` is an archive or the folder of a run that holds a manifest of one."""

    archive: Path
    labels: Path
    task: str
    out: Path
    recipe: Recipe
    config: Config
    start: Path | None = None
    split: Path | None = None
    cache: Path | None = None
    key_file: Path | None = None

    @property
    def place(self) -> Place:
        """Where this run keeps things."""
        return Place(self.out, self.cache or self.out / "private" / "cache")


class Chosen(NamedTuple):
    """The task's patients, the part of each by key, and how many studies were left out by (reason, part or "")."""

    patients: list[Labelled]
    parts: dict[str, str]
    left_out: Counter[tuple[str, str]]


def train(world: Alone | World, request: Request) -> State | None:
    """Train as `request` says; what came of it, on root. Raises PipelineError, Drained when stopped."""
    held = on_root(world, lambda: hold(request.out))
    try:
        with asked_to_stop() as stop:
            on_root(world, lambda: check(world, request))
            cohort = gather_cohort(world, request)
            device = open_device(EngineConfig(threads=request.recipe.threads), local_rank())
            torch.use_deterministic_algorithms(mode=True, warn_only=True)
            network = new_network(request, cohort.task)
            with Exchange(world, device) as exchange:
                trainer = Trainer(network, request.recipe, cohort, request.place, exchange, device)
                state = fit(world, trainer, stop)
            on_root(world, lambda: _finish(request, state))
            return state if world.rank == 0 else None
    finally:
        if held is not None:
            held.close()


def check(world: Alone | World, request: Request) -> None:
    """Root looks before anything starts. Raises ConfigurationError."""
    recipe = request.recipe
    if recipe.micro_batches < world.size:
        raise ConfigurationError(
            f"{world.size} ranks cannot share {recipe.micro_batches} micro-batches a step: start fewer ranks, or raise "
            "micro_batches in the recipe (it changes the training)"
        )
    if request.task not in CLASSES:
        raise ConfigurationError(f"unknown task {request.task!r}; known: {', '.join(CLASSES)}")
    written = request.out / "recipe.toml"
    wanted = msgspec.json.decode(msgspec.json.encode({**msgspec.to_builtins(recipe), "task": request.task}))
    if written.exists():
        before = msgspec.toml.decode(written.read_bytes())
        changed = [name for name in wanted if name != "threads" and before.get(name) != wanted[name]]
        if changed:
            raise ConfigurationError(f"{request.out} was begun with another {', '.join(changed)}: choose another --out")
    request.place.cache.mkdir(parents=True, exist_ok=True)
    write_whole(written, msgspec.toml.encode(wanted))
    write_whole(request.out / "preparation.toml", to_toml(request.config).encode())


def gather_cohort(world: Alone | World, request: Request) -> Cohort:
    """Index, labels, split, prepared slices: the cohort, alike on all ranks."""
    archive = Path(agreed(world, lambda: str(_archive_of(request)).encode()).decode())
    if not (request.archive / "private" / NAME).exists():
        key = on_root(world, lambda: key_of(request.key_file))
        index(world, archive, request.out / "private" if key else None, request.config, key)
    chosen = on_root(world, lambda: _chosen(request))
    studies = [study for patient in chosen.patients for study in patient.studies] if chosen else None
    cached = cache_studies(world, archive, request.place.cache, request.config, studies)
    told = agreed(world, lambda: msgspec.json.encode(_cohort(request, chosen, cached)))
    return msgspec.json.decode(told, type=Cohort)


def new_network(request: Request, task: str) -> DreNet | Baseline:
    """The network at its start: seeded, or from a checkpoint or a torchvision-named ResNet-50."""
    recipe, n_classes = request.recipe, len(CLASSES[task])
    torch.manual_seed(recipe.seed)
    if recipe.model != "drenet":
        if request.start is not None:
            raise ConfigurationError("--start is for DRE-Net only: baselines start from scratch")
        return Baseline(recipe.model, recipe.width, n_classes)
    network = DreNet(recipe.width, n_classes)
    network.metadata = Metadata(width=recipe.width, details=recipe.details)
    if request.start is not None:
        load_start(network, request.start)
    return network


def load_start(network: DreNet, path: Path) -> None:
    """Start from a DRE-Net checkpoint of the same width and classes, or from a torchvision-named ResNet-50."""
    try:
        state = load_checkpoint(path).state_dict()
    except ConfigurationError:
        load_backbone(network, path)
        return
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        raise ConfigurationError(f"{path} is a DRE-Net of another width or other classes than the recipe's") from error


def _archive_of(request: Request) -> Path:
    """The archive's own folder, where `archive` is that or a run with its manifest."""
    if (request.archive / "private" / NAME).exists():
        return Path(read_heading(request.archive / "private").root)
    check_archive(request.archive)
    return request.archive.absolute()


def _chosen(request: Request) -> Chosen:
    """The task's patients and the part of each; written to split.csv, what was left out to left_out.csv."""
    indexed = request.archive if (request.archive / "private" / NAME).exists() else request.out
    manifest = read_manifest(indexed / "private")
    studies = [_without_label(manifest.study(number)) for number in range(len(manifest.entries))]
    patients, left_out = labelled(studies, read_labels(request.labels), request.task)
    parts = (
        read_split(request.split, patients) if request.split else split(patients, request.recipe.seed, request.recipe.shares)
    )
    left_out["not in the split that was given"] += sum(patient.patient_key not in parts for patient in patients)
    patients = [patient for patient in patients if patient.patient_key in parts]
    write_split(request.out / "split.csv", parts, {patient.patient_key: patient.label for patient in patients})
    counts = Counter({(reason, ""): count for reason, count in left_out.items()})
    _write_left_out(request.out / "left_out.csv", counts)
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


def _cohort(request: Request, chosen: Chosen | None, cached: dict[str, CachedStudy]) -> Cohort:
    """The patients of whom at least one slice was prepared; studies without any are counted in left_out.csv."""
    patients, parts, left_out = chosen or Chosen([], {}, Counter())
    classes = CLASSES[request.task]
    members = []
    for patient in patients:
        studies = tuple(cached[study.study_key] for study in patient.studies if cached[study.study_key].slice_index)
        if studies:
            part = parts[patient.patient_key]
            members.append(Member(patient.patient_key, patient.label, classes.index(patient.label), part, studies))
    prepared = [(cached[study.study_key], parts[patient.patient_key]) for patient in patients for study in patient.studies]
    failed = Counter((one.reason, part) for one, part in prepared if one.reason)
    if failed:
        log.warning("left out: %d studies could not be prepared", failed.total())
        _write_left_out(request.out / "left_out.csv", left_out + failed)
    for part in ("train", "validation"):
        if {member.label for member in members if member.part == part} != set(classes):
            raise ConfigurationError(f"the {part} part lacks a class once unusable studies are gone ({Reason.LABEL_ONE_CLASS})")
    return Cohort(request.task, tuple(members))


def _finish(request: Request, state: State) -> None:
    """The curves as a picture, and the parts by patient for whoever reads on."""
    from pipeline.training.curves import draw_curves

    draw_curves(request.out / "curves.png", state)
    rows = list(csv.DictReader((request.out / "split.csv").read_text(encoding="utf-8").splitlines()))
    log.info("best validation AUC %.3f; %s", state.best, dict(Counter(row["part"] for row in rows)))
