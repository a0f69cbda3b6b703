"""Observations summed up in a few numbers."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import nn

from policy_server.config import ModelConfig
from policy_server.networks.encoder import ObservationEncoder
from policy_server.networks.mlp import MLP, linear
from policy_server.networks.policy import Observations
from sim_clients.protocol.spaces import Space


class Embedding(nn.Module):
    """Encoder, hidden layers and a linear one, as `model` has them. A module of the user's own
    (`model.custom`) is the policy's alone: what a plug-in looks at may look different.

    Shapes: observations of n -> float32 `[n, features]`.
    """

    def __init__(
        self, space: Space, model: ModelConfig, features: int, more_hidden: tuple[int, ...] = ()
    ):
        super().__init__()
        self.encoder = ObservationEncoder(space, replace(model, custom=None, custom_kwargs={}))
        hidden = (*model.hidden, *more_hidden)
        self.body = MLP(self.encoder.outputs, hidden, model.activation, model.layer_norm)
        self.head = linear(self.body.outputs, features, 1.0)

    def forward(self, obs: Observations) -> torch.Tensor:
        result: torch.Tensor = self.head(self.body(self.encoder(obs)))
        return result
