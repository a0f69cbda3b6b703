"""Twin delayed deep deterministic policy gradient; without its additions, DDPG.

Critics learn, over steps drawn from a replay buffer,

    y = R_t + gamma^n min_i Q'_i(s_t+n, clip(mu'(s_t+n) + clip(noise, -c, c), -1, 1)),
    minimise E[ w (Q_i(s_t, a_t) - y)^2 ] for each i,

with n-step returns R_t and slow copies Q', mu' of critics and actor; behind a step that terminated
its episode y is R_t. Every `policy_delay` steps
the actor minimises -E[ Q_1(s, mu(s)) ], and the copies move. Actions are in -1..1; w are the
importance weights of prioritised replay.

DDPG is the same with one critic, no delay and no noise on the target's actions, and explores by an
Ornstein-Uhlenbeck process. Noise in the parameters explores, too: its deviation grows or shrinks by
1 % per update, so that the actions it causes deviate by `parameter_noise`.

Source: Lillicrap et al., https://arxiv.org/abs/1509.02971; Fujimoto et al.,
https://arxiv.org/abs/1802.09477, algorithm 1; Plappert et al., https://arxiv.org/abs/1706.01905,
section 3. What can be set is in `td3_options`. Where this page deviates:

- Adam for all, without weight decay, and initial weights as everywhere here.
- Parameter noise is renewed at each update, for all lanes at once, not at each episode.
"""

from __future__ import annotations

import torch

from policy_server.algorithms.finite import check_finite
from policy_server.algorithms.means import Means
from policy_server.algorithms.optimizer import FlatAdam
from policy_server.algorithms.replayed import Drawn, replayed_steps
from policy_server.algorithms.saved import (
    generator_text,
    load_generator,
    load_tensors,
    tensors_of,
)
from policy_server.algorithms.target_network import TargetNetwork
from policy_server.algorithms.td3_options import TD3Training
from policy_server.algorithms.trained import frozen, seeded
from policy_server.config import ModelConfig
from policy_server.networks.actor import ActorNetwork, Critics, PerturbedActor
from policy_server.replay.steps import Transitions
from policy_server.stepwise import Steps, at_once
from policy_server.types import ActionLayout, Batch, PolicySpaces, PolicyState

ADAPTION = 1.01
"""Factor by which the deviation of parameter noise changes per update."""


def td3_target(
    actor: ActorNetwork,
    critics: Critics,
    steps: Transitions,
    noise: torch.Tensor,
    config: TD3Training,
) -> torch.Tensor:
    """y, `[N]`, from the slow copies of actor and critics; noise: `[N, D]`, of deviation 1."""
    assert noise.shape == steps.reals.shape
    smoothing = (config.target_noise * noise).clamp(
        -config.target_noise_clip, config.target_noise_clip
    )
    actions = (actor.policy(steps.next_obs) + smoothing).clamp(-1.0, 1.0)
    behind = critics(steps.next_obs, actions).squeeze(2).min(0).values
    assert behind.shape == steps.rewards.shape == steps.discounts.shape
    return steps.rewards + steps.discounts * behind


