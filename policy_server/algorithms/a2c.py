"""Advantage actor-critic: A2C, and A3C where it collects asynchronously.

Maximises, in one step for each batch,

    E_t[ log pi(a_t | s_t) A_t - c_vf (V(s_t) - R_t)^2 + c_ent H(pi(s_t)) ]

with advantages A_t = R_t - V(s_t) and n-step returns R_t that bootstrap from V where a lane's
fragment of n steps ends.

Source: Mnih et al., https://arxiv.org/abs/1602.01783, section 4 and algorithm S3. What can be set
is in `a2c_options`. Where this page deviates:

- Adam instead of RMSProp with shared statistics.
- Lanes of many simulators meet in one batch and one learner (A2C); A3C's workers, which compute
  gradients of their own, are simulators that do not wait (`collection.mode`).
- Advantages may be those of generalised advantage estimation (lambda < 1), and normalised.
- Steps that were truncated bootstrap from their true final observation.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

from policy_server.algorithms.a2c_options import A2CTraining
from policy_server.algorithms.finite import check_finite
from policy_server.algorithms.ops.distributions import Distribution
from policy_server.algorithms.ops.gae import explained_variance
from policy_server.algorithms.ops.losses import normalized
from policy_server.algorithms.ops.schedules import scheduled
from policy_server.algorithms.trained import TrainedPolicy, seeded
from policy_server.algorithms.trajectories import Trajectories
from policy_server.config import ModelConfig
from policy_server.networks import PolicyNetwork, build_network
from policy_server.types import Batch, PolicySpaces, PolicyState


class Learned(NamedTuple):
    """What is learned from, step by step."""

    categories: torch.Tensor  # int64 [N, K]
    reals: torch.Tensor  # [N, D]
    advantages: torch.Tensor  # [N], A_t
    returns: torch.Tensor  # [N], R_t


def a2c_loss(
    new: Distribution,
    values: torch.Tensor,
    steps: Learned,
    config: A2CTraining,
    entropy_coeff: float,
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """The negative of this page's objective, a mean over the steps; and its terms.

    Shapes: `new` of N steps, values `[N]` -> scalars.
    """
    assert values.shape == steps.advantages.shape == steps.returns.shape
    policy_loss = -(new.log_prob(steps.categories, steps.reals) * steps.advantages).mean()
    vf_loss = (values - steps.returns).square().mean()
    entropy = new.entropy().mean()
    loss = policy_loss + config.vf_loss_coeff * vf_loss - entropy_coeff * entropy
    return loss, {"policy_loss": policy_loss, "vf_loss": vf_loss, "entropy": entropy}


class A2C:
    """A policy that learns by A2C.

    Attributes:
        network: the policy and its value function.
    """

    Training = A2CTraining

    @staticmethod
    def make_network(
        spaces: PolicySpaces, model: ModelConfig, training: A2CTraining
    ) -> PolicyNetwork:
        """A policy and a value function."""
        return build_network(spaces, model)

    def __init__(
        self,
        spaces: PolicySpaces,
        model: ModelConfig,
        config: A2CTraining,
        *,
        seed: int,
        device: torch.device,
        reward_scale: float = 1.0,
        reward_clip: float | None = None,
    ):
        self.config, self.device = config, device
        self._rewards = (reward_scale, reward_clip)
        self.network = seeded(lambda: self.make_network(spaces, model, config), seed, device)
        self._trained = TrainedPolicy(self.network, spaces, device, config.adam_eps)

    def update(self, batch: Batch, env_steps: int) -> dict[str, float]:
        """One gradient step on one batch.

        Raises:
            LearnerError: the numbers broke. The weights are spoilt: load the last state.
        """
        c = self.config
        lr = scheduled(c.lr_schedule, c.lr, env_steps)
        entropy_coeff = scheduled(c.entropy_coeff_schedule, c.entropy_coeff, env_steps)
        steps = Trajectories(batch, self.device, *self._rewards)
        outlook = steps.outlook(self.network.eval())
        advantages, returns = steps.advantages(outlook, c.gamma, c.lambda_)
        explained = explained_variance(steps.by_step(outlook.values[:-1]), returns)
        if c.normalize_advantages:
            advantages = normalized(advantages)

        heads, values = self.network.train()(steps.inputs(outlook))
        new = self._trained.distribution(heads, steps.mask, steps.categories)
        learned = Learned(steps.categories, steps.reals, advantages, returns)
        loss, terms = a2c_loss(new, values, learned, c, entropy_coeff)
        norm = self._trained.descend(loss, lr, c.grad_clip, c.grad_clip_by)

        terms |= {"total_loss": loss, "grad_norm": norm, "vf_explained_var": explained}
        metrics = {name: value.item() for name, value in terms.items()}
        metrics |= {"lr": lr, "entropy_coeff": entropy_coeff}
        check_finite("A2C", batch, metrics, self._trained.optimizer.weights)
        return metrics

    def state(self) -> PolicyState:
        """All that `load` needs to go on exactly from here."""
        return self._trained.state()

    def load(self, state: PolicyState) -> None:
        """Goes on from what `state` returned. Raises CheckpointError where it does not fit."""
        self._trained.load(state)
