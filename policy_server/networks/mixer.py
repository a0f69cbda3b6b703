"""What a group's actions are worth together, by what each of them is worth to its agent."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from policy_server.config import ModelConfig
from policy_server.networks.custom import make_encoder
from policy_server.networks.policy import Observations
from policy_server.types import PolicySpaces


class SumMixer(nn.Module):
    """Their sum, whatever the state: value decomposition networks.

    Source: Sunehag et al., https://arxiv.org/abs/1706.05296, equation 3.
    """

    def forward(self, utilities: torch.Tensor, obs: Observations) -> torch.Tensor:
        """`[n, N]` and what there is to see of the whole -> `[n]`."""
        return utilities.sum(1)


class MonotonicMixer(nn.Module):
    """A small network whose weights are the absolute values of what other networks make of the
    state: the better an action is to its agent, the better (or as good) it is to all.

    Source: Rashid et al., QMIX, https://arxiv.org/abs/1803.11485, section 4.1 and figure 2.
    """

    def __init__(self, spaces: PolicySpaces, model: ModelConfig, agents: int, width: int):
        """`spaces`: of the state; `width`: hidden units of the mixing network."""
        super().__init__()
        self._width = width
        self.encoder = make_encoder(spaces, model)
        state = self.encoder.outputs
        self.weights = nn.Linear(state, agents * width)
        self.biases = nn.Linear(state, width)
        self.last_weights = nn.Linear(state, width)
        self.value = nn.Sequential(nn.Linear(state, width), nn.ReLU(), nn.Linear(width, 1))

    def forward(self, utilities: torch.Tensor, obs: Observations) -> torch.Tensor:
        """Utilities `[n, N]` and the state's leaves `[n, ...]` -> `[n]`."""
        n, agents = utilities.shape
        state = self.encoder(obs)
        weights = self.weights(state).abs().view(n, agents, self._width)
        hidden = torch.bmm(utilities[:, None, :], weights).squeeze(1) + self.biases(state)
        mixed = (functional.elu(hidden) * self.last_weights(state).abs()).sum(1)
        result: torch.Tensor = mixed + self.value(state).squeeze(1)
        return result