def critic_loss(
    critics: Critics, steps: Transitions, y: torch.Tensor, weights: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """The critics' objective, and how wrong they are, `[N]`.

    Shapes: y and weights `[N]`.
    """
    q = critics(steps.obs, steps.reals).squeeze(2)  # [critics, N]
    assert y.shape == weights.shape == q.shape[1:]
    errors = q - y
    return (weights * errors.square()).mean(1).sum(), errors.detach().abs().mean(0)


def actor_loss(
    actor: ActorNetwork, critics: Critics, obs: tuple[torch.Tensor, ...]
) -> torch.Tensor:
    """Minus the first critic's value of what the actor would do."""
    first: torch.Tensor = critics.each[0](obs, actor.policy(obs))
    return -first.mean()


class TD3:
    """A policy that learns by TD3 or DDPG.

    Attributes:
        network: the actor, with a noisy twin where there is parameter noise.
        actor, critics: what learns.
        target_actor, target_critics: slow copies of both.
    """

    Training = TD3Training

    @staticmethod
    def make_network(
        spaces: PolicySpaces, model: ModelConfig, training: TD3Training
    ) -> ActorNetwork | PerturbedActor:
        """The actor: actions in -1..1."""
        width = ActionLayout(spaces.action).reals
        actor = ActorNetwork(spaces, model, width, squash=True)
        if training.parameter_noise == 0.0:
            return actor
        return PerturbedActor(actor, ActorNetwork(spaces, model, width, squash=True))

    def __init__(
        self,
        spaces: PolicySpaces,
        model: ModelConfig,
        config: TD3Training,
        *,
        seed: int,
        device: torch.device,
        reward_scale: float = 1.0,
        reward_clip: float | None = None,
    ):
        self.config, self.device = config, device
        self._reals = ActionLayout(spaces.action).reals
        self.network = seeded(lambda: self.make_network(spaces, model, config), seed, device)
        whole = self.network
        self.actor = whole.clean if isinstance(whole, PerturbedActor) else whole
        self.critics = seeded(
            lambda: Critics(config.critics, spaces, model, self._reals, 1), seed + 1, device
        )
        self.optimizer = FlatAdam(self.actor, config.adam_eps)
        self._critics_optimizer = FlatAdam(self.critics, config.adam_eps)
        self.target_actor = TargetNetwork(self.actor, self.optimizer)
        self.target_critics = TargetNetwork(self.critics, self._critics_optimizer)
        self._networks = {
            "network": self.network, "critics": self.critics,
            "target_actor": self.target_actor.network,
            "target_critics": self.target_critics.network,
        }  # fmt: skip
        self._optimizers = {"adam": self.optimizer, "critics_adam": self._critics_optimizer}
        self.replayed = replayed_steps(config, device, seed, reward_scale, reward_clip)
        self.means = Means()
        self.generator = torch.Generator().manual_seed(seed)
        self._gradient_steps = 0
        self._deviation = config.parameter_noise  # of the parameters; adapted
        self._perturb(None)

    def update(self, batch: Batch, env_steps: int) -> dict[str, float]:
        """Takes a batch in, and makes the gradient steps that are due.

        Raises:
            LearnerError: the numbers broke. The weights are spoilt: load the last state.
        """
        return at_once(self.update_in_steps(batch, env_steps))

    def update_in_steps(self, batch: Batch, env_steps: int) -> Steps[dict[str, float]]:
        """The same with a pause after each gradient step. Any thread may take any step."""
        last: Drawn[Transitions] | None = None
        for last in self.replayed.due(batch):
            self._learn(last)
            yield
        if last is not None:
            self._perturb(last.steps)
        metrics = self.means.take() | self.replayed.metrics
        weights = self.optimizer.weights, self._critics_optimizer.weights
        check_finite(type(self).__name__, batch, metrics, torch.cat(weights))
        return metrics

    def _learn(self, drawn: Drawn[Transitions]) -> None:
        """One gradient step."""
        c, steps = self.config, drawn.steps
        noise = torch.randn(steps.reals.shape, generator=self.generator).to(self.device)
        with torch.no_grad():
            y = td3_target(self.target_actor.network, self.target_critics.network, steps, noise, c)
        loss, errors = critic_loss(self.critics, steps, y, drawn.weights)
        self._critics_optimizer.minimize(loss, c.critics_lr, c.grad_clip, c.grad_clip_by)
        self.replayed.surprised(drawn, errors)
        self.means.add(critic_loss=loss, td_error_mean=errors.mean(), q_mean=y.mean())
        self._gradient_steps += 1
        if self._gradient_steps % c.policy_delay == 0:
            with frozen(self.critics):
                loss = actor_loss(self.actor, self.critics, steps.obs)
                self.optimizer.minimize(loss, c.lr, c.grad_clip, c.grad_clip_by)
            self.means.add(actor_loss=loss)
            self.target_actor.follow(c.tau)
            self.target_critics.follow(c.tau)

    def _perturb(self, steps: Transitions | None) -> None:
        """Other parameter noise, if there is to be any; its next size by what this one does."""
        network = self.network
        if not isinstance(network, PerturbedActor):
            return
        network.perturb(self._deviation, self.generator)
        if steps is not None:
            with torch.no_grad():
                noisy, clean = network.policy(steps.obs).chunk(2, dim=1)
            caused = (noisy - clean).square().mean().sqrt()
            smaller = bool(caused > self.config.parameter_noise)
            self._deviation *= 1 / ADAPTION if smaller else ADAPTION
            self.means.add(noise_in_actions=caused)

    def state(self) -> PolicyState:
        """All that `load` needs to go on from here, and exactly so with `save_replay`."""
        replay_tensors, replay = self.replayed.state()
        return PolicyState(
            tensors_of(self._networks, self._optimizers) | replay_tensors,
            {
                "generator": generator_text(self.generator),
                "replay": replay,
                "exploration": self._deviation,
                "gradient_steps": self._gradient_steps,
            },
        )

    def load(self, state: PolicyState) -> None:
        """Goes on from what `state` returned. Raises CheckpointError where it does not fit."""
        load_tensors(state, self._networks, self._optimizers)
        self.replayed.load(state.tensors, state.data["replay"])
        load_generator(self.generator, state.data["generator"])
        self._deviation = float(state.data["exploration"])
        self._gradient_steps = int(state.data["gradient_steps"])
