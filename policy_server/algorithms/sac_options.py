"""What can be set of SAC; `sac` is the page that uses it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from policy_server.acting import Acting, SquashedGaussian
from policy_server.algorithms.continuous_options import ActorCriticReplayTraining
from policy_server.algorithms.options import Options
from policy_server.algorithms.supports import Supports

LOG_STD_MIN, LOG_STD_MAX = -20.0, 2.0


@dataclass(frozen=True)
class SACTraining(ActorCriticReplayTraining):
    """Options and their customary defaults.

    Attributes:
        initial_alpha: weight of the entropy at first, > 0.
        alpha_lr: step size of the weight of the entropy, >= 0; None: lr; 0: it stays as it is.
        target_entropy: of the reals, in nats; None: minus their number.
        target_choice_entropy: of the choice, as a share of the largest that its mask allows, 0..1.
    """

    initial_alpha: float = 1.0
    alpha_lr: float | None = None
    target_entropy: float | None = None
    target_choice_entropy: float = 0.98

    title: ClassVar[str] = "soft actor-critic: twin critics, entropy by itself"
    supports: ClassVar[Supports] = Supports(several=False, bounded=True, recurrent=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        options = Options(self)
        options.number("initial_alpha", 0.0, above=True)
        options.number("alpha_lr", 0.0, optional=True)
        options.number("target_entropy", optional=True)
        options.number("target_choice_entropy", 0.0, 1.0)

    @property
    def acting(self) -> Acting:
        return SquashedGaussian(self.random_steps, LOG_STD_MIN, LOG_STD_MAX)
