"""When CartPole-v1 counts as learned; the same for every contender, as this project counts it.

The mean return of the newest 20 training episodes, exploration included, is 475, and there are 20.
Only the standard library: this file runs in the virtual environment of every peer.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections import deque

ENV = "CartPole-v1"
BAR = 475.0
WINDOW_EPISODES = 20


class Criterion:
    """Watches training episodes.

    Attributes:
        reached_s: from `start` to the end of the episode that reached the bar; None: not yet.
        env_steps: then.
    """

    def __init__(self) -> None:
        self._returns: deque[float] = deque(maxlen=WINDOW_EPISODES)
        self._began = 0.0
        self.reached_s: float | None = None
        self.env_steps = 0

    def start(self) -> None:
        """Training starts: everything is built, and the first step comes next."""
        self._began = time.perf_counter()

    def episode(self, return_: float, env_steps: int) -> bool:
        """One more has ended, `env_steps` after the start. True: the bar is or was reached."""
        self._returns.append(return_)
        full = len(self._returns) == WINDOW_EPISODES
        if self.reached_s is None and full and self.mean >= BAR:
            self.reached_s = time.perf_counter() - self._began
            self.env_steps = env_steps
        return self.reached_s is not None

    @property
    def mean(self) -> float:
        return sum(self._returns) / max(1, len(self._returns))

    def report(self, env_steps: int) -> None:
        """Says how it went, as the last line of standard output.

        Args:
            env_steps: in all; what is told where the bar was not reached.
        """
        reached = self.reached_s is not None
        result = {
            "reached": reached,
            "env_steps": self.env_steps if reached else env_steps,
            "training_s": self.reached_s or time.perf_counter() - self._began,
            "episode_return_mean": self.mean,
        }
        print(json.dumps(result), flush=True)
        sys.stderr.flush()
        # What libraries do to end is not what is measured here.
        os._exit(0)
