"""A distribution of the user's own: Beta, for reals that are bounded on both sides.

Nothing of it lies outside of the bounds, where a Gaussian has to be clipped.

Source: Chou, Maturana and Scherer, Improving Stochastic Policy Gradients in Continuous Control with
Deep Reinforcement Learning using the Beta Distribution, ICML 2017.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch.nn.functional import softplus

from policy_server.errors import UnsupportedSpaceError
from policy_server.networks.own_distribution import Actions, OwnDistribution
from policy_server.types import ActionLayout

EDGE = 1e-6
"""Densities are asked for no nearer to the bounds than this: they may be infinite there."""


class Beta(OwnDistribution):
    """Independent for each real. Parameters: D numbers for alpha, D for beta; both are above 1, so
    that there is one mode."""

    def __init__(self, parameters: torch.Tensor, mask: torch.Tensor | None, layout: ActionLayout):
        super().__init__(parameters, mask, layout)
        alpha, beta = (1 + softplus(parameters)).chunk(2, dim=1)
        self._each = torch.distributions.Beta(alpha, beta, validate_args=False)

    @staticmethod
    def width(layout: ActionLayout) -> int:
        bounded = np.isfinite(layout.low).all() and np.isfinite(layout.high).all()
        if layout.categories or not bounded:
            raise UnsupportedSpaceError(
                "Beta: expected a Box that is bounded on both sides for actions, and nothing else, "
                f"got {layout.space}."
            )
        return 2 * layout.reals

    def log_prob(self, categories: torch.Tensor, reals: torch.Tensor) -> torch.Tensor:
        x = ((reals + 1) / 2).clamp(EDGE, 1 - EDGE)
        return (self._each.log_prob(x) - math.log(2)).sum(1)

    def entropy(self) -> torch.Tensor:
        return (self._each.entropy() + math.log(2)).sum(1)

    def kl(self, new: OwnDistribution) -> torch.Tensor:
        assert isinstance(new, Beta)
        return torch.distributions.kl_divergence(self._each, new._each).sum(1)

    def sample(self) -> Actions:
        return self._reals(self._each.sample())

    def mode(self) -> Actions:
        a, b = self._each.concentration1, self._each.concentration0
        return self._reals((a - 1) / (a + b - 2))

    def _reals(self, x: torch.Tensor) -> Actions:
        return torch.zeros(len(x), 0, dtype=torch.int64), 2 * x - 1
