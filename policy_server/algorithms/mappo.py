"""Multi-agent PPO: each agent's own clipped ratio, one value function that sees all.

N agents learn together from steps that they have just made. Over several epochs of shuffled
minibatches the mean over agents i and steps t of

    min(r_ti A_ti, clip(r_ti, 1 - eps, 1 + eps) A_ti) + c_ent H(pi_i(o_ti))

is maximised, with r_ti = pi_i(a_ti | o_ti) / pi_i_old(a_ti | o_ti) of what agent i alone saw and did,
and c_vf (V(x_t) - R_t)^2 is minimised, where x_t is what all of them saw; with `normalize_returns`
both are in units of the returns' running deviation, from their running mean. Advantages and returns are
those of generalised advantage estimation, once with the weights of before the update: of the reward
that all share, or of each agent's own, with a value V_i(x_t) of its own.

Source: Yu et al., https://arxiv.org/abs/2103.01955, appendix A; PPO is `ppo`. What can be set is in
`mappo_options`. Where this page deviates:

- pi_i_old is computed again, with the weights that the batch was played with: steps come with the
  log-probability of what all did together. So all of them must come from the policy as it stands:
  collection that is asynchronous or runs ahead is refused, and so is a batch of several versions.
  `first_ratio_error` says how far the two log-probabilities are apart.
- Squared errors of the value function are cut off at `vf_clip_param` where that is set; the paper
  clips the change of values, and takes Huber's loss.
- A moved mean of returns moves what V says; it is not corrected for (the authors' PopArt does).
- Who has left a group goes on counting in the means over agents.
- The value function sees all observations and the state; it is not told whose turn it is, but has an
  output for each agent where rewards are told apart.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import nn

from policy_server.algorithms.central import Central
from policy_server.algorithms.finite import check_finite
from policy_server.algorithms.mappo_options import MAPPOTraining
from policy_server.algorithms.means import Means
from policy_server.algorithms.ops.distributions import ActionDistribution, HeadLayout
from policy_server.algorithms.ops.gae import explained_variance, gae
from policy_server.algorithms.ops.losses import (
    clipped_squared_error,
    clipped_surrogate,
    normalized,
)
from policy_server.algorithms.ops.schedules import scheduled
from policy_server.algorithms.optimizer import FlatAdam
from policy_server.algorithms.return_scale import ReturnScale
from policy_server.algorithms.rewards import shaped
from policy_server.algorithms.saved import (
    generator_text,
    load_generator,
    load_tensors,
    tensors_of,
)
from policy_server.algorithms.trained import seeded
from policy_server.algorithms.trajectories import Trajectories
from policy_server.config import ModelConfig
from policy_server.errors import LearnerError
from policy_server.networks.actor import Critic
from policy_server.networks.policy import Observations
from policy_server.networks.side_by_side import SideBySide
from policy_server.networks.snapshot import as_tensor
from policy_server.stepwise import Steps, at_once
from policy_server.types import ActionLayout, Batch, PolicySpaces, PolicyState

MOST_LOG_RATIO = 50.0
"""Absurd observations round so that what was done seems impossible: the ratio to that would overflow."""


class Minibatch(NamedTuple):
    """Steps to learn from, in any order; V is N, or 1 where the reward is shared."""

    categories: Sequence[torch.Tensor]  # of each agent, int64 [n, K_i]
    reals: Sequence[torch.Tensor]  # of each agent, [n, D_i]
    logp: torch.Tensor  # [n, N], before the update
    advantages: torch.Tensor  # [n, V]
    returns: torch.Tensor  # [n, V]


class Terms(NamedTuple):
    """What the loss is made of; means but for the ratios."""

    surrogate: torch.Tensor
    vf_error: torch.Tensor
    entropy: torch.Tensor
    ratios: torch.Tensor  # [n, N]


def mappo_loss(
    policies: Sequence[ActionDistribution],
    values: torch.Tensor,
    mb: Minibatch,
    config: MAPPOTraining,
    *,
    entropy_coeff: float,
) -> tuple[torch.Tensor, Terms]:
    """The negative of this page's objective, a mean over steps and agents; and its terms.

    Shapes: a policy of n steps for each of N agents, values `[n, V]` -> scalar.
    """
    assert mb.advantages.shape == mb.returns.shape == values.shape
    assert mb.logp.shape == (len(values), len(policies)), mb.logp.shape
    new = log_probs(policies, mb.categories, mb.reals)
    ratios = torch.exp((new - mb.logp).clamp(max=MOST_LOG_RATIO))
    advantages = mb.advantages.expand_as(ratios)
    surrogate = clipped_surrogate(ratios.flatten(), advantages.flatten(), config.clip_param).mean()
    vf_error = clipped_squared_error(values.flatten(), mb.returns.flatten(), config.vf_clip_param)
    entropy = torch.stack([policy.entropy() for policy in policies]).mean()
    loss = config.vf_loss_coeff * vf_error.mean() - surrogate - entropy_coeff * entropy
    return loss, Terms(surrogate, vf_error.mean(), entropy, ratios)


def log_probs(
    policies: Sequence[ActionDistribution],
    categories: Sequence[torch.Tensor],
    reals: Sequence[torch.Tensor],
) -> torch.Tensor:
    """Of what each agent did, `[n, N]`."""
    triples = zip(policies, categories, reals, strict=True)
    return torch.stack([policy.log_prob(c, r) for policy, c, r in triples], dim=1)


def advantages_apart(
    steps: Trajectories,
    rewards: torch.Tensor,
    values: torch.Tensor,
    final_values: torch.Tensor,
    gamma: float,
    lambda_: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    """(advantages, returns) of each kind of reward by itself, by step, `[n, V]` each.

    Shapes: rewards and final_values `[T, B, V]`, values `[T+1, B, V]`.
    """
    assert rewards.shape == final_values.shape == values[1:].shape
    kinds = [
        gae(*columns, steps.terminated, steps.truncated, steps.valid, gamma=gamma, lambda_=lambda_)
        for columns in zip(rewards.unbind(2), values.unbind(2), final_values.unbind(2), strict=True)
    ]
    advantages, returns = (torch.stack(each, dim=2) for each in zip(*kinds, strict=True))
    return steps.by_step(advantages), steps.by_step(returns)


def _check_versions(batch: Batch) -> None:
    versions = np.unique(batch.versions[batch.valid])
    if len(versions) > 1:
        raise LearnerError(
            f"MAPPO: expected all steps of a batch to be of one version of the policy, got versions "
            f"{versions.tolist()}: collect with collection.mode = 'sync' and collection.ahead = false."
        )


class MAPPO:
    """A policy of several agents that learns by MAPPO.

    Attributes:
        network: the actors, side by side.
        critic: the value function, which sees all.
    """

    Training = MAPPOTraining

    @staticmethod
    def make_network(
        spaces: PolicySpaces, model: ModelConfig, training: MAPPOTraining
    ) -> SideBySide:
        """The actors: logits, means and log deviations."""
        shared = training.share_parameters
        shares = Central(spaces).shares("MAPPO", shared)
        return SideBySide(shares, model, gaussian=True, one_for_all=shared)

    def __init__(
        self,
        spaces: PolicySpaces,
        model: ModelConfig,
        config: MAPPOTraining,
        *,
        seed: int,
        device: torch.device,
        reward_scale: float = 1.0,
        reward_clip: float | None = None,
    ):
        self.config, self.device = config, device
        self._shaping = reward_scale, reward_clip
        self._central = central = Central(spaces)
        self._members = central.group.members
        self._layouts = [
            HeadLayout(ActionLayout(member.action), device) for member in self._members
        ]
        kinds = 1 if central.group.rewards is None else central.agents
        self.network = seeded(lambda: self.make_network(spaces, model, config), seed, device)
        self.critic = seeded(lambda: Critic(central.spaces, model, 0, kinds), seed + 1, device)
        self.scale = ReturnScale(kinds)  # on the CPU, as returns are
        self.optimizer = FlatAdam(nn.ModuleList([self.network, self.critic]), config.adam_eps)
        self._networks = {
            "network": self.network, "critic": self.critic, "return_scale": self.scale,
        }  # fmt: skip
        self.generator = torch.Generator().manual_seed(seed)
        self.means = Means()

    def update(self, batch: Batch, env_steps: int) -> dict[str, float]:
        """Learns from one batch; `env_steps` (in all so far) is where schedules stand.

        Raises:
            LearnerError: the numbers broke. The weights are spoilt: load the last state.
        """
        return at_once(self.update_in_steps(batch, env_steps))

    def update_in_steps(self, batch: Batch, env_steps: int) -> Steps[dict[str, float]]:
        """The same with a pause after each minibatch. Any thread may take any step."""
        c = self.config
        _check_versions(batch)
        lr = scheduled(c.lr_schedule, c.lr, env_steps)
        entropy_coeff = scheduled(c.entropy_coeff_schedule, c.entropy_coeff, env_steps)
        steps = Trajectories(batch, self.device)
        whole, metrics = self._prepare(steps, self._central.rewards(batch))
        yield
        self.network.train()
        parts = math.ceil(len(steps.rows) / c.minibatch_size)
        for epoch in range(c.num_epochs):
            order = torch.randperm(len(steps.rows), generator=self.generator).to(self.device)
            for chosen in order.tensor_split(parts):
                self._learn(steps, chosen, whole, lr, entropy_coeff, epoch == c.num_epochs - 1)
                yield
        metrics |= self.means.take() | {"lr": lr, "entropy_coeff": entropy_coeff}
        check_finite("MAPPO", batch, metrics, self.optimizer.weights)
        return metrics

    def _prepare(self, steps: Trajectories, raw: np.ndarray) -> tuple[Minibatch, dict[str, float]]:
        """All steps as one minibatch; what agents got for them is `raw`, `[T, B, V]`."""
        c = self.config
        self.network.eval()
        rewards = as_tensor(shaped(raw, *self._shaping))
        values, final_values = map(self.scale.large, steps.values(self._value, rewards.shape[2]))
        advantages, returns = advantages_apart(
            steps, rewards, values, final_values, c.gamma, c.lambda_
        )
        expected = steps.by_step(values[:-1])
        explained = map(explained_variance, expected.unbind(1), returns.unbind(1))
        if c.normalize_advantages:
            advantages = torch.stack([normalized(kind) for kind in advantages.unbind(1)], dim=1)
        if c.normalize_values:
            self.scale.add(returns.cpu())
        targets = self.scale.small(returns.cpu()).to(self.device)
        categories = [steps.categories[:, member.categories] for member in self._members]
        reals = [steps.reals[:, member.reals] for member in self._members]
        heads = steps.obs.evaluate(steps.rows, lambda o: torch.cat(self.network.heads(o), dim=1))
        policies = self._policies(torch.split(heads, self.network.widths, dim=1), steps.mask)
        logp = log_probs(policies, categories, reals).detach()
        metrics = {
            "vf_explained_var": float(torch.stack(list(explained)).mean()),
            "first_ratio_error": (logp.sum(1) - steps.logp).expm1().abs().max().item(),
        }
        return Minibatch(categories, reals, logp, advantages, targets), metrics

    def _value(self, obs: Observations) -> torch.Tensor:
        """What all may expect, in small units: `[n, V]`."""
        nothing = torch.zeros(len(obs[0]), 0, device=self.device)
        values: torch.Tensor = self.critic(self._central.view(obs), nothing)
        return values

    def _policies(
        self, heads: Sequence[torch.Tensor], mask: torch.Tensor
    ) -> list[ActionDistribution]:
        """What each agent's head says; mask `[n, W]` of all, W = 0 where there are none."""
        log_std, masked = self.network.log_std, mask.shape[1] > 0
        return [
            layout.distribution(
                head,
                None if log_std is None else log_std[member.reals],
                mask[:, member.mask] if masked and layout.logits else None,
            )
            for layout, member, head in zip(self._layouts, self._members, heads, strict=True)
        ]

    def _learn(
        self,
        steps: Trajectories,
        chosen: torch.Tensor,
        whole: Minibatch,
        lr: float,
        entropy_coeff: float,
        report: bool,
    ) -> None:
        """One gradient step with some of the steps, int64 `[n]`."""
        c = self.config
        mb = Minibatch(
            [column[chosen] for column in whole.categories],
            [column[chosen] for column in whole.reals],
            whole.logp[chosen], whole.advantages[chosen], whole.returns[chosen],
        )  # fmt: skip
        obs = steps.obs[steps.rows[chosen]]
        policies = self._policies(self.network.heads(obs), steps.mask[chosen])
        loss, terms = mappo_loss(policies, self._value(obs), mb, c, entropy_coeff=entropy_coeff)
        norm = self.optimizer.minimize(loss, lr, c.grad_clip, c.grad_clip_by)
        if report:
            ratios = terms.ratios.detach().clamp(min=1e-30)
            self.means.add(
                total_loss=loss, policy_loss=-terms.surrogate, vf_loss=terms.vf_error,
                entropy=terms.entropy, kl=(ratios - 1 - ratios.log()).mean(),
                clip_fraction=((ratios - 1).abs() > c.clip_param).float().mean(), grad_norm=norm,
            )  # fmt: skip

    def state(self) -> PolicyState:
        """All that `load` needs to go on exactly from here."""
        return PolicyState(
            tensors_of(self._networks, {"adam": self.optimizer}),
            {"generator": generator_text(self.generator)},
        )

    def load(self, state: PolicyState) -> None:
        """Goes on from what `state` returned. Raises CheckpointError where it does not fit."""
        load_tensors(state, self._networks, {"adam": self.optimizer})
        load_generator(self.generator, state.data["generator"])
