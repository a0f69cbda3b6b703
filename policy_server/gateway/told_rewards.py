"""Rewards that an observation tells apart, agent by agent, against the reward of the lane."""

from __future__ import annotations

import numpy as np

from policy_server.gateway.columns import Columns
from policy_server.gateway.row_error import RowError
from sim_clients.protocol import ErrorCode, Flag

TOLERANCE = 1e-3
"""Of the sum of all agents' rewards, relative to their size."""


class ToldRewards:
    """Checks groups of agents (docs/GROUPS.md) that say what each of them got.

    Args:
        leaf: which leaf of the observation does, float `[n, agents]`.
    """

    def __init__(self, leaf: int):
        self._leaf = leaf

    def check(self, columns: Columns) -> None:
        """What is told adds up to the reward of the step before, where there was one: in the true
        final observation of what was truncated, in the next observation of everything else. Flags
        are known to fit the state of their lanes.

        Raises:
            RowError: it does not.
        """
        flags = columns.flags
        told = columns.observations[self._leaf]
        if columns.finals is not None:
            rows, leaves = columns.finals
            told = told.copy()
            told[rows] = leaves[self._leaf]
        first, ended = (flags & Flag.FIRST) != 0, (flags & Flag.ENDED) != 0
        known = ((flags & Flag.CONTINUED) == 0) & (ended | ~first)
        total, size = told.sum(1, dtype=np.float64), np.abs(told).sum(1, dtype=np.float64)
        wrong = known & (np.abs(total - columns.rewards) > TOLERANCE * (1.0 + size))
        if wrong.any():
            row = int(np.flatnonzero(wrong)[0])
            raise RowError(
                row,
                ErrorCode.BAD_REWARD,
                f"observation.rewards: expected what each agent got for the step before, which adds "
                f"up to the reward of the lane, {columns.rewards[row]:g}, got {told[row].tolist()} "
                "(the first observation of an episode tells the rewards of the last step of the one "
                "before it)",
            )
