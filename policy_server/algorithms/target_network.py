"""A copy of a network that follows it slowly."""

from __future__ import annotations

import copy
from typing import Generic, TypeVar

import torch
from torch import nn

from policy_server.algorithms.optimizer import FlatAdam, one_vector

Network = TypeVar("Network", bound=nn.Module)


class TargetNetwork(Generic[Network]):
    """Follows the network that an optimiser changes. Its parameters are one vector, too, so that
    a step is one call.

    Attributes:
        network: the copy; it carries no gradient.
    """

    def __init__(self, network: Network, optimizer: FlatAdam):
        self.network: Network = copy.deepcopy(network)
        # Those that the optimiser has: what does not learn stays as it is.
        learning = [p for p in self.network.parameters() if p.requires_grad]
        self.network.requires_grad_(False).eval()
        self._followed = optimizer
        self._source = network
        self._weights = one_vector(learning)
        assert self._weights.shape == optimizer.weights.shape

    @torch.no_grad()
    def follow(self, tau: float) -> None:
        """weights <- weights + tau (followed - weights); 1: a copy. Buffers, which no gradient
        moves (statistics of a batch norm, say), are copied.

        Source: Lillicrap et al., https://arxiv.org/abs/1509.02971, section 3.
        """
        self._weights.lerp_(self._followed.weights, tau)
        for mine, theirs in zip(self.network.buffers(), self._source.buffers(), strict=True):
            mine.copy_(theirs)
