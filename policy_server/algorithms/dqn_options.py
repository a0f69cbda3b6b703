"""What can be set of DQN and Rainbow; `dqn` is the page that uses it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from policy_server.acting import Acting, EpsilonGreedy
from policy_server.algorithms.options import Options, Schedule
from policy_server.algorithms.replay_options import ReplayTraining
from policy_server.algorithms.supports import Supports


@dataclass(frozen=True)
class DQNTraining(ReplayTraining):
    """Options and their customary defaults. Those of Rainbow are flags here.

    Attributes:
        epsilon: share of random actions over the policy's steps: [[step, value], ...], linear in
            between, constant behind the last.
        double: the online network chooses the action whose value the target network gives.
        dueling: a stream for the observation's value and one for the actions' advantages.
        num_atoms: atoms of the returns' distribution; 1: mean values.
        v_min, v_max: ends of its support, in units of the (scaled) return.
        noisy: deviation of the noise in the head's weights at first; 0: no noise. It explores by
            itself: set epsilon to [[0, 0]] then.
    """

    epsilon: Schedule = ((0, 1.0), (10_000, 0.02))
    double: bool = True
    dueling: bool = True
    prioritized: bool = True
    num_atoms: int = 1
    v_min: float = -10.0
    v_max: float = 10.0
    noisy: float = 0.0

    title: ClassVar[str] = "deep Q-learning; Rainbow's parts are flags"
    supports: ClassVar[Supports] = Supports(
        several=False, continuous=False, hybrid=False, recurrent=False
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        options = Options(self)
        object.__setattr__(self, "epsilon", options.schedule("epsilon", 0.0, 1.0))
        for name in ("double", "dueling"):
            options.flag(name)
        options.number("noisy", 0.0)
        options.integer("num_atoms", 1)
        for name in ("v_min", "v_max"):
            options.number(name)
        if self.num_atoms > 1 and self.v_min >= self.v_max:
            options.refuse("v_min", "v_max", "the support rises from v_min to v_max")

    @property
    def acting(self) -> Acting:
        return EpsilonGreedy(self.epsilon, noisy=self.noisy > 0)


@dataclass(frozen=True)
class RainbowTraining(DQNTraining):
    """DQN with all of Rainbow's parts (https://arxiv.org/abs/1710.02298)."""

    epsilon: Schedule = ((0, 0.0),)
    n_step: int = 3
    num_atoms: int = 51
    noisy: float = 0.5

    title: ClassVar[str] = "DQN with n-step, distributional and noisy parts"
