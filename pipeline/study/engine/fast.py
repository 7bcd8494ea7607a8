"""DRE-Net made ready for inference by torch: the same forward pass over two planes (`planes.py`), its norms folded.

Shapes: N slices, P = 2 planes, H x W pixels, F features.
"""

from __future__ import annotations

from copy import deepcopy

import torch
from torch import Tensor, nn

from pipeline.config import EngineConfig
from pipeline.study.drenet import DreNet
from pipeline.study.drenet.network import network_of
from pipeline.study.drenet.resnet import Features, ResNet, fold_batch_norms
from pipeline.study.engine.planes import MEAN, STD, over_planes


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
        fast.closer = torch_features(deepcopy(trunk), torch.bfloat16, device)
    dtype = torch.bfloat16 if config.precision == "bf16" else torch.float32
    fast.pretrained_model = FastTrunk(torch_features(trunk, dtype, device), trunk.fc)  # type: ignore[assignment]
    return fast.to(device)


def folded_network(network: DreNet) -> DreNet:
    """`network` for planes, its norms folded, its trunk torch's in fp32; `network` itself is left as it is."""
    folded = network_of(network.state_dict(), network.metadata).requires_grad_(requires_grad=False)
    fold_batch_norms(folded.pretrained_model)
    fold_normalisation(folded.pretrained_model)
    return folded


def torch_features(trunk: ResNet, dtype: torch.dtype, device: torch.device) -> Features:
    """The trunk in `dtype` by torch, in channels-last memory: without it bf16 is slower than fp32. Takes the trunk over."""
    layout = torch.channels_last
    convolutions = nn.ModuleDict({name: part for name, part in trunk.named_children() if name != "fc"})
    convolutions.to(device=device, dtype=dtype).to(memory_format=layout)  # type: ignore[call-overload]
    return lambda planes_NPHW: trunk(planes_NPHW.to(dtype, memory_format=layout))


def fold_normalisation(trunk: ResNet) -> None:
    """Work the normalisation into the first convolution, in place: it then takes planes."""
    first = trunk.conv1
    first.weight = nn.Parameter(torch.from_numpy(over_planes(first.weight.detach().numpy())), requires_grad=False)
    first.in_channels = first.weight.shape[1]
