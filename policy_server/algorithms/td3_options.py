"""What can be set of DDPG and TD3; `td3` is the page that uses it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from policy_server.acting import Acting, NoisyActions
from policy_server.algorithms.continuous_options import ActorCriticReplayTraining
from policy_server.algorithms.options import Options
from policy_server.algorithms.supports import Supports
from policy_server.errors import ConfigError


@dataclass(frozen=True)
class TD3Training(ActorCriticReplayTraining):
    """Options and their customary defaults. Noise is in half ranges of the action space.

    Attributes:
        critics: how many; the least of their values counts.
        policy_delay: gradient steps of the critics for one of the actor.
        target_noise: deviation of the noise on the target's actions, >= 0.
        target_noise_clip: limit of that noise, > 0.
        exploration_noise: deviation of the noise on the actions that are played, >= 0.
        noise_reversion: how fast this noise returns to 0 per step, as an Ornstein-Uhlenbeck
            process, 0..1; 0: it is another one at each step.
        parameter_noise: deviation that noise in the actor's parameters is to cause in its actions,
            on top of the other noise, >= 0; 0: none.
    """

    lr: float = 1e-3
    critics: int = 2
    policy_delay: int = 2
    target_noise: float = 0.2
    target_noise_clip: float = 0.5
    exploration_noise: float = 0.1
    noise_reversion: float = 0.0
    parameter_noise: float = 0.0

    title: ClassVar[str] = "twin delayed deep deterministic policy gradient"
    supports: ClassVar[Supports] = Supports(
        discrete=False, several=False, hybrid=False, bounded=True, mask=False, recurrent=False
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.target_update_steps != 1:
            raise ConfigError(
                f"training.target_update_steps={self.target_update_steps}: expected 1 (the default), "
                "since targets move with the actor: set training.policy_delay instead."
            )
        options = Options(self)
        for name in ("critics", "policy_delay"):
            options.integer(name, 1)
        for name in ("target_noise", "exploration_noise", "parameter_noise"):
            options.number(name, 0.0)
        options.number("target_noise_clip", 0.0, above=True)
        options.number("noise_reversion", 0.0, 1.0)

    @property
    def acting(self) -> Acting:
        return NoisyActions(
            self.exploration_noise,
            self.noise_reversion,
            self.random_steps,
            perturbed=self.parameter_noise > 0.0,
        )


@dataclass(frozen=True)
class DDPGTraining(TD3Training):
    """Options of DDPG (https://arxiv.org/abs/1509.02971): TD3 without its three additions."""

    critics: int = 1
    policy_delay: int = 1
    target_noise: float = 0.0
    exploration_noise: float = 0.2
    noise_reversion: float = 0.15

    title: ClassVar[str] = "deep deterministic policy gradient"
