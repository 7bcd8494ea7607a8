"""What a training run keeps in its folder: the state to resume from, the best network, curves; each whole or absent."""

from __future__ import annotations

import io
import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from pipeline.cohort.tasks import CLASSES, POSITIVE
from pipeline.errors import ConfigurationError
from pipeline.files import write_whole
from pipeline.mpi.world import Alone, World
from pipeline.study.checkpoint import Metadata
from pipeline.study.drenet import Baseline, DreNet
from pipeline.study.drenet.checkpoint import checkpoint_bytes
from pipeline.training.losses import PARTS
from pipeline.training.optimiser import Optimiser
from pipeline.training.recipe import Recipe

LAST = "last.ckpt"
TRUNK = "trunk.safetensors"
EPOCH = ("epoch", "steps", "loss", "validation_auc", "validation_loss")
"""The columns of a row of `State.epochs`; a run begun by an older version has NaN for the last."""


@dataclass(slots=True)
class State:
    """How far training is: `epoch` and `step` are the next to do; `steps` and `epochs` the rows of the curves."""

    epoch: int = 0
    step: int = 0
    best: float = -1.0
    since_best: int = 0
    stopped: bool = False
    steps: list[list[float]] = field(default_factory=list)
    epochs: list[list[float]] = field(default_factory=list)


def read_state(world: Alone | World, run: Path, network: DreNet | Baseline, optimiser: Optimiser) -> State:
    """The state an earlier start left, put into network and optimiser on every rank; a fresh one where there is none."""
    path = run / LAST
    data = world.broadcast((path.read_bytes() if path.exists() else b"") if world.rank == 0 else None)
    if not data:
        return State()
    try:
        content: dict[str, Any] = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
        network.load_state_dict(content["network"])
        optimiser.load_state_dict(content["optimiser"])
        return _of_this_version(State(**content["state"]))
    except (KeyError, RuntimeError, TypeError, ValueError) as error:
        raise ConfigurationError(f"{path} does not fit this recipe or is damaged: choose another --out") from error


def _of_this_version(state: State) -> State:
    state.epochs = [[*row, *[math.nan] * (len(EPOCH) - len(row))] for row in state.epochs]
    return state


def write_state(run: Path, network: DreNet | Baseline, optimiser: Optimiser, state: State) -> None:
    """Everything a resume needs, and the curves so far."""
    buffer = io.BytesIO()
    content = {"network": network.state_dict(), "optimiser": optimiser.state_dict(), "state": asdict(state)}
    torch.save(content, buffer)
    write_whole(run / LAST, buffer.getvalue())
    write_whole(run / "steps.csv", _csv(("epoch", "step", *PARTS), state.steps))
    write_whole(run / "epochs.csv", _csv(EPOCH, state.epochs))


def write_network(path: Path, network: DreNet | Baseline, recipe: Recipe, task: str, threshold: float | None) -> None:
    """The network as screening reads it, with what it says of itself."""
    classes = CLASSES[task]
    network.metadata = Metadata(
        classes=classes,
        positive=classes.index(POSITIVE),
        width=recipe.width,
        architecture=recipe.model,
        task=task,
        threshold=threshold,
        meaning=f"probability of {POSITIVE} ({task}); research use only",
        details=recipe.details,
    )
    write_whole(path, checkpoint_bytes(network))


def _csv(head: tuple[str, ...], rows: list[list[float]]) -> bytes:
    lines = [",".join(head), *(",".join("" if math.isnan(value) else f"{value:.9g}" for value in row) for row in rows)]
    return ("\n".join(lines) + "\n").encode()
