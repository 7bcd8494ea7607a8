"""One rank's engine: prepared slices -> what every network says of them.

On processors a slice is its own batch (1 x 448, 6 x 224, 1 x 448): no neighbour can move a bit. On a GPU a study's slices are
one batch, which fills it; what goes together is the study's alone, so that no other study and no number of ranks can either.
With `cudagraph` slices of all ranks share batches, once it is proven that none moves another (docs/design/013-gpu-owner.md).
In bf16 only the trunk is; the proposal pyramid, the choice of details and the final linear layers stay fp32. In mixed the first
look is fp32 too, so that no box moves: bf16 are the looks at the details and the second look, five sevenths of the work; so it
is in int8.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn.functional import linear

from pipeline.config import EngineConfig
from pipeline.errors import Reason, StudyError
from pipeline.records import PreparedStudy, SlicePrediction
from pipeline.study.drenet import DreNet
from pipeline.study.drenet.network import N_DETAILS
from pipeline.study.engine.device import open_device
from pipeline.study.engine.fast import fast_network
from pipeline.study.engine.graph import SLOTS
from pipeline.study.engine.one_pass import OnePass, PassOutput, prediction
from pipeline.study.engine.owned import OwnedPass

Pass = Callable[[Tensor, Tensor, Tensor], PassOutput]


class Engine:
    """One replica of every network, on one device."""

    def __init__(self, networks: Sequence[DreNet], config: EngineConfig, *, local_rank: int = 0) -> None:
        if config.name == "cudagraph":
            self._device = torch.device("cpu")  # of this rank; the GPU is another process's
            self._networks = list(networks)
            self._pass: Pass = OwnedPass(networks, config, local_rank)
            self._at_once = SLOTS
        else:
            self._device = open_device(config, local_rank)
            self._networks = [fast_network(network, config, self._device) for network in networks]
            self._pass = OnePass(self._networks, self._device)
            self._at_once = sys.maxsize if self._device.type == "cuda" else 1
        self._looks: list[list[Tensor]] = []

    def predict(
        self, prepared: PreparedStudy, tick: Callable[[], None] = lambda: None
    ) -> tuple[tuple[SlicePrediction, ...], ...]:
        """[slice][network]; `tick` is called between batches. Raises StudyError NONFINITE_OUTPUT."""
        given = [self._on_device(array) for array in (prepared.images, prepared.zoom, prepared.lung)]
        self._looks = []
        rows: list[Tensor] = []
        for start in range(0, len(prepared.images), self._at_once):
            seen = self._pass(*(array[start : start + self._at_once] for array in given))
            rows.append(seen.rows.cpu())
            self._looks.append(seen.looks)
            tick()
        return _predictions(rows)

    @torch.inference_mode()
    def without_each(self) -> list[list[list[float]]]:
        """[slice][network][look]: the probability of each slice predicted last with one look's features left out.

        The looks are the six details, the slice and the second look, in the order of the last layer's features; all else stays
        as it was. No network is computed again.
        """
        of = [
            [row for features_NF in batches for row in without_each(network, features_NF)]
            for network, batches in zip(self._networks, zip(*self._looks, strict=True), strict=True)
        ]
        return [list(rows) for rows in zip(*of, strict=True)]

    def _on_device(self, pixels_SHW: npt.NDArray[np.uint8 | np.bool_]) -> Tensor:
        """A study's slices as they are, a byte a pixel: the device makes planes of them."""
        pixels = torch.from_numpy(pixels_SHW)
        return pixels.pin_memory().to(self._device, non_blocking=True) if self._device.type == "cuda" else pixels


def without_each(network: DreNet, features_NF: Tensor) -> list[list[float]]:
    """[slice][look]: the probability with the features of one look at 0."""
    last = network.concat_net
    looks_NLF = features_NF.reshape(len(features_NF), N_DETAILS + 2, -1)
    weights_CLF = last.weight.reshape(last.out_features, N_DETAILS + 2, -1)
    share_NLC = torch.einsum("nlf,clf->nlc", looks_NLF, weights_CLF)
    without_NLC = linear(features_NF, last.weight, last.bias).unsqueeze(1) - share_NLC
    rows: list[list[float]] = torch.softmax(without_NLC, dim=2)[:, :, network.metadata.positive].cpu().tolist()
    return rows


def _predictions(rows: Sequence[Tensor]) -> tuple[tuple[SlicePrediction, ...], ...]:
    rows_NnR = torch.cat(list(rows))
    if not torch.isfinite(rows_NnR).all():
        raise StudyError(Reason.NONFINITE_OUTPUT, "infer")
    return tuple(tuple(prediction(row) for row in of_slice) for of_slice in rows_NnR.tolist())
