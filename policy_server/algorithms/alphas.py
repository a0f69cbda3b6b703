"""Weights of entropies, which follow what the entropies are to be."""

from __future__ import annotations

import torch
from torch import nn


class Alphas(nn.Module):
    """Weights > 0, by their logarithms.

    Attributes:
        log: `[number]`, what is learned.
    """

    def __init__(self, number: int, initial: float):
        super().__init__()
        self.log = nn.Parameter(torch.full((number,), initial).log())

    def forward(self) -> torch.Tensor:
        """`[number]`, without a gradient."""
        return self.log.detach().exp()

    def loss(
        self, which: int, entropies: torch.Tensor, wanted: torch.Tensor | float
    ) -> torch.Tensor:
        """Raises the weight of an entropy that is below what is wanted, and lowers it above.

        Shapes: entropies `[N]`, wanted `[N]` or a number.
        Source: Haarnoja et al., https://arxiv.org/abs/1812.05905, equations 17 and 18, with log
        alpha in place of alpha, as in the authors' code.
        """
        return self.log[which] * (entropies.detach() - wanted).mean()
