"""Heads that know what was chosen before them solve a world that plain heads cannot."""

from __future__ import annotations

import pytest

from policy_server import AlgorithmConfig
from tests.learning.test_every_algorithm import OPTIONS, UPDATES

GUESSED = 4.0
"""The most that a policy can expect of the 16 steps whose parts are independent of one another."""
NAMES = ("PG", "A2C", "A3C", "PPO", "IMPALA", "APPO")


def greedy_return(name: str, updates: int, autoregressive: bool, memory: str = "none") -> float:
    builder = (
        AlgorithmConfig(name)
        .environment("tests.learning.worlds:Pairs-v0", action_mask=True)
        .simulators(num=1, lanes=16)
        .training(**OPTIONS[name])
        .server(seed=1)
        .model(initial_log_std=-1.0, autoregressive=autoregressive, memory=memory)
        .learners(threads=1, device="cpu")
        .inference(device="cpu")
    )
    with builder.build(in_process=True) as algorithm:
        for _ in range(updates):
            result = algorithm.train()
        assert result["accounting"]["balance"] == 0
        mean: float = algorithm.evaluate(64)["episode_return_mean"]
        return mean


def test_ppo_solves_it_choice_after_choice() -> None:
    assert greedy_return("PPO", 30, autoregressive=True) > 12.0


def test_ppo_does_not_solve_it_by_independent_choices() -> None:
    assert greedy_return("PPO", 30, autoregressive=False) < GUESSED + 1.0


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_all_solve_it_choice_after_choice(name: str) -> None:
    assert greedy_return(name, UPDATES[name], autoregressive=True) > 13.0


@pytest.mark.slow
def test_heads_behind_a_memory_solve_it_too() -> None:
    assert greedy_return("PPO", UPDATES["PPO"], autoregressive=True, memory="lstm") > 13.0
