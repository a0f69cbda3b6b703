"""What can be set of Ape-X DQN; `apex_dqn` is the page that uses it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from policy_server.acting import Acting, LaneEpsilons
from policy_server.algorithms.options import Options
from policy_server.algorithms.replay_options import ReplayTraining
from policy_server.algorithms.supports import Supports
from policy_server.errors import ConfigError


@dataclass(frozen=True)
class ApexDQNTraining(ReplayTraining):
    """Options and their customary defaults.

    Attributes:
        epsilon_base: share of random actions of the lane that explores most, above 0, up to 1.
        epsilon_exponent: how much less the others explore: a lane's share is
            epsilon_base ** (1 + epsilon_exponent * x), with lanes' x spread over [0, 1).
        replay_shards: processes that the replay buffer is spread over, on all machines of the
            cluster; 0: it is kept by the learner itself.
        double: the online network chooses the action whose value the target network gives.
        dueling: a stream for the observation's value and one for the actions' advantages.
    """

    train_batch_size: int = 512
    samples_per_insert: float = 8.0
    learning_starts: int = 5000
    buffer_size: int = 200_000
    prioritized: bool = True
    n_step: int = 3
    target_update_steps: int = 2500
    epsilon_base: float = 0.4
    epsilon_exponent: float = 7.0
    replay_shards: int = 0
    double: bool = True
    dueling: bool = True

    title: ClassVar[str] = "DQN for many simulators: lanes explore by degrees"
    mode: ClassVar[str] = "async"
    supports: ClassVar[Supports] = Supports(
        several=False, continuous=False, hybrid=False, recurrent=False
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        options = Options(self)
        options.number("epsilon_base", 0.0, 1.0, above=True)
        options.number("epsilon_exponent", 0.0)
        options.integer("replay_shards", 0)
        if self.replay_shards and self.replay_on_gpu:
            options.refuse("replay_shards", "replay_on_gpu", "its processes have no GPU")
        if self.buffer_size < 2 * self.replay_shards * self.steps_per_update:
            options.refuse(
                "buffer_size", "replay_shards", "each of them must hold two batches at least"
            )
        for name in ("double", "dueling"):
            options.flag(name)
        if not self.prioritized:
            raise ConfigError(
                "training.prioritized=False with Ape-X DQN: priorities are what it is about; choose "
                "DQN, or leave it out."
            )

    @property
    def acting(self) -> Acting:
        return LaneEpsilons(self.epsilon_base, self.epsilon_exponent)
