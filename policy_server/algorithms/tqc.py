"""Truncated quantile critics: SAC whose critics know distributions, without their upper ends.

Each critic gives M quantiles of the return. Over steps drawn from a replay buffer they learn by
quantile regression, each z_i against all of

    y_j = R_t + gamma^n (z'_j(s_t+n, a') - alpha log pi(a'|s_t+n)),    a' ~ pi,
    minimise E[ w mean_ij |tau_i - 1(y_j < z_i)| huber(y_j - z_i) ],    tau_i = (i - 1/2) / M,

where z'_j are the quantiles of all slow copies in one order, without the largest: this is what
keeps values from being too high; behind a step that terminated its episode y_j is R_t. w are the
importance weights of prioritised replay, huber is that with kappa = 1. The actor minimises
E[ alpha log pi(a|s) - mean of all quantiles ].

Source: Kuznetsov et al., https://arxiv.org/abs/2005.04269, algorithm 1; what is SAC's: `sac`. What
can be set is in `tqc_options`. Where this page deviates:

- log alpha is what is stepped.
- By default there are two critics, with the hidden layers of `model`; the paper has five, each with
  three layers of 512.
"""

from __future__ import annotations

import torch

from policy_server.algorithms.alphas import Alphas
from policy_server.algorithms.finite import check_finite
from policy_server.algorithms.means import Means
from policy_server.algorithms.ops.quantiles import quantile_huber, truncated
from policy_server.algorithms.ops.squashed import Squashed
from policy_server.algorithms.optimizer import FlatAdam
from policy_server.algorithms.replayed import Drawn, replayed_steps
from policy_server.algorithms.sac_options import LOG_STD_MAX, LOG_STD_MIN
from policy_server.algorithms.saved import (
    generator_text,
    load_generator,
    load_tensors,
    tensors_of,
)
from policy_server.algorithms.target_network import TargetNetwork
from policy_server.algorithms.tqc_options import TQCTraining
from policy_server.algorithms.trained import frozen, seeded
from policy_server.config import ModelConfig
from policy_server.networks.actor import ActorNetwork, Critics
from policy_server.replay.steps import Transitions
from policy_server.stepwise import Steps, at_once
from policy_server.types import ActionLayout, Batch, PolicySpaces, PolicyState


def tqc_target(
    policy: Squashed,
    target: Critics,
    steps: Transitions,
    noise: torch.Tensor,
    alpha: torch.Tensor,
    dropped: int,
) -> torch.Tensor:
    """y, `[N, J]`; `policy` is that at `steps.next_obs`, noise `[N, D]`."""
    reals, logp = policy.reals(noise)
    behind = truncated(target(steps.next_obs, reals), dropped)  # [N, J]
    assert logp.shape == steps.rewards.shape == steps.discounts.shape == behind.shape[:1]
    soft = behind - (alpha * logp)[:, None]
    return steps.rewards[:, None] + steps.discounts[:, None] * soft


