"""Options of everything that learns from mirrored pairs of perturbed episodes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from policy_server.acting import Acting, Perturbed
from policy_server.algorithms.options import Options
from policy_server.algorithms.supports import Supports
from policy_server.algorithms.training import Training


@dataclass(frozen=True)
class MirroredTraining(Training):
    """Base of their options.

    Attributes:
        lr: step size, > 0.
        noise_stdev: deviation of the noise in the parameters, > 0.
        directions: pairs of episodes for one step.
        train_batch_size: steps of the simulators between two looks for finished pairs.
    """

    lr: float = 0.01
    noise_stdev: float = 0.02
    directions: int = 32
    train_batch_size: int = 1000

    supports: ClassVar[Supports] = Supports(recurrent=False, precision=False, intrinsic=False)
    off_policy: ClassVar[bool] = True

    def __post_init__(self) -> None:
        options = Options(self)
        options.number("lr", 0.0, above=True)
        options.number("noise_stdev", 0.0, above=True)
        options.integer("directions", 1)
        options.integer("train_batch_size", 1)

    @property
    def acting(self) -> Acting:
        return Perturbed(self.noise_stdev)
