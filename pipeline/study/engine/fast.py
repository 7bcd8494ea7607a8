"""DRE-Net made ready for inference: the same forward pass over two planes, its norms folded, its trunk the engine's.

A grey slice enters DRE-Net as three affine copies of itself, (grey - mean_c) / std_c, padded with 0.0 after that. Cutting,
resizing, padding and convolving are linear, so two planes carry the same: the grey in 0..1, and the coverage, which is 1 in the
picture and 0 in any padding. The first convolution takes them with

    w_grey = sum over c of w_c / std_c        w_coverage = - sum over c of w_c * mean_c / std_c

which is exact at every border too, and a third less to cut and resize.

Shapes: N slices, P = 2 planes, H x W pixels, F features.
"""

from __future__ import annotations

from copy import deepcopy

import torch
from torch import Tensor, nn

from pipeline.config import EngineConfig
from pipeline.errors import ConfigurationError
from pipeline.study.drenet import DreNet
from pipeline.study.drenet.network import Metadata, network_of
from pipeline.study.drenet.resnet import Features, ResNet, fold_batch_norms
from pipeline.study.engine.device import resolve_engine

MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)


def planes(grey_NHW: Tensor) -> Tensor:
    """uint8 [N, H, W] -> grey and coverage [N, P, H, W]."""
    grey = grey_NHW.float() / 255.0
    return torch.stack([grey, torch.ones_like(grey)], dim=1)


def normalised(grey_NHW: Tensor) -> Tensor:
    """uint8 [N, H, W] -> [N, 3, H, W], the network's own input: scaled to 0..1, then ImageNet's mean and deviation."""
    mean, std = (torch.tensor(values, device=grey_NHW.device).view(1, 3, 1, 1) for values in (MEAN, STD))
    return (grey_NHW.float().unsqueeze(1) / 255.0 - mean) / std


class FastTrunk(nn.Module):
    """Stands where the ResNet stood: its feature map as an engine computes it, and its `fc`, which stays fp32."""

    def __init__(self, features: Features, fc: nn.Linear) -> None:
        super().__init__()
        self.features = features
        self.fc = fc

    def forward(self, planes_NPHW: Tensor) -> Tensor:
        """The feature map [N, F, H / 32, W / 32]."""
        return self.features(planes_NPHW)


def fast_network(network: DreNet, config: EngineConfig, device: torch.device) -> DreNet:
    """`network` for planes instead of normalised images, on `device`; `network` itself is left as it is."""
    fast = folded_network(network)
    trunk = fast.pretrained_model
    if config.precision == "mixed":
        fast.closer = _features(deepcopy(trunk), config, device, torch.bfloat16)
    if config.precision == "int8":
        fast.closer = _rounded_features(trunk, config, network.metadata)
    dtype = torch.bfloat16 if config.precision == "bf16" else torch.float32
    fast.pretrained_model = FastTrunk(_features(trunk, config, device, dtype), trunk.fc)  # type: ignore[assignment]
    return fast.to(device)


def folded_network(network: DreNet) -> DreNet:
    """`network` for planes, its norms folded, its trunk torch's in fp32; `network` itself is left as it is."""
    folded = network_of(network.state_dict(), network.metadata).requires_grad_(requires_grad=False)
    fold_batch_norms(folded.pretrained_model)
    fold_normalisation(folded.pretrained_model)
    return folded


def _rounded_features(trunk: ResNet, config: EngineConfig, metadata: Metadata) -> Features:
    if not metadata.rounding:
        raise ConfigurationError(
            f"precision = int8, but the network {metadata.task or metadata.sha256[:8]} does not say how it is rounded: "
            "`drenet quantise CHECKPOINT ARCHIVE --out NEW` measures it; or choose mixed or fp32"
        )
    from pipeline.study.engine.openvino import rounded_features

    return rounded_features(trunk, config, metadata.rounding)


def _features(trunk: ResNet, config: EngineConfig, device: torch.device, dtype: torch.dtype) -> Features:
    if resolve_engine(config.name) == "openvino":
        from pipeline.study.engine.openvino import openvino_features

        return openvino_features(trunk, config, dtype)
    return torch_features(trunk, dtype, device)


def torch_features(trunk: ResNet, dtype: torch.dtype, device: torch.device) -> Features:
    """The trunk in `dtype` by torch, in channels-last memory: without it bf16 is slower than fp32. Takes the trunk over."""
    layout = torch.channels_last
    convolutions = nn.ModuleDict({name: part for name, part in trunk.named_children() if name != "fc"})
    convolutions.to(device=device, dtype=dtype).to(memory_format=layout)  # type: ignore[call-overload]
    return lambda planes_NPHW: trunk(planes_NPHW.to(dtype, memory_format=layout))


def fold_normalisation(trunk: ResNet) -> None:
    """Work the normalisation into the first convolution, in place: it then takes planes."""
    first = trunk.conv1
    scale = 1 / torch.tensor(STD, dtype=torch.float64).view(1, 3, 1, 1)
    shift = -torch.tensor(MEAN, dtype=torch.float64).view(1, 3, 1, 1) * scale
    weight = first.weight.double()
    both = torch.cat([(weight * factor).sum(dim=1, keepdim=True) for factor in (scale, shift)], dim=1)
    first.weight = nn.Parameter(both.float(), requires_grad=False)
    first.in_channels = both.shape[1]
