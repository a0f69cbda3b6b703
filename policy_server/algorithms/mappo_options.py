"""What can be set of MAPPO; `mappo` is the page that uses it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from policy_server.algorithms.options import CLIPPINGS, Options, Schedule
from policy_server.algorithms.supports import Supports
from policy_server.algorithms.training import Training


@dataclass(frozen=True)
class MAPPOTraining(Training):
    """Options and their defaults. A step is one of all agents together.

    Attributes:
        lr: step size of Adam, > 0.
        lr_schedule: step size over environment steps, instead of `lr`; None: constant.
        gamma: discount per step, 0..1.
        lambda_: of generalised advantage estimation, 0..1: 0 trusts the value function, 1 only
            the rewards.
        train_batch_size: steps per update.
        minibatch_size: steps per gradient step, at most train_batch_size.
        num_epochs: how often each step is used.
        clip_param: epsilon, how far the ratio of each agent may move from 1, > 0.
        share_parameters: one actor for all agents, which must be alike; it is told whose turn it
            is. Otherwise each agent has its own, as it has in any case of the deviations of reals
            where `model.free_log_std` says that they are no outputs of the actor.
        normalize_values: the value function learns returns divided by their running deviation, less
            their running mean.
        vf_clip_param: cut-off of the *squared* error of the value function, in squared units of what
            it learns: larger errors give no gradient at all; None: no cut-off.
        vf_loss_coeff: c_vf, >= 0.
        entropy_coeff: c_ent, >= 0.
        entropy_coeff_schedule: c_ent over environment steps, instead of `entropy_coeff`.
        grad_clip: limit of the gradient, > 0; None: no limit.
        grad_clip_by: what is limited: "global_norm" (norm of the whole gradient), "norm" (of
            each parameter tensor) or "value" (each number).
        normalize_advantages: to mean 0 and deviation 1 over the batch; of each agent by itself
            where rewards are told apart.
        adam_eps: epsilon of Adam, > 0.

    Raises:
        ConfigError: a value is impossible, or two of them contradict each other.
    """

    lr: float = 5e-4
    lr_schedule: Schedule | None = None
    gamma: float = 0.99
    lambda_: float = 0.95
    train_batch_size: int = 4000
    minibatch_size: int = 4000
    num_epochs: int = 10
    clip_param: float = 0.2
    share_parameters: bool = False
    normalize_values: bool = True
    vf_clip_param: float | None = None
    vf_loss_coeff: float = 1.0
    entropy_coeff: float = 0.01
    entropy_coeff_schedule: Schedule | None = None
    grad_clip: float | None = 10.0
    grad_clip_by: str = "global_norm"
    normalize_advantages: bool = True
    adam_eps: float = 1e-5

    title: ClassVar[str] = "PPO with a value function that sees all agents"
    supports: ClassVar[Supports] = Supports(recurrent=False, intrinsic=False, groups=True)
    one_version: ClassVar[bool] = True

    def __post_init__(self) -> None:
        options = Options(self)
        for name in ("lr", "clip_param", "adam_eps"):
            options.number(name, 0.0, above=True)
        for name in ("vf_clip_param", "grad_clip"):
            options.number(name, 0.0, above=True, optional=True)
        for name in ("gamma", "lambda_"):
            options.number(name, 0.0, 1.0)
        for name in ("vf_loss_coeff", "entropy_coeff"):
            options.number(name, 0.0)
        for name in ("train_batch_size", "minibatch_size", "num_epochs"):
            options.integer(name, 1)
        for name in ("share_parameters", "normalize_values", "normalize_advantages"):
            options.flag(name)
        options.one_of("grad_clip_by", CLIPPINGS)
        for name in ("lr_schedule", "entropy_coeff_schedule"):
            object.__setattr__(self, name, options.schedule(name, 0.0))
        if self.minibatch_size > self.train_batch_size:
            options.refuse(
                "minibatch_size", "train_batch_size", "a minibatch is a part of the batch"
            )
