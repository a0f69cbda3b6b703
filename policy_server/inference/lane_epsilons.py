"""Epsilon-greedy with an epsilon for each lane: some lanes explore, others follow what is learned.

Lives on the gateway's thread.
"""

from __future__ import annotations

import numpy as np

from policy_server.acting import EpsilonGreedy, LaneEpsilons
from policy_server.inference.epsilon_greedy import EpsilonGreedyChooser
from policy_server.types import ActionLayout


def van_der_corput(numbers: np.ndarray) -> np.ndarray:
    """0, 1/2, 1/4, 3/4, 1/8, 5/8, ...: the binary digits of each number, mirrored at the point. The
    first n are spread over [0, 1) evenly, whatever n is.

    Shapes: int64 `[n]`, >= 0 and below 2**52 -> float64 `[n]`.
    """
    result, step, rest = np.zeros(len(numbers)), 0.5, numbers.copy()
    while rest.any():
        result += step * (rest & 1)
        rest >>= 1
        step /= 2
    return result


class LaneEpsilonsChooser(EpsilonGreedyChooser):
    """Carries out `acting.LaneEpsilons`."""

    def __init__(self, layout: ActionLayout, acting: LaneEpsilons):
        super().__init__(layout, EpsilonGreedy(((0, 0.0),)))
        self._acting = acting

    def epsilons(self, policy_steps: int, slots: np.ndarray) -> np.ndarray:
        """Of lanes, the same at all times: float64 `[n, 1]`."""
        powers = 1.0 + self._acting.exponent * van_der_corput(slots)
        return np.power(self._acting.base, powers)[:, None]
