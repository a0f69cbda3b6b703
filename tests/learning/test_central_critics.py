"""Critics that see all agents: tiny worlds that need them, and need rewards told apart."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pytest
import torch

from policy_server import AlgorithmConfig
from policy_server.algorithms.central import Central
from policy_server.types import Batch
from tests.learning.group_worlds import EPISODE_STEPS


class Task(NamedTuple):
    """An algorithm in a world.

    Attributes:
        loudness: as large as the algorithm can bear.
        solved: greedy return to reach after `updates`, of EPISODE_STEPS at best.
        blind: what is not reached where critics do not see what the right agent sees.
    """

    algorithm: str
    world: str
    updates: int
    loudness: float
    solved: float
    blind: float


OPTIONS: dict[str, dict[str, Any]] = {
    "MADDPG": {
        "gamma": 0.0, "lr": 3e-3, "steps_per_update": 128, "samples_per_insert": 16.0,
        "learning_starts": 256, "buffer_size": 5000, "random_steps": 256, "train_batch_size": 64,
        "tau": 0.1,
    },
    "MAPPO": {
        "gamma": 0.0, "lambda_": 0.0, "lr": 3e-3, "train_batch_size": 256, "minibatch_size": 256,
        "num_epochs": 4,
    },
}  # fmt: skip
TASKS = [
    Task("MADDPG", "Loud", 50, 4.0, 15.0, 14.0),
    Task("MADDPG", "LoudAmounts", 50, 4.0, 13.5, 12.0),
    Task("MADDPG", "LoudMasked", 60, 4.0, 13.5, 12.0),
    Task("MAPPO", "Loud", 25, 20.0, 15.0, 14.0),
    Task("MAPPO", "LoudAmounts", 25, 10.0, 13.0, 12.0),
    Task("MAPPO", "LoudMasked", 25, 10.0, 13.5, 12.0),
]


def greedy_return(
    algorithm: str, world: str, updates: int, env_kwargs: dict[str, Any] | None = None, seed: int = 1, **options: Any
) -> float:  # fmt: skip
    """After the updates."""
    builder = (
        AlgorithmConfig(algorithm)
        .environment(
            f"tests.learning.group_worlds:{world}-v0", env_kwargs=env_kwargs or {},
            action_mask="Masked" in world,
        )
        .simulators(num=1, lanes=16)
        .training(**(OPTIONS[algorithm] | options))
        .server(seed=seed)
        .model(hidden=[32], initial_log_std=-1.0)
        .learners(threads=1, device="cpu")
        .inference(device="cpu")
    )  # fmt: skip
    with builder.build(in_process=True) as running:
        for _ in range(updates):
            result = running.train()
        assert result["accounting"]["balance"] == 0
        mean: float = running.evaluate(32)["episode_return_mean"]
        return mean


def solve(task: Task, seed: int = 1, **options: Any) -> float:
    loudness = {"loudness": task.loudness}
    return greedy_return(task.algorithm, task.world, task.updates, loudness, seed, **options)


@pytest.mark.parametrize("task", TASKS, ids=lambda task: f"{task.algorithm} {task.world}")
def test_the_world_is_solved(task: Task) -> None:
    assert task.solved <= solve(task) <= EPISODE_STEPS + 1e-3


@pytest.mark.parametrize("task", TASKS, ids=lambda task: f"{task.algorithm} {task.world}")
def test_it_is_not_by_critics_that_see_less(task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = Central.view

    def without_the_loud(self: Central, obs: Any) -> tuple[torch.Tensor, ...]:
        left, digit, loud = whole(self, obs)
        return left, digit, torch.zeros_like(loud)

    monkeypatch.setattr(Central, "view", without_the_loud)
    assert solve(task) < task.blind


@pytest.mark.parametrize("algorithm", OPTIONS)
def test_agents_that_share_parameters_solve_it_too(algorithm: str) -> None:
    found = greedy_return(algorithm, "Pair", 30, share_parameters=True)
    assert found >= 15.0


@pytest.mark.parametrize("algorithm", OPTIONS)
def test_it_is_not_solved_without_learning(algorithm: str) -> None:
    assert greedy_return(algorithm, "Pair", 10, lr=1e-9) < 9.0


WANTED = -EPISODE_STEPS
"""Sum of both where each agent gets what it wants."""


@pytest.mark.parametrize("world", ["Opposed", "OpposedAmounts"])
@pytest.mark.parametrize(
    ("algorithm", "options"),
    [("MADDPG", {}), ("MADDPG", {"n_step": 3, "prioritized": True}), ("MAPPO", {})],
)
def test_each_agent_learns_from_its_own_reward(
    algorithm: str, options: dict[str, Any], world: str
) -> None:
    assert greedy_return(algorithm, world, 45, **options) == pytest.approx(WANTED, abs=1.5)


@pytest.mark.parametrize("world", ["Opposed", "OpposedAmounts"])
@pytest.mark.parametrize("algorithm", OPTIONS)
def test_added_up_they_teach_something_else(
    algorithm: str, world: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def summed(self: Central, batch: Batch) -> np.ndarray:
        return np.repeat(batch.rewards[:, :, None], 2, axis=2)

    monkeypatch.setattr(Central, "rewards", summed)
    assert greedy_return(algorithm, world, 30) > 0.0
