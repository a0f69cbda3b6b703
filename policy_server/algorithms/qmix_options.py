"""What can be set of QMIX; `qmix` is the page that uses it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from policy_server.algorithms.options import Options
from policy_server.algorithms.sequence_options import SequenceTraining
from policy_server.algorithms.supports import Supports

MIXERS = ("qmix", "vdn")


@dataclass(frozen=True)
class QMIXTraining(SequenceTraining):
    """Options and their customary defaults.

    Attributes:
        mixer: "qmix", a monotonic network; "vdn", the sum.
        mixer_width: hidden units of the monotonic network.
        share_parameters: one network for all agents that are alike, which is told whose turn it is;
            otherwise, and where they are not alike, each has its own.
    """

    lr: float = 5e-4
    train_batch_size: int = 32
    buffer_size: int = 50_000
    grad_clip: float | None = 10.0
    mixer: str = "qmix"
    mixer_width: int = 32
    share_parameters: bool = True

    title: ClassVar[str] = "values of a group's actions, mixed from each agent's"
    supports: ClassVar[Supports] = Supports(
        several=False, continuous=False, hybrid=False, precision=False, groups=True
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        options = Options(self)
        options.one_of("mixer", MIXERS)
        options.flag("share_parameters")
        options.integer("mixer_width", 1)
