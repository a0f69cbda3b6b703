"""What can be set of R2D2; `r2d2` is the page that uses it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from policy_server.algorithms.options import Options, Schedule
from policy_server.algorithms.sequence_options import SequenceTraining
from policy_server.algorithms.supports import Supports


@dataclass(frozen=True)
class R2D2Training(SequenceTraining):
    """Options and their customary defaults.

    Attributes:
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
        options.flag("rescale")
        options.number("priority_eta", 0.0, 1.0)
