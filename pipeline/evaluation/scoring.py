"""A network's probabilities of cached slices, and the threshold that tells them apart best.

Shapes: N slices, C = 3 channels, H x W pixels, A anchors.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pipeline.cohort.cache import CachedSlice, CachedStudy, read_slice
from pipeline.study.drenet import Baseline, DreNet, DreNetOutput
from pipeline.study.engine.fast import normalised
from pipeline.study.engine.shown import anchors_in_lung, lung_integral

AT_ONCE = 4


@dataclass(frozen=True, slots=True)
class Batch:
    """Slices: image [N, 448, 448] and zoom [N, 600, 600] in bytes, the anchors in_lung [N, A]; targets in training."""

    image: Tensor
    zoom: Tensor
    in_lung: Tensor
    target: Tensor

    def to(self, device: torch.device) -> Batch:
        """The same on `device`, image and zoom normalised there to [N, C, H, W]: bytes travel, not floats."""
        image, zoom = (planes(grey.to(device)) for grey in (self.image, self.zoom))
        return Batch(image, zoom, self.in_lung.to(device), self.target.to(device))


def plain_batch(slices: Sequence[CachedSlice], targets: Sequence[int] = ()) -> Batch:
    """Slices as they are."""
    in_lung = np.stack([anchors_in_lung(lung_integral(ct_slice.lung)) for ct_slice in slices])
    images, zooms = (np.stack([getattr(ct_slice, name) for ct_slice in slices]) for name in ("image", "zoom"))
    return Batch(torch.from_numpy(images), torch.from_numpy(zooms), torch.from_numpy(in_lung), torch.tensor(targets))


def planes(grey_NHW: Tensor) -> Tensor:
    """[N, C, H, W], normalised as the network wants it."""
    return normalised(grey_NHW).contiguous(memory_format=torch.channels_last)


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


def slice_logits(network: DreNet | Baseline, batch: Batch) -> Tensor:
    """[N, class]: DRE-Net's last word, a baseline's only one."""
    if isinstance(network, DreNet):
        output: DreNetOutput = network(batch.image, batch.zoom, in_lung=batch.in_lung)
        return output.concat_logits
    logits: Tensor = network(batch.image)
    return logits


def best_threshold(target: npt.NDArray[np.bool_], score: npt.NDArray[np.float64]) -> float:
    """Midway below the score at which recall + specificity is largest (Youden); of equals the one that recalls more."""
    levels = np.unique(score)
    gains = [(score[target] >= level).mean() - (score[~target] >= level).mean() for level in levels]
    best = int(np.argmax(np.round(gains, 12)))
    below = levels[best - 1] if best else 0.0
    return float((levels[best] + below) / 2)
