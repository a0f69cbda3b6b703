"""A policy network with a memory: encoder, hidden layers, memory, and two linear heads."""

from __future__ import annotations

from typing import NamedTuple

import torch

from policy_server.config import ModelConfig
from policy_server.networks.attention import AttentionMemory
from policy_server.networks.encoder import ObservationEncoder
from policy_server.networks.lstm import LSTMMemory
from policy_server.networks.memory import Memory
from policy_server.networks.mlp import MLP, linear
from policy_server.networks.policy import Observations, PolicyNetwork
from policy_server.types import ActionLayout, PolicySpaces


class Sequences(NamedTuple):
    """M sequences of up to L steps, each within one episode, N of the steps asked for.

    Attributes:
        obs: leaves `[L * M, ...]`, time first; padding repeats what is somewhere else.
        state: `[M, S]`, before the first step of each.
        at: int64 `[N]`, places among L * M, in the order of the answers.
    """

    obs: tuple[torch.Tensor, ...]
    state: torch.Tensor
    at: torch.Tensor


def make_memory(model: ModelConfig, inputs: int) -> Memory:
    """The one that `model.memory` names."""
    if model.memory == "lstm":
        return LSTMMemory(inputs, model.memory_size, model.memory_layers)
    return AttentionMemory(
        inputs, model.memory_size, model.memory_layers, model.memory_heads, model.memory_steps
    )


class RecurrentNetwork(PolicyNetwork):
    """What it says depends on the episode so far: policy and value share one memory.

    Not asked as other networks are: to act, `step` it; to learn, give `forward` whole sequences.
    """

    def __init__(self, spaces: PolicySpaces, model: ModelConfig):
        super().__init__()
        layout = ActionLayout(spaces.action)
        self.encoder = ObservationEncoder(spaces.observation, model)
        self.body = MLP(self.encoder.outputs, model.hidden, model.activation, model.layer_norm)
        self.memory = make_memory(model, self.body.outputs)
        self.state_size = self.memory.state_size
        self.sequence_length = model.memory_steps
        self.policy_head = self._linear_head(self.memory.outputs, layout, model)
        self.value_head = linear(self.memory.outputs, 1, 1.0)

    def features(self, obs: Observations) -> torch.Tensor:
        """What the memory sees: `[n, F]`."""
        hidden: torch.Tensor = self.body(self.encoder(obs))
        return hidden

    def answer(self, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Outputs of the memory `[n, outputs]` -> (heads `[n, H]`, values `[n]`)."""
        return self.policy_head(y), self.value_head(y).squeeze(1)

    def step(self, obs: Observations, state: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        y, state = self.memory.step(self.features(obs), state)
        return self.policy_head(y), state

    def forward(self, obs: Sequences) -> tuple[torch.Tensor, torch.Tensor]:  # type: ignore[override]
        """(heads `[N, H]`, values `[N]`) of the steps asked for."""
        x = self.features(obs.obs)
        y = self.memory.unroll(x.view(-1, len(obs.state), x.shape[1]), obs.state)
        return self.answer(y.flatten(0, 1).index_select(0, obs.at))

    def policy(self, obs: Observations) -> torch.Tensor:
        raise TypeError("a network with a memory must be asked by `step`")

    def value(self, obs: Observations) -> torch.Tensor:
        raise TypeError("a network with a memory must be asked by `forward`")