class TQC:
    """A policy that learns by TQC.

    Attributes:
        network: the actor.
        critics: its critics.
        target: their slow copies.
    """

    Training = TQCTraining

    @staticmethod
    def make_network(
        spaces: PolicySpaces, model: ModelConfig, training: TQCTraining
    ) -> ActorNetwork:
        """The actor: means and log deviations."""
        return ActorNetwork(spaces, model, 2 * ActionLayout(spaces.action).reals, fan_in=True)

    def __init__(
        self,
        spaces: PolicySpaces,
        model: ModelConfig,
        config: TQCTraining,
        *,
        seed: int,
        device: torch.device,
        reward_scale: float = 1.0,
        reward_clip: float | None = None,
    ):
        self.config, self.device = config, device
        self._reals = reals = ActionLayout(spaces.action).reals
        self.network = seeded(lambda: self.make_network(spaces, model, config), seed, device)
        self.critics = seeded(
            lambda: Critics(config.critics, spaces, model, reals, config.quantiles, fan_in=True),
            seed + 1,
            device,
        )
        self.alphas = Alphas(1, config.initial_alpha).to(device)
        self.optimizer = FlatAdam(self.network, config.adam_eps)
        self._critics_optimizer = FlatAdam(self.critics, config.adam_eps)
        self._alphas_optimizer = FlatAdam(self.alphas, config.adam_eps)
        self.target = TargetNetwork(self.critics, self._critics_optimizer)
        self._networks = {
            "network": self.network, "critics": self.critics, "target": self.target.network,
            "alphas": self.alphas,
        }  # fmt: skip
        self._optimizers = {
            "adam": self.optimizer, "critics_adam": self._critics_optimizer,
            "alphas_adam": self._alphas_optimizer,
        }  # fmt: skip
        self.replayed = replayed_steps(config, device, seed, reward_scale, reward_clip)
        self.means = Means()
        self.generator = torch.Generator().manual_seed(seed)

    def update(self, batch: Batch, env_steps: int) -> dict[str, float]:
        """Takes a batch in, and makes the gradient steps that are due.

        Raises:
            LearnerError: the numbers broke. The weights are spoilt: load the last state.
        """
        return at_once(self.update_in_steps(batch, env_steps))

    def update_in_steps(self, batch: Batch, env_steps: int) -> Steps[dict[str, float]]:
        """The same with a pause after each gradient step. Any thread may take any step."""
        for drawn in self.replayed.due(batch):
            self._learn_critics(drawn)
            self._learn_actor(drawn.steps)
            if drawn.target_is_due:
                self.target.follow(self.config.tau)
            yield
        metrics = self.means.take() | self.replayed.metrics
        weights = self.optimizer.weights, self._critics_optimizer.weights
        check_finite("TQC", batch, metrics, torch.cat(weights))
        return metrics

    def _learn_critics(self, drawn: Drawn[Transitions]) -> None:
        steps, c = drawn.steps, self.config
        with torch.no_grad():
            policy = self._policy(steps.next_obs)
            y = tqc_target(
                policy, self.target.network, steps, self._noise(steps), self.alphas(),
                c.dropped_quantiles,
            )  # fmt: skip
        quantiles = self.critics(steps.obs, steps.reals)  # [critics, N, M]
        loss = quantile_huber(quantiles, y, drawn.weights)
        self._critics_optimizer.minimize(loss, c.critics_lr, c.grad_clip, c.grad_clip_by)
        errors = (quantiles.detach().mean((0, 2)) - y.mean(1)).abs()
        self.replayed.surprised(drawn, errors)
        self.means.add(critic_loss=loss, td_error_mean=errors.mean(), q_mean=y.mean())

    def _learn_actor(self, steps: Transitions) -> None:
        c, alpha = self.config, self.alphas()
        with frozen(self.critics):
            reals, logp = self._policy(steps.obs).reals(self._noise(steps))
            values = self.critics(steps.obs, reals).mean((0, 2))  # [N]
            assert values.shape == logp.shape
            loss = (alpha * logp - values).mean()
            self.optimizer.minimize(loss, c.lr, c.grad_clip, c.grad_clip_by)
        self.means.add(actor_loss=loss, alpha=alpha, entropy=-logp.mean())
        lr = c.lr if c.alpha_lr is None else c.alpha_lr
        if lr > 0:
            wanted = -float(self._reals) if c.target_entropy is None else c.target_entropy
            self._alphas_optimizer.minimize(self.alphas.loss(0, -logp, wanted), lr)

    def _policy(self, obs: tuple[torch.Tensor, ...]) -> Squashed:
        nothing = obs[0].new_zeros((len(obs[0]), 0), dtype=torch.uint8)
        return Squashed.of(self.network.policy(obs), nothing, 0, LOG_STD_MIN, LOG_STD_MAX)

    def _noise(self, steps: Transitions) -> torch.Tensor:
        noise = torch.randn(steps.reals.shape, generator=self.generator)
        return noise.to(self.device)

    def state(self) -> PolicyState:
        """All that `load` needs to go on from here, and exactly so with `save_replay`."""
        replay_tensors, replay = self.replayed.state()
        return PolicyState(
            tensors_of(self._networks, self._optimizers) | replay_tensors,
            {"generator": generator_text(self.generator), "replay": replay},
        )

    def load(self, state: PolicyState) -> None:
        """Goes on from what `state` returned. Raises CheckpointError where it does not fit."""
        load_tensors(state, self._networks, self._optimizers)
        self.replayed.load(state.tensors, state.data["replay"])
        load_generator(self.generator, state.data["generator"])
