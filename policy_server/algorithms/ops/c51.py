"""Distributions of returns over fixed atoms."""

from __future__ import annotations

import torch


def projected(
    probabilities: torch.Tensor,
    rewards: torch.Tensor,
    discounts: torch.Tensor,
    support: torch.Tensor,
) -> torch.Tensor:
    """The distribution of R + discount * Z, back on the atoms z_i of Z: each shifted atom, cut off
    at the ends of the support, is shared between its two neighbours by nearness.

    Shapes: probabilities `[N, atoms]`, rewards and discounts `[N]`, support `[atoms]`, evenly
    spaced and rising -> `[N, atoms]`, rows that add up to 1.

    Source: Bellemare et al., https://arxiv.org/abs/1707.06887, equation 7 and algorithm 1.
    """
    n, atoms = probabilities.shape
    assert rewards.shape == discounts.shape == (n,), (rewards.shape, discounts.shape)
    assert support.shape == (atoms,), support.shape
    low, high = support[0], support[-1]
    width = (high - low) / (atoms - 1)
    shifted = rewards[:, None] + discounts[:, None] * support
    place = ((shifted - low) / width).clamp(0, atoms - 1)  # [N, atoms], between neighbours
    below = place.floor()
    upper = place - below  # share of the upper neighbour
    result = torch.zeros_like(probabilities)
    left = below.long()
    result.scatter_add_(1, left, probabilities * (1 - upper))
    result.scatter_add_(1, (left + 1).clamp(max=atoms - 1), probabilities * upper)
    return result
