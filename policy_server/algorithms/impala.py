"""IMPALA: an actor-critic that learns from steps of slightly older policies, by V-trace.

Maximises, in one step for each batch,

    E_t[ log pi(a_t | s_t) A_t - c_vf (V(s_t) - v_t)^2 + c_ent H(pi(s_t)) ]

with the V-trace targets and advantages (`ops.vtrace`, which also has what is done at endings)

    v_t = V(s_t) + rho_t (r_t + gamma V(s_t+1) - V(s_t)) + gamma c_t (v_t+1 - V(s_t+1)),
    A_t = rho'_t (r_t + gamma v_t+1 - V(s_t)),

which correct for the difference between pi and the policy mu that acted, whose log-probability came
with each step: rho_t, rho'_t and c_t are pi(a_t | s_t) / mu(a_t | s_t), each clipped from above by
an option of its own, and c_t times lambda.

Source: Espeholt et al., https://arxiv.org/abs/1802.01561, section 4.2. What can be set is in
`impala_options`. Where this page deviates:

- Adam instead of RMSProp; means over the batch instead of sums.
- Steps that were truncated bootstrap from their true final observation.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

from policy_server.algorithms.finite import check_finite
from policy_server.algorithms.impala_options import IMPALATraining
from policy_server.algorithms.ops.distributions import Distribution
from policy_server.algorithms.ops.gae import explained_variance
from policy_server.algorithms.ops.schedules import scheduled
from policy_server.algorithms.ops.vtrace import vtrace
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
    targets: torch.Tensor  # [N], v_t


def impala_loss(
    new: Distribution,
    values: torch.Tensor,
    steps: Learned,
    config: IMPALATraining,
    entropy_coeff: float,
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """The negative of this page's objective, a mean over the steps; and its terms.

    Shapes: `new` of N steps, values `[N]` -> scalars.
    """
    assert values.shape == steps.advantages.shape == steps.targets.shape
    policy_loss = -(new.log_prob(steps.categories, steps.reals) * steps.advantages).mean()
    vf_loss = (values - steps.targets).square().mean()
    entropy = new.entropy().mean()
    loss = policy_loss + config.vf_loss_coeff * vf_loss - entropy_coeff * entropy
    return loss, {"policy_loss": policy_loss, "vf_loss": vf_loss, "entropy": entropy}


class IMPALA:
    """A policy that learns by IMPALA.

    Attributes:
        network: the policy and its value function.
    """

    Training = IMPALATraining

    @staticmethod
    def make_network(
        spaces: PolicySpaces, model: ModelConfig, training: IMPALATraining
    ) -> PolicyNetwork:
        """A policy and a value function."""
        return build_network(spaces, model)

    def __init__(
        self,
        spaces: PolicySpaces,
        model: ModelConfig,
        config: IMPALATraining,
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
        with torch.no_grad():
            now = self._trained.distribution(outlook.heads, steps.mask, steps.categories)
            log_ratio = now.log_prob(steps.categories, steps.reals) - steps.logp
        traces = vtrace(
            steps.by_time(log_ratio), steps.rewards, outlook.values, outlook.final_values,
            steps.terminated, steps.truncated, steps.valid, gamma=c.gamma, lambda_=c.vtrace_lambda,
            clip_rho=c.vtrace_clip_rho, clip_c=c.vtrace_clip_c, clip_pg_rho=c.vtrace_clip_pg_rho,
        )  # fmt: skip
        advantages, targets = steps.by_step(traces.advantages), steps.by_step(traces.targets)

        heads, values = self.network.train()(steps.inputs(outlook))
        new = self._trained.distribution(heads, steps.mask, steps.categories)
        learned = Learned(steps.categories, steps.reals, advantages, targets)
        loss, terms = impala_loss(new, values, learned, c, entropy_coeff)
        norm = self._trained.descend(loss, lr, c.grad_clip, c.grad_clip_by)

        before = steps.by_step(outlook.values[:-1])
        terms |= {
            "total_loss": loss,
            "grad_norm": norm,
            "vf_explained_var": explained_variance(before, targets),
            "rho_clip_fraction": (log_ratio.exp() > c.vtrace_clip_rho).float().mean(),
            "log_ratio_abs": log_ratio.abs().mean(),
        }
        metrics = {name: value.item() for name, value in terms.items()}
        metrics |= {"lr": lr, "entropy_coeff": entropy_coeff}
        check_finite("IMPALA", batch, metrics, self._trained.optimizer.weights)
        return metrics

    def state(self) -> PolicyState:
        """All that `load` needs to go on exactly from here."""
        return self._trained.state()

    def load(self, state: PolicyState) -> None:
        """Goes on from what `state` returned. Raises CheckpointError where it does not fit."""
        self._trained.load(state)
