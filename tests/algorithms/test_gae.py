"""GAE against the sum in its definition, term by term, and against its own invariances."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pytest
import torch

from policy_server.algorithms.ops.gae import explained_variance, gae

GAMMA = 0.97


class Case(NamedTuple):
    rewards: np.ndarray
    values: np.ndarray
    final_values: np.ndarray
    terminated: np.ndarray
    truncated: np.ndarray
    valid: np.ndarray


def random_case(steps: int, lanes: int, seed: int) -> Case:
    """Endings of both kinds; whatever must not be read is NaN."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, steps + 1, lanes)
    lengths[0] = steps
    valid = np.arange(steps)[:, None] < lengths
    kind = rng.random((steps, lanes))
    terminated, truncated = kind < 0.1, (kind >= 0.1) & (kind < 0.2)
    rewards = np.where(valid, rng.normal(size=(steps, lanes)), np.nan)
    values = rng.normal(size=(steps + 1, lanes))
    values[np.arange(steps + 1)[:, None] > lengths] = np.nan
    final_values = np.where(truncated & valid, rng.normal(size=(steps, lanes)), np.nan)
    return Case(rewards, values, final_values, terminated | ~valid, truncated & valid, valid)


def run(case: Case, lambda_: float) -> tuple[np.ndarray, np.ndarray]:
    tensors = [torch.from_numpy(np.ascontiguousarray(part)) for part in case]
    result = gae(*tensors, gamma=GAMMA, lambda_=lambda_)
    return result.advantages.numpy(), result.returns.numpy()


def by_definition(case: Case, lambda_: float) -> np.ndarray:
    """A_t = sum over l of (gamma lambda)^l delta_t+l, up to the end of episode or data: O(T^2)."""
    steps, lanes = case.rewards.shape
    advantages = np.zeros((steps, lanes))
    for b in range(lanes):
        for t in range(steps):
            if not case.valid[t, b]:
                continue
            for k in range(t, steps):
                if not case.valid[k, b]:
                    break
                if case.terminated[k, b]:
                    behind = 0.0
                elif case.truncated[k, b]:
                    behind = case.final_values[k, b]
                else:
                    behind = case.values[k + 1, b]
                delta = case.rewards[k, b] + GAMMA * behind - case.values[k, b]
                advantages[t, b] += (GAMMA * lambda_) ** (k - t) * delta
                if case.terminated[k, b] or case.truncated[k, b]:
                    break
    return advantages


@pytest.mark.parametrize("lambda_", [0.0, 0.9, 1.0])
@pytest.mark.parametrize("steps", [1, 2, 3, 5, 200])
def test_equals_the_sum_in_its_definition(steps: int, lambda_: float) -> None:
    for seed in range(3 if steps == 200 else 20):
        case = random_case(steps, 6, seed)
        advantages, returns = run(case, lambda_)
        expected = by_definition(case, lambda_)
        np.testing.assert_allclose(advantages, expected, rtol=0, atol=1e-10)
        with_values = np.where(case.valid, expected + case.values[:-1], 0.0)
        np.testing.assert_allclose(returns, with_values, rtol=0, atol=1e-10)


