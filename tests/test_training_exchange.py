"""What ranks tell one another of a micro-batch comes back as it was: gradients where there are some, none where not."""

import torch
from torch import nn

from pipeline.training.exchange import Flat


class Halves(nn.Module):
    """Two layers, of which a loss may use either."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(3, 1)
        self.second = nn.Linear(3, 1)


def _told(network, flat, uses):
    """The vector of a micro-batch whose loss goes through the layers named."""
    flat.restore(flat.start())
    loss = sum(getattr(network, name)(torch.ones(1, 3)).sum() for name in uses)
    loss.backward()
    return flat.read(loss.reshape(1))


def test_what_no_micro_batch_gives_a_gradient_has_none_and_does_not_age():
    network = Halves()
    flat = Flat(network)
    optimiser = torch.optim.AdamW(network.parameters())
    flat.write(_told(network, flat, ["first"]), 1)
    optimiser.step()
    assert network.second.weight.grad is None
    assert network.second.weight not in optimiser.state
    assert torch.equal(network.first.weight.grad, torch.ones(1, 3))


def test_what_one_of_two_micro_batches_gives_a_gradient_has_half_of_it():
    network = Halves()
    flat = Flat(network)
    vectors = [_told(network, flat, ["first"]), _told(network, flat, ["first", "second"])]
    flat.write(sum(vectors) / 2, 1)
    assert torch.equal(network.first.weight.grad, torch.ones(1, 3))
    assert torch.equal(network.second.weight.grad, torch.full((1, 3), 0.5))
