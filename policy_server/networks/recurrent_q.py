"""Values of actions that depend on the episode so far: encoder, memory, and dueling streams."""

from __future__ import annotations

import dataclasses

import torch

from policy_server.config import ModelConfig
from policy_server.networks.custom import make_encoder
from policy_server.networks.mlp import MLP, linear
from policy_server.networks.policy import ActingNetwork, Observations
from policy_server.networks.q_network import HEAD_GAIN
from policy_server.networks.recurrent import make_memory
from policy_server.types import ActionLayout, PolicySpaces


class RecurrentQNetwork(ActingNetwork):
    """Heads are `[n, W]` values of actions. `model.memory` "none" stands for "lstm" here.

    Not asked as other networks are: to act, `step` it; to learn, `warm_up` and `values`.
    """

    def __init__(self, spaces: PolicySpaces, model: ModelConfig, dueling: bool):
        super().__init__()
        if model.memory == "none":
            model = dataclasses.replace(model, memory="lstm")
        actions = ActionLayout(spaces.action).mask_width
        self.encoder = make_encoder(spaces, model)
        self.body = MLP(self.encoder.outputs, model.hidden, model.activation, model.layer_norm)
        self.memory = make_memory(model, self.body.outputs)
        self.state_size = self.memory.state_size
        self.advantage = linear(self.memory.outputs, actions, HEAD_GAIN)
        self.value = linear(self.memory.outputs, 1, HEAD_GAIN) if dueling else None

    def step(self, obs: Observations, state: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        y, state = self.memory.step(self._features(obs), state)
        return self._values(y), state

    def warm_up(self, obs: Observations, state: torch.Tensor) -> torch.Tensor:
        """States `[n, S]` behind sequences: leaves `[K, n, ...]` and the states before them."""
        for t in range(len(obs[0])):
            _, state = self.memory.step(self._features([leaf[t] for leaf in obs]), state)
        return state

    def values(self, obs: Observations, state: torch.Tensor) -> torch.Tensor:
        """Of all actions in sequences: leaves `[L, n, ...]` and the states before them `[n, S]` ->
        `[L, n, W]`."""
        steps, n = obs[0].shape[:2]
        x = self._features([leaf.flatten(0, 1) for leaf in obs])
        y = self.memory.unroll(x.view(steps, n, -1), state)
        return self._values(y.flatten(0, 1)).view(steps, n, -1)

    def policy(self, obs: Observations) -> torch.Tensor:
        raise TypeError("a network with a memory must be asked by `step`")

    def _features(self, obs: Observations) -> torch.Tensor:
        hidden: torch.Tensor = self.body(self.encoder(obs))
        return hidden

    def _values(self, y: torch.Tensor) -> torch.Tensor:
        each: torch.Tensor = self.advantage(y)
        if self.value is None:
            return each
        value: torch.Tensor = self.value(y)
        return value + each - each.mean(1, keepdim=True)
