"""Small runs of everything that replays, for tests; as a program: trains, saves and is killed.

python -m tests.integration.replay_run FOLDER
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

from policy_server import AlgorithmConfig, algorithms
from policy_server.algorithms.replay_options import ReplayTraining

NAMES = [
    name
    for name in algorithms.names()
    if issubclass(algorithms.training_class(name), ReplayTraining)
]
UPDATES = 3
OPTIONS: dict[str, dict[str, Any]] = {
    "Rainbow": {"num_atoms": 5},
    "QMIX": {"sequence_length": 4},
    "R2D2": {"sequence_length": 4, "burn_in": 2},
    "DDPG": {"target_update_steps": 1, "parameter_noise": 0.1, "random_steps": 30},
    "TD3": {"target_update_steps": 1, "random_steps": 30},
    "SAC": {"random_steps": 30},
    "TQC": {"random_steps": 30, "quantiles": 5},
    "MADDPG": {"random_steps": 30},
}


def config(name: str) -> AlgorithmConfig:
    """Its buffer is full before the last of `UPDATES`, which overwrites. No step is under way when
    it is saved: asynchronous collection would have some, which no checkpoint holds."""
    supports = algorithms.training_class(name).supports
    world = "Nested" if supports.discrete else "Amounts"
    env = "group_worlds:Opposed-v0" if supports.groups else f"worlds:{world}-v0"
    return (
        AlgorithmConfig(name)
        .environment(f"tests.learning.{env}")
        .simulators(num=1, lanes=4)
        .model(hidden=[8])
        .training(
            train_batch_size=8, steps_per_update=60, learning_starts=60, buffer_size=130,
            samples_per_insert=2.0, prioritized=True, save_replay=True,
            **{"target_update_steps": 50, **OPTIONS.get(name, {})},
        )
        .collection(mode="sync")
        .server(seed=3)
        .learners(threads=1, device="cpu")
        .inference(device="cpu")
    )  # fmt: skip


def train(algorithm: Any) -> list[dict[str, float]]:
    """What each update reported."""
    return [algorithm.train()["policies"]["default_policy"]["metrics"] for _ in range(UPDATES)]


def main(folder: Path) -> None:
    for name in NAMES:
        algorithm = config(name).build(in_process=True)
        train(algorithm)
        algorithm.save(folder / name)
    os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
