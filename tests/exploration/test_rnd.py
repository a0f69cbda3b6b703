"""Distillation: the error, what is learned from, and observations in units of their deviation."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from pages import CPU, MODEL, SPACES, make, some_batch

from policy_server.exploration import rnd, whitening
from policy_server.exploration.options import RNDOptions
from policy_server.exploration.successions import Successions
from policy_server.stepwise import at_once
from sim_clients.protocol.spaces import Box, Discrete, Tuple
from tests.broken import broken


def behind(batch: Any) -> list[tuple[tuple[int, int], list[np.ndarray]]]:
    """What was seen behind each step, in the order of time."""
    found = []
    for t, b in np.argwhere(batch.valid & ~batch.terminated):
        seen = [leaf[t + 1, b] for leaf in batch.obs]
        if batch.truncated[t, b]:
            at = batch.final_index.tolist().index([t, b])
            seen = [leaf[at] for leaf in batch.final_obs]
        found.append(((int(t), int(b)), seen))
    return found


def rewards_agree(module: Any) -> None:
    batch = some_batch(1)
    explorer = module.RND(SPACES, MODEL, RNDOptions(features=5), seed=0, device=CPU)
    steps = Successions(batch, CPU)
    found = steps.by_time(explorer.reward(steps))
    numbers = np.stack([seen[0] for _, seen in behind(batch)]).astype(np.float64)
    expected = np.zeros_like(found)
    for at, (vector, choice) in behind(batch):
        white = np.clip((vector - numbers.mean(0)) / numbers.std(0), -5, 5).astype(np.float32)
        asked = [torch.from_numpy(white[None]), torch.from_numpy(choice[None])]
        with torch.no_grad():
            apart = explorer.predictor(asked) - explorer.target(asked)
        expected[at] = float((apart**2).sum())
    np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_the_reward_is_the_error_at_what_came_behind() -> None:
    rewards_agree(rnd)


@pytest.mark.parametrize(
    ("line", "instead"),
    [
        ("(predicted - wanted)", "(predicted + wanted)"),
        ("self.errors(pairs.next_obs))", "self.errors(pairs.obs))"),
        ("self.whitening.observe(chunk)", "pass"),
    ],
)
def test_a_broken_line_shows(line: str, instead: str) -> None:
    with pytest.raises(AssertionError):
        rewards_agree(SimpleNamespace(**broken(rnd, line, instead)))


def test_what_it_has_seen_often_is_less_new_and_the_rest_is_not() -> None:
    explorer, steps = make("RND", lr=1e-2), Successions(some_batch(1), CPU)
    target = [p.clone() for p in explorer.target.parameters()]
    first = explorer.reward(steps).mean()
    for _ in range(200):
        metrics = at_once(explorer.learn(steps))
    seen, other = explorer.reward(steps).mean(), explorer.reward(Successions(some_batch(2), CPU))
    assert seen < first / 50
    assert other.mean() > 10 * seen
    assert set(metrics) == {"rnd_loss"}
    for before, after in zip(target, explorer.target.parameters(), strict=True):
        assert torch.equal(before, after)


def whitened_agree(module: Any) -> None:
    rng = np.random.default_rng(0)
    space = Tuple([Box(-9, 9, (2, 2)), Discrete(5), Box(0, 255, (3,), "uint8")])
    made = module.Whitening(space)
    parts = [
        [rng.normal(3, 7, (n, 2, 2)), rng.integers(0, 5, n), rng.integers(0, 256, (n, 3))]
        for n in (1, 10, 40)
    ]
    parts = [[part[0].astype(np.float32), part[1], part[2].astype(np.uint8)] for part in parts]
    for part in parts:
        made.observe([torch.from_numpy(leaf) for leaf in part])
    columns = [np.concatenate(leaf) for leaf in zip(*parts, strict=True)]
    found = made([torch.from_numpy(leaf) for leaf in columns])
    for i in (0, 2):
        numbers = columns[i].astype(np.float64)
        expected = np.clip((numbers - numbers.mean(0)) / numbers.std(0), -5, 5)
        np.testing.assert_allclose(found[i].numpy(), expected, rtol=1e-4, atol=1e-5)
        assert found[i].dtype == torch.float32
    np.testing.assert_array_equal(found[1].numpy(), columns[1])
    outlier = made([torch.full((1, 2, 2), 1e6), torch.zeros(1), torch.full((1, 3), 255)])
    assert outlier[0].tolist() == [[[5.0, 5.0], [5.0, 5.0]]]


def test_observations_have_mean_0_and_deviation_1() -> None:
    whitened_agree(whitening)


@pytest.mark.parametrize(
    ("line", "instead"),
    [
        ("apart.square() * before * n / self.count", "apart.square() * before / self.count"),
        ("mean += apart * n", "mean -= apart * n"),
        ("self.count += n", "self.count += 1"),
        ("(obs[i].float() - mean.float())", "obs[i].float()"),
        ("white.clamp(-LIMIT, LIMIT)", "white"),
    ],
)
def test_broken_statistics_show(line: str, instead: str) -> None:
    with pytest.raises(AssertionError):
        whitened_agree(SimpleNamespace(**broken(whitening, line, instead)))


def test_numbers_that_never_change_are_0_and_stay_finite() -> None:
    made = whitening.Whitening(Box(-1, 1, (1,)))
    same = torch.full((10, 1), 0.1)
    made.observe([same])
    assert made([same])[0].abs().max() < 1e-2
    assert made([same + 1])[0].tolist() == [[5.0]] * 10
    made.observe([same[:0]])
    assert made.count == 10
