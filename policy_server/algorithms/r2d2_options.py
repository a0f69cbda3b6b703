"""What can be set of R2D2; `r2d2` is the page that uses it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from policy_server.acting import Acting, EpsilonGreedy
from policy_server.algorithms.options import Options, Schedule
from policy_server.algorithms.replay_options import ReplayTraining
from policy_server.algorithms.supports import Supports


@dataclass(frozen=True)
class R2D2Training(ReplayTraining):
    """Options and their customary defaults. A gradient step takes `train_batch_size` sequences, and
    counts as `train_batch_size` * `sequence_length` samples.

    Attributes:
        sequence_length: steps of a sequence that are learned from.
        burn_in: steps in front of them that only bring the memory up to date, <= sequence_length.
        rollout_fragment_length: steps of one unroll; the longer, the more sequences have a burn-in.
        epsilon: share of random actions over the policy's steps: [[step, value], ...], linear in
            between, constant behind the last.
        double: the online network chooses the action whose value the target network gives.
        dueling: a stream for the observation's value and one for the actions' advantages.
        rescale: learn h(return), which grows like its square root.
        priority_eta: a sequence's priority is eta times its largest error, and 1 - eta times the
            mean of them, 0..1.
    """

    lr: float = 1e-4
    gamma: float = 0.997
    adam_eps: float = 1e-3
    train_batch_size: int = 64
    buffer_size: int = 100_000
    prioritized: bool = True
    prioritized_alpha: float = 0.9
    prioritized_beta: float = 0.6
    n_step: int = 5
    target_update_steps: int = 2500
    samples_per_insert: float = 2.0
    sequence_length: int = 20
    burn_in: int = 20
    rollout_fragment_length: int = 80
    epsilon: Schedule = ((0, 1.0), (10_000, 0.02))
    double: bool = True
    dueling: bool = True
    rescale: bool = True
    priority_eta: float = 0.9

    title: ClassVar[str] = "recurrent replay: DQN with a memory"
    supports: ClassVar[Supports] = Supports(
        several=False, continuous=False, hybrid=False, precision=False
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        options = Options(self)
        object.__setattr__(self, "epsilon", options.schedule("epsilon", 0.0, 1.0))
        for name in ("double", "dueling", "rescale"):
            options.flag(name)
        for name in ("sequence_length", "rollout_fragment_length"):
            options.integer(name, 1)
        options.integer("burn_in", 0)
        options.number("priority_eta", 0.0, 1.0)
        if self.burn_in > self.sequence_length:
            options.refuse("burn_in", "sequence_length", "the burn-in is not the longer one")
        if self.buffer_size < 2 * self.sequence_length:
            options.refuse("buffer_size", "sequence_length", "the buffer must hold two sequences")

    @property
    def fragment_length(self) -> int:
        return self.rollout_fragment_length

    @property
    def acting(self) -> Acting:
        return EpsilonGreedy(self.epsilon)
