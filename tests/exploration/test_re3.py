"""Neighbors against a brute force, and what far from all others is worth."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from pages import CPU, MODEL, SPACES, make, some_batch

from policy_server.exploration import re3
from policy_server.exploration.successions import Successions
from policy_server.stepwise import at_once
from tests.broken import broken


def brute_force(y: np.ndarray, others: np.ndarray, k: int) -> list[float]:
    """Point by point."""
    found = []
    for i, point in enumerate(y):
        rest = [*others, *(other for j, other in enumerate(y) if j != i)]
        apart = sorted(math.dist(point, other) for other in rest)
        found.append(apart[min(k, len(apart)) - 1] if apart else 0.0)
    return found


def distances_agree(module: Any) -> None:
    rng = np.random.default_rng(0)
    for n, m, k in ((1, 0, 3), (1, 1, 3), (2, 0, 1), (9, 0, 3), (9, 4, 1), (40, 25, 3), (5, 3, 50)):
        y, others = rng.normal(size=(n, 4)), rng.normal(size=(m, 4))
        if n > 5:
            y[3] = y[4]  # alike, and still not itself
            y[5] = y[4]
        found = module.neighbor_distances(torch.from_numpy(y), torch.from_numpy(others), k)
        np.testing.assert_allclose(found.numpy(), brute_force(y, others, k), rtol=1e-10)


def test_distances_are_those_of_a_brute_force(monkeypatch: pytest.MonkeyPatch) -> None:
    distances_agree(re3)
    monkeypatch.setattr(re3, "CHUNK", 7)
    distances_agree(re3)


@pytest.mark.parametrize(
    ("line", "instead"),
    [
        ("apart.kthvalue(kth, dim=1)", "apart.kthvalue(max(1, kth - 1), dim=1)"),
        ("len(others) + i * CHUNK + rows] = torch.inf", "i * CHUNK + rows] = torch.inf"),
        ("len(others) + i * CHUNK + rows] = torch.inf", "len(others) + rows] = torch.inf"),
        ("torch.cat([others, y])", "torch.cat([y, others])"),
        ("] = torch.inf  # itself", "] = 0.0"),
        ('"donot_use_mm_for_euclid_dist"', '"donot_use_mm_for_euclid_dist", p=1.0'),
    ],
)
def test_a_broken_line_shows(line: str, instead: str) -> None:
    module = SimpleNamespace(**broken(re3, line, instead))
    module.neighbor_distances.__globals__["CHUNK"] = 7
    with pytest.raises(AssertionError):
        distances_agree(module)


def rewards_agree(module: Any) -> None:
    options = re3.RE3Options(features=5, neighbors=2, memory=20)
    explorer = module.RE3(SPACES, MODEL, options, seed=0, device=CPU)
    kept = np.zeros((0, 5))
    for seed in (1, 2, 3):
        batch = some_batch(seed)
        steps = Successions(batch, CPU)
        found = explorer.reward(steps)
        at = np.argwhere(batch.valid)
        seen = [torch.from_numpy(np.stack([leaf[t, b] for t, b in at])) for leaf in batch.obs]
        y = explorer.encoder(seen).numpy()
        expected = np.log(1 + np.array(brute_force(y, kept, 2)))
        np.testing.assert_allclose(found.numpy(), expected, rtol=1e-4, atol=1e-6)
        metrics = at_once(explorer.learn(steps))
        kept = np.concatenate([kept, y])[-20:]
        assert metrics == {"re3_memory": float(len(kept))}


def test_the_reward_is_the_logarithm_of_the_distance_to_the_kth_neighbor() -> None:
    rewards_agree(re3)


@pytest.mark.parametrize(
    ("line", "instead"),
    [
        (".neighbors).log1p()", ".neighbors)"),
        ("neighbor_distances(y, self.seen, self", "neighbor_distances(y, self.seen[:0], self"),
        ("steps.obs.evaluate(steps.rows, self.encoder)\n        self.seen", "steps.obs.evaluate(steps.rows.flip(0), self.encoder)\n        self.seen"),
        ("[-self.options.memory :]\n        yield", "[: self.options.memory]\n        yield"),
    ],
)  # fmt: skip
def test_a_broken_reward_shows(line: str, instead: str) -> None:
    with pytest.raises(AssertionError):
        rewards_agree(SimpleNamespace(**broken(re3, line, instead)))


def test_what_was_seen_often_is_worth_nothing() -> None:
    explorer, steps = make("RE3", neighbors=3), Successions(some_batch(1), CPU)
    assert explorer.reward(steps).min() > 0
    for _ in range(3):
        at_once(explorer.learn(steps))
    assert explorer.reward(steps).max() == 0
