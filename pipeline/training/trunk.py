"""Training the trunk alone: slices of half or full size, and of each one detail that a network might look at."""

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

from pipeline.cohort.cache import CachedStudy, read_slice
from pipeline.evaluation.scoring import AT_ONCE, planes
from pipeline.records import MIN_LUNG_FRACTION
from pipeline.study.anchors import ANCHORS_BY_LEVEL, DETAIL_PX
from pipeline.study.drenet import DreNet
from pipeline.study.drenet.network import cut
from pipeline.study.engine.fast import normalised
from pipeline.study.engine.shown import lung_integral, lung_shares
from pipeline.training.batches import Change, Sample
from pipeline.training.recipe import Recipe

Grey = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class TrunkBatch:
    """A micro-batch for the trunk alone: slices [N, H, W] in bytes, 448 or half of it, and single details [N, C, 224, 224]."""

    image: Tensor
    detail: Tensor
    target: Tensor

    def to(self, device: torch.device) -> TrunkBatch:
        """The same on `device`, the slices normalised there to [N, C, H, W]."""
        return TrunkBatch(planes(self.image.to(device)), self.detail.to(device), self.target.to(device))


def trunk_batch(
    folder: Path, samples: Sequence[Sample], numbers: Sequence[int], recipe: Recipe, epoch: int
) -> TrunkBatch:  # fmt: skip
    """Slices of the size that the epoch sees, augmented, and of each one detail that a network might look at."""
    images, details = [], []
    for number in numbers:
        ct_slice = read_slice(folder, samples[number].study, samples[number].row)
        generator = np.random.default_rng([recipe.seed, 3, epoch, number])
        box = random_box(ct_slice.lung, generator)
        image = Change.drawn(recipe, generator).of(ct_slice).image
        images.append(image)
        details.append(_detail(image, box))
    target = torch.tensor([samples[number].target for number in numbers])
    return TrunkBatch(_sized(images, full_size=recipe.sees_full_size(epoch)), torch.cat(details), target)


def random_box(lung: npt.NDArray[np.bool_], generator: np.random.Generator) -> list[int]:
    """An anchor that shows mostly lung, of a level drawn first; the whole picture where there is none."""
    covered = lung_integral(lung)
    for level in generator.permutation(len(ANCHORS_BY_LEVEL)):
        boxes_A4 = ANCHORS_BY_LEVEL[level]
        good = np.flatnonzero(lung_shares(covered, boxes_A4) >= MIN_LUNG_FRACTION)
        if good.size:
            chosen: list[int] = boxes_A4[generator.choice(good)].tolist()
            return chosen
    return [0, 0, *lung.shape]


@torch.inference_mode()
def trunk_probabilities(
    network: DreNet, folder: Path, slices: Sequence[tuple[CachedStudy, int]], *, full_size: bool = False
) -> npt.NDArray[np.float64]:
    """[slice, class] that the trunk alone gives slices of half or full size: what the trunk epochs teach."""
    network.eval()
    device, found = next(network.parameters()).device, []
    for start in range(0, len(slices), 8 * AT_ONCE):
        pictures = [read_slice(folder, study, row).image for study, row in slices[start : start + 8 * AT_ONCE]]
        given = planes(_sized(pictures, full_size=full_size).to(device))
        features_NF = network.pooled(network.trunk(given))
        found.append(torch.softmax(network.pretrained_model.fc(features_NF).double(), dim=1).cpu().numpy())
    return np.concatenate(found)


def _sized(pictures: Sequence[Grey], *, full_size: bool) -> Tensor:
    """[N, H, W] in bytes: as they are, or half as large."""
    half = (DETAIL_PX, DETAIL_PX)
    sized = pictures if full_size else [cv2.resize(picture, half, interpolation=cv2.INTER_AREA) for picture in pictures]
    return torch.from_numpy(np.stack(sized))


def _detail(image_HW: Grey, box: Sequence[int]) -> Tensor:
    """The detail [1, C, 224, 224] at `box`, as a network cuts it from the padded picture."""
    top, left, bottom, right = box
    inside = image_HW[max(0, top) : bottom, max(0, left) : right]
    height, width = inside.shape
    beside = max(0, -left), right - max(0, left) - width, max(0, -top), bottom - max(0, top) - height
    window = pad(normalised(torch.from_numpy(inside[None].copy())), beside)
    return cut(window, [0, 0, bottom - top, right - left], DETAIL_PX)
