"""The interface of every policy's network, and the one that is built by default."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import nn

from policy_server.config import ModelConfig
from policy_server.networks.encoder import ObservationEncoder
from policy_server.networks.flatten import VectorPart
from policy_server.networks.heads import ENCODING, HEAD_GAIN, AutoregressiveHeads
from policy_server.networks.mlp import MLP, DenseLayer, dense_layer, linear
from policy_server.networks.own_distribution import OwnDistribution, find_distribution
from policy_server.networks.precision import computed_in
from policy_server.types import ActionLayout, PolicySpaces

Observations = Sequence[torch.Tensor]
"""One tensor `[n, *leaf.shape]` per leaf of the observation space, in its dtype."""


def head_width(layout: ActionLayout, model: ModelConfig) -> int:
    """Columns of a policy head, H: the logits of all categoricals one after another, D means,
    and D log deviations unless these are free parameters. Of autoregressive heads the encoding,
    of a distribution of the user's own its parameters."""
    if model.distribution is not None:
        return find_distribution(model.distribution, layout).width(layout)
    if model.autoregressive:
        return ENCODING
    return layout.mask_width + layout.reals * (1 if model.free_log_std else 2)


class PlainPolicy(NamedTuple):
    """A policy half that is only dense layers over flattened leaves.

    Attributes:
        recipe: how each leaf becomes numbers; these are laid side by side.
        layers: what happens to them; the last one gives the head.
    """

    recipe: list[VectorPart]
    layers: list[DenseLayer]


class ActingNetwork(nn.Module, ABC):
    """What acting needs of a network; its numbers are what a learner publishes.

    Attributes:
        log_std: free log deviations of the reals, `[D]`; None where the head has them, or where
            there are none.
        autoregressive: what makes plain heads of the network's, choice after choice; None where
            they are plain.
        own: the distribution whose parameters the heads are; None where it is ours.
        state_size: S, numbers of a lane's memory; 0: it has none.
    """

    log_std: torch.Tensor | None
    autoregressive: AutoregressiveHeads | None
    own: type[OwnDistribution] | None
    state_size: int = 0

    def __init__(self) -> None:
        super().__init__()
        self.log_std = None
        self.autoregressive = None
        self.own = None

    @abstractmethod
    def policy(self, obs: Observations) -> torch.Tensor:
        """Heads, float32 `[n, H]`: what the actions are chosen from. Computes nothing else."""

    def step(self, obs: Observations, state: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """With a memory, instead of `policy`: states `[n, S]` before the step -> heads `[n, H]` and
        the states behind it."""
        raise TypeError("a network without a memory has no steps")

    def policy_layers(self) -> PlainPolicy | None:
        """The way to the heads layer by layer, or None if it is more than that."""
        return None


class PolicyNetwork(ActingNetwork):
    """A policy and a value function."""

    def _linear_head(self, inputs: int, layout: ActionLayout, model: ModelConfig) -> nn.Linear:
        """The layer of the policy's heads, and what there is to learn beside it."""
        gain = 1.0 if model.autoregressive else HEAD_GAIN
        head = linear(inputs, head_width(layout, model), gain)
        self._add_to_heads(layout, model)
        plain = self.own is None and self.autoregressive is None
        if plain and layout.reals and not model.free_log_std:
            with torch.no_grad():
                head.bias[-layout.reals :] = model.initial_log_std
        return head

    def _add_to_heads(self, layout: ActionLayout, model: ModelConfig) -> None:
        """What there is to know or to learn beside the heads themselves."""
        if model.distribution is not None:
            self.own = find_distribution(model.distribution, layout)
            return
        if layout.reals and model.free_log_std:
            self.log_std = nn.Parameter(torch.full((layout.reals,), model.initial_log_std))
        if model.autoregressive:
            self.autoregressive = AutoregressiveHeads(
                layout, model.free_log_std, model.initial_log_std
            )

    @abstractmethod
    def value(self, obs: Observations) -> torch.Tensor:
        """Expected returns, float32 `[n]`."""

    @abstractmethod
    def forward(self, obs: Observations) -> tuple[torch.Tensor, torch.Tensor]:
        """(heads `[n, H]`, values `[n]`), computing shared parts once."""


class StandardNetwork(PolicyNetwork):
    """Encoder, hidden layers and a linear head; twice, as far as they are not shared.

    With `model.precision` "bfloat16" all in front of the linear heads is computed in that.

    Initial weights are orthogonal: gain sqrt 2 in hidden layers, 0.01 at the policy head (the
    first policy is close to uniform), 1 at the value head.
    """

    def __init__(self, spaces: PolicySpaces, model: ModelConfig):
        super().__init__()
        self._precision = model.precision
        layout = ActionLayout(spaces.action)
        hidden = (model.hidden, model.activation, model.layer_norm)
        self.policy_encoder = ObservationEncoder(spaces.observation, model)
        self.policy_body = MLP(self.policy_encoder.outputs, *hidden)
        self.policy_head = self._linear_head(self.policy_body.outputs, layout, model)
        # A plain encoder has nothing to learn, so that a second one would be a waste.
        self.one_encoder = model.share_layers or model.share_conv or self.policy_encoder.plain
        self.one_body = model.share_layers
        if not self.one_encoder:
            self.value_encoder = ObservationEncoder(spaces.observation, model)
        if not self.one_body:
            self.value_body = MLP(self.policy_encoder.outputs, *hidden)
        self.value_head = linear(self.policy_body.outputs, 1, 1.0)

    def policy(self, obs: Observations) -> torch.Tensor:
        with computed_in(self._precision, obs):
            hidden = self.policy_body(self.policy_encoder(obs))
        head: torch.Tensor = self.policy_head(hidden.float())
        return head

    def value(self, obs: Observations) -> torch.Tensor:
        encoder = self.policy_encoder if self.one_encoder else self.value_encoder
        body = self.policy_body if self.one_body else self.value_body
        with computed_in(self._precision, obs):
            hidden = body(encoder(obs))
        value: torch.Tensor = self.value_head(hidden.float())
        return value.squeeze(1)

    def forward(self, obs: Observations) -> tuple[torch.Tensor, torch.Tensor]:
        with computed_in(self._precision, obs):
            features = self.policy_encoder(obs)
            hidden = value_hidden = self.policy_body(features)
            if not self.one_body:
                value_features = features if self.one_encoder else self.value_encoder(obs)
                value_hidden = self.value_body(value_features)
        return self.policy_head(hidden.float()), self.value_head(value_hidden.float()).squeeze(1)

    def policy_layers(self) -> PlainPolicy | None:
        recipe = self.policy_encoder.recipe()
        whole = self._precision == "float32" and self.autoregressive is None
        if recipe is None or not whole:
            return None
        head = dense_layer(self.policy_head, "identity")
        return PlainPolicy(recipe, [*self.policy_body.dense_layers(), head])
