"""Slices to the numbers of their predictions in one pass by torch: the host is asked nothing on the way.

Shapes: N slices, H x W pixels, A anchors, K = 6 details, F features of a look; a row is what `rows.py` says.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from pipeline.records import MIN_LUNG_FRACTION
from pipeline.study.anchors import IMAGE_PX, N_SMALL, SMALL_LEVELS
from pipeline.study.drenet import DreNet, DreNetOutput
from pipeline.study.engine.fast import planes
from pipeline.study.engine.shown import ANCHORS_A4

N_SMALL_ANCHORS = sum(n_cells * n_cells for _, _, n_cells in SMALL_LEVELS)
CORNERS = (((2, 3), 1), ((0, 3), -1), ((2, 1), -1), ((0, 1), 1))
"""(edges of the vertical and the horizontal side, sign): what makes a box's sum of an integral."""


class PassOutput(NamedTuple):
    """What one pass gives: `rows` [N, networks, ROW] in float64; by network, `looks` [N, (K + 2) F]."""

    rows: Tensor
    looks: list[Tensor]


class OnePass:
    """All networks over the same slices, on one device."""

    def __init__(self, networks: Sequence[DreNet], device: torch.device) -> None:
        self._networks = networks
        edges_A4 = torch.from_numpy(ANCHORS_A4).to(device)
        self._area_A = (edges_A4[:, 2:] - edges_A4[:, :2]).prod(dim=1).double()
        inside_A4 = edges_A4.clamp(0, IMAGE_PX)
        self._corners = [(inside_A4[:, y] * (IMAGE_PX + 1) + inside_A4[:, x], sign) for (y, x), sign in CORNERS]

    @torch.inference_mode()
    def __call__(self, image_NHW: Tensor, zoom_NHW: Tensor, lung_NHW: Tensor) -> PassOutput:
        """Image [N, 448, 448] and zoom [N, 600, 600] in uint8, lung [N, 448, 448] in bool."""
        share_NA = self.lung_shares(lung_NHW)
        image = planes(image_NHW)
        zoom = planes(zoom_NHW)
        outputs = [network(image, zoom, in_lung=share_NA >= MIN_LUNG_FRACTION) for network in self._networks]
        rows = [
            _row(output, network.metadata.positive, share_NA) for output, network in zip(outputs, self._networks, strict=True)
        ]
        return PassOutput(torch.stack(rows, dim=1), [output.looks for output in outputs])

    def lung_shares(self, lung_NHW: Tensor) -> Tensor:
        """[N, A]: share of each anchor's area that shows original lung; what lies outside the picture shows none."""
        integral = pad(lung_NHW.cumsum(dim=1, dtype=torch.int32).cumsum(dim=2, dtype=torch.int32), (1, 0, 1, 0)).flatten(1)
        inside_NA = sum(sign * integral[:, corner_A] for corner_A, sign in self._corners)
        return torch.as_tensor(inside_NA).double() / self._area_A


def _row(output: DreNetOutput, positive: int, share_NA: Tensor) -> Tensor:
    probability_N = torch.softmax(output.concat_logits, dim=1)[:, positive]
    part_NK = torch.softmax(output.part_logits, dim=2)[:, :, positive]
    index_NK = torch.cat([output.detail_index[:, :N_SMALL], output.detail_index[:, N_SMALL:] + N_SMALL_ANCHORS], dim=1)
    share_NK = share_NA.gather(1, index_NK)
    numbers_NK = torch.stack([output.detail_score, output.attention, part_NK], dim=2).double()
    details = torch.cat([output.boxes.double(), numbers_NK, share_NK.unsqueeze(2)], dim=2)
    return torch.cat([probability_N.double().unsqueeze(1), details.flatten(1)], dim=1)
