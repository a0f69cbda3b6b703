"""Choices by their logits and tanh of a Gaussian, as something to differentiate.

A head is `[N, W + 2 D]`: logits of one categorical, means, log deviations.

Source: Haarnoja et al., https://arxiv.org/abs/1812.05905, appendix C (the tanh); Christodoulou,
https://arxiv.org/abs/1910.07207 (choices, in closed form); Delalleau et al.,
https://arxiv.org/abs/1912.11077 (both at once).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch.nn.functional import softplus

from policy_server.algorithms.ops.masking import masked

_HALF_LOG_TWO_PI = 0.5 * math.log(2.0 * math.pi)


class Squashed(NamedTuple):
    """N distributions.

    Attributes:
        log_choices: `[N, W]`, log-probabilities; W = 0 where there is no choice.
        mean, log_std: `[N, D]`, in front of the tanh.
    """

    log_choices: torch.Tensor
    mean: torch.Tensor
    log_std: torch.Tensor

    @classmethod
    def of(
        cls, head: torch.Tensor, mask: torch.Tensor, width: int, log_std_min: float,
        log_std_max: float,
    ) -> Squashed:  # fmt: skip
        """Reads a head `[N, width + 2 D]` under masks `[N, width]`, or `[N, 0]`: all allowed."""
        logits, mean, log_std = head[:, :width], *head[:, width:].chunk(2, dim=1)
        assert mean.shape == log_std.shape, (head.shape, width)
        logits = masked(logits, mask)
        log_choices = torch.log_softmax(logits, dim=1) if width else logits
        return cls(log_choices, mean, log_std.clamp(log_std_min, log_std_max))

    @property
    def choices(self) -> torch.Tensor:
        """Probabilities, `[N, W]`."""
        return self.log_choices.exp()

    @property
    def choice_entropy(self) -> torch.Tensor:
        """`[N]`, in nats; 0 where there is no choice."""
        return -(self.choices * self.log_choices).sum(1)

    def reals(self, noise: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """tanh(mean + std * noise), and its log-density: `[N, D]` -> `[N, D]` in -1..1, `[N]`.
        Both carry gradients to the head (the reparameterisation)."""
        assert noise.shape == self.mean.shape, (noise.shape, self.mean.shape)
        free = self.mean + self.log_std.exp() * noise
        density = -0.5 * noise.square() - self.log_std - _HALF_LOG_TWO_PI
        return torch.tanh(free), (density - log_slope(free)).sum(1)


def log_slope(free: torch.Tensor) -> torch.Tensor:
    """log(1 - tanh(u)^2), finite for every u: 2 (log 2 - u - softplus(-2 u))."""
    return 2.0 * (math.log(2.0) - free - softplus(-2.0 * free))
