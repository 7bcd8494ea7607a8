"""How a network is rounded to 8 bits, measured on slices; `precision = "int8"` computes the looks after the first so.

Of every rounded convolution's input the most that it reaches is recorded, of details and of the second look apart: deep in the
network the ones reach three times what the other does. Rounding then moves the mean of the feature map, as a ReLU makes of
noise around 0 something above 0; that is measured with the engine itself, and taken back. Nothing is drawn: the same slices
give the same numbers.

Shapes: N slices, P = 2 planes, H x W pixels, F features.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from pipeline.config import EngineConfig
from pipeline.records import PreparedStudy
from pipeline.study.anchors import DETAIL_PX, IMAGE_PX
from pipeline.study.checkpoint import Rounding
from pipeline.study.compiled import Compiled
from pipeline.study.drenet import DreNet
from pipeline.study.drenet.checkpoint import kept_of
from pipeline.study.drenet.resnet import Bottleneck, Features, ResNet
from pipeline.study.engine.choice import check_int8
from pipeline.study.engine.device import open_device
from pipeline.study.engine.fast import FastTrunk, folded_network
from pipeline.study.engine.one_pass import OnePass
from pipeline.study.engine.openvino import DETAILS, TINY, WHOLE, shaped, trunk_model

INT8 = EngineConfig(name="openvino", precision="int8")


@torch.inference_mode()
def with_rounding(network: DreNet, studies: Sequence[PreparedStudy]) -> DreNet:
    """`network`, saying how it is rounded, as measured on all slices of `studies`. Raises DeviceError.

    It is changed in place, in its metadata alone.
    """
    check_int8(INT8)
    device = open_device(INT8, 0)
    folded = folded_network(network)
    trunk = folded.pretrained_model
    looks = _looks(folded, device, studies)
    tops = {size: _tops(trunk, looks[size]) for size in looks}
    bare = [Rounding(tops[size], (0.0,) * trunk.n_features) for size in looks]
    state = kept_of(network).state
    rounded = [
        _rounded(Compiled(shaped(trunk_model(state, one), shape), INT8.threads))
        for shape, one in zip((DETAILS, WHOLE), bare, strict=True)
    ]
    shifts = [_mean(trunk, looks[size]) - _mean(one, looks[size]) for one, size in zip(rounded, looks, strict=True)]
    measured = tuple(replace(one, shift=tuple(shift.tolist())) for one, shift in zip(bare, shifts, strict=True))
    network.metadata = replace(network.metadata, rounding=measured)
    return network


def _looks(folded: DreNet, device: torch.device, studies: Sequence[PreparedStudy]) -> dict[int, list[Tensor]]:
    """By their size what the network looks at after the first look: the planes [N, P, H, W] of details and second looks."""
    trunk = folded.pretrained_model
    looks: dict[int, list[Tensor]] = {DETAIL_PX: [], IMAGE_PX: []}

    def keep(planes_NPHW: Tensor) -> Tensor:
        looks[planes_NPHW.shape[-1]].append(planes_NPHW)
        return planes_NPHW.new_zeros(len(planes_NPHW), trunk.n_features, 1, 1)  # nothing asks what they show

    folded.pretrained_model = FastTrunk(trunk, trunk.fc)  # type: ignore[assignment]
    folded.closer = keep
    one_pass = OnePass([folded], device)
    for study in studies:
        for row in range(len(study.images)):
            one_pass(*(torch.from_numpy(array[row : row + 1]) for array in (study.images, study.zoom, study.lung)))
    return looks


def _tops(trunk: ResNet, looks: Sequence[Tensor]) -> tuple[float, ...]:
    """The most that the input of each convolution of a block reaches, in the network's order."""
    tops: dict[nn.Module, float] = {}

    def record(conv: nn.Module, inputs: tuple[Tensor]) -> None:
        tops[conv] = max(tops.get(conv, TINY), float(inputs[0].max()))

    blocks = [part for part in trunk.modules() if isinstance(part, Bottleneck)]
    convolutions = [conv for block in blocks for conv in (block.conv1, block.conv2, block.conv3)]
    hooks = [conv.register_forward_pre_hook(record) for conv in convolutions]
    for planes_NPHW in looks:
        trunk(planes_NPHW)
    for hook in hooks:
        hook.remove()
    return tuple(tops[conv] for conv in convolutions)


def _rounded(graph: Compiled) -> Features:
    return lambda planes_NPHW: torch.from_numpy(graph(planes_NPHW.numpy()))


def _mean(features: Features, looks: Sequence[Tensor]) -> Tensor:
    """[F]: the mean of the feature map over all looks."""
    return torch.stack([features(planes_NPHW).mean(dim=(0, 2, 3)) for planes_NPHW in looks]).mean(dim=0)
