"""DRE-Net (Song et al., medRxiv 2020.02.23.20026930): a ResNet-50 that looks thrice, at the slice, at its details, at the best.

The trunk's feature map feeds a proposal pyramid that scores 261 square anchors; hard NMS keeps 3 small and 3 large; each is cut
from the zero-padded image, resized to 224 x 224 and seen by the same trunk; the best large one is cut again from the 600 x 600
zoom source. A linear layer over the eight features gives the slice's logits. Dropout is off in eval mode.

Shapes: N slices, C channels, H x W pixels, K = 6 details, A anchors, F = 2048 * width features. Boxes (y0, x0, y1, x1) are
pixels of the image, and may reach beyond it: only where details are cut is it padded.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate, pad

from pipeline.study.anchors import (
    DETAIL_PX,
    IMAGE_PX,
    LARGE_LEVELS,
    N_DETAILS,
    N_LARGE,
    N_SMALL,
    PAD_PX,
    SMALL_LEVELS,
    ZOOM_PX,
    anchors,
    overlapping,
)
from pipeline.study.checkpoint import Metadata, pyramid_width
from pipeline.study.drenet.resnet import ResNet

Cut = Callable[[Tensor, Tensor, int], Tensor]
"""(images [N, C, H, W], boxes [N, K, 4] within them, size) -> [N * K, C, size, size]."""


class DreNetOutput(NamedTuple):
    """What DRE-Net says of N slices; `boxes` in pixels of the picture, `attention` sums to 1 over the details.

    `looks` [N, (K + 2) F] is what the last layer takes in: the features of the details, of the slice and of the second look.
    """

    raw_logits: Tensor
    concat_logits: Tensor
    part_logits: Tensor
    detail_index: Tensor
    detail_score: Tensor
    boxes: Tensor
    attention: Tensor
    looks: Tensor


class ProposalPyramid(nn.Module):
    """Feature map -> one score an anchor, over three scales."""

    def __init__(self, n_features: int, n_mid: int = 128) -> None:
        super().__init__()
        self.down1 = nn.Conv2d(n_features, n_mid, 3, 1, 1)
        self.down2 = nn.Conv2d(n_mid, n_mid, 3, 2, 1)
        self.down3 = nn.Conv2d(n_mid, n_mid, 3, 2, 1)
        self.tidy1 = nn.Conv2d(n_mid, 1, 1)
        self.tidy2 = nn.Conv2d(n_mid, 1, 1)
        self.tidy3 = nn.Conv2d(n_mid, 1, 1)

    def forward(self, features_NCHW: Tensor) -> tuple[Tensor, Tensor]:
        """-> scores of the small anchors [N, 245] and of the large ones [N, 16]."""
        d1 = torch.relu(self.down1(features_NCHW))
        d2 = torch.relu(self.down2(d1))
        d3 = torch.relu(self.down3(d2))
        small = torch.cat([self.tidy1(d1).flatten(1), self.tidy2(d2).flatten(1)], dim=1)
        return small, self.tidy3(d3).flatten(1)


class DreNet(nn.Module):
    """DRE-Net; parameter names are those of published checkpoints, plus the learned `attention`."""

    def __init__(self, width: float = 1.0, n_classes: int = 2) -> None:
        super().__init__()
        self.pretrained_model = ResNet(width, n_classes)
        n_features = self.pretrained_model.n_features
        self.proposal_net = ProposalPyramid(n_features, pyramid_width(width))
        self.concat_net = nn.Linear(n_features * (N_DETAILS + 2), n_classes)
        self.partcls_net = nn.Linear(n_features, n_classes)
        self.attention = nn.Linear(n_features, 1)
        nn.init.zeros_(self.attention.weight)  # equal weights: the identity, until trained
        nn.init.zeros_(self.attention.bias)
        self.dropout = nn.Dropout(0.5)
        self.explore = 0.0  # training may choose details by scores with this much noise, to see others than the best
        self.closer: Callable[[Tensor], Tensor] | None = None  # computes the looks after the first, where not the trunk does
        self.cut: Cut = cut_boxes
        self.trunk_dtype = torch.float32  # training may compute the trunk, and only it, in bfloat16
        self.metadata = Metadata(width=width)
        self.small_boxes: Tensor
        self.large_boxes: Tensor
        self.small_overlaps: Tensor
        self.large_overlaps: Tensor
        for name, levels in (("small", SMALL_LEVELS), ("large", LARGE_LEVELS)):
            boxes_A4 = anchors(levels)
            self.register_buffer(f"{name}_boxes", torch.from_numpy(boxes_A4), persistent=False)
            self.register_buffer(f"{name}_overlaps", torch.from_numpy(overlapping(boxes_A4)), persistent=False)

    def forward(
        self, image: Tensor, zoom_source: Tensor, forced_index: Tensor | None = None, in_lung: Tensor | None = None
    ) -> DreNetOutput:  # fmt: skip
        """Image [N, 3, 448, 448], zoom_source [N, 3, 600, 600], both normalised; `forced_index` [N, 6] replaces the choice.

        `in_lung` [N, A], which anchors show original lung, counts where the network was trained to choose among those only;
        without it any may be chosen.
        """
        map_NCHW = self.trunk(image)
        slice_NF = self.pooled(map_NCHW)
        small_NA, large_NA = self.proposal_net(map_NCHW.detach().float())
        index_NK = self._choose(small_NA, large_NA, in_lung) if forced_index is None else forced_index
        boxes_NK4 = torch.cat([self.small_boxes[index_NK[:, :N_SMALL]], self.large_boxes[index_NK[:, N_SMALL:]]], dim=1)
        score_NK = torch.cat([small_NA.gather(1, index_NK[:, :N_SMALL]), large_NA.gather(1, index_NK[:, N_SMALL:])], dim=1)
        detail_NKF = self._look_at_details(image, boxes_NK4)
        second_NF = self.pooled(self.look_closer(second_look(zoom_source, boxes_NK4[:, N_SMALL], self.cut)))
        attention_NK = torch.softmax(self.attention(detail_NKF).squeeze(2), dim=1)
        weighted_NF = (detail_NKF * (attention_NK * N_DETAILS).unsqueeze(2)).flatten(1)
        looks = torch.cat([weighted_NF, slice_NF, second_NF], dim=1)
        return DreNetOutput(
            raw_logits=self.pretrained_model.fc(slice_NF),
            concat_logits=self.concat_net(looks),
            part_logits=self.partcls_net(detail_NKF),
            detail_index=index_NK,
            detail_score=score_NK,
            boxes=boxes_NK4,
            attention=attention_NK,
            looks=looks,
        )

    def trunk(self, image_NCHW: Tensor) -> Tensor:
        """The feature map [N, F, h, w]."""
        with torch.autocast(image_NCHW.device.type, torch.bfloat16, enabled=self.trunk_dtype == torch.bfloat16):
            features: Tensor = self.pretrained_model(image_NCHW)
        return features

    def look_closer(self, image_NCHW: Tensor) -> Tensor:
        """The feature map of details and of the second look: nothing is chosen by it, so an engine may round it."""
        return self.closer(image_NCHW) if self.closer else self.trunk(image_NCHW)

    def pooled(self, map_NCHW: Tensor) -> Tensor:
        """[N, F]: the mean over the map, in fp32; in training half of it is dropped for all that follows."""
        pooled: Tensor = self.dropout(map_NCHW.float().mean(dim=(2, 3)))
        return pooled

    def _choose(self, small_NA: Tensor, large_NA: Tensor, in_lung_NA: Tensor | None) -> Tensor:
        if in_lung_NA is None or self.metadata.details == "anywhere":
            in_lung_NA = torch.ones_like(torch.cat([small_NA, large_NA], dim=1), dtype=torch.bool)
        first = torch.split(in_lung_NA, [small_NA.shape[1], large_NA.shape[1]], dim=1)
        small, large = (self._explored(score_NA.detach()) for score_NA in (small_NA, large_NA))
        return torch.cat(
            [hard_nms(small, self.small_overlaps, N_SMALL, first[0]), hard_nms(large, self.large_overlaps, N_LARGE, first[1])],
            dim=1,
        )

    def _explored(self, score_NA: Tensor) -> Tensor:
        return score_NA + self.explore * torch.randn_like(score_NA) if self.training and self.explore else score_NA

    def _look_at_details(self, image: Tensor, boxes_NK4: Tensor) -> Tensor:
        """[N, K, F]: each detail cut from the padded image, resized, seen by the trunk."""
        padded = pad(image.detach(), (PAD_PX,) * 4)
        features_NF = self.pooled(self.look_closer(self.cut(padded, boxes_NK4 + PAD_PX, DETAIL_PX)))
        return features_NF.view(len(image), N_DETAILS, -1)


def hard_nms(score_NA: Tensor, overlaps_AA: Tensor, n_keep: int, first_NA: Tensor) -> Tensor:
    """Indices [N, n_keep]: the best score first, then the best that overlaps none chosen; of equals the lower index.

    Those of `first_NA` come before all others, which fill up what these leave.
    """
    # Ranks are distinct whole numbers: argmax over the scores promises no order among equals, and an anchor that was dropped
    # must not be mistaken for one that scores -inf.
    n_anchors = score_NA.shape[1]
    rank_NA = score_NA.argsort(dim=1, descending=True, stable=True).argsort(dim=1) + n_anchors * ~first_NA
    chosen = []
    for _ in range(n_keep):
        best_N = rank_NA.argmin(dim=1)
        chosen.append(best_N)
        rank_NA = rank_NA.masked_fill(overlaps_AA[best_N], 2 * n_anchors)
    return torch.stack(chosen, dim=1)


def cut(image_1CHW: Tensor, box: list[int], size: int) -> Tensor:
    """The half-open box of one image, resized bilinearly with aligned corners to [1, C, size, size]."""
    y0, x0, y1, x1 = box
    return interpolate(image_1CHW[:, :, y0:y1, x0:x1], size=(size, size), mode="bilinear", align_corners=True)


def cut_boxes(image_NCHW: Tensor, boxes_NK4: Tensor, size: int) -> Tensor:
    """[N * K, C, size, size]: K boxes of each image, one after the other."""
    return torch.cat(
        [cut(image[None], box, size) for image, boxes in zip(image_NCHW, boxes_NK4.tolist(), strict=True) for box in boxes]
    )


def second_look(zoom_source: Tensor, box_N4: Tensor, cut: Cut = cut_boxes) -> Tensor:
    """The best large detail of each slice, cut from its 600 x 600 source: [N, 3, 448, 448]."""
    inside = box_N4.clamp(0, IMAGE_PX)
    return cut(zoom_source.detach(), (inside * ZOOM_PX // IMAGE_PX).unsqueeze(1), IMAGE_PX)


def network_of(state: Mapping[str, Tensor], metadata: Metadata) -> DreNet:
    """A network in eval mode around the very tensors of `state`: nothing is initialised, nothing copied."""
    with torch.device("meta"):
        network = DreNet(metadata.width, len(metadata.classes))
    network.metadata = metadata
    network.load_state_dict(state, assign=True)
    return network.eval()
