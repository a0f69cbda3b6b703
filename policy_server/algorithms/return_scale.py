"""Returns in units of their own spread, for value functions to learn."""

from __future__ import annotations

import torch
from torch import nn

DECAY = 0.9
"""Of what was seen before, per batch."""
MOST = 1e12
"""Returns beyond it, a thousand of the largest rewards that are accepted, come of values that make no
sense; they would make the next ones larger still."""


class ReturnScale(nn.Module):
    """Running mean and deviation of returns, of each of R kinds by itself.

    Averages of batches count less the older they are; before the first batch it is the identity.

    Source: van Hasselt et al., https://arxiv.org/abs/1602.07714, equation 5 (without the step that
    corrects the weights); Yu et al., https://arxiv.org/abs/2103.01955, section 5.1.
    """

    def __init__(self, kinds: int):
        super().__init__()
        self._weight: torch.Tensor
        self._mean: torch.Tensor
        self._square: torch.Tensor
        self.register_buffer("_weight", torch.zeros((), dtype=torch.float64))
        self.register_buffer("_mean", torch.zeros(kinds, dtype=torch.float64))
        self.register_buffer("_square", torch.zeros(kinds, dtype=torch.float64))

    @torch.no_grad()
    def add(self, returns: torch.Tensor) -> None:
        """A batch of them, `[N, R]`."""
        returns = returns.double().clamp(-MOST, MOST)
        self._weight.lerp_(torch.ones_like(self._weight), 1 - DECAY)
        self._mean.lerp_(returns.mean(0), 1 - DECAY)
        self._square.lerp_(returns.square().mean(0), 1 - DECAY)

    def _moments(self) -> tuple[torch.Tensor, torch.Tensor]:
        if self._weight == 0:
            return torch.zeros_like(self._mean).float(), torch.ones_like(self._mean).float()
        mean = self._mean / self._weight
        deviation = (self._square / self._weight - mean.square()).clamp(min=1e-4).sqrt()
        return mean.float(), deviation.float()

    def small(self, returns: torch.Tensor) -> torch.Tensor:
        """Returns `[..., R]` -> what a value function learns."""
        mean, deviation = self._moments()
        return (returns - mean) / deviation

    def large(self, values: torch.Tensor) -> torch.Tensor:
        """The inverse."""
        mean, deviation = self._moments()
        return values * deviation + mean
