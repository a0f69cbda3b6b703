"""PPO in the world of masks: not without them, and over sockets and processes."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, NamedTuple

from policy_server import AlgorithmConfig, PPOConfig
from tests.learning.worlds import EPISODE_STEPS

ROOT = Path(__file__).parents[2]


class Task(NamedTuple):
    """A world and what to expect there, as greedy mean return out of EPISODE_STEPS.

    Attributes:
        solved: at least this after `updates`.
        unlearned: less than this without learning: chance, and a margin.
    """

    world: str
    updates: int
    solved: float
    unlearned: float
    mask: bool = False


MASKED = Task("Masked", 14, 14.0, 10.5, mask=True)


def config(task: Task, **training: Any) -> AlgorithmConfig:
    # Every step is a task of its own, so nothing that comes later says anything about it.
    options = {"gamma": 0.0, "lambda_": 0.0, "lr": 3e-3, "num_epochs": 6, **training}
    return (
        PPOConfig()
        .environment(f"tests.learning.worlds:{task.world}-v0", action_mask=task.mask)
        .simulators(num=2, lanes=8)
        .training(
            train_batch_size=512,
            minibatch_size=128,
            clip_param=0.2,
            vf_clip_param=None,
            use_kl_loss=False,
            **options,
        )
        .server(seed=1, bind="tcp://127.0.0.1:*")
        .learners(threads=1, device="cpu")
        .inference(device="cpu")
    )


def greedy_return(task: Task, in_process: bool = True, **training: Any) -> float:
    """After the task's updates."""
    with config(task, **training).build(in_process=in_process) as algorithm:
        for _ in range(task.updates):
            result = algorithm.train()
        assert result["accounting"]["balance"] == 0
        assert result["accounting"]["trained"] >= task.updates * 512
        mean: float = algorithm.evaluate(32)["episode_return_mean"]
        return mean


def test_nobody_solves_the_masked_world_without_its_mask():
    # Two of thirty are allowed and nothing that is seen says which: the first step is the last.
    assert greedy_return(MASKED._replace(mask=False)) < 0.0


def test_ppo_solves_the_masked_world_over_sockets_and_processes(monkeypatch):
    # Simulators are processes of their own, and import the world there.
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))
    assert MASKED.solved <= greedy_return(MASKED, in_process=False) <= EPISODE_STEPS
