"""The judge of lung masks as it is trained; pipeline/study/lungs/network.py writes the same layers down for inference."""

from itertools import pairwise

import numpy as np
import torch
from torch import nn
from torch.nn.functional import interpolate, max_pool2d, pixel_shuffle, pixel_unshuffle

from pipeline.study.lungs.network import CLASSES, LUNG_WINDOW, PLANES, SOFT_WINDOW, SOFT_WINDOW_HU, SQUARE, WIDTHS


class Block(nn.Sequential):
    """Two 3 x 3 convolutions with their norms."""

    def __init__(self, n_in, n_out):
        first = (nn.Conv2d(n_in, n_out, 3, padding=1, bias=False), nn.BatchNorm2d(n_out), nn.ReLU())
        super().__init__(*first, nn.Conv2d(n_out, n_out, 3, padding=1, bias=False), nn.BatchNorm2d(n_out), nn.ReLU())


class LungNet(nn.Module):
    """Planes [N, PLANES, R, C] -> logits of CLASSES [N, 3, R, C]; inside it works at half the size and less."""

    def __init__(self):
        super().__init__()
        n_first = PLANES * SQUARE**2
        self.down = nn.ModuleList(Block(*pair) for pair in zip((n_first, *WIDTHS[:-1]), WIDTHS, strict=True))
        self.narrow = nn.ModuleList(nn.Conv2d(n, n_less, 1) for n_less, n in pairwise(WIDTHS))
        self.up = nn.ModuleList(Block(2 * n, n) for n in WIDTHS[:-1])
        self.out = nn.Conv2d(WIDTHS[0] + n_first, len(CLASSES) * SQUARE**2, 3, padding=1)

    def forward(self, planes_NPRC):
        """Logits at every pixel."""
        first = pixel_unshuffle(planes_NPRC, SQUARE)
        kept = [self.down[0](first)]
        for block in list(self.down)[1:]:
            kept.append(block(max_pool2d(kept[-1], 2)))
        x = kept.pop()
        for level in reversed(range(len(kept))):
            wide = interpolate(self.narrow[level](x), scale_factor=2.0, mode="nearest")
            x = self.up[level](torch.cat([wide, kept[level]], dim=1))
        return pixel_shuffle(self.out(torch.cat([x, first], dim=1)), SQUARE)


def seen_by_network(slices):
    """HU of a slice and the ones below and above [3, R, C] -> PLANES, a window for lung and one for soft tissue."""
    lung = np.clip(slices / 1000 + 1, *LUNG_WINDOW) * 2 - 1
    soft = np.clip(slices / SOFT_WINDOW_HU, *SOFT_WINDOW)
    return np.concatenate([lung, soft]).astype(np.float32)
