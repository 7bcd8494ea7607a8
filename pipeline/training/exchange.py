"""What ranks tell one another in training: gradients and statistics of every micro-batch, summed in the order of micro-batches.

An all-reduce would sum in an order that depends on the number of ranks, and floating-point sums depend on their order. Here all
ranks receive every micro-batch's vector and add them alike, so that the number of ranks changes no bit of the weights.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from pipeline.errors import DeviceError
from pipeline.mpi.world import Alone, World


class Exchange:
    """The ranks as torch sees them; a world of one exchanges nothing. A context manager."""

    def __init__(self, world: Alone | World, device: torch.device) -> None:
        self.rank, self.size = world.rank, world.size
        if world.size > 1:
            address = world.broadcast(_address() if world.rank == 0 else None).decode()
            backend = "nccl" if device.type == "cuda" else "gloo"
            try:
                torch.distributed.init_process_group(
                    backend, init_method=f"tcp://{address}", rank=world.rank, world_size=world.size
                )
            except (RuntimeError, ValueError) as error:
                raise DeviceError(f"the ranks cannot meet at {address} for training: {error}") from error

    def __enter__(self) -> Exchange:
        return self

    def __exit__(self, *_: object) -> None:
        if self.size > 1:
            torch.distributed.destroy_process_group()

    def mine(self, n_micro_batches: int) -> range:
        """The micro-batches that this rank computes."""
        return range(self.rank, n_micro_batches, self.size)

    def mean(self, vectors: Sequence[Tensor], n_micro_batches: int) -> Tensor:
        """The mean over all micro-batches; `vectors` are this rank's."""
        total = torch.zeros_like(vectors[0]) if vectors else None
        every = list(vectors) if self.size == 1 else self._gathered(vectors, n_micro_batches)
        for vector in every:
            total = vector.clone() if total is None else total.add_(vector)
        if total is None:
            raise ValueError("a step has at least one micro-batch")
        return total / n_micro_batches

    def _gathered(self, vectors: Sequence[Tensor], n_micro_batches: int) -> list[Tensor]:
        """Every rank's vectors in the order of micro-batches; ranks without one in a round send zeros."""
        every: list[Tensor] = []
        for first in range(0, n_micro_batches, self.size):
            turn = first // self.size
            own = vectors[turn] if turn < len(vectors) else torch.zeros_like(vectors[0])
            received = [torch.empty_like(own) for _ in range(self.size)]
            torch.distributed.all_gather(received, own)
            every += received
        return every[:n_micro_batches]


class Flat:
    """A network's gradients and statistics as one vector, and back."""

    def __init__(self, network: nn.Module) -> None:
        self._every = list(network.parameters())
        self._statistics = [b for name, b in network.named_buffers() if name.rpartition(".")[2] in STATISTICS]

    @property
    def _parameters(self) -> list[nn.Parameter]:
        """Those that are trained now: an epoch may leave the trunk as it is."""
        return [parameter for parameter in self._every if parameter.requires_grad]

    def start(self) -> list[Tensor]:
        """The statistics before a step: every micro-batch begins from them."""
        return [statistic.clone() for statistic in self._statistics]

    def restore(self, start: Sequence[Tensor]) -> None:
        """Put the statistics back, and forget the gradients."""
        for statistic, before in zip(self._statistics, start, strict=True):
            statistic.copy_(before)
        for parameter in self._every:
            parameter.grad = None

    def read(self, losses: Tensor) -> Tensor:
        """Losses, which parameters have a gradient, gradients and statistics of the micro-batch just computed."""
        parameters = self._parameters
        has_one = torch.tensor([parameter.grad is not None for parameter in parameters], device=losses.device)
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
        parts = [losses.detach(), has_one, *gradients, *self._statistics]
        return torch.cat([part.reshape(-1).float() for part in parts])

    def write(self, vector: Tensor, n_losses: int) -> Tensor:
        """Set gradients and statistics; returns the losses.

        What no micro-batch gave a gradient gets none: of zeros Adam's averages age, and its first real steps are too long.
        """
        parameters = self._parameters
        start = n_losses + len(parameters)
        for parameter, has_one in zip(parameters, vector[n_losses:start].tolist(), strict=True):
            gradient = vector[start : start + parameter.numel()].view_as(parameter).clone()
            parameter.grad = gradient if has_one else None
            start += parameter.numel()
        for statistic in self._statistics:
            statistic.copy_(vector[start : start + statistic.numel()].view_as(statistic))
            start += statistic.numel()
        return vector[:n_losses]


STATISTICS = ("running_mean", "running_var", "num_batches_tracked")


def _address() -> bytes:
    """A free port of this host that the other ranks can reach."""
    host = "127.0.0.1" if os.environ.get("MPI_LOCALNRANKS", "") == os.environ.get("PMI_SIZE", "-") else socket.gethostname()
    with socket.socket() as free:
        free.bind(("", 0))
        return f"{host}:{free.getsockname()[1]}".encode()
