"""What can be set of MADDPG; `maddpg` is the page that uses it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from policy_server.acting import Acting, NoisyActions
from policy_server.algorithms.continuous_options import ActorCriticReplayTraining
from policy_server.algorithms.options import Options
from policy_server.algorithms.supports import Supports


@dataclass(frozen=True)
class MADDPGTraining(ActorCriticReplayTraining):
    """Options and their defaults. Noise is in half ranges of the action space.

    Attributes:
        share_parameters: one actor for all agents, which must be alike; it is told whose turn it is;
            and one critic with an output for each. Otherwise each agent has its own of both.
        exploration_noise: reals: deviation of the noise on the actions that are played, >= 0.
        noise_reversion: reals: how fast this noise returns to 0 per step, as an Ornstein-Uhlenbeck
            process, 0..1; 0: it is another one at each step.
        temperature: choices: of the softmax that gradients go back through, > 0.
        logit_decay: choices: weight of the mean of the squared logits in the actors' loss, >= 0.
    """

    lr: float = 1e-3
    gamma: float = 0.95
    tau: float = 0.01
    share_parameters: bool = False
    exploration_noise: float = 0.2
    noise_reversion: float = 0.0
    temperature: float = 1.0
    logit_decay: float = 1e-3

    title: ClassVar[str] = "multi-agent DDPG: critics that see all agents"
    supports: ClassVar[Supports] = Supports(
        hybrid=False, bounded=True, recurrent=False, intrinsic=False, groups=True
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        options = Options(self)
        options.flag("share_parameters")
        for name in ("exploration_noise", "logit_decay"):
            options.number(name, 0.0)
        options.number("noise_reversion", 0.0, 1.0)
        options.number("temperature", 0.0, above=True)

    @property
    def acting(self) -> Acting:
        return NoisyActions(self.exploration_noise, self.noise_reversion, self.random_steps)
