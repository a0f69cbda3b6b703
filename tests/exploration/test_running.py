"""Sums over the borders of unrolls, and the deviation of all of them."""

from __future__ import annotations

import dataclasses
import itertools
import json
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from pages import some_batch

from policy_server.exploration import running
from policy_server.exploration.running import RunningDeviation
from policy_server.types import Batch
from tests.broken import broken

# One lane, twelve steps, as (reward, how its episode ends there).
STORY = [
    (1.0, ""), (2.0, ""), (3.0, "terminated"), (4.0, ""), (5.0, ""), (6.0, ""), (7.0, ""),
    (8.0, "truncated"), (9.0, "terminated"), (10.0, ""), (11.0, ""), (12.0, "terminated"),
]  # fmt: skip


def unroll(start: int, length: int, lane: int = 3) -> tuple[np.ndarray, Batch]:
    """Rewards and batch: some steps of the story, and beside them a lane that is not there for so
    long, and whose episode goes on."""
    steps = STORY[start : start + length]
    begun = [i + 1 for i, (_, end) in enumerate(STORY) if end and i < start]
    base = some_batch(0, length, 2)
    ends = [[end == kind for _, end in steps] for kind in ("terminated", "truncated")]
    overs = np.cumsum([0] + [bool(end) for _, end in steps])[:-1]
    rewards = np.zeros((length, 2), np.float32)
    rewards[:, 0] = [reward for reward, _ in steps]
    rewards[0, 1] = 100.0
    columns = {"terminated": np.ones((length, 2), bool), "truncated": np.ones((length, 2), bool)}
    columns["terminated"][:, 0], columns["truncated"][:, 0] = ends
    columns["terminated"][0, 1] = columns["truncated"][0, 1] = False
    episodes = np.full((length, 2), -1)
    episodes[:, 0], episodes[0, 1] = len(begun) + overs, start  # a new one each time
    made = dataclasses.replace(
        base, **columns, lengths=np.array([length, 1]), lanes=np.array([lane, 0]),
        episodes=episodes, first_t=np.array([start - (begun or [0])[-1], 0]),
    )  # fmt: skip
    return rewards, made


def expected(gamma: float) -> list[float]:
    """The story's sums, each from scratch."""
    found = []
    for i in range(len(STORY)):
        start = max([j + 1 for j in range(i) if STORY[j][1]], default=0)
        found.append(sum(gamma ** (i - j) * STORY[j][0] for j in range(start, i + 1)))
    return found


def sums_agree(module: Any, cuts: tuple[int, ...]) -> None:
    made, found = module.RunningSums(0.9), []
    for start, end in itertools.pairwise(cuts):
        rewards, batch = unroll(start, end - start)
        sums, whole = made.add(rewards, batch)
        assert whole[:, 0].all()
        assert sums[0, 1] == 100.0
        found += sums[:, 0].tolist()
        again = module.RunningSums(0.9)
        again.load(json.loads(json.dumps(made.state())))
        made = again
    np.testing.assert_allclose(found, expected(0.9), rtol=1e-12)


CUTS = [(0, 12), (0, 1, 2, 3, 5, 12), (0, 3, 8, 9, 12), (0, 6, 12)]


def turns_do_not_matter(module: Any) -> None:
    """Two unrolls of a lane in one batch, behind each other in time, are as in two batches."""
    first, second = unroll(0, 6), unroll(6, 6)
    made, found = module.RunningSums(0.9), []
    for rewards, batch in (first, second):
        sums, whole = made.add(rewards, batch)
        found += sums[:, 0].tolist()
    both = dataclasses.replace(
        first[1],
        **{
            name: np.stack([getattr(first[1], name)[..., 0], getattr(second[1], name)[..., 0]], -1)
            for name in ("terminated", "truncated", "episodes", "lengths", "lanes", "first_t")
        },
    )
    together = module.RunningSums(0.9)
    sums, whole = together.add(np.stack([first[0][:, 0], second[0][:, 0]], 1), both)
    assert sums.T.reshape(-1).tolist() == found
    assert whole.all()


