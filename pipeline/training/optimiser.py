"""The optimiser and its learning rate, which depends on epoch and step only, so that a resume knows it.

The published code's four SGD optimisers share all their settings: one over all parameters is the same.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn

from pipeline.training.recipe import Recipe

WARM_SHARE = 0.2


class Optimiser:
    """torch's optimiser under the recipe's schedule."""

    def __init__(self, network: nn.Module, recipe: Recipe, n_steps: int) -> None:
        self._recipe, self._n_steps = recipe, n_steps
        parameters = [p for p in network.parameters() if p.requires_grad]
        if recipe.optimiser == "adamw":
            self._torch: torch.optim.Optimizer = torch.optim.AdamW(
                parameters, lr=recipe.learning_rate, weight_decay=recipe.weight_decay, foreach=False
            )
        else:
            self._torch = torch.optim.SGD(
                parameters, lr=recipe.learning_rate, momentum=recipe.momentum, weight_decay=recipe.weight_decay, foreach=False
            )

    def step(self, epoch: int, number: int) -> None:
        """Apply the gradients."""
        for group in self._torch.param_groups:
            group["lr"] = learning_rate(self._recipe, self._n_steps, epoch, number)
        self._torch.step()

    def state_dict(self) -> dict[str, Any]:
        """What a resume needs."""
        return self._torch.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Put back what `state_dict` gave."""
        self._torch.load_state_dict(state)


def learning_rate(recipe: Recipe, n_steps: int, epoch: int, number: int) -> float:
    """The learning rate of one step."""
    trunk = epoch < recipe.trunk_epochs
    peak = recipe.trunk_learning_rate if trunk else recipe.learning_rate
    if recipe.schedule == "steps":
        return peak * 0.1 ** sum(epoch >= at for at in recipe.steps)
    first, n_epochs = (0, recipe.trunk_epochs) if trunk else (recipe.trunk_epochs, recipe.epochs)
    share = ((epoch - first) * n_steps + number + 1) / (n_epochs * n_steps)
    if share < WARM_SHARE:
        return peak * share / WARM_SHARE
    return peak * 0.5 * (1 + math.cos(math.pi * (share - WARM_SHARE) / (1 - WARM_SHARE)))
