"""Observations in units of how much they vary."""

from __future__ import annotations

import torch
from torch import nn

from policy_server.networks.policy import Observations
from sim_clients.protocol.spaces import Box, Space, Tuple, leaves

LIMIT = 5.0
"""What comes out is clipped to +- this."""
LEAST_DEVIATION = 1e-4


class Whitening(nn.Module):
    """Numbers of Box leaves to mean 0 and deviation 1, each by itself, by what was observed so far;
    other leaves as they are.

    Source: Burda et al., https://arxiv.org/abs/1810.12894, section 2.4.

    Attributes:
        space: of what comes out.
    """

    def __init__(self, space: Space):
        super().__init__()
        found = [leaf for _, leaf in leaves(space)]
        self._boxes = [i for i, leaf in enumerate(found) if isinstance(leaf, Box)]
        self.space = Tuple(
            [
                Box(-LIMIT, LIMIT, leaf.shape, "float32") if isinstance(leaf, Box) else leaf
                for leaf in found
            ]
        )
        self.count: torch.Tensor
        self.register_buffer("count", torch.zeros((), dtype=torch.float64))
        for i in self._boxes:
            for name in ("mean", "squares"):
                zeros = torch.zeros(found[i].shape, dtype=torch.float64)
                self.register_buffer(f"{name}_{i}", zeros)

    @torch.no_grad()
    def observe(self, obs: Observations) -> None:
        """Takes n more observations into account.

        Source: Chan, Golub, LeVeque: Updating formulae and a pairwise algorithm for computing
        sample variances, 1979.
        """
        n, before = len(obs[0]), self.count.clone()
        if n == 0:
            return
        self.count += n
        for i in self._boxes:
            mean, squares = self.get_buffer(f"mean_{i}"), self.get_buffer(f"squares_{i}")
            new = obs[i].double()
            apart = new.mean(0) - mean
            squares += (new - new.mean(0)).square().sum(
                0
            ) + apart.square() * before * n / self.count
            mean += apart * n / self.count

    def forward(self, obs: Observations) -> tuple[torch.Tensor, ...]:
        result = list(obs)
        for i in self._boxes:
            mean, squares = self.get_buffer(f"mean_{i}"), self.get_buffer(f"squares_{i}")
            deviation = (squares / self.count.clamp(min=1.0)).sqrt().clamp(min=LEAST_DEVIATION)
            white = (obs[i].float() - mean.float()) / deviation.float()
            result[i] = white.clamp(-LIMIT, LIMIT)
        return tuple(result)
