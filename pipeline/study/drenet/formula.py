"""Networks whose weights come from a formula: for the demo, tests and benchmarks; their scores mean nothing.

The filters have no mean: what depends on the picture is not drowned by what every picture has in common, so such a network
answers to its input about as strongly as a trained one does.
"""

from __future__ import annotations

import torch
from torch import Tensor

from pipeline.study.checkpoint import Metadata
from pipeline.study.drenet.network import DreNet


def formula_network(width: float = 1.0, phase: float = 0.0) -> DreNet:
    """A network in eval mode, the same on every machine; another `phase` gives another one."""
    network = DreNet(width)
    with torch.no_grad():
        for number, (name, value) in enumerate(sorted(network.state_dict().items())):
            if value.is_floating_point() and not name.startswith("attention"):
                value.copy_(_formula(name, _noise(value.shape, number + phase)))
    network.metadata = Metadata(width=width, meaning="none: formula weights, the scores mean nothing")
    return network.eval()


def _noise(shape: torch.Size, number: float) -> Tensor:
    """Numbers in -1..1 without pattern, of unit-free variance 1/3."""
    place = torch.arange(shape.numel(), dtype=torch.float64)
    return (2 * torch.frac(43758.5453 * torch.sin(12.9898 * place + 78.233 * (number + 1)).abs()) - 1).view(shape)


def _formula(name: str, noise: Tensor) -> Tensor:
    """Weights scaled by their fan-in, batch norms near the identity, so that activations keep their size."""
    if name.endswith("running_var"):
        return 1 + 0.1 * noise
    if name.endswith(("running_mean", "bias")):
        return 0.05 * noise
    if noise.ndim == 1:
        return (0.3 if "bn3" in name else 1.0) * (1 + 0.1 * noise)
    centred = noise - noise.flatten(1).mean(dim=1).view(-1, *[1] * (noise.ndim - 1))
    return centred * float((3 * 2.93 / noise[0].numel()) ** 0.5)
