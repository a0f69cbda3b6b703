"""Undiscounted returns of whole episodes, per agent: mean and spread in constant memory."""

from __future__ import annotations

import math

import numpy as np

from arena_sim.arenas import ArenaStep
from arena_sim.rules import AGENTS


class Returns:
    """Adds rewards up per arena, and the sums up over the episodes that ended.

    Attributes:
        episodes: how many have ended.
    """

    def __init__(self, num: int):
        self.episodes = 0
        self._open = {agent: np.zeros(num) for agent in AGENTS}  # float64 [num]
        self._sum = dict.fromkeys(AGENTS, 0.0)
        self._sum_of_squares = dict.fromkeys(AGENTS, 0.0)

    def add(self, step: ArenaStep) -> None:
        """Takes in one step of all arenas."""
        ended = step.truncated
        for agent in AGENTS:
            running = self._open[agent]
            running += step.rewards[agent]
            if ended.any():
                self._sum[agent] += float(running[ended].sum())
                self._sum_of_squares[agent] += float(np.square(running[ended]).sum())
                running[ended] = 0.0
        self.episodes += int(ended.sum())

    def mean(self, agent: str) -> float:
        """Mean return of the ended episodes; NaN before the first."""
        return self._sum[agent] / self.episodes if self.episodes else math.nan

    def deviation(self, agent: str) -> float:
        """Standard deviation of the return over episodes; NaN before the first."""
        if not self.episodes:
            return math.nan
        variance = self._sum_of_squares[agent] / self.episodes - self.mean(agent) ** 2
        return math.sqrt(max(variance, 0.0))
