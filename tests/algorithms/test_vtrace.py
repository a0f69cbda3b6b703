"""V-trace against the product form of the paper, step by step."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from policy_server.algorithms.ops import vtrace as page
from policy_server.algorithms.ops.gae import gae
from policy_server.algorithms.ops.vtrace import VTrace, vtrace
from tests.broken import broken

Columns = dict[str, torch.Tensor]


def columns(steps: int, lanes: int, seed: int, spread: float = 0.7) -> Columns:
    """Random endings of both kinds, unrolls of different lengths; what nobody may read is NaN."""
    rng = np.random.default_rng(seed)
    ending = rng.random((steps, lanes)) < 0.15
    terminated = ending & (rng.random((steps, lanes)) < 0.5)
    truncated = ending & ~terminated
    lengths = rng.integers(1, steps + 1, lanes)
    lengths[0] = steps
    valid = np.arange(steps)[:, None] < lengths
    values = rng.normal(size=(steps + 1, lanes))
    values[np.arange(steps + 1)[:, None] > lengths] = np.nan
    last = lengths - 1
    ended = (terminated | truncated)[last, np.arange(lanes)]
    values[lengths[ended], np.flatnonzero(ended)] = np.nan
    final_values = np.where(truncated & valid, rng.normal(size=(steps, lanes)), np.nan)
    rewards = np.where(valid, rng.normal(size=(steps, lanes)), np.nan)
    log_ratio = np.where(valid, rng.normal(size=(steps, lanes)) * spread, np.nan)
    arrays = {
        "log_ratio": log_ratio, "rewards": rewards, "values": values, "final_values": final_values,
        "terminated": terminated, "truncated": truncated, "valid": valid,
    }  # fmt: skip
    return {name: torch.tensor(array) for name, array in arrays.items()}


def slow(c: Columns, gamma: float, lambda_: float, rho: float, c_bar: float, pg: float) -> VTrace:
    """Equation 1: v_s = V(s_s) + sum over t of gamma^(t-s) (prod of c_i) delta_t, one by one."""
    steps, lanes = c["rewards"].shape
    targets, advantages = np.zeros((steps, lanes)), np.zeros((steps, lanes))
    ended = (c["terminated"] | c["truncated"]).numpy()

    def behind(t: int, b: int, next_value: float) -> float:
        if c["terminated"][t, b]:
            return 0.0
        return float(c["final_values"][t, b]) if c["truncated"][t, b] else next_value

    for b in range(lanes):
        length = int(c["valid"][:, b].sum())
        ratio = [math.exp(float(c["log_ratio"][t, b])) for t in range(length)]
        value = [float(v) for v in c["values"][:, b]]
        for s in range(length):
            total, product = value[s], 1.0
            for t in range(s, length):
                future = behind(t, b, value[t + 1])
                delta = min(rho, ratio[t]) * (float(c["rewards"][t, b]) + gamma * future - value[t])
                total += product * delta
                if ended[t, b]:
                    break
                product *= gamma * lambda_ * min(c_bar, ratio[t])
            targets[s, b] = total
        for s in range(length):
            better = targets[s + 1, b] if s + 1 < length else value[s + 1]
            future = behind(s, b, better)
            advantages[s, b] = min(pg, ratio[s]) * (
                float(c["rewards"][s, b]) + gamma * future - value[s]
            )
    return VTrace(torch.tensor(targets), torch.tensor(advantages))


def worst(fast: Callable[..., VTrace], **changes: Any) -> float:
    """Largest difference from the slow sum, over many shapes and limits; NaN counts as infinite."""
    found = 0.0
    for seed, steps in enumerate((1, 2, 3, 5, 40)):
        for lambda_, rho, c_bar, pg in ((1.0, 1.0, 1.0, 1.0), (0.9, 1.5, 0.8, 2.0), (0.0, 1, 1, 1)):
            c = columns(steps, 4, seed)
            limits = {"clip_rho": rho, "clip_c": c_bar, "clip_pg_rho": pg}
            mine = fast(**(c | changes), gamma=0.97, lambda_=lambda_, **limits)
            expected = slow(c, 0.97, lambda_, rho, c_bar, pg)
            for one, other in zip(mine, expected, strict=True):
                found = max(found, float(torch.nan_to_num((one - other).abs(), math.inf).max()))
    return found


def test_it_is_the_sum_of_the_paper() -> None:
    assert worst(vtrace) < 1e-10


BREAKS = [
    ("rewards + gamma * behind - values[:-1]), zero)", "rewards - gamma * behind - values[:-1]), zero)"),
    ("goes_on = valid & ~terminated & ~truncated", "goes_on = valid & ~terminated"),
    ("goes_on = valid & ~terminated & ~truncated", "goes_on = valid & ~truncated"),
    ("torch.where(terminated, zero, torch.where(truncated, final_values, values[1:]))",
     "torch.where(terminated, zero, values[1:])"),
    ("range(steps - 1, -1, -1)", "range(steps - 2, -1, -1)"),
    ("corrections[1:], rewards.new_zeros(1, lanes)", "rewards.new_zeros(1, lanes), corrections[:-1]"),
    ("gamma * lambda_ * c", "gamma * lambda_ * rho"),
    ("torch.where(goes_on, behind + correction, behind)", "behind"),
]  # fmt: skip


@pytest.mark.parametrize(("line", "instead"), BREAKS)
def test_a_broken_line_shows(line: str, instead: str) -> None:
    assert worst(broken(page, line, instead)["vtrace"]) > 1e-3


def test_of_one_and_the_same_policy_it_is_gae() -> None:
    c = columns(30, 5, 3)
    c["log_ratio"] = torch.zeros_like(c["log_ratio"])
    rest = {name: column for name, column in c.items() if name != "log_ratio"}
    mine = vtrace(**c, gamma=0.9, lambda_=0.7)
    theirs = gae(**rest, gamma=0.9, lambda_=0.7)
    torch.testing.assert_close(mine.targets, theirs.returns, rtol=0, atol=1e-12)


@pytest.mark.parametrize("size", [50.0, -50.0, 500.0])
def test_any_ratio_stays_finite(size: float) -> None:
    c = {n: x.float() if x.is_floating_point() else x for n, x in columns(20, 3, 0).items()}
    c["log_ratio"] = torch.where(c["valid"], torch.tensor(size), torch.nan)
    for column in vtrace(**c, gamma=0.99):
        assert torch.isfinite(column).all()
