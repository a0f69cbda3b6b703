"""Policies without a value function, for algorithms whose critics are networks of their own."""

from __future__ import annotations

import torch
from torch import nn

from policy_server.config import ModelConfig
from policy_server.networks.custom import make_encoder
from policy_server.networks.mlp import HIDDEN_GAIN, MLP, dense_layer, linear
from policy_server.networks.policy import ActingNetwork, Observations, PlainPolicy
from policy_server.networks.precision import computed_in
from policy_server.types import PolicySpaces

HEAD_GAIN = 0.01
"""The first policy is close to the middle of the action space, or uniform."""


class ActorNetwork(ActingNetwork):
    """Encoder, hidden layers and a linear head of `width` columns, or tanh of one (`squash`)."""

    def __init__(
        self,
        spaces: PolicySpaces,
        model: ModelConfig,
        width: int,
        squash: bool = False,
        *,
        fan_in: bool = False,
    ):
        """`fan_in`: hidden layers begin as in `mlp.linear` without a gain."""
        super().__init__()
        self.encoder = make_encoder(spaces, model)
        hidden = (model.hidden, model.activation, model.layer_norm)
        self.body = MLP(self.encoder.outputs, *hidden, None if fan_in else HIDDEN_GAIN)
        self.head = linear(self.body.outputs, width, HEAD_GAIN)
        self.squash = squash
        self._precision = model.precision

    def policy(self, obs: Observations) -> torch.Tensor:
        with computed_in(self._precision, obs):
            hidden = self.body(self.encoder(obs))
        head: torch.Tensor = self.head(hidden.float())
        return torch.tanh(head) if self.squash else head

    def policy_layers(self) -> PlainPolicy | None:
        recipe = self.encoder.recipe()
        if recipe is None or self._precision != "float32":
            return None
        head = dense_layer(self.head, "tanh" if self.squash else "identity")
        return PlainPolicy(recipe, [*self.body.dense_layers(), head])


class PerturbedActor(ActingNetwork):
    """An actor, and beside it the same one with noise in its parameters: heads are the actions of
    the second, then those of the first.

    Source: Plappert et al., https://arxiv.org/abs/1706.01905, section 3.

    Attributes:
        clean: the one that learns.
        noisy: the one that explores; carries no gradient.
    """

    def __init__(self, clean: ActorNetwork, noisy: ActorNetwork):
        super().__init__()
        self.clean = clean
        self.noisy = noisy.requires_grad_(False)
        self.noisy.load_state_dict(clean.state_dict())

    def policy(self, obs: Observations) -> torch.Tensor:
        return torch.cat([self.noisy.policy(obs), self.clean.policy(obs)], dim=1)

    @torch.no_grad()
    def perturb(self, deviation: float, generator: torch.Generator) -> None:
        """Other noise in all parameters."""
        for noisy, clean in zip(self.noisy.parameters(), self.clean.parameters(), strict=True):
            noise = torch.randn(clean.shape, generator=generator).to(clean.device)
            noisy.copy_(clean + deviation * noise)


class Critic(nn.Module):
    """Observation and reals -> numbers: encoder, hidden layers over both, linear head.

    Shapes: observations of n, reals `[n, D]` -> float32 `[n, outputs]`.
    """

    def __init__(
        self,
        spaces: PolicySpaces,
        model: ModelConfig,
        reals: int,
        outputs: int,
        *,
        fan_in: bool = False,
    ):
        """`fan_in`: dense layers begin as in `mlp.linear` without a gain."""
        super().__init__()
        self.encoder = make_encoder(spaces, model)
        self._precision = model.precision
        inputs = self.encoder.outputs + reals
        hidden = (model.hidden, model.activation, model.layer_norm)
        self.body = MLP(inputs, *hidden, None if fan_in else HIDDEN_GAIN)
        self.head = linear(self.body.outputs, outputs, None if fan_in else 1.0)

    def forward(self, obs: Observations, reals: torch.Tensor) -> torch.Tensor:
        with computed_in(self._precision, obs):
            features = self.encoder(obs)
            if reals.shape[1]:
                features = torch.cat([features, reals.to(features.dtype)], dim=1)
            hidden = self.body(features)
        result: torch.Tensor = self.head(hidden.float())
        return result


class Critics(nn.Module):
    """Several critics, each with parameters of its own.

    Shapes: as `Critic` -> `[critics, n, outputs]`.
    """

    def __init__(
        self,
        number: int,
        spaces: PolicySpaces,
        model: ModelConfig,
        reals: int,
        outputs: int,
        *,
        fan_in: bool = False,
    ):
        """`fan_in`: as in `Critic`."""
        super().__init__()
        self.each = nn.ModuleList(
            Critic(spaces, model, reals, outputs, fan_in=fan_in) for _ in range(number)
        )

    def forward(self, obs: Observations, reals: torch.Tensor) -> torch.Tensor:
        return torch.stack([critic(obs, reals) for critic in self.each])
