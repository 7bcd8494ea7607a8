"""ResNet-50 (He et al., arXiv:1512.03385) with torchvision's layout and key names: a bottleneck's stride sits on its 3x3."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from pipeline.study.checkpoint import BLOCKS, EXPANSION

Features = Callable[[Tensor], Tensor]
"""What a trunk computes: images [N, channels, H, W] -> the feature map [N, F, H / 32, W / 32]."""


class Bottleneck(nn.Module):
    """1x1 down, 3x3, 1x1 up, and the shortcut."""

    def __init__(self, n_in: int, n_mid: int, stride: int) -> None:
        super().__init__()
        n_out = n_mid * EXPANSION
        self.conv1 = nn.Conv2d(n_in, n_mid, 1, bias=False)
        self.bn1: nn.Module = nn.BatchNorm2d(n_mid)
        self.conv2 = nn.Conv2d(n_mid, n_mid, 3, stride, 1, bias=False)
        self.bn2: nn.Module = nn.BatchNorm2d(n_mid)
        self.conv3 = nn.Conv2d(n_mid, n_out, 1, bias=False)
        self.bn3: nn.Module = nn.BatchNorm2d(n_out)
        self.downsample: nn.Sequential | None = None
        if stride != 1 or n_in != n_out:
            self.downsample = nn.Sequential(nn.Conv2d(n_in, n_out, 1, stride, bias=False), nn.BatchNorm2d(n_out))

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """[N, C, H, W] -> [N, 4 * mid, H / stride, W / stride]."""
        y_NCHW = torch.relu_(self.bn1(self.conv1(x_NCHW)))
        y_NCHW = torch.relu_(self.bn2(self.conv2(y_NCHW)))
        y_NCHW = self.bn3(self.conv3(y_NCHW))
        y_NCHW += x_NCHW if self.downsample is None else self.downsample(x_NCHW)
        return torch.relu_(y_NCHW)


class ResNet(nn.Module):
    """The trunk and its two-class `fc`; `width` scales every channel count (1 is ResNet-50)."""

    def __init__(self, width: float = 1.0, n_classes: int = 2) -> None:
        super().__init__()
        base = int(64 * width)
        self.conv1 = nn.Conv2d(3, base, 7, 2, 3, bias=False)
        self.bn1: nn.Module = nn.BatchNorm2d(base)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        n_in = base
        for number, n_blocks in enumerate(BLOCKS, start=1):
            n_mid = base << (number - 1)
            blocks = []
            for block in range(n_blocks):
                blocks.append(Bottleneck(n_in, n_mid, 2 if block == 0 and number > 1 else 1))
                n_in = n_mid * EXPANSION
            setattr(self, f"layer{number}", nn.Sequential(*blocks))
        self.n_features = n_in
        self.fc = nn.Linear(n_in, n_classes)

    def forward(self, image_NCHW: Tensor) -> Tensor:
        """[N, 3, H, W] -> the feature map [N, F, H / 32, W / 32]."""
        y_NCHW: Tensor = self.maxpool(torch.relu_(self.bn1(self.conv1(image_NCHW))))
        for number in range(1, len(BLOCKS) + 1):
            y_NCHW = getattr(self, f"layer{number}")(y_NCHW)
        return y_NCHW


def fold_batch_norms(trunk: ResNet) -> None:
    """Work every batch norm into its convolution, in place; for inference only."""
    trunk.conv1 = _fused(trunk.conv1, trunk.bn1)
    trunk.bn1 = nn.Identity()
    for block in trunk.modules():
        if isinstance(block, Bottleneck):
            for number in (1, 2, 3):
                conv = getattr(block, f"conv{number}")
                norm = getattr(block, f"bn{number}")
                setattr(block, f"conv{number}", _fused(conv, norm))
                setattr(block, f"bn{number}", nn.Identity())
            if block.downsample is not None:
                conv, norm = block.downsample
                block.downsample = nn.Sequential(_fused(conv, norm))


def _fused(conv: nn.Module, norm: nn.Module) -> nn.Conv2d:
    """One convolution that does what the two did."""
    fused: nn.Conv2d = fuse_conv_bn_eval(cast(nn.Conv2d, conv), cast(nn.BatchNorm2d, norm))
    return fused
