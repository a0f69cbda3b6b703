"""Critics that see what everybody sees and does."""

from __future__ import annotations

import torch
from torch import nn

from policy_server.config import ModelConfig
from policy_server.networks.actor import Critic
from policy_server.networks.policy import Observations
from policy_server.types import PolicySpaces


class CentralCritics(nn.Module):
    """What each of A agents may expect: a critic for each, or one with an output for each.

    Attributes:
        each: the critics; a single one where it is for all.
    """

    def __init__(
        self,
        agents: int,
        spaces: PolicySpaces,
        model: ModelConfig,
        actions: int,
        one_for_all: bool = False,
    ):
        """`spaces.observation`: what all see together; `actions`: numbers of what all do."""
        super().__init__()
        self._one_for_all = one_for_all
        number, outputs = (1, agents) if one_for_all else (agents, 1)
        self.each = nn.ModuleList(Critic(spaces, model, actions, outputs) for _ in range(number))

    def forward(self, obs: Observations, actions: torch.Tensor) -> torch.Tensor:
        """Of observations of n and actions `[n, D]`: `[n, A]`."""
        return torch.cat([critic(obs, actions) for critic in self.each], dim=1)

    def each_its_own(self, obs: Observations, actions: torch.Tensor) -> torch.Tensor:
        """Where agent i thinks of `actions[i]`: actions `[A, n, D]` -> `[n, A]`."""
        if not self._one_for_all:
            pairs = zip(self.each, actions, strict=True)
            return torch.cat([critic(obs, taken) for critic, taken in pairs], dim=1)
        agents, n = actions.shape[:2]
        repeated = [leaf.expand(agents, *leaf.shape).flatten(0, 1) for leaf in obs]
        values = self.each[0](repeated, actions.flatten(0, 1)).view(agents, n, agents)
        return values.diagonal(dim1=0, dim2=2)
