"""PPO that says when it was done.

Its settings travel to the learner's process; reading them there imports this file, which makes
the algorithm known.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

from policy_server import algorithms
from policy_server.algorithms.ppo import PPO, PPOTraining
from policy_server.stepwise import Steps
from policy_server.types import Batch

NAME = "PPO, timed"
READY_AT = "ready_at"
"""Metric: `perf_counter`, one clock for all processes of a machine, when the update was done."""


@dataclass(frozen=True)
class TimedTraining(PPOTraining):
    """Nothing more to set."""


class TimedPPO(PPO):
    """The same updates."""

    def update_in_steps(self, batch: Batch, env_steps: int) -> Steps[dict[str, float]]:
        metrics = yield from super().update_in_steps(batch, env_steps)
        metrics[READY_AT] = time.perf_counter()
        return metrics


algorithms.register(NAME, TimedTraining, TimedPPO)
