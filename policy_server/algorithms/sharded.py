"""The replay of one policy, spread over processes."""

from __future__ import annotations

import numpy as np
import torch

from policy_server.algorithms.replay_options import ReplayTraining
from policy_server.algorithms.replayed import Replayed
from policy_server.replay.shards import Priorities, ShardedSteps
from policy_server.replay.steps import Transitions


def sharded_steps(
    config: ReplayTraining,
    shards: int,
    device: torch.device,
    seed: int,
    reward_scale: float,
    reward_clip: float | None,
) -> Replayed[Transitions]:
    """As `replayed.replayed_steps`, prioritised, in so many processes.

    Raises:
        ConfigError: Ray does not run in this process.
    """
    priorities = Priorities(
        config.prioritized_alpha, config.prioritized_beta, config.prioritized_eps
    )

    def make(home: torch.device) -> ShardedSteps:
        return ShardedSteps(shards, config.buffer_size, priorities, seed)

    def read(steps: ShardedSteps, places: np.ndarray) -> Transitions:
        return steps.transitions(places, config.n_step, config.gamma)

    return Replayed(
        config, device, seed, reward_scale, reward_clip, make, read, config.train_batch_size,
        draws_itself=True,
    )  # fmt: skip
