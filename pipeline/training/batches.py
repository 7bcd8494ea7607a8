"""Cached slices -> the micro-batches of an epoch, augmented by generators seeded per sample: the same whoever makes them.

Shapes: N slices, C = 3 channels, H x W pixels. Boxes are padded pixels, as in model/drenet.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn.functional import pad

from pipeline.infer.engine import lung_integral, lung_share
from pipeline.infer.fast import normalised
from pipeline.model.drenet import DETAIL_PX, LARGE_LEVELS, PAD_PX, SMALL_LEVELS, anchors, cut
from pipeline.records import Box
from pipeline.training.cache import CachedSlice, CachedStudy, read_slice
from pipeline.training.recipe import Recipe

Grey = npt.NDArray[np.uint8]
LEVELS = tuple(anchors((level,)) for level in (*SMALL_LEVELS, *LARGE_LEVELS))
MIN_LUNG_FRACTION = 0.5


@dataclass(frozen=True, slots=True)
class Sample:
    """One slice for training: where it lies, and its patient's class."""

    study: CachedStudy
    row: int
    target: int


@dataclass(frozen=True, slots=True)
class Batch:
    """A micro-batch, normalised: image [N, C, 448, 448] and zoom [N, C, 600, 600], or image and zoom [N, C, 224, 224]."""

    image: Tensor
    zoom: Tensor
    target: Tensor


def epoch_order(n_samples: int, recipe: Recipe, epoch: int) -> list[list[list[int]]]:
    """[step][micro-batch][sample]: every sample at most once an epoch, whole steps only."""
    order = np.random.default_rng([recipe.seed, 1, epoch]).permutation(n_samples)
    per_step = recipe.micro_batch * recipe.micro_batches
    n_steps = min(n_samples, recipe.slices_per_epoch or n_samples) // per_step
    shaped = order[: n_steps * per_step].reshape(n_steps, recipe.micro_batches, recipe.micro_batch)
    steps: list[list[list[int]]] = shaped.tolist()
    return steps


def full_batch(folder: Path, samples: Sequence[Sample], numbers: Sequence[int], recipe: Recipe, epoch: int) -> Batch:
    """Whole slices with their zoom sources."""
    images, zooms = [], []
    for number in numbers:
        ct_slice = read_slice(folder, samples[number].study, samples[number].row)
        generator = np.random.default_rng([recipe.seed, 2, epoch, number])
        image, zoom = augmented((ct_slice.image, ct_slice.zoom), recipe, generator)
        images.append(image)
        zooms.append(zoom)
    return Batch(_tensor(images), _tensor(zooms), _targets(samples, numbers))


def trunk_batch(folder: Path, samples: Sequence[Sample], numbers: Sequence[int], recipe: Recipe, epoch: int) -> Batch:
    """Slices of half the size as `image`, and of each slice one detail that a network might look at as `zoom`."""
    images, details = [], []
    for number in numbers:
        ct_slice = read_slice(folder, samples[number].study, samples[number].row)
        generator = np.random.default_rng([recipe.seed, 3, epoch, number])
        box = random_box(ct_slice.lung, generator)
        (image,) = augmented((ct_slice.image,), recipe, generator)
        images.append(image)
        details.append(cut(pad(normalised(torch.from_numpy(image[None])), (PAD_PX,) * 4), box, DETAIL_PX))
    return Batch(half_size(images), torch.cat(details), _targets(samples, numbers))


def random_box(lung: npt.NDArray[np.bool_], generator: np.random.Generator) -> list[int]:
    """An anchor (padded pixels) that shows mostly lung, of a level drawn first; the whole picture where there is none."""
    covered = lung_integral(lung)
    for level in generator.permutation(len(LEVELS)).tolist():
        boxes_A4 = LEVELS[level]
        shares = [lung_share(covered, Box(*map(float, box))) for box in (boxes_A4 - PAD_PX).tolist()]
        good = np.flatnonzero(np.array(shares) >= MIN_LUNG_FRACTION)
        if good.size:
            chosen: list[int] = boxes_A4[generator.choice(good)].tolist()
            return chosen
    return [PAD_PX, PAD_PX, PAD_PX + lung.shape[0], PAD_PX + lung.shape[1]]


def augmented(pictures: Sequence[Grey], recipe: Recipe, generator: np.random.Generator) -> list[Grey]:
    """The same flip and the same brightness for all pictures of one slice."""
    flips = bool(generator.random() < 0.5) and recipe.flip
    factor = generator.uniform(1 - recipe.brightness, 1 + recipe.brightness)
    table = np.clip(np.rint(np.arange(256) * factor), 0, 255).astype(np.uint8)
    return [np.ascontiguousarray(table[picture[:, ::-1] if flips else picture]) for picture in pictures]


def plain_batch(slices: Sequence[CachedSlice]) -> tuple[Tensor, Tensor]:
    """(image, zoom) of slices as they are, for scoring."""
    return _tensor([ct_slice.image for ct_slice in slices]), _tensor([ct_slice.zoom for ct_slice in slices])


def half_size(pictures: Sequence[Grey]) -> Tensor:
    """[N, C, 224, 224]."""
    return _tensor([cv2.resize(picture, (DETAIL_PX, DETAIL_PX), interpolation=cv2.INTER_AREA) for picture in pictures])


def _tensor(pictures: Sequence[Grey]) -> Tensor:
    return normalised(torch.from_numpy(np.stack(pictures)))


def _targets(samples: Sequence[Sample], numbers: Sequence[int]) -> Tensor:
    return torch.tensor([samples[number].target for number in numbers])
