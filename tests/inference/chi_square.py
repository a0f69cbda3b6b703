"""Pearson's test of counts, without SciPy."""

from __future__ import annotations

import math

import numpy as np

_Z = 3.72  # one in ten thousand; every use is seeded, so that a test that passes keeps passing


def counts_fit(counts: np.ndarray, probabilities: np.ndarray) -> bool:
    """Could `counts` have been drawn with these probabilities? Options of probability 0 must
    have been drawn never."""
    counts, expected = np.ravel(counts), np.ravel(probabilities) * np.sum(counts)
    possible = expected > 0
    if counts[~possible].any():
        return False
    counts, expected = counts[possible], expected[possible]
    if len(counts) == 1:
        return True
    assert expected.min() >= 5, "draw more: the test needs about five of each"
    return float(((counts - expected) ** 2 / expected).sum()) < critical(len(counts) - 1)


def critical(freedom: int) -> float:
    """The value that chi-square exceeds about once in ten thousand times.

    Source: Wilson and Hilferty, The Distribution of Chi-Square, 1931.
    """
    step = 2 / (9 * freedom)
    return freedom * (1 - step + _Z * math.sqrt(step)) ** 3
