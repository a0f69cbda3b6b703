"""Distributions of returns by their quantiles."""

from __future__ import annotations

import torch


def quantile_huber(
    quantiles: torch.Tensor, samples: torch.Tensor, weights: torch.Tensor
) -> torch.Tensor:
    """Quantile regression with the Huber loss (kappa = 1):

        mean over i, j of |tau_i - 1(u_ij < 0)| huber(u_ij),   u_ij = samples_j - quantiles_i,

    tau_i = (i + 1/2) / M, weighted over n and summed over critics.

    Shapes: quantiles `[critics, n, M]`, samples `[n, J]`, weights `[n]` -> scalar.
    Source: Dabney et al., https://arxiv.org/abs/1710.10044, equation 10.
    """
    _, n, m = quantiles.shape
    assert samples.shape[0] == n
    assert weights.shape == (n,)
    taus = (torch.arange(m, device=quantiles.device, dtype=quantiles.dtype) + 0.5) / m
    u = samples[None, :, None, :] - quantiles[:, :, :, None]  # [critics, n, M, J]
    size = u.abs()
    huber = torch.where(size > 1.0, size - 0.5, 0.5 * u.square())
    each = (taus[:, None] - (u.detach() < 0).to(u.dtype)).abs() * huber
    return (weights * each.mean((2, 3))).mean(1).sum()


def truncated(quantiles: torch.Tensor, dropped: int) -> torch.Tensor:
    """All critics' quantiles in one order, without the `dropped` largest per critic.

    Shapes: `[critics, n, M]` -> `[n, critics * (M - dropped)]`.
    Source: Kuznetsov et al., https://arxiv.org/abs/2005.04269, section 3.
    """
    critics, n, m = quantiles.shape
    pooled = quantiles.transpose(0, 1).reshape(n, critics * m)
    return pooled.sort(1).values[:, : critics * (m - dropped)]
