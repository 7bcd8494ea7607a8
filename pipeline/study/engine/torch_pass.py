"""Slices computed by torch, on a processor or a GPU of this rank's own."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from pipeline.config import EngineConfig
from pipeline.study.checkpoint import Checkpoint
from pipeline.study.drenet.checkpoint import drenet_of
from pipeline.study.engine.device import open_device
from pipeline.study.engine.fast import fast_network
from pipeline.study.engine.one_pass import OnePass
from pipeline.study.engine.rows import Grey, Lung, SliceRows


class TorchPass:
    """All networks, made ready for this rank's device. Raises DeviceError."""

    def __init__(self, checkpoints: Sequence[Checkpoint], config: EngineConfig, local_rank: int) -> None:
        self._device = open_device(config, local_rank)
        networks = [fast_network(drenet_of(checkpoint), config, self._device) for checkpoint in checkpoints]
        self._one_pass = OnePass(networks, self._device)

    def __call__(self, image_NHW: Grey, zoom_NHW: Grey, lung_NHW: Lung) -> SliceRows:
        """What all networks say of the slices."""
        seen = self._one_pass(*(self._on_device(given) for given in (image_NHW, zoom_NHW, lung_NHW)))
        return SliceRows(seen.rows.cpu().numpy(), [looks.cpu().numpy() for looks in seen.looks])

    def _on_device(self, pixels_NHW: Grey | Lung) -> Tensor:
        """A study's slices as they are, a byte a pixel: the device makes planes of them."""
        pixels = torch.from_numpy(pixels_NHW)
        return pixels.pin_memory().to(self._device, non_blocking=True) if self._device.type == "cuda" else pixels
