"""Networks of several agents: one for each, or one for all of them, which is told whose turn it is."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from policy_server.networks.policy import Observations
from policy_server.types import PolicySpaces
from sim_clients.protocol.spaces import Dict, Discrete


class Turns:
    """Which network sees what.

    Attributes:
        agents: how many.
        leaves: those of the whole observation that are each agent's own.
        spaces: of each network: those of each agent, or one that also says whose turn it is.
        one_for_all: one network for all; agents must have equal spaces.
    """

    def __init__(self, spaces: Sequence[PolicySpaces], leaves: Sequence[slice], one_for_all: bool):
        self.agents, self.one_for_all = len(spaces), one_for_all
        self.leaves = tuple(leaves)
        self.spaces = list(spaces)
        if one_for_all:
            first, number = spaces[0], Discrete(self.agents)
            whole = Dict({"own": first.observation, "number": number})
            self.spaces = [PolicySpaces(whole, first.action)]

    def seen(self, obs: Observations) -> list[tuple[torch.Tensor, ...]]:
        """What each network sees: leaves `[n, ...]`, or `[N n, ...]` where there is one for all."""
        own = [tuple(obs[leaves]) for leaves in self.leaves]
        if not self.one_for_all:
            return own
        together = [torch.cat(leaf) for leaf in zip(*own, strict=True)]
        number = torch.arange(self.agents, device=together[0].device)
        return [(*together, number.repeat_interleave(len(own[0][0])))]

    def remembered(self, state: torch.Tensor) -> list[torch.Tensor]:
        """What each network remembers, of the states of all agents side by side, `[n, S]`."""
        each = list(state.chunk(self.agents, dim=1))
        return [torch.cat(each)] if self.one_for_all else each

    def apart(self, said: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """What the networks said, `[n, ...]` or `[N n, ...]`, of each agent."""
        return list(said[0].chunk(self.agents)) if self.one_for_all else list(said)
