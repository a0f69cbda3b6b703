"""A number of updates, and fewer where they are not needed."""

from __future__ import annotations

import math

from policy_server import Algorithm

LOOKS = 4


def greedy_return_after(algorithm: Algorithm, updates: int, enough: float = math.inf) -> float:
    """The mean after so many updates, or after a quarter, half or three quarters of them already
    if it is `enough` there."""
    looks = {updates * look // LOOKS for look in range(1, LOOKS)} if enough < math.inf else set()
    for update in range(1, updates + 1):
        result = algorithm.train()
        assert result["accounting"]["balance"] == 0
        if update in looks and (mean := _greedy_return(algorithm)) >= enough:
            return mean
    return _greedy_return(algorithm)


def _greedy_return(algorithm: Algorithm) -> float:
    mean: float = algorithm.evaluate(32)["episode_return_mean"]
    return mean
