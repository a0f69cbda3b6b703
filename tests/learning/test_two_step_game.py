"""The two-step game: QMIX finds the 8 that both must dare together, and a sum of values does not.

All actions are random while they learn, so that what is worth most does not depend on what was found
first; then they play greedily.
"""

from __future__ import annotations

from typing import Any

import pytest

from policy_server import QMIXConfig


def greedy_return(**options: Any) -> float:
    model = {"memory": options.pop("memory", "none"), "memory_size": 16}
    config = (
        QMIXConfig()
        .environment("examples.two_step_game:TwoStep-v0")
        .simulators(num=1, lanes=16)
        .model(**model)
        .training(
            gamma=0.99, epsilon=[[0, 1.0]], steps_per_update=256, samples_per_insert=8,
            learning_starts=512, buffer_size=4000, target_update_steps=256, sequence_length=2,
            rollout_fragment_length=8, **{"lr": 3e-3, **options},
        )
        .server(seed=1)
        .learners(threads=1, device="cpu")
        .inference(device="cpu")
    )  # fmt: skip
    with config.build(in_process=True) as algorithm:
        for _ in range(15):
            algorithm.train()
        mean: float = algorithm.evaluate(16)["episode_return_mean"]
        return mean


@pytest.mark.parametrize("memory", ["none", "lstm"])
def test_qmix_dares(memory: str) -> None:
    assert greedy_return(memory=memory) == 8.0


def test_a_sum_of_values_does_not() -> None:
    assert greedy_return(mixer="vdn") == 7.0


def test_nor_does_anybody_without_learning() -> None:
    assert greedy_return(lr=1e-9) < 8.0
