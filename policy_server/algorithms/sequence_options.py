"""Options of what learns the values of choices from replayed sequences."""

from __future__ import annotations

from dataclasses import dataclass

from policy_server.acting import Acting, EpsilonGreedy
from policy_server.algorithms.options import Options, Schedule
from policy_server.algorithms.replay_options import ReplayTraining


@dataclass(frozen=True)
class SequenceTraining(ReplayTraining):
    """Base of their options.

    Attributes:
        train_batch_size: sequences of one gradient step, which counts as so many times
            `sequence_length` samples.
        sequence_length: steps of a sequence that are learned from.
        burn_in: steps in front of them that only bring the memory up to date, where there is one,
            <= sequence_length.
        steps_per_update: steps that one update takes from the simulators, or an unroll of each lane
            if that is more; its gradient steps are those of samples_per_insert.
        rollout_fragment_length: steps of one unroll; the longer, the more sequences have a burn-in.
        epsilon: share of random actions (in a group, of each agent's) over the policy's steps:
            [[step, value], ...], linear in between, constant behind the last.
        double: the online network chooses the action whose value the target network gives.
        dueling: a stream for the observation's value and one for the actions' advantages.

    Raises:
        ConfigError: a value is impossible, or two of them contradict each other.
    """

    sequence_length: int = 10
    burn_in: int = 0
    rollout_fragment_length: int = 40
    epsilon: Schedule = ((0, 1.0), (50_000, 0.05))
    double: bool = True
    dueling: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        options = Options(self)
        object.__setattr__(self, "epsilon", options.schedule("epsilon", 0.0, 1.0))
        for name in ("double", "dueling"):
            options.flag(name)
        for name in ("sequence_length", "rollout_fragment_length"):
            options.integer(name, 1)
        options.integer("burn_in", 0)
        if self.burn_in > self.sequence_length:
            options.refuse("burn_in", "sequence_length", "the burn-in is not the longer one")
        if self.buffer_size < 2 * self.sequence_length:
            options.refuse("buffer_size", "sequence_length", "the buffer must hold two sequences")

    @property
    def batch_steps(self) -> int:
        return max(self.steps_per_update, self.rollout_fragment_length)

    @property
    def fragment_length(self) -> int:
        return self.rollout_fragment_length

    @property
    def acting(self) -> Acting:
        return EpsilonGreedy(self.epsilon)
