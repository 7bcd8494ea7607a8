"""Training itself: epochs of steps over all ranks, validation by patient, the best network kept, resumable at any moment.

The global batch is `micro_batches` micro-batches, whoever computes them; dropout is seeded per micro-batch, augmentation per
slice, and gradients and statistics are summed in the order of micro-batches. So neither the number of ranks nor a kill changes
a bit of the weights on one processor family.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from tqdm import tqdm

from pipeline.cohort.gather import Cohort, CohortMember
from pipeline.cohort.paths import BEST
from pipeline.cohort.tasks import CLASSES, POSITIVE
from pipeline.errors import ConfigurationError, Drained
from pipeline.evaluation.metrics import area_under_curve
from pipeline.evaluation.scoring import best_threshold, probabilities
from pipeline.mpi.stall import moved
from pipeline.mpi.terminal import bar_options
from pipeline.mpi.world import Alone, World
from pipeline.study.drenet import Baseline, DreNet
from pipeline.training.batches import Sample, epoch_order, full_batch
from pipeline.training.between import let_looks_answer
from pipeline.training.events import write_events
from pipeline.training.exchange import Exchange, Flat
from pipeline.training.losses import ALL_ALIKE, PARTS, full_loss, trunk_loss
from pipeline.training.optimiser import Optimiser
from pipeline.training.recipe import Recipe
from pipeline.training.state import TRUNK, State, read_state, write_network, write_state
from pipeline.training.trunk import trunk_batch, trunk_probabilities

log = logging.getLogger(__name__)

JUMP = (
    "the trunk epochs are done: from now on the loss has two more terms, concat and rank, and jumps, which is no setback; "
    f"rank alone is {ALL_ALIKE:.0f} while a slice's details all score alike"
)


ALIKE = 0.02
"""Networks of one cycle of the learning rate whose validation AUCs differ by less are alike: the later one has settled more."""


@dataclass(frozen=True, slots=True)
class Folders:
    """Where a run keeps what it makes, and where its slices lie; `events` is for TensorBoard, where that is wanted."""

    run: Path
    cache: Path
    events: Path | None = None


class Trainer:
    """One rank's replica of the network in training."""

    def __init__(
        self, network: DreNet | Baseline, recipe: Recipe, cohort: Cohort, folders: Folders, exchange: Exchange,
        device: torch.device,
    ) -> None:  # fmt: skip
        self.network = network.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.recipe, self.cohort, self.folders, self.exchange, self._device = recipe, cohort, folders, exchange, device
        targets = [(member, study, row) for member in cohort.part("train") for study, row in member.slices]
        self.samples = [Sample(study, row, member.target) for member, study, row in targets]
        self.n_steps = len(epoch_order(len(self.samples), recipe, 0))
        if self.n_steps == 0:
            raise ConfigurationError(f"{len(self.samples)} slices to train on make no step: lower micro_batch or micro_batches")
        self.optimiser = Optimiser(network, recipe, self.n_steps)
        self._flat = Flat(network)
        if isinstance(network, DreNet):
            network.explore = recipe.explore
            network.trunk_dtype = torch.bfloat16 if recipe.precision == "bf16" else torch.float32

    def step(self, epoch: int, number: int, micro_batches: Sequence[Sequence[int]]) -> list[float]:
        """One step of the optimiser; the mean losses by part."""
        self._set_mode(epoch)
        start, vectors = self._flat.start(), []
        for m in self.exchange.mine(len(micro_batches)):
            self._flat.restore(start)
            torch.manual_seed(seed_of(self.recipe.seed, epoch, number, m))
            losses = self._losses(epoch, micro_batches[m])
            losses.sum().backward()  # type: ignore[no-untyped-call]
            vectors.append(self._flat.read(losses))
        losses = self._flat.write(self.exchange.mean(vectors, len(micro_batches)), len(PARTS))
        self.optimiser.step(epoch, number)
        return [float(loss) for loss in losses]

    def validate(self, epoch: int) -> dict[str, tuple[float, float]]:
        """patient_key -> (probability of the positive class, cross entropy), each the mean over the patient's slices.

        Of this rank's share of the validation patients, by the network's answer: in trunk epochs by what the trunk says.
        """
        positive = CLASSES[self.cohort.task].index(POSITIVE)
        mine = self.cohort.part("validation")[self.exchange.rank :: self.exchange.size]
        found = {}
        for member in mine:
            scores = self._scores(member, epoch)
            found[member.patient_key] = float(scores[:, positive].mean()), cross_entropy_of(scores[:, member.target])
        return found

    def _scores(self, member: CohortMember, epoch: int) -> npt.NDArray[np.float64]:
        moved()
        if isinstance(self.network, DreNet) and epoch < self.recipe.trunk_epochs:
            full_size = self.recipe.sees_full_size(epoch)
            return trunk_probabilities(self.network, self.folders.cache, member.slices, full_size=full_size)
        return probabilities(self.network, self.folders.cache, member.slices)

    def hand_over(self) -> None:
        """Let the whole network begin with what its trunk has learned."""
        if isinstance(self.network, DreNet):
            let_looks_answer(self.network)

    def jumps_at(self, epoch: int) -> bool:
        """Whether the loss gets the terms of the details with this epoch."""
        return epoch == self.recipe.trunk_epochs > 0 and self._is_trunk_epoch(epoch - 1)

    def _is_trunk_epoch(self, epoch: int) -> bool:
        return isinstance(self.network, DreNet) and epoch < self.recipe.trunk_epochs

    def _set_mode(self, epoch: int) -> None:
        self.network.train()
        full = not self._is_trunk_epoch(epoch)
        if full and (self.recipe.freeze_norms or self.recipe.freeze_trunk):
            for module in self.network.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.eval()
        if isinstance(self.network, DreNet):
            self.network.pretrained_model.requires_grad_(not (full and self.recipe.freeze_trunk))

    def _losses(self, epoch: int, numbers: Sequence[int]) -> Tensor:
        asked = (self.folders.cache, self.samples, numbers, self.recipe, epoch)
        if isinstance(self.network, DreNet) and self._is_trunk_epoch(epoch):
            return trunk_loss(self.network, trunk_batch(*asked).to(self._device))
        ranked = CLASSES[self.cohort.task].index(POSITIVE) if self.recipe.ranked == "positive" else None
        return full_loss(self.network, full_batch(*asked).to(self._device), ranked)


