"""What can be set of TQC; `tqc` is the page that uses it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from policy_server.acting import Acting, SquashedGaussian
from policy_server.algorithms.continuous_options import ActorCriticReplayTraining
from policy_server.algorithms.options import Options
from policy_server.algorithms.sac_options import LOG_STD_MAX, LOG_STD_MIN
from policy_server.algorithms.supports import Supports


@dataclass(frozen=True)
class TQCTraining(ActorCriticReplayTraining):
    """Options and their customary defaults.

    Attributes:
        critics: how many, each with a distribution of returns.
        quantiles: atoms of each distribution.
        dropped_quantiles: the largest of each, on average, that do not count, < quantiles.
        initial_alpha: weight of the entropy at first, > 0.
        alpha_lr: step size of the weight of the entropy, >= 0; None: lr; 0: it stays as it is.
        target_entropy: in nats; None: minus the number of reals.
    """

    critics: int = 2
    quantiles: int = 25
    dropped_quantiles: int = 2
    initial_alpha: float = 1.0
    alpha_lr: float | None = None
    target_entropy: float | None = None

    title: ClassVar[str] = "SAC with truncated quantile critics"
    supports: ClassVar[Supports] = Supports(
        discrete=False, several=False, hybrid=False, bounded=True, mask=False, recurrent=False
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        options = Options(self)
        for name in ("critics", "quantiles"):
            options.integer(name, 1)
        options.integer("dropped_quantiles", 0)
        options.number("initial_alpha", 0.0, above=True)
        options.number("alpha_lr", 0.0, optional=True)
        options.number("target_entropy", optional=True)
        if self.dropped_quantiles >= self.quantiles:
            options.refuse("dropped_quantiles", "quantiles", "nothing would be left to learn from")

    @property
    def acting(self) -> Acting:
        return SquashedGaussian(self.random_steps, LOG_STD_MIN, LOG_STD_MAX)
