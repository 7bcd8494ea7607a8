"""Between the trunk epochs and the full ones: the whole network begins with what its trunk has learned."""

from __future__ import annotations

import torch

from pipeline.study.anchors import N_DETAILS
from pipeline.study.drenet import DreNet


@torch.no_grad()
def let_looks_answer(network: DreNet) -> None:
    """Set the last layer to the mean of what the details, the slice and the second look say by themselves.

    Left as it was drawn it would answer at random, however much the trunk knows.
    """
    parts = network.partcls_net
    whole = network.pretrained_model.fc
    weights = [parts.weight / N_DETAILS] * N_DETAILS + [whole.weight, parts.weight]
    network.concat_net.weight.copy_(torch.cat(weights, dim=1) / 3)
    network.concat_net.bias.copy_((parts.bias + whole.bias + parts.bias) / 3)