def fit(
    world: Alone | World, trainer: Trainer, stop: Callable[[], bool] = lambda: False, *, has_learned: bool = False
) -> State:  # fmt: skip
    """Train to the end of the recipe, or to the early stop, resuming where an earlier start left off. Raises Drained.

    A network that `has_learned` before, or whose trunk epochs are done, may be the best as it is before the first full epoch.
    """
    state = read_state(world, trainer.folders.run, trainer.network, trainer.optimiser)
    recipe = trainer.recipe
    while state.epoch < n_epochs(recipe) and not state.stopped:
        if world.rank == 0 and trainer.jumps_at(state.epoch):
            log.info(JUMP)
        if has_learned and state.epoch == recipe.trunk_epochs == 0 and state.step == 0:
            _validate_start(world, trainer, state)
        begun, n_before = time.monotonic(), state.step
        _epoch(world, trainer, state, stop)
        validation = _validated(world, trainer, state)
        state.epochs.append(_row_of(state, trainer.n_steps, validation))
        state.epoch, state.step = state.epoch + 1, 0
        state.stopped = state.since_best >= recipe.patience
        if world.rank == 0:
            spent_s = (time.monotonic() - begun) * trainer.n_steps / max(1, trainer.n_steps - n_before)
            log.info(progress(state, recipe, validation.area, spent_s))
        if trainer.jumps_at(state.epoch):
            trainer.hand_over()
            _validate_start(world, trainer, state)
        if world.rank == 0:
            _keep(trainer, state)
            if state.epoch == recipe.trunk_epochs:  # what the full epochs start from, and what --start may begin with
                write_network(trainer.folders.run / TRUNK, trainer.network, recipe, trainer.cohort.task, None)
    return state


def _validate_start(world: Alone | World, trainer: Trainer, state: State) -> None:
    """What the full epochs begin with may be the best."""
    area = _validated(world, trainer, state).area
    if world.rank == 0:
        log.info("before the first full epoch: validation AUC %.3f", area)


def _row_of(state: State, n_steps: int, validation: Validation) -> list[float]:
    """The epoch's row of the curves."""
    losses = np.array([row[2:] for row in state.steps if row[0] == state.epoch]).reshape(-1, len(PARTS))
    return [float(state.epoch + 1), float(n_steps), float(losses.sum(axis=1).mean()), validation.area, validation.loss]


