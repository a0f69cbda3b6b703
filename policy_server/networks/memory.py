"""What a network remembers from step to step of an episode: the interface.

The state of a lane is one row of float32, `[S]`, so that whoever keeps, stores or sends it needs
to know nothing of what is in it. It is all zeros where an episode begins.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import nn


class Memory(nn.Module, ABC):
    """A function of all features of an episode so far.

    Attributes:
        outputs: numbers it says per step.
        state_size: S, numbers it carries from step to step.
    """

    outputs: int
    state_size: int

    @abstractmethod
    def step(self, x: torch.Tensor, state: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """One step of n lanes: features `[n, F]` and states `[n, S]` -> outputs `[n, outputs]` and
        the states behind the step."""

    @abstractmethod
    def unroll(self, x: torch.Tensor, state: torch.Tensor) -> torch.Tensor:
        """The same for L steps at once of n sequences, none of which crosses the beginning of an
        episode: `[L, n, F]` and the states before the first step `[n, S]` -> `[L, n, outputs]`."""
