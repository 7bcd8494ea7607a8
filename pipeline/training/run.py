"""`drenet train`: archive and labels -> split, cached slices, a network; over all ranks, resumable by the same command."""

from __future__ import annotations

import csv
import logging
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import msgspec
import torch

from pipeline.archive import IDENTITY_RULE
from pipeline.cohort.gather import CohortRequest, gather_cohort
from pipeline.cohort.paths import CACHE, PREPARATION, RECIPE, SPLIT
from pipeline.cohort.tasks import CLASSES
from pipeline.config import Config, EngineConfig, to_toml
from pipeline.errors import ConfigurationError
from pipeline.files import write_whole
from pipeline.mpi.agreement import root_first
from pipeline.mpi.launched import local_rank
from pipeline.mpi.stop import asked_to_stop
from pipeline.mpi.world import Alone, World
from pipeline.run.lock import hold
from pipeline.study.checkpoint import Metadata
from pipeline.study.drenet import Baseline, DreNet, load_start
from pipeline.study.engine.device import open_device
from pipeline.training.events import EVENTS, check_tensorboard, write_events
from pipeline.training.exchange import Exchange
from pipeline.training.fit import Folders, Trainer, fit
from pipeline.training.recipe import Recipe
from pipeline.training.state import State

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class TrainingRequest:
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
    tensorboard: bool = False

    @property
    def cohort(self) -> CohortRequest:
        """Whom to train on."""
        return CohortRequest(
            self.archive,
            self.labels,
            self.task,
            self.out,
            self.folders.cache,
            self.config,
            self.split,
            self.recipe.seed,
            self.recipe.shares,
            self.key_file,
        )

    @property
    def folders(self) -> Folders:
        """Where this run keeps things."""
        return Folders(self.out, self.cache or self.out / CACHE, self.out / EVENTS if self.tensorboard else None)


def train(world: Alone | World, request: TrainingRequest) -> State | None:
    """Train as `request` says; what came of it, on root. Raises PipelineError, Drained when stopped."""
    with ExitStack() as stack, asked_to_stop() as stop:
        with root_first(world):
            if world.rank == 0:
                stack.enter_context(hold(request.out))
                check(world, request)
        cohort = gather_cohort(world, request.cohort)
        device = open_device(EngineConfig(threads=request.recipe.threads), local_rank())
        torch.use_deterministic_algorithms(mode=True, warn_only=True)
        network = new_network(request, cohort.task)
        with Exchange(world, device) as exchange:
            trainer = Trainer(network, request.recipe, cohort, request.folders, exchange, device)
            state = fit(world, trainer, stop, has_learned=request.start is not None)
        with root_first(world):
            if world.rank == 0:
                _finish(request, state)
        return state if world.rank == 0 else None


def check(world: Alone | World, request: TrainingRequest) -> None:
    """Root looks before anything starts. Raises ConfigurationError."""
    recipe = request.recipe
    if request.tensorboard:
        check_tensorboard()
    if recipe.micro_batches < world.size:
        raise ConfigurationError(
            f"{world.size} ranks cannot share {recipe.micro_batches} micro-batches a step: start fewer ranks, or raise "
            "micro_batches in the recipe (it changes the training)"
        )
    if request.task not in CLASSES:
        raise ConfigurationError(f"unknown task {request.task!r}; known: {', '.join(CLASSES)}")
    written = request.out / RECIPE
    described = {**msgspec.to_builtins(recipe), "task": request.task, "identity_rule": IDENTITY_RULE}
    wanted = msgspec.json.decode(msgspec.json.encode(described))
    if written.exists():
        _check_unchanged(request.out, msgspec.toml.decode(written.read_bytes()), wanted)
    request.folders.cache.mkdir(parents=True, exist_ok=True)
    write_whole(written, msgspec.toml.encode(wanted))
    write_whole(request.out / PREPARATION, to_toml(request.config).encode())


def _check_unchanged(out: Path, before: dict[str, object], wanted: dict[str, object]) -> None:
    if before.get("identity_rule", 1) != IDENTITY_RULE:
        raise ConfigurationError(
            f"{out} was begun by a version that read patients' IDs without their character set: its patients and parts would "
            "not be the same. Finish it with the program that began it, or choose another --out"
        )
    changed = [name for name in wanted if name != "threads" and before.get(name) != wanted[name]]
    if changed:
        raise ConfigurationError(f"{out} was begun with another {', '.join(changed)}: choose another --out")


def new_network(request: TrainingRequest, task: str) -> DreNet | Baseline:
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


def _finish(request: TrainingRequest, state: State) -> None:
    """The curves as a picture, and the parts by patient for whoever reads on."""
    from pipeline.training.curves import draw_curves

    draw_curves(request.out / "curves.png", state)
    if request.folders.events is not None:
        write_events(request.folders.events, state)
    rows = list(csv.DictReader((request.out / SPLIT).read_text(encoding="utf-8").splitlines()))
    parts = ", ".join(f"{name} {count}" for name, count in Counter(row["part"] for row in rows).items())
    log.info("best validation AUC %.3f; patients: %s", state.best, parts)