def n_epochs(recipe: Recipe) -> int:
    """How many a training has, should it not stop before."""
    return recipe.trunk_epochs + recipe.epochs


def progress(state: State, recipe: Recipe, area: float, epoch_s: float) -> str:
    """What is said when an epoch is done that took `epoch_s`."""
    _, _, loss, _, validation_loss = state.epochs[-1]
    validated = f"validation AUC {area:.3f}, validation loss {validation_loss:.4f}"
    said = f"epoch {state.epoch} of {n_epochs(recipe)}: loss {loss:.4f}, {validated}"
    if state.stopped:
        return f"{said}; stopped, no better for {recipe.patience} epochs"
    return f"{said}; at most about {(n_epochs(recipe) - state.epoch) * epoch_s:,.0f} s left"


def cross_entropy_of(probability_N: npt.NDArray[np.float64]) -> float:
    """The mean cross entropy of slices whose true class has these probabilities."""
    return float(-np.log(np.maximum(probability_N, np.finfo(np.float64).tiny)).mean())


def _keep(trainer: Trainer, state: State) -> None:
    """What a resume needs, and the curves so far in every form that is wanted."""
    write_state(trainer.folders.run, trainer.network, trainer.optimiser, state)
    if trainer.folders.events is not None:
        write_events(trainer.folders.events, state)


def _epoch(world: Alone | World, trainer: Trainer, state: State, stop: Callable[[], bool]) -> None:
    """The epoch's steps that are still to do."""
    steps = epoch_order(len(trainer.samples), trainer.recipe, state.epoch)
    saved = time.monotonic()
    look = bar_options() if world.rank == 0 else {"disable": True}
    bar = tqdm(total=len(steps), initial=state.step, desc=f"epoch {state.epoch + 1} of {n_epochs(trainer.recipe)}", **look)
    for number in range(state.step, len(steps)):
        losses = trainer.step(state.epoch, number, steps[number])
        moved()
        state.step = number + 1
        state.steps.append([float(state.epoch), float(number), *losses])
        bar.update()
        bar.set_postfix(loss=f"{sum(losses):.3f}", refresh=False)
        asked = bool(world.broadcast(bytes([stop()]) if world.rank == 0 else None)[0]) if number % 8 == 7 else False
        late = time.monotonic() - saved > trainer.recipe.checkpoint_every_s
        if world.rank == 0 and (asked or late):
            _keep(trainer, state)
            saved = time.monotonic()
        if asked:
            raise Drained("training stopped early as asked; start the same command again to go on")
    bar.close()


class Validation(NamedTuple):
    """What validation says: the AUC by patient, the threshold that separates best, the mean cross entropy."""

    area: float
    threshold: float
    loss: float


def _validated(world: Alone | World, trainer: Trainer, state: State) -> Validation:
    """By patient; keeps the network where it is the best that is whole so far."""
    said = world.gather(msgspec.json.encode(trainer.validate(state.epoch)))
    found: dict[str, tuple[float, float]] = {}
    for part in said:
        found |= msgspec.json.decode(part, type=dict[str, tuple[float, float]])
    validation = Validation(0.0, 0.0, 0.0)
    if world.rank == 0:
        members = trainer.cohort.part("validation")
        score, loss = np.array([found[member.patient_key] for member in members]).T
        target = np.array([member.label == POSITIVE for member in members])
        if not np.isfinite(score).all():
            raise ConfigurationError("training diverged: the network's outputs are no numbers; lower learning_rate")
        validation = Validation(area_under_curve(target, score), best_threshold(target, score), float(loss.mean()))
        _keep_best(trainer, state, validation)
    sent = world.broadcast(msgspec.json.encode((validation, state.best, state.since_best)) if world.rank == 0 else None)
    validation, state.best, state.since_best = msgspec.json.decode(sent, type=tuple[Validation, float, int])
    return validation


def _keep_best(trainer: Trainer, state: State, validation: Validation) -> None:
    """Write the network down if it is the best so far, or the later of two that are alike."""
    recipe = trainer.recipe
    if state.epoch < recipe.trunk_epochs:
        return
    state.since_best += 1
    if validation.area > state.best - (ALIKE if recipe.schedule == "one-cycle" else 0.0):
        write_network(trainer.folders.run / BEST, trainer.network, recipe, trainer.cohort.task, validation.threshold)
    if validation.area > state.best:
        state.best = validation.area
        state.since_best = 0


def seed_of(*numbers: int) -> int:
    """One seed of several numbers."""
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])
