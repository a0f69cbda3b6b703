"""A target network follows all of its network, each part in its own way."""

from __future__ import annotations

import torch
from torch import nn

from policy_server.algorithms.optimizer import FlatAdam
from policy_server.algorithms.target_network import TargetNetwork


class Mixed(nn.Module):
    """Learns, counts, and has a part that stays as it is."""

    def __init__(self) -> None:
        super().__init__()
        self.learns = nn.Linear(2, 3)
        self.fixed = nn.Linear(2, 3).requires_grad_(False)
        self.counts = nn.BatchNorm1d(3)
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.seen = self.seen + 1.0  # another tensor each time
        return self.counts(self.learns(x)) + self.fixed(x)


def test_it_follows() -> None:
    torch.manual_seed(0)
    network = Mixed()
    optimizer = FlatAdam(network, 1e-8)
    target = TargetNetwork(network, optimizer)
    first = network.learns.weight.detach().clone()
    fixed = network.fixed.weight.detach().clone()
    for _ in range(3):
        optimizer.minimize(network(torch.randn(8, 2) + 5.0).square().mean(), 0.1)
    torch.testing.assert_close(target.network.learns.weight, first)
    assert torch.equal(target.network.counts.running_mean, torch.zeros(3))
    target.follow(0.25)
    wanted = 0.75 * first + 0.25 * network.learns.weight.detach()
    torch.testing.assert_close(target.network.learns.weight, wanted)
    assert torch.equal(target.network.fixed.weight, fixed)
    assert torch.equal(target.network.counts.running_mean, network.counts.running_mean)
    assert int(target.network.counts.num_batches_tracked) == 3
    assert float(target.network.seen) == 3.0
    target.follow(1.0)
    for mine, theirs in zip(target.network.parameters(), network.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs)
    assert not any(p.requires_grad for p in target.network.parameters())
