"""Values of the actions of several agents, each by what it alone sees."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from policy_server.config import ModelConfig
from policy_server.networks.policy import ActingNetwork, Observations
from policy_server.networks.q_network import QNetwork, QOptions
from policy_server.networks.recurrent_q import RecurrentQNetwork
from policy_server.networks.turns import Turns
from policy_server.types import PolicySpaces


class GroupQNetwork(ActingNetwork):
    """A network for each agent, or one for all of them, which is told whose turn it is.

    Heads are `[n, W]` values of actions, agent after agent. With `model.memory` each agent has a
    memory of its own; a state `[n, S]` is theirs side by side. Learned from by `warm_up` and `values`,
    with a memory and without.
    """

    def __init__(
        self,
        spaces: Sequence[PolicySpaces],
        leaves: Sequence[slice],
        model: ModelConfig,
        *,
        dueling: bool,
        one_for_all: bool,
    ):
        """`spaces`: of each agent, and `leaves`: those of the whole observation that are its own.
        `one_for_all`: all agents must have equal spaces."""
        super().__init__()
        self._turns = Turns(spaces, leaves, one_for_all)
        self._remembers = model.memory != "none"
        each = [
            RecurrentQNetwork(own, model, dueling)
            if self._remembers
            else QNetwork(own, model, QOptions(dueling))
            for own in self._turns.spaces
        ]
        self.each = nn.ModuleList(each)
        self.state_size = self._turns.agents * each[0].state_size

    def _together(self, said: Sequence[torch.Tensor]) -> torch.Tensor:
        """What the networks said, agent after agent: `[n, sum]`."""
        return torch.cat(self._turns.apart(said), dim=-1)

    def policy(self, obs: Observations) -> torch.Tensor:
        if self._remembers:
            raise TypeError("a network with a memory must be asked by `step`")
        seen = self._turns.seen(obs)
        return self._together([net.policy(own) for net, own in zip(self.each, seen, strict=True)])  # type: ignore[operator]

    def step(self, obs: Observations, state: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        before = self._turns.remembered(state)
        told = [
            net.step(own, remembered)  # type: ignore[operator]
            for net, own, remembered in zip(self.each, self._turns.seen(obs), before, strict=True)
        ]
        heads, after = zip(*told, strict=True)
        return self._together(heads), self._together(after)

    def warm_up(self, obs: Observations, state: torch.Tensor) -> torch.Tensor:
        """States `[n, S]` behind sequences: leaves `[K, n, ...]` and the states before them."""
        if not self._remembers:
            return state
        for t in range(len(obs[0])):
            _, state = self.step([leaf[t] for leaf in obs], state)
        return state

    def values(self, obs: Observations, state: torch.Tensor) -> torch.Tensor:
        """Of all actions in sequences: leaves `[L, n, ...]` and the states before them `[n, S]` ->
        `[L, n, W]`."""
        steps, n = obs[0].shape[:2]
        if not self._remembers:
            return self.policy([leaf.flatten(0, 1) for leaf in obs]).view(steps, n, -1)
        before = self._turns.remembered(state)
        # Time comes first, and agents come in front of the rows: [L, n] -> [N n L] -> [L, N n].
        seen = self._turns.seen([leaf.transpose(0, 1).flatten(0, 1) for leaf in obs])
        each = [
            net.values(  # type: ignore[operator]
                [leaf.view(-1, steps, *leaf.shape[1:]).transpose(0, 1) for leaf in own], remembered
            ).transpose(0, 1)
            for net, own, remembered in zip(self.each, seen, before, strict=True)
        ]  # [n, L, W_i] or [N n, L, W_1]
        return self._together(each).transpose(0, 1)
