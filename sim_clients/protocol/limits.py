"""What numbers may be at most; `docs/PROTOCOL.md`, section 4, has them in words."""

from __future__ import annotations

import numpy as np

from sim_clients.protocol.spaces import Box

REWARD_LIMIT = 1e9
NUMBER_LIMIT = 1e10
"""Larger rewards, and larger numbers in a Box, are a simulator's mistake; multiplied with one another
they would overflow where networks compute, and end the training of everybody else."""
ROUNDING = 1e-5
"""Of half the range of a Box: actions that differ by so little are the same."""


def bounded(box: Box) -> np.ndarray:
    """bool, of the box's shape: there are bounds on both sides, as far as float32 can tell."""
    with np.errstate(over="ignore"):
        return np.isfinite(box.low.astype(np.float32)) & np.isfinite(box.high.astype(np.float32))


def rounding(box: Box) -> np.ndarray:
    """float64, of the box's shape: by how much what was executed may be off for rounding alone, in
    float32, in which policies act, or in the box's own numbers if they are coarser."""
    low, high = box.low.astype(np.float64), box.high.astype(np.float64)
    whole = bounded(box)
    sizes = [np.where(np.isfinite(bound), np.abs(bound), 1.0) for bound in (low, high)]
    size = np.maximum(*sizes)
    share = np.where(whole, np.where(whole, high, 0) / 2 - np.where(whole, low, 0) / 2, size)
    kinds = [np.dtype(np.float32), *([box.dtype] if box.dtype == np.float16 else [])]
    steps = [
        np.spacing(np.minimum(size, np.finfo(kind).max / 2).astype(kind)).astype(np.float64)
        for kind in kinds
    ]
    return ROUNDING * share + np.max(steps, axis=0)


def executed_range(box: Box) -> tuple[np.ndarray, np.ndarray]:
    """Between which executed actions must be, float64, of the box's shape: its bounds, with room for
    rounding."""
    slack = rounding(box)
    with np.errstate(over="ignore"):
        return box.low.astype(np.float64) - slack, box.high.astype(np.float64) + slack
