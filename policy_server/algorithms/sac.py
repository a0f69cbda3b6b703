"""Soft actor-critic: for reals, for a choice, or for both at once.

Critics learn, over steps drawn from a replay buffer,

    y = R_t + gamma^n V(s_t+n),    minimise E[ w (Q_i(s_t, a_t) - y)^2 / 2 ] for each i,

with n-step returns R_t, importance weights w of prioritised replay, and the soft value of the
present policy under slow copies of the critics,

    V(s) = E_u[ sum_k pi(k|s) (min_i Q'_i(s, u)[k] - alpha_k log pi(k|s)) - alpha_u log pi(u|s) ],

which is 0 behind a step that terminated its episode. The copies move by tau of the way
(`target_network`), with each gradient step unless the options say otherwise.

An action is a choice k and reals u, drawn independently of one another given s; critics read u and
give one number per option, so that the sum over k is exact. Without a choice the sum has one term;
without reals there is no expectation. The actor minimises minus the same expression under the
critics themselves, by way of u = tanh(mean + std * noise), whose density is in `ops.squashed`. The
alphas follow

    minimise  alpha (H - H_target),    H the policy's entropy, of choices and of reals apart,

where H_target is minus the number of reals, in units of actions between -1 and 1, and 0.98 times
what the allowed choices have at most, unless the options say otherwise.

Source: Haarnoja et al., https://arxiv.org/abs/1801.01290 and https://arxiv.org/abs/1812.05905,
equations 5 to 7 and section 5; choices: Christodoulou, https://arxiv.org/abs/1910.07207; both:
Delalleau et al., https://arxiv.org/abs/1912.11077. What can be set is in `sac_options`. Where this
page deviates:

- log alpha is what is stepped, as in the authors' code.
- Importance weights count for the critics alone.
- Of the actions that an n-step return leads through, only the one behind it, inside V, has its
  entropy counted; those between do not.
- With masks the last step of a truncated episode is not learned from: simulators do not tell which
  actions were allowed behind it.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

from policy_server.algorithms.alphas import Alphas
from policy_server.algorithms.finite import check_finite
from policy_server.algorithms.means import Means
from policy_server.algorithms.ops.squashed import Squashed
from policy_server.algorithms.optimizer import FlatAdam
from policy_server.algorithms.replayed import Drawn, replayed_steps
from policy_server.algorithms.sac_options import LOG_STD_MAX, LOG_STD_MIN, SACTraining
from policy_server.algorithms.saved import (
    generator_text,
    load_generator,
    load_tensors,
    tensors_of,
)
from policy_server.algorithms.target_network import TargetNetwork
from policy_server.algorithms.trained import frozen, seeded
from policy_server.config import ModelConfig
from policy_server.networks.actor import ActorNetwork, Critics
from policy_server.replay.steps import Transitions
from policy_server.stepwise import Steps, at_once
from policy_server.types import ActionLayout, Batch, PolicySpaces, PolicyState

CRITICS = 2


class Opinion(NamedTuple):
    """What a policy would do, and what critics think of it: `[N]` each.

    Attributes:
        value: the soft value V.
        choice_entropy: of the choice.
        real_entropy: minus the log-density of the reals drawn.
    """

    value: torch.Tensor
    choice_entropy: torch.Tensor
    real_entropy: torch.Tensor


def soft_value(
    policy: Squashed,
    critics: Critics,
    obs: tuple[torch.Tensor, ...],
    noise: torch.Tensor,
    alphas: torch.Tensor,
) -> Opinion:
    """V of a policy, with one draw of the reals by `noise` `[N, D]`."""
    reals, logp = policy.reals(noise)
    q = critics(obs, reals).min(0).values  # [N, W] or [N, 1]
    entropy = policy.choice_entropy
    expected = (policy.choices * q).sum(1) if policy.log_choices.shape[1] else q.squeeze(1)
    assert expected.shape == entropy.shape == logp.shape == (len(noise),)
    return Opinion(expected + alphas[0] * entropy - alphas[1] * logp, entropy, -logp)


def critic_loss(
    critics: Critics, steps: Transitions, y: torch.Tensor, weights: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """The critics' objective, and how wrong they are, `[N]`.

    Shapes: y and weights `[N]`.
    """
    q = critics(steps.obs, steps.reals)  # [critics, N, W or 1]
    assert y.shape == weights.shape == q.shape[1:2]
    if steps.categories.shape[1]:
        q = q.gather(2, steps.categories.expand(len(q), -1, -1))
    errors = q.squeeze(2) - y
    return 0.5 * (weights * errors.square()).mean(1).sum(), errors.detach().abs().mean(0)


def alphas_loss(
    alphas: Alphas, opinion: Opinion, mask: torch.Tensor, config: SACTraining, layout: ActionLayout
) -> torch.Tensor:
    """Of both weights; mask `[N, W]`, or `[N, 0]`: all is allowed."""
    loss = alphas.log.new_zeros(())
    if layout.categories:
        allowed = mask.sum(1).float() if mask.shape[1] else torch.tensor(float(layout.mask_width))
        wanted = config.target_choice_entropy * allowed.log()
        loss = loss + alphas.loss(0, opinion.choice_entropy, wanted)
    if layout.reals:
        wanted_reals = config.target_entropy
        wanted_reals = -float(layout.reals) if wanted_reals is None else wanted_reals
        loss = loss + alphas.loss(1, opinion.real_entropy, wanted_reals)
    return loss


class SAC:
    """A policy that learns by SAC.

    Attributes:
        network: the actor.
        critics: its critics.
        target: their slow copies.
    """

    Training = SACTraining

    @staticmethod
    def make_network(
        spaces: PolicySpaces, model: ModelConfig, training: SACTraining
    ) -> ActorNetwork:
        """The actor: logits, means and log deviations."""
        layout = ActionLayout(spaces.action)
        return ActorNetwork(spaces, model, layout.mask_width + 2 * layout.reals, fan_in=True)

    def __init__(
        self,
        spaces: PolicySpaces,
        model: ModelConfig,
        config: SACTraining,
        *,
        seed: int,
        device: torch.device,
        reward_scale: float = 1.0,
        reward_clip: float | None = None,
    ):
        self.config, self.device = config, device
        self._layout = layout = ActionLayout(spaces.action)
        outputs = max(1, layout.mask_width)
        self.network = seeded(lambda: self.make_network(spaces, model, config), seed, device)
        self.critics = seeded(
            lambda: Critics(CRITICS, spaces, model, layout.reals, outputs, fan_in=True),
            seed + 1,
            device,
        )
        self.alphas = Alphas(2, config.initial_alpha).to(device)
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
        check_finite("SAC", batch, metrics, torch.cat(weights))
        return metrics

    def _learn_critics(self, drawn: Drawn[Transitions]) -> None:
        steps, c = drawn.steps, self.config
        with torch.no_grad():
            policy = self._policy(steps.next_obs, steps.next_mask)
            behind = soft_value(
                policy, self.target.network, steps.next_obs, self._noise(steps), self.alphas()
            )
            y = steps.rewards + steps.discounts * behind.value
        loss, errors = critic_loss(self.critics, steps, y, drawn.weights)
        self._critics_optimizer.minimize(loss, c.critics_lr, c.grad_clip, c.grad_clip_by)
        self.replayed.surprised(drawn, errors)
        self.means.add(critic_loss=loss.detach(), td_error_mean=errors.mean(), q_mean=y.mean())

    def _learn_actor(self, steps: Transitions) -> None:
        c, alphas = self.config, self.alphas()
        with frozen(self.critics):
            policy = self._policy(steps.obs, steps.mask)
            now = soft_value(policy, self.critics, steps.obs, self._noise(steps), alphas)
            loss = -now.value.mean()
            self.optimizer.minimize(loss, c.lr, c.grad_clip, c.grad_clip_by)
        self.means.add(
            actor_loss=loss.detach(), alpha=alphas[1 if self._layout.reals else 0],
            entropy=(now.choice_entropy + now.real_entropy).detach().mean(),
        )  # fmt: skip
        lr = c.lr if c.alpha_lr is None else c.alpha_lr
        if lr > 0:
            loss = alphas_loss(self.alphas, now, steps.mask, c, self._layout)
            self._alphas_optimizer.minimize(loss, lr)

    def _policy(self, obs: tuple[torch.Tensor, ...], mask: torch.Tensor) -> Squashed:
        width = self._layout.mask_width
        return Squashed.of(self.network.policy(obs), mask, width, LOG_STD_MIN, LOG_STD_MAX)

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
