"""A network for frames that costs next to nothing: what is measured is the way there.

The usual convolutions take about a millisecond of a core per frame, ten times what it costs to
send, check, answer and store one; with them every server would look alike. This one is a policy
all the same: it sees every twelfth pixel.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.functional import linear

from policy_server.networks.policy import Observations
from policy_server.types import PolicySpaces
from sim_clients.protocol import Box

STRIDE = 12


class Glance(nn.Module):
    """Every twelfth pixel -> 32 tanh units -> heads and value. `model.custom` names it."""

    def __init__(self, spaces: PolicySpaces, outputs: int):
        super().__init__()
        assert isinstance(spaces.observation, Box)
        height, width, channels = spaces.observation.shape
        seen = -(-height // STRIDE) * -(-width // STRIDE) * channels
        self.body = nn.Linear(seen, 32)
        self.head = nn.Linear(32, outputs)
        self.critic = nn.Linear(32, 1)

    def _features(self, obs: Observations) -> torch.Tensor:
        # Functions instead of modules: to call a module costs as much as what it does here.
        pixels = obs[0][:, ::STRIDE, ::STRIDE].flatten(1).float()  # [n, 7 * 7 * C]
        return linear(pixels, self.body.weight / 255.0, self.body.bias).tanh()

    def policy(self, obs: Observations) -> torch.Tensor:
        return linear(self._features(obs), self.head.weight, self.head.bias)

    def value(self, obs: Observations) -> torch.Tensor:
        value = linear(self._features(obs), self.critic.weight, self.critic.bias)
        return value.squeeze(1)

    def forward(self, obs: Observations) -> tuple[torch.Tensor, torch.Tensor]:
        features = self._features(obs)
        return self.head(features), self.critic(features).squeeze(1)
