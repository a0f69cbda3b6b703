"""What can be set of IMPALA; `impala` is the page that uses it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from policy_server.algorithms.options import CLIPPINGS, Options, Schedule
from policy_server.algorithms.supports import Supports
from policy_server.algorithms.training import Training


@dataclass(frozen=True)
class IMPALATraining(Training):
    """Options and their customary defaults.

    Attributes:
        lr: step size of Adam, > 0.
        lr_schedule: step size over environment steps, instead of `lr`; None: constant.
        gamma: discount per step, 0..1.
        rollout_fragment_length: steps of one unroll.
        train_batch_size: steps per update.
        vtrace_lambda: trace decay, 0..1 (remark 2 of the paper).
        vtrace_clip_rho: rho-bar, limit of the ratio in the value targets, > 0.
        vtrace_clip_c: c-bar, limit of the ratio in the trace, > 0.
        vtrace_clip_pg_rho: limit of the ratio in the policy gradient, > 0.
        vf_loss_coeff: weight of the squared error of the value function, >= 0.
        entropy_coeff: weight of the entropy, >= 0.
        entropy_coeff_schedule: the same over environment steps, instead of `entropy_coeff`.
        grad_clip: limit of the gradient, > 0; None: no limit.
        grad_clip_by: what is limited: "global_norm" (norm of the whole gradient), "norm" (of
            each parameter tensor) or "value" (each number).
        adam_eps: epsilon of Adam, > 0.

    Raises:
        ConfigError: a value is impossible.
    """

    lr: float = 5e-4
    lr_schedule: Schedule | None = None
    gamma: float = 0.99
    rollout_fragment_length: int = 50
    train_batch_size: int = 500
    vtrace_lambda: float = 1.0
    vtrace_clip_rho: float = 1.0
    vtrace_clip_c: float = 1.0
    vtrace_clip_pg_rho: float = 1.0
    vf_loss_coeff: float = 0.5
    entropy_coeff: float = 0.01
    entropy_coeff_schedule: Schedule | None = None
    grad_clip: float | None = 40.0
    grad_clip_by: str = "global_norm"
    adam_eps: float = 1e-5

    title: ClassVar[str] = "V-trace actor-critic"
    supports: ClassVar[Supports] = Supports(heads=True)
    mode: ClassVar[str] = "async"

    def __post_init__(self) -> None:
        options = Options(self)
        for name in ("lr", "adam_eps", "vtrace_clip_rho", "vtrace_clip_c", "vtrace_clip_pg_rho"):
            options.number(name, 0.0, above=True)
        options.number("grad_clip", 0.0, above=True, optional=True)
        for name in ("gamma", "vtrace_lambda"):
            options.number(name, 0.0, 1.0)
        for name in ("vf_loss_coeff", "entropy_coeff"):
            options.number(name, 0.0)
        for name in ("rollout_fragment_length", "train_batch_size"):
            options.integer(name, 1)
        options.one_of("grad_clip_by", CLIPPINGS)
        for name in ("lr_schedule", "entropy_coeff_schedule"):
            object.__setattr__(self, name, options.schedule(name, 0.0))

    @property
    def fragment_length(self) -> int:
        return self.rollout_fragment_length