def ended_are_forgotten(module: Any) -> None:
    made = module.RunningSums(0.9)
    made.add(*unroll(9, 3))
    assert made.state() == [[0, 9, 1, 100.0, True]]  # the other lane's alone


def beginnings_count(module: Any) -> None:
    """An episode whose beginning is not there is not whole."""
    made = module.RunningSums(1.0)
    sums, whole = made.add(*unroll(5, 4))
    assert sums[:, 0].tolist() == [6, 13, 21, 9]
    assert whole[:, 0].tolist() == [False, False, False, True]
    made = module.RunningSums(1.0)
    made.add(*unroll(3, 2))
    _, whole = made.add(*unroll(6, 2))  # step 5 was dropped
    assert not whole[:, 0].any()
    made = module.RunningSums(1.0)
    made.add(*unroll(3, 2))
    _, whole = made.add(*unroll(5, 2, lane=4))  # another lane goes on from nothing
    assert not whole[:, 0].any()


def all_agree(module: Any) -> None:
    for cuts in CUTS:
        sums_agree(module, cuts)
    beginnings_count(module)
    ended_are_forgotten(module)
    turns_do_not_matter(module)


@pytest.mark.parametrize("cuts", CUTS)
def test_sums_do_not_care_where_unrolls_end(cuts: tuple[int, ...]) -> None:
    sums_agree(running, cuts)


def test_a_lane_may_come_twice() -> None:
    turns_do_not_matter(running)


def test_an_episode_whose_beginning_is_not_there_is_not_whole() -> None:
    beginnings_count(running)


@pytest.mark.parametrize(
    ("line", "instead"),
    [
        ("self._gamma * sum_, whole", "self._gamma * sum_ * 0, whole"),
        ("np.where(over, 0.0, now)", "now"),
        ("whole | over", "whole"),
        ("in batch.turns()", "in [np.arange(len(batch.lanes))]"),
        ("if not ended[last]:", "if True:"),
        ("int(t_within[last]) + 1", "int(t_within[last])"),
        ("(int(batch.lengths[b]) - 1, b)", "(len(rewards) - 1, b)"),
    ],
)
def test_a_broken_line_shows(line: str, instead: str) -> None:
    with pytest.raises((AssertionError, IndexError)):
        all_agree(SimpleNamespace(**broken(running, line, instead)))


def test_what_has_ended_is_not_kept() -> None:
    ended_are_forgotten(running)


def deviation_agrees(module: Any) -> None:
    rng = np.random.default_rng(0)
    made, numbers = module.RunningDeviation(), np.zeros(0)
    for n in (1, 2, 100, 7):
        new = rng.normal(5.0, 3.0, n)
        made.add(new)
        numbers = np.concatenate([numbers, new])
        least = 0.1 * abs(numbers.mean())
        assert made.value == pytest.approx(max(least, numbers.std()), rel=1e-12)
        again = module.RunningDeviation()
        again.load(json.loads(json.dumps(made.state())))
        made = again


def test_the_deviation_is_that_of_all_numbers() -> None:
    deviation_agrees(running)
    nothing = RunningDeviation()
    nothing.add(np.zeros(5))
    assert 0 < nothing.value < 1e-7


@pytest.mark.parametrize(
    ("line", "instead"),
    [
        ("apart * apart * before * n / self._count", "apart * apart * n / self._count"),
        ("float(numbers.var()) * n +", "float(numbers.var()) +"),
        ("self._mean += apart * n", "self._mean -= apart * n"),
        ("math.sqrt(variance)", "variance"),
        ("LEAST_SHARE * abs(self._mean), ", ""),
    ],
)
def test_a_broken_deviation_shows(line: str, instead: str) -> None:
    with pytest.raises(AssertionError):
        deviation_agrees(SimpleNamespace(**broken(running, line, instead)))
