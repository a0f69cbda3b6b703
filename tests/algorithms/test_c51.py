"""The projection of shifted distributions, against a slow one."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from policy_server.algorithms.ops import c51 as page
from policy_server.algorithms.ops.c51 import projected
from tests.broken import broken

SUPPORT = torch.linspace(-2.0, 3.0, 11, dtype=torch.float64)


def case(seed: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    rng = np.random.default_rng(seed)
    p = rng.random((40, 11)) ** 4
    discounts = np.where(rng.random(40) < 0.2, 0.0, rng.uniform(0.5, 1.0, 40))
    rewards = rng.normal(0, 2, 40)
    rewards[:5], discounts[:5] = 0.5, 1.0  # onto the atoms exactly
    return torch.tensor(p / p.sum(1, keepdims=True)), torch.tensor(rewards), torch.tensor(discounts)


def slow(p: torch.Tensor, rewards: torch.Tensor, discounts: torch.Tensor) -> np.ndarray:
    """Equation 7: sum over j of [1 - |shifted z_j - z_i| / width] cut off to 0..1, times p_j."""
    result = np.zeros(p.shape)
    for n in range(len(p)):
        for j in range(11):
            z = min(max(float(rewards[n] + discounts[n] * SUPPORT[j]), -2.0), 3.0)
            for i in range(11):
                share = 1 - abs(z - float(SUPPORT[i])) / 0.5
                result[n, i] += min(max(share, 0.0), 1.0) * float(p[n, j])
    return result


def test_it_is_the_papers() -> None:
    for seed in range(3):
        mine = projected(*case(seed), SUPPORT)
        np.testing.assert_allclose(mine.numpy(), slow(*case(seed)), rtol=0, atol=1e-12)
        np.testing.assert_allclose(mine.sum(1), 1.0, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("line", "instead"),
    [
        ("rewards[:, None] + discounts", "rewards[:, None] - discounts"),
        (".clamp(0, atoms - 1)", ""),
        ("probabilities * (1 - upper)", "probabilities * upper"),
        ("(left + 1)", "(left + 2)"),
        ("(high - low) / (atoms - 1)", "(high - low) / atoms"),
    ],
)
def test_a_broken_line_shows(line: str, instead: str) -> None:
    wrong = broken(page, line, instead)["projected"]
    try:
        off = [np.abs(wrong(*case(i), SUPPORT).numpy() - slow(*case(i))).max() for i in range(3)]
    except RuntimeError:  # beyond the last atom
        return
    assert max(off) > 1e-3
