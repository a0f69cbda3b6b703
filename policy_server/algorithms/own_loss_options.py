"""What can be set of an algorithm that is only a loss; `own_loss` is the page that uses it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

from policy_server.algorithms.options import CLIPPINGS, Options
from policy_server.algorithms.supports import Supports
from policy_server.algorithms.training import Training


@dataclass(frozen=True)
class OwnLossTraining(Training):
    """Options and their defaults. A loss of yours may bring a class derived from this one.

    Attributes:
        lr: step size of Adam, > 0.
        gamma: discount per step, 0..1.
        lambda_: of generalised advantage estimation, 0..1; 1: returns.
        train_batch_size: steps per update.
        minibatch_size: steps of one gradient step; None: the whole batch.
        num_epochs: passes over the batch.
        normalize_advantages: to mean 0 and deviation 1 over the batch.
        grad_clip: limit of the gradient, > 0; None: no limit.
        grad_clip_by: what is limited: "global_norm" (norm of the whole gradient), "norm" (of
            each parameter tensor) or "value" (each number).
        adam_eps: epsilon of Adam, > 0.
        loss_kwargs: for the loss, which finds them as `policy.kwargs`.

    Raises:
        ConfigError: a value is impossible.
    """

    lr: float = 1e-3
    gamma: float = 0.99
    lambda_: float = 1.0
    train_batch_size: int = 512
    minibatch_size: int | None = None
    num_epochs: int = 1
    normalize_advantages: bool = False
    grad_clip: float | None = 40.0
    grad_clip_by: str = "global_norm"
    adam_eps: float = 1e-5
    loss_kwargs: dict[str, Any] = field(default_factory=dict)

    title: ClassVar[str] = "a loss of your own"
    supports: ClassVar[Supports] = Supports(heads=True)

    def __post_init__(self) -> None:
        options = Options(self)
        for name in ("lr", "adam_eps"):
            options.number(name, 0.0, above=True)
        options.number("grad_clip", 0.0, above=True, optional=True)
        for name in ("gamma", "lambda_"):
            options.number(name, 0.0, 1.0)
        for name in ("train_batch_size", "num_epochs"):
            options.integer(name, 1)
        if self.minibatch_size is not None:
            options.integer("minibatch_size", 1)
        options.flag("normalize_advantages")
        options.one_of("grad_clip_by", CLIPPINGS)
