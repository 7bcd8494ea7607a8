"""The four-part loss of DRE-Net, and the plainer losses of the trunk alone and of the baselines.

CE(raw), CE(concat), CE(part) and the ranking loss: for every ordered pair (i, j) of a slice's details whose own cross entropies
have l_j > l_i, max(0, 1 - s_i + s_j), summed over pairs and slices, divided by the number of slices. No gradient through l.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from pipeline.evaluation.scoring import Batch
from pipeline.study.anchors import N_DETAILS
from pipeline.study.drenet import Baseline, DreNet, DreNetOutput
from pipeline.training.trunk import TrunkBatch

PARTS = ("raw", "concat", "part", "rank")
TEACHES = {
    "raw": "the whole slice by itself",
    "concat": "slice and details together: the score",
    "part": "each detail by itself",
    "rank": "details told right before those told wrong",
}
"""What each part of the loss teaches."""

ALL_ALIKE = N_DETAILS * (N_DETAILS - 1) / 2
"""The ranking loss of a slice all of whose details score alike: a margin of one for each pair of them."""


def four_parts(output: DreNetOutput, target_N: Tensor, ranked_N: Tensor | None = None) -> Tensor:
    """[4]: raw, concat, part, rank; their sum is the loss. `ranked_N` says whose details are ranked, otherwise all are."""
    repeated = target_N.repeat_interleave(N_DETAILS)
    part_NK = cross_entropy(output.part_logits.flatten(0, 1), repeated, reduction="none").view(len(target_N), N_DETAILS)
    return torch.stack(
        [
            cross_entropy(output.raw_logits, target_N),
            cross_entropy(output.concat_logits, target_N),
            part_NK.mean(),
            ranking_loss(output.detail_score, part_NK.detach(), ranked_N),
        ]
    )


def ranking_loss(score_NK: Tensor, loss_NK: Tensor, ranked_N: Tensor | None = None) -> Tensor:
    """Details that are told right shall score above those that are told wrong, by a margin of one: the mean over `ranked_N`."""
    if ranked_N is not None:
        score_NK, loss_NK = score_NK[ranked_N], loss_NK[ranked_N]
    better = loss_NK.unsqueeze(1) > loss_NK.unsqueeze(2)  # [N, i, j]: l_j > l_i
    hinge = torch.relu(1 - score_NK.unsqueeze(2) + score_NK.unsqueeze(1))
    return (hinge * better).sum() / max(1, len(score_NK))


def full_loss(network: DreNet | Baseline, batch: Batch, ranked: int | None = None) -> Tensor:
    """[4] of one micro-batch; a baseline has the first part only. Details are ranked in slices of class `ranked`, or in all."""
    if isinstance(network, DreNet):
        output = network(batch.image, batch.zoom, in_lung=batch.in_lung)
        return four_parts(output, batch.target, None if ranked is None else batch.target == ranked)
    raw = cross_entropy(network(batch.image), batch.target)
    return torch.stack([raw, *[raw.new_zeros(())] * (len(PARTS) - 1)])


def trunk_loss(network: DreNet, batch: TrunkBatch) -> Tensor:
    """[4] with raw and part only: slices and single details of one size pass the trunk as one batch, under the same norms."""
    same_size = batch.image.shape == batch.detail.shape
    looks = [torch.cat([batch.image, batch.detail])] if same_size else [batch.image, batch.detail]
    features = [network.pooled(network.trunk(look.contiguous(memory_format=torch.channels_last))) for look in looks]
    slice_NF, detail_NF = torch.cat(features).chunk(2)
    raw = cross_entropy(network.pretrained_model.fc(slice_NF), batch.target)
    part = cross_entropy(network.partcls_net(detail_NF), batch.target)
    return torch.stack([raw, raw.new_zeros(()), part, raw.new_zeros(())])
