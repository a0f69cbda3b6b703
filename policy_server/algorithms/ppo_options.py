"""What can be set of PPO; `ppo` is the page that uses it.

Apart from the page, because whoever reads settings, starts a server or prints help needs these
and not torch, whose import takes longer than all the rest of the command's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from policy_server.algorithms.options import CLIPPINGS, Options, Schedule
from policy_server.algorithms.supports import Supports
from policy_server.algorithms.training import Training


@dataclass(frozen=True)
class PPOTraining(Training):
    """Options and their customary defaults; both carry the meaning they have in RLlib.

    Attributes:
        lr: step size of Adam, > 0.
        lr_schedule: step size over environment steps, instead of `lr`; None: constant.
        gamma: discount per step, 0..1.
        lambda_: of generalised advantage estimation, 0..1: 0 trusts the value function, 1 only
            the rewards.
        train_batch_size: steps per update.
        minibatch_size: steps per gradient step, at most train_batch_size.
        num_epochs: how often each step is used.
        clip_param: epsilon, how far r_t may move from 1, > 0.
        vf_clip_param: cut-off of the *squared* error of the value function, in squared units of
            the (scaled) return: larger errors give no gradient at all, so it should exceed
            the square of typical returns; None: no cut-off. Watch `vf_clip_fraction`.
        vf_loss_coeff: c_vf, >= 0.
        entropy_coeff: c_ent, >= 0.
        entropy_coeff_schedule: c_ent over environment steps, instead of `entropy_coeff`.
        use_kl_loss: penalise KL, with a coefficient that adapts.
        kl_coeff: c_kl at first, > 0 if use_kl_loss.
        kl_target: mean KL per update that c_kl steers to, > 0, in nats.
        grad_clip: limit of the gradient, > 0; None: no limit.
        grad_clip_by: what is limited: "global_norm" (norm of the whole gradient), "norm" (of
            each parameter tensor) or "value" (each number).
        normalize_advantages: to mean 0 and deviation 1 over the batch.
        adam_eps: epsilon of Adam, > 0.

    Raises:
        ConfigError: a value is impossible, or two of them contradict each other.
    """

    lr: float = 5e-5
    lr_schedule: Schedule | None = None
    gamma: float = 0.99
    lambda_: float = 1.0
    train_batch_size: int = 4000
    minibatch_size: int = 128
    num_epochs: int = 30
    clip_param: float = 0.3
    vf_clip_param: float | None = 10.0
    vf_loss_coeff: float = 1.0
    entropy_coeff: float = 0.0
    entropy_coeff_schedule: Schedule | None = None
    use_kl_loss: bool = True
    kl_coeff: float = 0.2
    kl_target: float = 0.01
    grad_clip: float | None = None
    grad_clip_by: str = "global_norm"
    normalize_advantages: bool = True
    adam_eps: float = 1e-5

    title: ClassVar[str] = "proximal policy optimisation"
    supports: ClassVar[Supports] = Supports(heads=True)

    def __post_init__(self) -> None:
        options = Options(self)
        for name in ("lr", "clip_param", "kl_target", "adam_eps"):
            options.number(name, 0.0, above=True)
        for name in ("vf_clip_param", "grad_clip"):
            options.number(name, 0.0, above=True, optional=True)
        for name in ("gamma", "lambda_"):
            options.number(name, 0.0, 1.0)
        for name in ("vf_loss_coeff", "entropy_coeff", "kl_coeff"):
            options.number(name, 0.0)
        for name in ("train_batch_size", "minibatch_size", "num_epochs"):
            options.integer(name, 1)
        for name in ("use_kl_loss", "normalize_advantages"):
            options.flag(name)
        options.one_of("grad_clip_by", CLIPPINGS)
        for name in ("lr_schedule", "entropy_coeff_schedule"):
            object.__setattr__(self, name, options.schedule(name, 0.0))
        if self.minibatch_size > self.train_batch_size:
            options.refuse(
                "minibatch_size", "train_batch_size", "a minibatch is a part of the batch"
            )
        if self.use_kl_loss and self.kl_coeff == 0:
            options.refuse(
                "use_kl_loss", "kl_coeff", "0 cannot adapt; set use_kl_loss=False for no penalty"
            )