def test_lambda_1_gives_discounted_rewards_of_a_whole_episode() -> None:
    rewards = np.array([[1.0], [2.0], [4.0]])
    no, end = np.zeros((3, 1), bool), np.array([[False], [False], [True]])
    case = Case(rewards, np.full((4, 1), 0.5), np.full((3, 1), np.nan), end, no, ~no)
    _, returns = run(case, 1.0)
    expected = [[1 + GAMMA * (2 + GAMMA * 4)], [2 + GAMMA * 4], [4]]
    np.testing.assert_allclose(returns, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind", ["terminated", "truncated"])
def test_two_episodes_in_one_column_equal_the_two_apart(kind: str) -> None:
    rng = np.random.default_rng(1)
    steps, cut = 9, 4
    rewards, values = rng.normal(size=(steps, 1)), rng.normal(size=(steps + 1, 1))
    final_values = np.full((steps, 1), np.nan)
    ends = np.zeros((steps, 1), bool)
    ends[cut - 1] = True
    nowhere = np.zeros_like(ends)
    if kind == "truncated":
        final_values[cut - 1] = 3.0
    terminated, truncated = (ends, nowhere) if kind == "terminated" else (nowhere, ends)
    whole = Case(rewards, values, final_values, terminated, truncated, ~nowhere)
    first = Case(*(part[:cut] for part in whole))._replace(values=values[: cut + 1])
    second = Case(*(part[cut:] for part in whole))
    joined = np.concatenate([run(first, 0.9)[0], run(second, 0.9)[0]])
    np.testing.assert_allclose(run(whole, 0.9)[0], joined, rtol=0, atol=1e-12)


def test_a_cut_fragment_bootstraps_to_the_uncut_where_values_are_exact() -> None:
    """With V the true discounted sum, cutting changes nothing whatever lambda is."""
    rng = np.random.default_rng(2)
    steps, cut = 12, 5
    rewards = rng.normal(size=(steps, 1))
    values = np.zeros((steps + 1, 1))
    for t in range(steps - 1, -1, -1):
        values[t] = rewards[t] + GAMMA * values[t + 1]
    noisy = values.copy()
    noisy[:cut] += rng.normal(size=(cut, 1))
    no = np.zeros((steps, 1), bool)
    ends = no.copy()
    ends[-1] = True
    whole = Case(rewards, noisy, np.full((steps, 1), np.nan), ends, no, ~no)
    fragment = Case(*(part[:cut] for part in whole))._replace(values=noisy[: cut + 1])
    for lambda_ in (0.0, 0.7, 1.0):
        np.testing.assert_allclose(
            run(fragment, lambda_)[0], run(whole, lambda_)[0][:cut], rtol=0, atol=1e-12
        )


def test_padding_gets_zeros_and_leaks_nothing() -> None:
    case = random_case(7, 5, 3)
    advantages, returns = run(case, 0.95)
    assert (advantages[~case.valid] == 0).all()
    assert (returns[~case.valid] == 0).all()
    assert np.isfinite(advantages).all()
    other = Case(*(np.where(np.isnan(p), 1e6, p) if p.dtype == float else p for p in case))
    np.testing.assert_array_equal(run(other, 0.95)[0], advantages)


def test_a_truncation_without_final_value_shows() -> None:
    case = random_case(5, 1, 4)
    case.truncated[2, 0], case.terminated[2, 0], case.final_values[2, 0] = True, False, np.nan
    assert np.isnan(run(case, 0.95)[0][2, 0])


def test_shapes_are_asserted() -> None:
    case = random_case(4, 2, 5)
    with pytest.raises(AssertionError):
        run(case._replace(values=case.values[:-1]), 0.9)
    with pytest.raises(AssertionError):
        run(case._replace(truncated=case.truncated[:, :1]), 0.9)


def test_explained_variance() -> None:
    returns = torch.tensor([1.0, 2.0, 3.0, 6.0])
    assert explained_variance(returns + 5, returns) == pytest.approx(1.0)
    assert explained_variance(torch.full((4,), 9.0), returns) == pytest.approx(0.0)
    assert explained_variance(-returns, returns) == pytest.approx(-3.0)
    assert explained_variance(returns, torch.ones(4)) == 0.0
    for constant in (0.1, 1.1, 99.9, 1e6 / 3):
        returns = torch.full((2048,), constant)
        assert explained_variance(returns + torch.rand(2048), returns) == 0.0
    # Large and narrow, and absurd.
    returns = 1000 + torch.tensor([-1.0, 1.0, -1.0, 1.0]) / 1024
    values = 1000 + torch.tensor([-1.0, 1.0, 1.0, 1.0]) / 1024
    assert explained_variance(values, returns) == pytest.approx(0.25)
    assert torch.isfinite(explained_variance(values * 1e30, returns))
    assert torch.isfinite(explained_variance(values, returns * 1e33))
