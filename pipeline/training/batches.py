"""Cached slices -> the micro-batches of an epoch, augmented by generators seeded per sample: the same whoever makes them.

Shapes: N slices, C = 3 channels, H x W pixels. Boxes are padded pixels, as in study/drenet/network.py.
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

from pipeline.study.drenet.network import DETAIL_PX, LARGE_LEVELS, PAD_PX, SMALL_LEVELS, anchors, cut
from pipeline.study.engine.fast import normalised
from pipeline.study.engine.shown import MIN_LUNG_FRACTION, anchors_in_lung, lung_integral, lung_shares
from pipeline.training.cache import CachedSlice, CachedStudy, read_slice
from pipeline.training.recipe import Recipe

Grey = npt.NDArray[np.uint8]
LEVELS = tuple(anchors((level,)) for level in (*SMALL_LEVELS, *LARGE_LEVELS))


@dataclass(frozen=True, slots=True)
class Sample:
    """One slice for training: where it lies, and its patient's class."""

    study: CachedStudy
    row: int
    target: int


@dataclass(frozen=True, slots=True)
class Batch:
    """Slices: image [N, 448, 448] and zoom [N, 600, 600] in bytes, the anchors in_lung [N, A]; targets in training."""

    image: Tensor
    zoom: Tensor
    in_lung: Tensor
    target: Tensor

    def to(self, device: torch.device) -> Batch:
        """The same on `device`, image and zoom normalised there to [N, C, H, W]: bytes travel, not floats."""
        image, zoom = (_planes(grey.to(device)) for grey in (self.image, self.zoom))
        return Batch(image, zoom, self.in_lung.to(device), self.target.to(device))


@dataclass(frozen=True, slots=True)
class TrunkBatch:
    """A micro-batch for the trunk alone: slices of half the size [N, 224, 224] in bytes, single details [N, C, 224, 224]."""

    image: Tensor
    detail: Tensor
    target: Tensor

    def to(self, device: torch.device) -> TrunkBatch:
        """The same on `device`, the slices normalised there to [N, C, 224, 224]."""
        return TrunkBatch(_planes(self.image.to(device)), self.detail.to(device), self.target.to(device))


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


def trunk_batch(
    folder: Path, samples: Sequence[Sample], numbers: Sequence[int], recipe: Recipe, epoch: int
) -> TrunkBatch:  # fmt: skip
    """Slices of half the size, augmented, and of each one detail that a network might look at."""
    images, details = [], []
    for number in numbers:
        ct_slice = read_slice(folder, samples[number].study, samples[number].row)
        generator = np.random.default_rng([recipe.seed, 3, epoch, number])
        box = random_box(ct_slice.lung, generator)
        image = Change.drawn(recipe, generator).of(ct_slice).image
        images.append(image)
        details.append(_detail(image, box))
    halves = torch.from_numpy(_half_size(images))
    return TrunkBatch(halves, torch.cat(details), torch.tensor([samples[number].target for number in numbers]))


def random_box(lung: npt.NDArray[np.bool_], generator: np.random.Generator) -> list[int]:
    """An anchor (padded pixels) that shows mostly lung, of a level drawn first; the whole picture where there is none."""
    covered = lung_integral(lung)
    for level in generator.permutation(len(LEVELS)).tolist():
        boxes_A4 = LEVELS[level]
        good = np.flatnonzero(lung_shares(covered, boxes_A4 - PAD_PX) >= MIN_LUNG_FRACTION)
        if good.size:
            chosen: list[int] = boxes_A4[generator.choice(good)].tolist()
            return chosen
    return [PAD_PX, PAD_PX, PAD_PX + lung.shape[0], PAD_PX + lung.shape[1]]


def plain_batch(slices: Sequence[CachedSlice], targets: Sequence[int] = ()) -> Batch:
    """Slices as they are."""
    in_lung = np.stack([anchors_in_lung(lung_integral(ct_slice.lung)) for ct_slice in slices])
    images, zooms = (np.stack([getattr(ct_slice, name) for ct_slice in slices]) for name in ("image", "zoom"))
    return Batch(torch.from_numpy(images), torch.from_numpy(zooms), torch.from_numpy(in_lung), torch.tensor(targets))


def half_size(pictures: Sequence[Grey], device: torch.device) -> Tensor:
    """[N, C, 224, 224], normalised, on `device`."""
    return _planes(torch.from_numpy(_half_size(pictures)).to(device))


def _half_size(pictures: Sequence[Grey]) -> Grey:
    return np.stack([cv2.resize(picture, (DETAIL_PX, DETAIL_PX), interpolation=cv2.INTER_AREA) for picture in pictures])


def _planes(grey_NHW: Tensor) -> Tensor:
    return normalised(grey_NHW).contiguous(memory_format=torch.channels_last)


def _detail(image_HW: Grey, box: Sequence[int]) -> Tensor:
    """The detail [1, C, 224, 224] at `box`, as a network cuts it from the padded picture."""
    (top, left), (bottom, right) = ([edge - PAD_PX for edge in corner] for corner in (box[:2], box[2:]))
    inside = image_HW[max(0, top) : bottom, max(0, left) : right]
    height, width = inside.shape
    beside = max(0, -left), right - max(0, left) - width, max(0, -top), bottom - max(0, top) - height
    window = pad(normalised(torch.from_numpy(inside[None].copy())), beside)
    return cut(window, [0, 0, bottom - top, right - left], DETAIL_PX)
