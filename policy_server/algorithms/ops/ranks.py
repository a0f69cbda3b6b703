"""Ranks instead of numbers: what is far out counts no more than what is a little better."""

from __future__ import annotations

import numpy as np


def centered_ranks(values: np.ndarray) -> np.ndarray:
    """Ranks among all values, scaled to -1/2 (the least) .. 1/2 (the largest).

        u = rank / (n - 1) - 1/2,    rank 0..n-1; equal values have the mean of their ranks

    One value alone has 0. Any shape -> float64, the same shape.

    Source: Salimans et al., https://arxiv.org/abs/1703.03864, section 2.1 (fitness shaping).
    """
    _, which, counts = np.unique(values, return_inverse=True, return_counts=True)
    mean_ranks = np.cumsum(counts) - (counts + 1) / 2
    ranks = mean_ranks[which.reshape(values.shape)]
    return ranks / max(1, values.size - 1) - (0.5 if values.size > 1 else 0.0)
