"""The most that one core computes: the fastest of a few convolutions and matrix products that fit its caches.

A data sheet's peak says little where the clock varies; this one is measured beside what is held against it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn

from benchmarks.bench.clock import Spent, spent
from pipeline.study.anchors import DETAIL_PX, IMAGE_PX, N_DETAILS
from pipeline.study.compiled import Compiled, import_openvino
from pipeline.study.drenet.resnet import ResNet

SHAPES = ((256, 56, 3), (512, 28, 3), (512, 28, 1))
"""(channels, pixels a side, kernel) of convolutions whose weights and maps stay in a core's second cache."""
LAYERS = 4
MATRIX = 1536
TRIES = 3


class Peak:
    """FLOP a second of one core in `dtype`: the best seen of all calls of `try_again`."""

    def __init__(self, dtype: torch.dtype) -> None:
        self.flops = 0.0
        self._works = [*(_convolution(*shape, dtype) for shape in SHAPES), _product(dtype)]

    def try_again(self) -> None:
        """Measure each candidate a few times more."""
        for work, n_flop in self._works:
            for _ in range(TRIES):
                self.flops = max(self.flops, n_flop / spent(work).cpu_s)


def flop_a_slice(width: float = 1.0) -> float:
    """Floating point operations of the trunk's convolutions for one slice: two looks at it and six details."""
    whole, detail = (flop_of_image(side, width) for side in (IMAGE_PX, DETAIL_PX))
    return 2 * whole + N_DETAILS * detail


def flop_of_image(side: int, width: float = 1.0) -> float:
    """The same for one image, by its layers' shapes; two operations a multiplication, two planes in."""
    total = 0.0

    def count(layer: nn.Module, _given: Any, made: torch.Tensor) -> None:
        nonlocal total
        total += 2.0 * layer.weight[0].numel() * made.numel()  # type: ignore[index,operator,union-attr]

    with torch.device("meta"):
        trunk = ResNet(width)
        trunk.conv1 = nn.Conv2d(2, trunk.conv1.out_channels, 7, 2, 3)
        for layer in trunk.modules():
            if isinstance(layer, nn.Conv2d):
                layer.register_forward_hook(count)
        trunk.eval()(torch.zeros(1, 2, side, side))
    return total


def _convolution(channels: int, side: int, kernel: int, dtype: torch.dtype) -> tuple[Callable[[], Any], float]:
    openvino = import_openvino()
    ops = openvino.opset13
    given = ops.parameter([1, channels, side, side], np.float32)
    draw = np.random.default_rng(0)
    made, margin = given, [kernel // 2] * 2
    for _ in range(LAYERS):
        weight = draw.standard_normal((channels, channels, kernel, kernel)) / np.sqrt(channels * kernel**2)
        made = ops.convolution(made, ops.constant(weight.astype(np.float32)), [1, 1], margin, margin, [1, 1])
    model = openvino.Model([ops.result(made)], [given], "peak")
    graph = Compiled(model, 1, "bf16" if dtype == torch.bfloat16 else "f32")
    image = draw.standard_normal((1, channels, side, side)).astype(np.float32)
    return lambda: graph(image), 2.0 * LAYERS * (channels * kernel * side) ** 2


def _product(dtype: torch.dtype) -> tuple[Callable[[], Any], float]:
    one, other = (torch.randn(MATRIX, MATRIX, generator=torch.Generator().manual_seed(seed)).to(dtype) for seed in (0, 1))
    return lambda: one @ other, 2.0 * MATRIX**3


def share(n_flop: float, taken: Spent, peak: Peak) -> float:
    """What part of the peak a work of `n_flop` reached."""
    return n_flop / taken.cpu_s / peak.flops
