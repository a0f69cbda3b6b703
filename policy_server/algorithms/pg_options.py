"""What can be set of PG; `pg` is the page that uses it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from policy_server.algorithms.options import CLIPPINGS, Options, Schedule
from policy_server.algorithms.supports import Supports
from policy_server.algorithms.training import Training


@dataclass(frozen=True)
class PGTraining(Training):
    """Options and their customary defaults.

    Attributes:
        lr: step size of Adam, > 0.
        lr_schedule: step size over environment steps, instead of `lr`; None: constant.
        gamma: discount per step, 0..1.
        train_batch_size: steps per update. Of these and earlier ones it learns from those whose
            episode is over.
        entropy_coeff: weight of the entropy, >= 0.
        normalize_returns: to mean 0 and deviation 1 over the batch: the mean is a baseline.
        grad_clip: limit of the gradient, > 0; None: no limit.
        grad_clip_by: what is limited: "global_norm" (norm of the whole gradient), "norm" (of
            each parameter tensor) or "value" (each number).
        adam_eps: epsilon of Adam, > 0.

    Raises:
        ConfigError: a value is impossible.
    """

    lr: float = 4e-4
    lr_schedule: Schedule | None = None
    gamma: float = 0.99
    train_batch_size: int = 200
    entropy_coeff: float = 0.0
    normalize_returns: bool = False
    grad_clip: float | None = None
    grad_clip_by: str = "global_norm"
    adam_eps: float = 1e-5

    title: ClassVar[str] = "REINFORCE, the plain policy gradient"
    supports: ClassVar[Supports] = Supports(heads=True)

    def __post_init__(self) -> None:
        options = Options(self)
        for name in ("lr", "adam_eps"):
            options.number(name, 0.0, above=True)
        options.number("grad_clip", 0.0, above=True, optional=True)
        options.number("gamma", 0.0, 1.0)
        options.number("entropy_coeff", 0.0)
        options.integer("train_batch_size", 1)
        options.flag("normalize_returns")
        options.one_of("grad_clip_by", CLIPPINGS)
        object.__setattr__(self, "lr_schedule", options.schedule("lr_schedule", 0.0))
