"""The network that is asked whether tissue is lung: a small U-Net on slices at WORK_MM a pixel, each with its neighbours.

It was trained on synthetic patients only (docs/model-cards.md) and is no mask of its own. It runs on the processor, one slice
at a time on one thread, whatever engine computes the other networks, so that a mask depends on neither engine nor ranks.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Literal, cast

import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.functional import interpolate, max_pool2d, pixel_shuffle, pixel_unshuffle
from torch.nn.utils.fusion import fuse_conv_bn_eval

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
AIR_HU = -1024
"""HU beyond the picture."""
LUNG_WINDOW = (-0.05, 1.3)
"""Of the first window: (HU + 1000) / 1000 is kept between these."""
SOFT_WINDOW_HU = 160.0
"""HU that make 1 in the second window."""
SOFT_WINDOW = (-1.2, 1.5)
"""Of the second window: kept between these."""

Hu = npt.NDArray[np.int16]
Planes = npt.NDArray[np.float32]
Share = npt.NDArray[np.float32]
Squares = npt.NDArray[np.complex128]
"""Copied as one number each: four at a time."""


class Block(nn.Sequential):
    """Two 3 x 3 convolutions with their norms."""

    def __init__(self, n_in: int, n_out: int) -> None:
        first = (nn.Conv2d(n_in, n_out, 3, padding=1, bias=False), nn.BatchNorm2d(n_out), nn.ReLU())
        super().__init__(*first, nn.Conv2d(n_out, n_out, 3, padding=1, bias=False), nn.BatchNorm2d(n_out), nn.ReLU())

    def folded(self, level: int) -> nn.Sequential:
        """The same for inference at `level`, an index of WIDTHS: each norm in its convolution."""
        parts = list(self)
        pairs = [(parts[at], parts[at + 1]) for at in (0, 3)]
        fused = [fuse_conv_bn_eval(cast(nn.Conv2d, conv), cast(nn.BatchNorm2d, norm)) for conv, norm in pairs]
        return nn.Sequential(*(Packed(conv, level, "relu") for conv in fused))


class Packed(nn.Module):
    """A convolution for inference at `level`, its weights kept as oneDNN wants them, and what follows it in the same step.

    torch would pack them anew at each call, and takes a slower way for a single small slice.
    """

    def __init__(self, conv: nn.Conv2d, level: int, then: Literal["relu", "none"]) -> None:
        super().__init__()
        self.conv = conv
        self.then = then
        self._pad = [int(pad) for pad in cast(tuple[int, int], conv.padding)]
        size = [1, conv.in_channels, *(n >> level + 1 for n in SIZE)]
        has_packed = bool(torch._C._has_mkldnn)
        self._weight = _packed_weight(conv.weight.detach(), self._pad, size) if has_packed else None

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """The convolution of planes whose memory is channels_last."""
        if self._weight is None:
            plain: Tensor = self.conv(x_NCHW)
            return plain.relu() if self.then == "relu" else plain
        convolve = torch.ops.mkldnn._convolution_pointwise
        done: Tensor = convolve(x_NCHW, self._weight, self.conv.bias, self._pad, [1, 1], [1, 1], 1, self.then, [], "")
        return done


def _packed_weight(weight: Tensor, pad: list[int], size: list[int]) -> Tensor:
    packed: Tensor = torch.ops.mkldnn._reorder_convolution_weight(weight, pad, [1, 1], [1, 1], 1, size)
    return packed


class LungNet(nn.Module):
    """Planes [N, PLANES, R, C] -> logits of CLASSES [N, 3, R, C]; inside it works at half the size and less."""

    def __init__(self) -> None:
        super().__init__()
        n_first = PLANES * 4
        self.down = nn.ModuleList(Block(*pair) for pair in zip((n_first, *WIDTHS[:-1]), WIDTHS, strict=True))
        self.narrow = nn.ModuleList(nn.Conv2d(n, n_less, 1) for n_less, n in pairwise(WIDTHS))
        self.up = nn.ModuleList(Block(2 * n, n) for n in WIDTHS[:-1])
        self.out = nn.Conv2d(WIDTHS[0] + n_first, len(CLASSES) * 4, 3, padding=1)

    def forward(self, planes_NPRC: Tensor) -> Tensor:
        """Logits at every pixel."""
        return pixel_shuffle(self.halved(pixel_unshuffle(planes_NPRC, 2)), 2)

    def halved(self, first: Tensor) -> Tensor:
        """The same where squares of 2 x 2 pixels lie in channels: [N, PLANES * 4, R / 2, C / 2] -> [N, 3 * 4, R / 2, C / 2]."""
        kept = [self.down[0](first)]
        for block in list(self.down)[1:]:
            kept.append(block(max_pool2d(kept[-1], 2)))
        x = kept.pop()
        for level in reversed(range(len(kept))):
            wide = interpolate(self.narrow[level](x), scale_factor=2.0, mode="nearest")
            x = self.up[level](torch.cat([wide, kept[level]], dim=1))
        logits: Tensor = self.out(torch.cat([x, first], dim=1))
        return logits


def seen_by_network(slices: npt.NDArray[np.float32]) -> Planes:
    """HU of a slice and the ones below and above [3, R, C] -> PLANES, a window for lung and one for soft tissue."""
    return np.concatenate(_windows(slices))


def _windows(slices: npt.NDArray[np.float32]) -> tuple[Planes, Planes]:
    """HU as seen in the two windows."""
    lung = np.clip(slices / 1000 + 1, *LUNG_WINDOW) * 2 - 1
    soft = np.clip(slices / SOFT_WINDOW_HU, *SOFT_WINDOW)
    return np.asarray(lung, np.float32), np.asarray(soft, np.float32)


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
    near = {place: (place, max(place - 1, 0), min(place + 1, len(hu) - 1)) for place in places}
    squares = {place: _squares(shown[place]) for place in {place for three in near.values() for place in three}}
    with _one_thread(), torch.inference_mode():
        for place, three in near.items():
            share[place] = lungs[place]
            share[place][here] = _asked([squares[each] for each in three])[there]
    return share


def _squares(hu: npt.NDArray[np.float32]) -> Squares:
    """One slice in both windows, each square of 2 x 2 pixels as one number of 16 bytes [R / 2, C / 2, 2]; it is seen thrice."""
    rows, columns = SIZE
    split = np.stack(_windows(hu)).reshape(2, rows // 2, 2, columns // 2, 2)
    return np.ascontiguousarray(split.transpose(1, 3, 0, 2, 4)).reshape(rows // 2, columns // 2, 8).view(np.complex128)


def _asked(three: Sequence[Squares]) -> Share:
    """The network's answer to one slice, given it and its neighbours as `_squares` [R, C]."""
    first = np.stack(three, axis=3).view(np.float32).reshape(1, SIZE[0] // 2, SIZE[1] // 2, PLANES * 4)
    logits = network().halved(torch.from_numpy(first).permute(0, 3, 1, 2))[0].contiguous()
    of_squares = logits.view(len(CLASSES), -1).softmax(dim=0)[1:].sum(dim=0)
    return np.asarray(pixel_shuffle(of_squares.view(4, *logits.shape[1:]), 2)[0].numpy(), np.float32)


@cache
def network() -> LungNet:
    """The shipped network, ready for inference."""
    net = LungNet()
    net.load_state_dict(load_file(WEIGHTS))
    net.eval()
    net.requires_grad_(requires_grad=False)
    net.down = nn.ModuleList(cast(Block, block).folded(level) for level, block in enumerate(net.down))
    net.narrow = nn.ModuleList(Packed(cast(nn.Conv2d, conv), level + 1, "none") for level, conv in enumerate(net.narrow))
    net.up = nn.ModuleList(cast(Block, block).folded(level) for level, block in enumerate(net.up))
    net.out = Packed(net.out, 0, "none")  # type: ignore[assignment]
    return net


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


@contextmanager
def _one_thread() -> Iterator[None]:
    """Threads may add up in another order."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
