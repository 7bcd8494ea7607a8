"""A network's probabilities of cached slices, and the area under the curve by patient."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pipeline.study.drenet import Baseline, DreNet, DreNetOutput
from pipeline.training.batches import Batch, half_size, plain_batch
from pipeline.training.cache import CachedStudy, read_slice
from pipeline.training.delong import placements

AT_ONCE = 4


@dataclass(frozen=True, slots=True)
class Member:
    """A patient of the cohort; `target` is the place of the label among the classes."""

    patient_key: str
    label: str
    target: int
    part: str
    studies: tuple[CachedStudy, ...]

    @property
    def slices(self) -> list[tuple[CachedStudy, int]]:
        """Every kept slice as (study, row)."""
        return [(study, row) for study in self.studies for row in range(len(study.slice_index))]


@torch.inference_mode()
def probabilities(
    network: DreNet | Baseline, folder: Path, slices: Sequence[tuple[CachedStudy, int]]
) -> npt.NDArray[np.float64]:
    """[slice, class] in eval mode."""
    network.eval()
    found = []
    for start in range(0, len(slices), AT_ONCE):
        batch = plain_batch([read_slice(folder, study, row) for study, row in slices[start : start + AT_ONCE]])
        logits = slice_logits(network, batch.to(next(network.parameters()).device))
        found.append(torch.softmax(logits.double(), dim=1).cpu().numpy())
    return np.concatenate(found)


@torch.inference_mode()
def trunk_probabilities(
    network: DreNet, folder: Path, slices: Sequence[tuple[CachedStudy, int]]
) -> npt.NDArray[np.float64]:  # fmt: skip
    """[slice, class] that the trunk alone gives slices of half the size: what the trunk epochs teach."""
    network.eval()
    device, found = next(network.parameters()).device, []
    for start in range(0, len(slices), 8 * AT_ONCE):
        pictures = [read_slice(folder, study, row).image for study, row in slices[start : start + 8 * AT_ONCE]]
        features_NF = network.pooled(network.trunk(half_size(pictures, device)))
        found.append(torch.softmax(network.pretrained_model.fc(features_NF).double(), dim=1).cpu().numpy())
    return np.concatenate(found)


def slice_logits(network: DreNet | Baseline, batch: Batch) -> Tensor:
    """[N, class]: DRE-Net's last word, a baseline's only one."""
    if isinstance(network, DreNet):
        output: DreNetOutput = network(batch.image, batch.zoom, in_lung=batch.in_lung)
        return output.concat_logits
    logits: Tensor = network(batch.image)
    return logits


def area_under_curve(target: npt.NDArray[np.bool_], score: npt.NDArray[np.float64]) -> float:
    """The share of pairs (positive, negative) in which the positive scores higher; ties count half."""
    return float(placements(target, score)[0].mean())


def best_threshold(target: npt.NDArray[np.bool_], score: npt.NDArray[np.float64]) -> float:
    """Midway below the score at which recall + specificity is largest (Youden); of equals the one that recalls more."""
    levels = np.unique(score)
    gains = [(score[target] >= level).mean() - (score[~target] >= level).mean() for level in levels]
    best = int(np.argmax(np.round(gains, 12)))
    below = levels[best - 1] if best else 0.0
    return float((levels[best] + below) / 2)
