"""What intrinsic rewards add up to, and how much that varies."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from policy_server.types import Batch

LEAST_DEVIATION = 1e-8
LEAST_SHARE = 0.1
"""Of the mean: numbers that hardly vary (there may be one, so far) have at least this deviation."""


class _Open(NamedTuple):
    """An episode that goes on in the lane's next unroll."""

    number: int
    next_t: int
    sum_: float
    whole: bool


class RunningSums:
    """Of each episode's rewards so far, over the borders of unrolls."""

    def __init__(self, gamma: float):
        self._gamma = gamma
        self._open: dict[int, _Open] = {}  # by lane

    def add(self, rewards: np.ndarray, batch: Batch) -> tuple[np.ndarray, np.ndarray]:
        """x_t = r_t + gamma x_t-1 for each step of a batch, float64 `[T, B]`, and whether all of
        its episode up to there is in it, bool `[T, B]`. `rewards`: `[T, B]`, 0 in padding."""
        sums, wholes = np.zeros(rewards.shape), np.zeros(rewards.shape, bool)
        ended, t_within = batch.terminated | batch.truncated, batch.t
        for columns in batch.turns():
            begun = [self._continued(batch, b) for b in columns.tolist()]
            sum_ = np.array([one.sum_ for one in begun])
            whole = np.array([one.whole for one in begun])
            for t in range(len(rewards)):
                sums[t, columns] = now = rewards[t, columns] + self._gamma * sum_
                wholes[t, columns], over = whole, ended[t, columns]
                sum_, whole = np.where(over, 0.0, now), whole | over
            for b in columns.tolist():
                last = (int(batch.lengths[b]) - 1, b)
                if not ended[last]:
                    number, t = int(batch.episodes[last]), int(t_within[last]) + 1
                    one = _Open(number, t, float(sums[last]), bool(wholes[last]))
                    self._open[int(batch.lanes[b])] = one
        return sums, wholes

    def _continued(self, batch: Batch, b: int) -> _Open:
        """What unroll b goes on with."""
        mine = int(batch.episodes[0, b]), int(batch.first_t[b])
        before = self._open.pop(int(batch.lanes[b]), None)
        if before is not None and before[:2] == mine:
            return before
        return _Open(*mine, 0.0, mine[1] == 0)

    def state(self) -> list[list[Any]]:
        """For JSON."""
        return [[lane, *one] for lane, one in self._open.items()]

    def load(self, state: list[list[Any]]) -> None:
        """Goes on from what `state` returned."""
        self._open = {lane: _Open(*one) for lane, *one in state}


class RunningDeviation:
    """Of all numbers that were ever added.

    Source: Chan, Golub, LeVeque: Updating formulae and a pairwise algorithm for computing sample
    variances, 1979.
    """

    def __init__(self) -> None:
        self._count, self._mean, self._squares = 0, 0.0, 0.0

    def add(self, numbers: np.ndarray) -> None:
        """Float64 `[n]`, n > 0."""
        n, before = len(numbers), self._count
        apart = float(numbers.mean()) - self._mean
        self._count += n
        self._squares += float(numbers.var()) * n + apart * apart * before * n / self._count
        self._mean += apart * n / self._count

    @property
    def value(self) -> float:
        """Above 0, and at least `LEAST_SHARE` of the mean's size."""
        variance = self._squares / max(1, self._count)
        return max(LEAST_DEVIATION, LEAST_SHARE * abs(self._mean), math.sqrt(variance))

    def state(self) -> list[float]:
        """For JSON."""
        return [self._count, self._mean, self._squares]

    def load(self, state: list[float]) -> None:
        """Goes on from what `state` returned."""
        self._count, self._mean, self._squares = int(state[0]), state[1], state[2]
