"""The network that is asked whether tissue is lung: a small U-Net on slices at WORK_MM a pixel, each with its neighbours.

It was trained on synthetic patients only (docs/model-cards.md) and is no mask of its own. OpenVINO computes it on the
processor, a slice at a time on one thread, whatever engine computes the other networks, so that a mask depends on neither
engine nor ranks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors.numpy import load_file

from pipeline.study.compiled import Array, Compiled, folded, import_openvino
from pipeline.study.lungs.shapes import Bits

WEIGHTS = Path(__file__).parents[2] / "weights" / "lungs" / "judge.safetensors"
"""The file: made by benchmarks/lung_judge.py, 1.5 MB."""
SIZE = (128, 176)
"""Pixels: rows and columns that the network sees, 256 x 352 mm round the middle of the bodies."""
WIDTHS = (16, 32, 64, 96)
"""Features at 4, 8, 16 and 32 mm a pixel."""
PLANES = 6
"""A slice and its two neighbours, each in two windows."""
CLASSES = ("rest", "lung", "lesion")
"""What a pixel may be; lung and lesion together are lung, told apart so that lesions weigh more in training."""
SQUARE = 2
"""Pixels: the network works at half the size, a square of so many rows and columns in channels."""
SUREST = 80.0
"""Of what a logit has above the rest's: no sum is infinite, and no share exactly 0, which means beyond its view."""
AIR_HU = -1024
"""HU beyond the picture."""
LUNG_WINDOW = (-0.05, 1.3)
"""Of the first window: (HU + 1000) / 1000 is kept between these."""
SOFT_WINDOW_HU = 160.0
"""HU that make 1 in the second window."""
SOFT_WINDOW = (-1.2, 1.5)
"""Of the second window: kept between these."""

Hu = npt.NDArray[np.int16]
Share = npt.NDArray[np.float32]
Weights = Mapping[str, Array]
"""By the names that they had in training."""


def lung_share(hu: Hu, bodies: Bits, places: Sequence[int], lungs: Bits) -> Share:
    """How sure the network is of lung, 0 to 1, at every pixel of `hu` [S, r, c]; 1 where it is not asked, but at `places`.

    There, what lies beyond its view is 1 or 0 as the rules have it, whose `lungs` [S, r, c] are.
    """
    share = np.ones(hu.shape, np.float32)
    if not len(places):
        return share
    here, there = _overlap(hu.shape[1:], bodies)
    shown = np.full((len(hu), *SIZE), AIR_HU, np.float32)
    shown[:, there[0], there[1]] = hu[:, here[0], here[1]]
    for place in places:
        three = shown[[place, max(place - 1, 0), min(place + 1, len(hu) - 1)]]
        share[place] = lungs[place]
        share[place][here] = network()(three[None])[0, 0][there]
    return share


@cache
def network() -> Compiled:
    """The shipped network: HU of a slice and the ones below and above [1, 3, R, C] -> how sure it is of lung [1, 1, R, C]."""
    return Compiled(_graph(load_file(WEIGHTS)), threads=1)  # threads may add up in another order


def _graph(weights: Weights) -> Any:
    """The network that benchmarks/lung_net.py trains, written down layer by layer."""
    openvino = import_openvino()
    ops, layers = openvino.opset13, _Layers(weights)
    hu = ops.parameter([1, PLANES // 2, *SIZE], np.float32)
    first = layers.windows(ops.space_to_depth(hu, "depth_first", SQUARE))
    kept = [layers.block("down.0", first)]
    for level in range(1, len(WIDTHS)):
        kept.append(layers.block(f"down.{level}", layers.halved(kept[-1])))
    x = kept.pop()
    for level in reversed(range(len(kept))):
        narrow = layers.convolved(x, weights[f"narrow.{level}.weight"], weights[f"narrow.{level}.bias"])
        x = layers.block(f"up.{level}", ops.concat([layers.doubled(narrow), kept[level]], 1))
    return openvino.Model([ops.result(layers.share(ops.concat([x, first], 1)))], [hu], "judge")


class _Layers:
    """What the graph is made of."""

    def __init__(self, weights: Weights) -> None:
        self._ops = import_openvino().opset13
        self._weights = weights

    def windows(self, hu: Any) -> Any:
        """HU in both windows, that for lung first."""
        ops, number = self._ops, self._number
        lung = ops.clamp(ops.add(ops.divide(hu, number(1000)), number(1)), *LUNG_WINDOW)
        soft = ops.clamp(ops.divide(hu, number(SOFT_WINDOW_HU)), *SOFT_WINDOW)
        return ops.concat([ops.subtract(ops.multiply(lung, number(2)), number(1)), soft], 1)

    def block(self, name: str, x: Any) -> Any:
        """Two 3 x 3 convolutions, each with its norm."""
        for conv, norm in (("0", "1"), ("3", "4")):
            x = self._ops.relu(self.convolved(x, *folded(self._weights, f"{name}.{conv}", f"{name}.{norm}")))
        return x

    def convolved(self, x: Any, weight: Array, bias: Array) -> Any:
        """As large as `x`."""
        pad = [weight.shape[-1] // 2] * 2
        y = self._ops.convolution(x, self._ops.constant(weight), [1, 1], pad, pad, [1, 1])
        return self._ops.add(y, self._ops.constant(bias.reshape(1, -1, 1, 1)))

    def halved(self, x: Any) -> Any:
        """The largest of each 2 x 2 pixels."""
        return self._ops.max_pool(x, [2, 2], [1, 1], [0, 0], [0, 0], [2, 2]).output(0)

    def doubled(self, x: Any) -> Any:
        """Each pixel as 2 x 2."""
        size = np.array(list(x.shape)[2:]) * 2
        return self._ops.interpolate(x, size, "nearest", "sizes", axes=np.array([2, 3]))

    def share(self, x: Any) -> Any:
        """Lung and lesion as a share of all classes, which needs no more than their logits above that of the rest."""
        ops, number = self._ops, self._number
        weight, bias = (_above_rest(self._weights[f"out.{part}"]) for part in ("weight", "bias"))
        above = ops.clamp(self.convolved(x, weight, bias), -SUREST, SUREST)
        both = ops.reduce_sum(ops.exp(ops.depth_to_space(above, "depth_first", SQUARE)), np.array([1]), keep_dims=True)
        return ops.divide(both, ops.add(number(1), both))

    def _number(self, value: float) -> Any:
        return self._ops.constant(np.float32(value))


def _above_rest(parameter: Array) -> Array:
    """The last layer's weight or bias [3 * 4, ...], those of the rest taken from lung's and lesion's [2 * 4, ...]."""
    of_classes = parameter.reshape(len(CLASSES), -1, *parameter.shape[1:])
    return (of_classes[1:] - of_classes[:1]).reshape(-1, *parameter.shape[1:])


def _overlap(shape: tuple[int, ...], bodies: Bits) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
    """Where what the network sees lies in pictures of `shape`, and where these lie in what it sees."""
    here, there = [], []
    for axis, size in enumerate(SIZE):
        taken = np.flatnonzero(bodies.any(axis=(0, 2 - axis)))
        middle = (int(taken[0]) + int(taken[-1]) + 1) // 2 if len(taken) else shape[axis] // 2
        start = middle - size // 2
        low, high = max(start, 0), min(start + size, shape[axis])
        here.append(slice(low, high))
        there.append(slice(low - start, high - start))
    return (here[0], here[1]), (there[0], there[1])
