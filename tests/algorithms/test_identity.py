"""PPO learns, within seconds, to do what it sees, in every kind of space."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from handmade import act

from policy_server.algorithms.ppo import PPO, PPOTraining
from policy_server.config import ModelConfig
from policy_server.types import ActionLayout, Batch, PolicySpaces
from sim_clients.protocol.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete, Space

Reward = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]
"""(observed category [n], categories [n, K], reals [n, D]) -> reward [n]; the best is 1."""


def same(seen: np.ndarray, categories: np.ndarray, reals: np.ndarray) -> np.ndarray:
    return (categories[:, 0] == seen).astype(np.float32)


def digits(seen: np.ndarray, categories: np.ndarray, reals: np.ndarray) -> np.ndarray:
    wanted = np.stack([seen % 2, seen // 2], axis=1)
    return (categories == wanted).mean(axis=1, dtype=np.float32)


def near(seen: np.ndarray, categories: np.ndarray, reals: np.ndarray) -> np.ndarray:
    wanted = np.stack([seen / 2 - 1, 1 - seen / 2], axis=1)
    return 1 - np.abs(reals - wanted).mean(axis=1).astype(np.float32)


def both(seen: np.ndarray, categories: np.ndarray, reals: np.ndarray) -> np.ndarray:
    return (same(seen, categories, reals) + near(seen, categories, reals)) / 2


WORLDS: dict[str, tuple[Space, Reward, float]] = {
    "discrete": (Discrete(4), same, 0.95),
    "multi discrete": (MultiDiscrete([2, 3]), digits, 0.95),
    "multi binary": (MultiBinary(2), digits, 0.95),
    "box": (Box(-np.inf, np.inf, (2,)), near, 0.85),
    "dict": (Dict({"a": Discrete(4), "b": Box(-np.inf, np.inf, (2,))}), both, 0.85),
}


def collect(
    ppo: PPO,
    spaces: PolicySpaces,
    reward: Reward,
    rng: np.random.Generator,
    generator: torch.Generator,
) -> Batch:
    """16 lanes that play episodes of 4 steps, each with an observation of its own."""
    steps, lanes = 16, 16
    n = steps * lanes
    seen = rng.integers(0, 4, (steps + 1, lanes))
    flat = seen[:-1].reshape(-1)
    masks = None
    if spaces.mask:
        masks = rng.integers(0, 2, (n, 4)).astype(np.uint8)
        masks[np.arange(n), flat] = 1
    categories, reals, logp = act(ppo.network, spaces, (flat,), masks, generator)
    terminated = np.zeros((steps, lanes), bool)
    terminated[3::4] = True
    shape = (steps, lanes)
    return Batch(
        obs=(seen,), categories=categories.reshape(*shape, -1), reals=reals.reshape(*shape, -1),
        logp=logp.reshape(shape), rewards=reward(flat, categories, reals).reshape(shape),
        terminated=terminated, truncated=np.zeros(shape, bool), lengths=np.full(lanes, steps),
        versions=np.zeros(shape, np.int64), lanes=np.arange(lanes),
        episodes=np.cumsum(terminated, 0) - terminated, first_t=np.zeros(lanes, np.int64),
        masks=None if masks is None else masks.reshape(*shape, -1),
        final_obs=(np.empty(0, np.int64),), final_index=np.empty((0, 2), np.int64),
    )  # fmt: skip


def learned(space: Space, reward: Reward, mask: bool, **options: Any) -> tuple[float, float]:
    """Mean reward of the first batch, and of the last three."""
    spaces = PolicySpaces(Discrete(4), space, mask)
    defaults: dict[str, Any] = {
        "lr": 1e-2, "minibatch_size": 64, "num_epochs": 6, "lambda_": 0.9, "gamma": 0.9,
        "train_batch_size": 256, "use_kl_loss": False,
    }  # fmt: skip
    ppo = PPO(
        spaces, ModelConfig(hidden=(16,), initial_log_std=-0.5), PPOTraining(**(defaults | options)),
        seed=0, device=torch.device("cpu"),
    )  # fmt: skip
    rng, generator = np.random.default_rng(0), torch.Generator().manual_seed(0)
    means = []
    for i in range(30):
        batch = collect(ppo, spaces, reward, rng, generator)
        means.append(float(batch.rewards.mean()))
        assert ppo.update(batch, i * 256)["first_ratio_error"] < 1e-5
    return means[0], float(np.mean(means[-3:]))


@pytest.mark.parametrize("name", WORLDS)
def test_learns_to_do_what_it_sees(name: str) -> None:
    space, reward, bar = WORLDS[name]
    first, last = learned(space, reward, mask=False)
    assert first < bar - 0.2
    assert last > bar


def test_learns_among_masked_options() -> None:
    first, last = learned(Discrete(4), same, mask=True)
    assert first < 0.7
    assert last > 0.95


def test_learns_with_kl_penalty_and_shared_batches() -> None:
    _, last = learned(
        ActionLayout(Discrete(4)).space, same, False, use_kl_loss=True, kl_target=0.02
    )
    assert last > 0.9


def test_learns_nothing_from_reversed_rewards() -> None:
    """The bar is not reached by chance."""
    _, last = learned(Discrete(4), lambda *columns: -same(*columns), mask=False)
    assert last > -0.05
