"""What can be set of A2C and A3C; `a2c` is the page that uses it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from policy_server.algorithms.options import CLIPPINGS, Options, Schedule
from policy_server.algorithms.supports import Supports
from policy_server.algorithms.training import Training


@dataclass(frozen=True)
class A2CTraining(Training):
    """Options and their customary defaults.

    Attributes:
        lr: step size of Adam, > 0.
        lr_schedule: step size over environment steps, instead of `lr`; None: constant.
        gamma: discount per step, 0..1.
        lambda_: of generalised advantage estimation, 0..1; 1: n-step returns, as in the paper.
        rollout_fragment_length: steps of one lane in an update (n of the n-step returns).
        train_batch_size: steps per update.
        vf_loss_coeff: weight of the squared error of the value function, >= 0.
        entropy_coeff: weight of the entropy, >= 0.
        entropy_coeff_schedule: the same over environment steps, instead of `entropy_coeff`.
        normalize_advantages: to mean 0 and deviation 1 over the batch.
        grad_clip: limit of the gradient, > 0; None: no limit.
        grad_clip_by: what is limited: "global_norm" (norm of the whole gradient), "norm" (of
            each parameter tensor) or "value" (each number).
        adam_eps: epsilon of Adam, > 0.

    Raises:
        ConfigError: a value is impossible.
    """

    lr: float = 1e-4
    lr_schedule: Schedule | None = None
    gamma: float = 0.99
    lambda_: float = 1.0
    rollout_fragment_length: int = 10
    train_batch_size: int = 200
    vf_loss_coeff: float = 0.5
    entropy_coeff: float = 0.01
    entropy_coeff_schedule: Schedule | None = None
    normalize_advantages: bool = False
    grad_clip: float | None = 40.0
    grad_clip_by: str = "global_norm"
    adam_eps: float = 1e-5

    title: ClassVar[str] = "advantage actor-critic"
    supports: ClassVar[Supports] = Supports(heads=True)

    def __post_init__(self) -> None:
        options = Options(self)
        for name in ("lr", "adam_eps"):
            options.number(name, 0.0, above=True)
        options.number("grad_clip", 0.0, above=True, optional=True)
        for name in ("gamma", "lambda_"):
            options.number(name, 0.0, 1.0)
        for name in ("vf_loss_coeff", "entropy_coeff"):
            options.number(name, 0.0)
        for name in ("rollout_fragment_length", "train_batch_size"):
            options.integer(name, 1)
        options.flag("normalize_advantages")
        options.one_of("grad_clip_by", CLIPPINGS)
        for name in ("lr_schedule", "entropy_coeff_schedule"):
            object.__setattr__(self, name, options.schedule(name, 0.0))

    @property
    def fragment_length(self) -> int:
        return self.rollout_fragment_length


@dataclass(frozen=True)
class A3CTraining(A2CTraining):
    """The same, asynchronously: simulators never wait, and nothing corrects for steps that are a
    few policy versions old (`collection.max_policy_lag`)."""

    title: ClassVar[str] = "A2C whose simulators never wait"
    mode: ClassVar[str] = "async"
