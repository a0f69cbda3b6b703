"""Intrinsic curiosity module: new is what a model of the world cannot foresee.

Features phi of observations, an inverse model g that guesses the action between two of them, and a
forward model f that guesses the features behind an action learn together to minimise, over steps,

    (1 - beta) L_I(g(phi(s_t), phi(s_t+1)), a_t) + beta L_F,                   equations 3, 5, 7
    L_F = 1/2 |f(phi(s_t), a_t) - phi(s_t+1)|^2

where L_I is the cross-entropy of choices, and half the squared error of real numbers. The reward of
a step is its L_F. Features keep what an action can change, so noise that it cannot is not new.

Source: Pathak et al., https://arxiv.org/abs/1705.05363. What can be set is in
`options.ICMOptions`. Where this page deviates:

- The policy's loss is not part of the objective: it belongs to the algorithm.
- Adam with a step size of its own; networks as the policy's, by the `model` section.
- A step that terminates its episode has reward 0, and nobody learns from it here: what it led to is
  unknown.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import nn
from torch.nn.functional import cross_entropy, one_hot

from policy_server.algorithms.means import Means
from policy_server.algorithms.optimizer import FlatAdam
from policy_server.algorithms.saved import (
    generator_text,
    load_generator,
    load_tensors,
    tensors_of,
)
from policy_server.algorithms.trained import seeded
from policy_server.config import ModelConfig
from policy_server.exploration.embedding import Embedding
from policy_server.exploration.options import ICMOptions
from policy_server.exploration.successions import Pairs, Successions
from policy_server.networks.mlp import MLP, linear
from policy_server.stepwise import Steps
from policy_server.types import ActionLayout, PolicySpaces, PolicyState


class Guesses(NamedTuple):
    """What the models say of N steps.

    Attributes:
        features: `[N, F]`, phi(s_t+1).
        foreseen: `[N, F]`, of it by the forward model.
        choices: `[N, W]`, logits of what was chosen, by the inverse model.
        reals: `[N, D]`, of the real numbers, by the inverse model.
    """

    features: torch.Tensor
    foreseen: torch.Tensor
    choices: torch.Tensor
    reals: torch.Tensor


def forward_loss(guesses: Guesses) -> torch.Tensor:
    """L_F, `[N]`: also the reward."""
    assert guesses.foreseen.shape == guesses.features.shape
    return 0.5 * (guesses.foreseen - guesses.features).square().sum(1)


def inverse_loss(
    guesses: Guesses, categories: torch.Tensor, reals: torch.Tensor, nvec: list[int]
) -> torch.Tensor:
    """L_I, `[N]`: summed over choices and real numbers.

    Shapes: categories int64 `[N, K]`, of nvec[k] options each; reals `[N, D]`.
    """
    assert guesses.choices.shape == (len(categories), sum(nvec))
    assert guesses.reals.shape == reals.shape
    loss = 0.5 * (guesses.reals - reals).square().sum(1)
    for k, logits in enumerate(torch.split(guesses.choices, nvec, dim=1)):
        loss = loss + cross_entropy(logits, categories[:, k], reduction="none")
    return loss


class Models(nn.Module):
    """Features, forward and inverse model."""

    def __init__(self, spaces: PolicySpaces, model: ModelConfig, features: int):
        super().__init__()
        layout = ActionLayout(spaces.action)
        self.nvec: list[int] = layout.nvec.tolist()
        hidden = (model.hidden, model.activation, model.layer_norm)
        actions = layout.mask_width + layout.reals
        self.features = Embedding(spaces.observation, model, features)
        self.inverse_body = MLP(2 * features, *hidden)
        self.inverse_head = linear(self.inverse_body.outputs, actions, 0.1)
        self.forward_body = MLP(features + actions, *hidden)
        self.forward_head = linear(self.forward_body.outputs, features, 0.1)

    def forward(self, pairs: Pairs) -> Guesses:
        now, behind = self.features(pairs.obs), self.features(pairs.next_obs)
        guessed = self.inverse_head(self.inverse_body(torch.cat([now, behind], dim=1)))
        sizes = [sum(self.nvec), pairs.reals.shape[1]]
        choices, reals = torch.split(guessed, sizes, dim=1)
        hot = [one_hot(pairs.categories[:, k], n) for k, n in enumerate(self.nvec)]
        known = torch.cat([now, *hot, pairs.reals], dim=1)
        return Guesses(behind, self.forward_head(self.forward_body(known)), choices, reals)


class ICM:
    """Curiosity about what its own actions do.

    Attributes:
        models: what learns.
    """

    Options = ICMOptions

    def __init__(
        self,
        spaces: PolicySpaces,
        model: ModelConfig,
        options: ICMOptions,
        *,
        seed: int,
        device: torch.device,
    ):
        self.options = options
        self.models = seeded(lambda: Models(spaces, model, options.features), seed, device)
        self._optimizer = FlatAdam(self.models, eps=1e-8)
        self._generator = torch.Generator().manual_seed(seed)
        self._means = Means()

    @property
    def weights(self) -> torch.Tensor:
        """All parameters, `[P]`."""
        return self._optimizer.weights

    def reward(self, steps: Successions) -> torch.Tensor:
        """L_F of each step; 0 where what came behind it is unknown. `[N]`"""
        return steps.evaluate(lambda pairs: forward_loss(self.models(pairs)))

    def learn(self, steps: Successions) -> Steps[dict[str, float]]:
        """All steps once."""
        beta = self.options.forward_share
        for pairs in steps.shuffled(self.options.minibatch_size, self._generator):
            guesses = self.models(pairs)
            forward = forward_loss(guesses).mean()
            inverse = inverse_loss(guesses, pairs.categories, pairs.reals, self.models.nvec).mean()
            self._optimizer.minimize((1 - beta) * inverse + beta * forward, self.options.lr)
            self._means.add(icm_forward_loss=forward, icm_inverse_loss=inverse)
            yield
        return self._means.take()

    def state(self) -> PolicyState:
        """All that `load` needs to go on exactly from here."""
        tensors = tensors_of({"models": self.models}, {"adam": self._optimizer})
        return PolicyState(tensors, {"generator": generator_text(self._generator)})

    def load(self, state: PolicyState) -> None:
        """Goes on from what `state` returned. Raises CheckpointError where it does not fit."""
        load_tensors(state, {"models": self.models}, {"adam": self._optimizer})
        load_generator(self._generator, state.data["generator"])
