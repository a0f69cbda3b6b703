"""What can be set of QMIX; `qmix` is the page that uses it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from policy_server.acting import Acting, EpsilonGreedy
from policy_server.algorithms.options import Options, Schedule
from policy_server.algorithms.replay_options import ReplayTraining
from policy_server.algorithms.supports import Supports

MIXERS = ("qmix", "vdn")


@dataclass(frozen=True)
class QMIXTraining(ReplayTraining):
    """Options and their customary defaults. A gradient step takes `train_batch_size` sequences, and
    counts as `train_batch_size` * `sequence_length` samples.

    Attributes:
        mixer: "qmix", a monotonic network; "vdn", the sum.
        mixer_width: hidden units of the monotonic network.
        share_parameters: one network for all agents that are alike, which is told whose turn it is;
            otherwise, and where they are not alike, each has its own.
        sequence_length: steps of a sequence that are learned from.
        burn_in: steps in front of them that only bring the memory up to date, where there is one,
            <= sequence_length.
        rollout_fragment_length: steps of one unroll.
        epsilon: share of random actions of each agent over the policy's steps: [[step, value], ...],
            linear in between, constant behind the last.
        double: the online networks choose the actions whose values the target networks give.
        dueling: a stream for the observation's value and one for the actions' advantages.
    """

    lr: float = 5e-4
    train_batch_size: int = 32
    buffer_size: int = 50_000
    grad_clip: float | None = 10.0
    mixer: str = "qmix"
    mixer_width: int = 32
    share_parameters: bool = True
    sequence_length: int = 10
    burn_in: int = 0
    rollout_fragment_length: int = 40
    epsilon: Schedule = ((0, 1.0), (50_000, 0.05))
    double: bool = True
    dueling: bool = False

    title: ClassVar[str] = "values of a group's actions, mixed from each agent's"
    supports: ClassVar[Supports] = Supports(
        several=False, continuous=False, hybrid=False, precision=False, groups=True
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        options = Options(self)
        object.__setattr__(self, "epsilon", options.schedule("epsilon", 0.0, 1.0))
        options.one_of("mixer", MIXERS)
        for name in ("share_parameters", "double", "dueling"):
            options.flag(name)
        for name in ("mixer_width", "sequence_length", "rollout_fragment_length"):
            options.integer(name, 1)
        options.integer("burn_in", 0)
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
