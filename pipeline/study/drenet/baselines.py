"""The networks that DRE-Net is compared with: VGG16, DenseNet-121 and ResNet-50 on whole slices, each in any width.

VGG16 (Simonyan & Zisserman, arXiv:1409.1556) with batch norms and one linear layer behind global pooling, since slim widths
train from scratch; DenseNet-121 (Huang et al., arXiv:1608.06993); ResNet-50 as in resnet.py. Written here because torchvision's
compiled part does not load beside a CPU build of torch. Shapes: N slices, C channels, H x W pixels.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pipeline.study.checkpoint import Metadata
from pipeline.study.drenet.resnet import ResNet

VGG_BLOCKS = ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))
"""(channels, convolutions) between poolings."""
DENSE_BLOCKS = (6, 12, 24, 16)
GROWTH = 32


class Baseline(nn.Module):
    """A trunk on the whole slice, global average pooling, dropout, one linear layer."""

    def __init__(self, architecture: str, width: float = 1.0, n_classes: int = 2) -> None:
        super().__init__()
        trunk, n_features = _trunk(architecture, width)
        self.trunk = trunk
        self.dropout = nn.Dropout(0.5)
        self.fc = nn.Linear(n_features, n_classes)
        self.metadata = Metadata(width=width, architecture=architecture)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")

    def forward(self, image_NCHW: Tensor) -> Tensor:
        """[N, 3, H, W] -> logits [N, class]."""
        pooled_NF = self.trunk(image_NCHW).float().mean(dim=(2, 3))
        logits: Tensor = self.fc(self.dropout(pooled_NF))
        return logits


class DenseLayer(nn.Module):
    """Norm, 1x1 to four times the growth, norm, 3x3 to the growth; the input stays in front of what is new."""

    def __init__(self, n_in: int, growth: int) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(n_in)
        self.conv1 = nn.Conv2d(n_in, 4 * growth, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(4 * growth)
        self.conv2 = nn.Conv2d(4 * growth, growth, 3, padding=1, bias=False)

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """[N, C, H, W] -> [N, C + growth, H, W]."""
        y_NCHW = self.conv1(torch.relu(self.norm1(x_NCHW)))
        return torch.cat([x_NCHW, self.conv2(torch.relu(self.norm2(y_NCHW)))], dim=1)


def _trunk(architecture: str, width: float) -> tuple[nn.Module, int]:
    if architecture == "resnet50":
        resnet = ResNet(width)
        n_features = resnet.n_features
        del resnet.fc
        return resnet, n_features
    return _vgg(width) if architecture == "vgg16" else _densenet(width)


def _vgg(width: float) -> tuple[nn.Module, int]:
    layers: list[nn.Module] = []
    n_in = 3
    for channels, n_convolutions in VGG_BLOCKS:
        for _ in range(n_convolutions):
            n_out = int(channels * width)
            layers += [nn.Conv2d(n_in, n_out, 3, padding=1, bias=False), nn.BatchNorm2d(n_out), nn.ReLU(inplace=True)]
            n_in = n_out
        layers.append(nn.MaxPool2d(2, 2))
    return nn.Sequential(*layers), n_in


def _densenet(width: float) -> tuple[nn.Module, int]:
    growth = max(4, int(GROWTH * width))
    n_in = 2 * growth
    layers: list[nn.Module] = [nn.Conv2d(3, n_in, 7, 2, 3, bias=False), nn.BatchNorm2d(n_in), nn.ReLU(inplace=True)]
    layers.append(nn.MaxPool2d(3, 2, 1))
    for number, n_layers in enumerate(DENSE_BLOCKS):
        layers += [DenseLayer(n_in + place * growth, growth) for place in range(n_layers)]
        n_in += n_layers * growth
        layers += [nn.BatchNorm2d(n_in), nn.ReLU(inplace=True)]
        if number < len(DENSE_BLOCKS) - 1:
            layers += [nn.Conv2d(n_in, n_in // 2, 1, bias=False), nn.AvgPool2d(2, 2)]
            n_in //= 2
    return nn.Sequential(*layers), n_in
