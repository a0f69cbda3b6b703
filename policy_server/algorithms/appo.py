"""APPO: asynchronous proximal policy optimisation, with V-trace and a target network.

Maximises, over epochs of shuffled minibatches of the same steps,

    E_t[ min(R_t A_t, clip(R_t, 1 - eps, 1 + eps) A_t)
         - c_vf (V(s_t) - v_t)^2 + c_ent H(pi(s_t)) ]

    R_t = min(pi_mu / pi_target, rho-bar) * pi / pi_mu    of a_t in s_t,

where pi_mu is the policy that acted and pi_target that of the target network, a copy of the
network that is renewed now and then: with steps of many versions in one batch, clipping against
each step's own policy would let the policy run away from all of them. The V-trace targets v_t and
advantages A_t of `ops.vtrace` are those of the target network.

Source: Luo et al. (IMPACT), https://arxiv.org/abs/1912.00167, equations 2 to 4 and algorithm 1.
What can be set is in `appo_options`. Where this page deviates:

- Each batch is used num_epochs times at once, instead of staying in a circular buffer.
- Steps that were truncated bootstrap from their true final observation.
"""

from __future__ import annotations

import copy
import math
from typing import NamedTuple

import torch

from policy_server.algorithms.appo_options import APPOTraining
from policy_server.algorithms.finite import check_finite
from policy_server.algorithms.ops.distributions import Distribution
from policy_server.algorithms.ops.gae import explained_variance
from policy_server.algorithms.ops.losses import clipped_surrogate, normalized
from policy_server.algorithms.ops.schedules import scheduled
from policy_server.algorithms.ops.vtrace import vtrace
from policy_server.algorithms.saved import (
    generator_text,
    load_generator,
    load_network,
    network_tensors,
)
from policy_server.algorithms.trained import TrainedPolicy, seeded
from policy_server.algorithms.trajectories import Outlook, Trajectories
from policy_server.config import ModelConfig
from policy_server.networks import PolicyNetwork, build_network
from policy_server.stepwise import Steps, at_once
from policy_server.types import Batch, PolicySpaces, PolicyState


class Minibatch(NamedTuple):
    """Steps to learn from, in any order."""

    categories: torch.Tensor  # int64 [N, K]
    reals: torch.Tensor  # [N, D]
    logp: torch.Tensor  # [N], log pi_mu(a_t | s_t)
    target_logp: torch.Tensor  # [N], log pi_target(a_t | s_t)
    advantages: torch.Tensor  # [N]
    targets: torch.Tensor  # [N], v_t


