"""Cached slices -> the micro-batches of an epoch, augmented by generators seeded per sample: the same whoever makes them.

Shapes: N slices, C = 3 channels, H x W pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from pipeline.cohort.cache import CachedSlice, CachedStudy, read_slice
from pipeline.evaluation.scoring import Batch, plain_batch
from pipeline.training.recipe import Recipe

Grey = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Sample:
    """One slice for training: where it lies, and its patient's class."""

    study: CachedStudy
    row: int
    target: int


@dataclass(frozen=True, slots=True)
class Change:
    """How a slice is augmented: the same flip and the same brightness for all its pictures."""

    flips: bool
    table: Grey

    @classmethod
    def drawn(cls, recipe: Recipe, generator: np.random.Generator) -> Change:
        """At random, as the recipe says."""
        flips = bool(generator.random() < 0.5) and recipe.flip
        factor = generator.uniform(1 - recipe.brightness, 1 + recipe.brightness)
        return cls(flips, np.clip(np.rint(np.arange(256) * factor), 0, 255).astype(np.uint8))

    def of(self, ct_slice: CachedSlice) -> CachedSlice:
        """`ct_slice`, changed."""
        turn = slice(None, None, -1) if self.flips else slice(None)
        image, zoom = (
            np.asarray(cv2.LUT(picture, self.table)[:, turn], np.uint8) for picture in (ct_slice.image, ct_slice.zoom)
        )
        return CachedSlice(image, zoom, ct_slice.lung[:, turn])


def epoch_order(n_samples: int, recipe: Recipe, epoch: int) -> list[list[list[int]]]:
    """[step][micro-batch][sample]: every sample at most once an epoch, whole steps only."""
    order = np.random.default_rng([recipe.seed, 1, epoch]).permutation(n_samples)
    per_step = recipe.micro_batch * recipe.micro_batches
    n_steps = min(n_samples, recipe.slices_per_epoch or n_samples) // per_step
    shaped = order[: n_steps * per_step].reshape(n_steps, recipe.micro_batches, recipe.micro_batch)
    steps: list[list[list[int]]] = shaped.tolist()
    return steps


def full_batch(folder: Path, samples: Sequence[Sample], numbers: Sequence[int], recipe: Recipe, epoch: int) -> Batch:
    """Whole slices with their zoom sources, augmented."""
    slices = []
    for number in numbers:
        change = Change.drawn(recipe, np.random.default_rng([recipe.seed, 2, epoch, number]))
        slices.append(change.of(read_slice(folder, samples[number].study, samples[number].row)))
    return plain_batch(slices, [samples[number].target for number in numbers])
