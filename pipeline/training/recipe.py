"""How a network is trained: TOML -> one frozen recipe; the defaults are the paper's and the published code's.

Nothing in it but `threads` may differ between two starts of one run: it decides the weights.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import msgspec

from pipeline.config import Section
from pipeline.errors import ConfigurationError
from pipeline.records import Details


class Recipe(Section, frozen=True):
    """All that decides the weights, besides the data."""

    model: Literal["drenet", "resnet50", "vgg16", "densenet121"] = "drenet"
    width: float = 1.0  # of every layer; 1/8 trains on a laptop
    shares: tuple[float, float, float] = (0.6, 0.1, 0.3)  # of the patients: train, validation, test
    seed: int = 0  # of split, weights, order, dropout, augmentation
    precision: Literal["fp32", "bf16"] = "fp32"  # of the trunk
    threads: int = 1  # per rank

    micro_batch: int = 4  # slices that go through the network together
    micro_batches: int = 1  # of them before each step of the optimiser; ranks share them out
    slices_per_epoch: int = 0  # 0: all
    trunk_epochs: int = 0  # before the others: the trunk alone, on slices of half the size and single details
    trunk_full_size: int = 0  # how many of them, the last, see slices of full size, as the whole network will
    epochs: int = 120
    patience: int = 30  # epochs without a better validation AUC before stopping early
    checkpoint_every_s: float = 600.0  # and after every epoch

    optimiser: Literal["sgd", "adamw"] = "sgd"
    learning_rate: float = 8e-4
    trunk_learning_rate: float = 8e-4  # of the trunk epochs
    momentum: float = 0.9
    weight_decay: float = 1e-4
    schedule: Literal["steps", "one-cycle"] = "steps"  # one-cycle: up over a fifth of each phase, then down to nothing
    steps: tuple[int, ...] = (60, 100)  # epochs after which the learning rate falls to a tenth
    freeze_norms: bool = False  # BatchNorm as the trunk epochs left it
    freeze_trunk: bool = False  # the whole trunk as the trunk epochs left it: a step costs less than half

    flip: bool = True
    brightness: float = 0.126
    details: Details = "anywhere"  # or "lung": DRE-Net looks only where at least half a detail shows original lung
    ranked: Literal["all", "positive"] = (
        "all"  # in whose slices the ranking loss compares details: everybody's, or the positives'
    )
    explore: float = 0.0  # spread of the noise on the proposal scores by which details are chosen in training

    def __post_init__(self) -> None:
        """Raises ValueError, which msgspec tells as a fault of the file."""
        if not 0 <= self.trunk_full_size <= self.trunk_epochs:
            raise ValueError("trunk_full_size is a number of trunk epochs, from 0 to trunk_epochs")

    def sees_full_size(self, epoch: int) -> bool:
        """Whether that trunk epoch sees slices of full size."""
        return epoch >= self.trunk_epochs - self.trunk_full_size


def read_recipe(path: Path | None) -> Recipe:
    """The recipe at `path`, or the defaults where there is none."""
    if path is None:
        return Recipe()
    try:
        return msgspec.toml.decode(path.read_bytes(), type=Recipe)
    except OSError as error:
        raise ConfigurationError(f"cannot read the recipe {path}: {error.strerror}") from error
    except msgspec.DecodeError as error:
        known = ", ".join(Recipe.__struct_fields__)
        raise ConfigurationError(f"{path}: {error} (CONFIG_INVALID); known here: {known}") from error


def with_model(recipe: Recipe, model: str | None) -> Recipe:
    """`recipe` for another network, where one is named."""
    if model is None:
        return recipe
    try:
        return msgspec.convert({**msgspec.to_builtins(recipe), "model": model}, Recipe)
    except msgspec.ValidationError as error:
        raise ConfigurationError(f"unknown model {model!r} (CONFIG_INVALID): drenet, resnet50, vgg16 or densenet121") from error