def appo_loss(
    new: Distribution,
    values: torch.Tensor,
    mb: Minibatch,
    config: APPOTraining,
    entropy_coeff: float,
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """The negative of this page's objective, a mean over the steps; and its terms.

    Shapes: `new` of N steps, values `[N]` -> scalars.
    """
    assert values.shape == mb.logp.shape == mb.target_logp.shape == mb.targets.shape
    limit = math.log(config.target_ratio_clip)
    log_ratio = (mb.logp - mb.target_logp).clamp(max=limit)
    log_ratio = log_ratio + new.log_prob(mb.categories, mb.reals) - mb.logp
    ratio = torch.exp(log_ratio)
    policy_loss = -clipped_surrogate(ratio, mb.advantages, config.clip_param).mean()
    vf_loss = (values - mb.targets).square().mean()
    entropy = new.entropy().mean()
    loss = policy_loss + config.vf_loss_coeff * vf_loss - entropy_coeff * entropy
    clipped = ((ratio - 1).abs() > config.clip_param).float().mean()
    return loss, {
        "policy_loss": policy_loss, "vf_loss": vf_loss, "entropy": entropy, "clip_fraction": clipped,
    }  # fmt: skip


class APPO:
    """A policy that learns by APPO.

    Attributes:
        network: the policy and its value function.
        target: the target network.
    """

    Training = APPOTraining

    @staticmethod
    def make_network(
        spaces: PolicySpaces, model: ModelConfig, training: APPOTraining
    ) -> PolicyNetwork:
        """A policy and a value function."""
        return build_network(spaces, model)

    def __init__(
        self,
        spaces: PolicySpaces,
        model: ModelConfig,
        config: APPOTraining,
        *,
        seed: int,
        device: torch.device,
        reward_scale: float = 1.0,
        reward_clip: float | None = None,
    ):
        self.config, self.device = config, device
        self._rewards = (reward_scale, reward_clip)
        self.network = seeded(lambda: self.make_network(spaces, model, config), seed, device)
        self.target = copy.deepcopy(self.network).eval().requires_grad_(False)
        self._trained = TrainedPolicy(self.network, spaces, device, config.adam_eps)
        self.generator = torch.Generator().manual_seed(seed)
        self._updates = 0

    def update(self, batch: Batch, env_steps: int) -> dict[str, float]:
        """Learns from one batch.

        Raises:
            LearnerError: the numbers broke. The weights are spoilt: load the last state.
        """
        return at_once(self.update_in_steps(batch, env_steps))

    def update_in_steps(self, batch: Batch, env_steps: int) -> Steps[dict[str, float]]:
        """The same with a pause after each minibatch. Any thread may take any step."""
        c = self.config
        lr = scheduled(c.lr_schedule, c.lr, env_steps)
        entropy_coeff = scheduled(c.entropy_coeff_schedule, c.entropy_coeff, env_steps)
        steps = Trajectories(batch, self.device, *self._rewards)
        outlook = steps.outlook(self.target)
        b_columns, metrics = self._prepare(steps, outlook)
        yield

        reports: list[dict[str, torch.Tensor]] = []
        self.network.train()
        for _ in range(c.num_epochs):
            for chosen, obs in steps.minibatches(outlook, c.minibatch_size, self.generator):
                mask, *mb_columns = (column[chosen] for column in b_columns)
                mb = Minibatch(*mb_columns)
                heads, values = self.network(obs)
                new = self._trained.distribution(heads, mask, mb.categories)
                loss, terms = appo_loss(new, values, mb, c, entropy_coeff)
                norm = self._trained.descend(loss, lr, c.grad_clip, c.grad_clip_by)
                reports.append(terms | {"total_loss": loss.detach(), "grad_norm": norm})
                yield
        self._updates += 1
        if self._updates % c.target_update_frequency == 0:
            self.target.load_state_dict(self.network.state_dict())

        for name in reports[0]:
            metrics[name] = torch.stack([report[name].detach() for report in reports]).mean().item()
        metrics |= {"lr": lr, "entropy_coeff": entropy_coeff}
        check_finite("APPO", batch, metrics, self._trained.optimizer.weights)
        return metrics

    def _prepare(
        self, steps: Trajectories, outlook: Outlook
    ) -> tuple[list[torch.Tensor], dict[str, float]]:
        """Everything that stays the same during the update, one row per valid step."""
        c = self.config
        with torch.no_grad():
            old = self._trained.distribution(
                outlook.heads, steps.mask, steps.categories, self.target
            )
            target_logp = old.log_prob(steps.categories, steps.reals)
            log_ratio = target_logp - steps.logp
        traces = vtrace(
            steps.by_time(log_ratio), steps.rewards, outlook.values, outlook.final_values,
            steps.terminated, steps.truncated, steps.valid, gamma=c.gamma, lambda_=c.vtrace_lambda,
            clip_rho=c.vtrace_clip_rho, clip_c=c.vtrace_clip_c, clip_pg_rho=c.vtrace_clip_pg_rho,
        )  # fmt: skip
        advantages, targets = steps.by_step(traces.advantages), steps.by_step(traces.targets)
        explained = explained_variance(steps.by_step(outlook.values[:-1]), targets)
        if c.normalize_advantages:
            advantages = normalized(advantages)
        columns = [
            steps.mask, steps.categories, steps.reals, steps.logp, target_logp,
            advantages, targets,
        ]  # fmt: skip
        return columns, {
            "vf_explained_var": explained.item(),
            "log_ratio_abs": log_ratio.abs().mean().item(),
        }

    def state(self) -> PolicyState:
        """All that `load` needs to go on exactly from here."""
        state = self._trained.state(updates=self._updates, generator=generator_text(self.generator))
        return PolicyState(state.tensors | network_tensors(self.target, "target"), state.data)

    def load(self, state: PolicyState) -> None:
        """Goes on from what `state` returned. Raises CheckpointError where it does not fit."""
        self._trained.load(state)
        load_network(self.target, state, "target")
        load_generator(self.generator, state.data["generator"])
        self._updates = int(state.data["updates"])
