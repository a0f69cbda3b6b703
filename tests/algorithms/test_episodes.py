"""Unrolls become episodes, whatever way they were cut."""

from __future__ import annotations

import numpy as np
import pytest

from policy_server.algorithms.episodes import EpisodeAssembler, Futures, returns_to_go
from policy_server.types import Batch

GAMMA = 0.9


def batch(pieces: list[tuple[int, int, int, np.ndarray, bool]]) -> tuple[Batch, np.ndarray]:
    """(lane, episode, first step, rewards, whether the last step ends the episode), each a column.
    Observation and action of a step are lane * 1000 + episode * 100 + t."""
    lengths = np.array([len(rewards) for *_, rewards, _ in pieces])
    shape = (int(lengths.max()), len(pieces))
    rewards, episodes = np.full(shape, np.nan, np.float32), np.full(shape, -1)
    terminated, names = np.ones(shape, bool), np.full((shape[0] + 1, shape[1]), -1.0, np.float32)
    for b, (lane, episode, first, given, ends) in enumerate(pieces):
        n = len(given)
        rewards[:n, b], episodes[:n, b], terminated[:n, b] = given, episode, False
        terminated[n - 1, b] = ends
        names[:n, b] = lane * 1000 + episode * 100 + first + np.arange(n)
    made = Batch(
        obs=(names,), categories=names[:-1, :, None].astype(np.int64),
        reals=np.zeros((*shape, 0), np.float32), logp=np.zeros(shape, np.float32), rewards=rewards,
        terminated=terminated, truncated=np.zeros(shape, bool), lengths=lengths,
        versions=np.zeros(shape, np.int64), lanes=np.array([lane for lane, *_ in pieces]),
        episodes=episodes, first_t=np.array([first for _, _, first, _, _ in pieces]), masks=None,
        final_obs=(np.zeros(0, np.float32),), final_index=np.zeros((0, 2), np.int64),
    )  # fmt: skip
    return made, rewards


def slow(rewards: np.ndarray) -> list[float]:
    return [
        sum(GAMMA ** (k - t) * rewards[k] for k in range(t, len(rewards)))
        for t in range(len(rewards))
    ]


def by_name(futures: Futures | None) -> dict[int, float]:
    if futures is None:
        return {}
    names = futures.obs[0].astype(int).tolist()
    assert futures.categories[:, 0].tolist() == names
    assert len(set(names)) == len(names)
    return dict(zip(names, futures.returns.tolist(), strict=True))


@pytest.mark.parametrize("seed", range(5))
def test_however_an_episode_is_cut_its_returns_are_the_same(seed: int) -> None:
    rng = np.random.default_rng(seed)
    assembler, found, expected = EpisodeAssembler(GAMMA), {}, {}
    ends = {}
    pieces: list[tuple[int, int, int, np.ndarray, bool]] = []
    for lane in range(3):
        for episode in range(4):
            rewards = rng.normal(size=rng.integers(1, 20)).astype(np.float32)
            names = (lane * 1000 + episode * 100 + t for t in range(len(rewards)))
            expected |= dict(zip(names, slow(rewards), strict=True))
            ends[lane, episode] = len(rewards)
            cuts = sorted(set(rng.integers(1, len(rewards) + 1, 3).tolist()) | {len(rewards)})
            start = 0
            for end in cuts:
                last = end == len(rewards)
                pieces.append((lane, episode, start, rewards[start:end], last))
                start = end
    while pieces:  # a few at a time; within a lane in order
        some = pieces[:2]
        pieces = pieces[2:]
        found |= by_name(assembler.add(*batch(some)))
    assert found.keys() == expected.keys()
    assert all(abs(found[name] - expected[name]) < 1e-5 for name in found)
    assert assembler.waiting == assembler.given_up == 0


def test_steps_wait_for_the_end() -> None:
    assembler = EpisodeAssembler(GAMMA)
    assert assembler.add(*batch([(0, 0, 0, np.ones(3), False)])) is None
    assert assembler.waiting == 3
    assert len(by_name(assembler.add(*batch([(0, 0, 3, np.ones(2), True)])))) == 5
    assert assembler.waiting == 0


@pytest.mark.parametrize("then", [(0, 0, 4), (0, 1, 3), (0, 1, 0)])
def test_a_gap_gives_up_what_came_before_it(then: tuple[int, int, int]) -> None:
    assembler = EpisodeAssembler(GAMMA)
    assembler.add(*batch([(0, 0, 0, np.ones(3), False)]))
    found = by_name(assembler.add(*batch([(*then, np.ones(2), True)])))
    assert sorted(found.values()) == pytest.approx([1.0, 1.9])
    assert (assembler.given_up, assembler.waiting) == (3, 0)


def test_an_unroll_may_hold_several_episodes() -> None:
    one, rewards = batch([(0, 0, 0, np.ones(6), False)])
    one.terminated[1, 0] = one.truncated[3, 0] = True
    one.episodes[:, 0] = [0, 0, 1, 1, 2, 2]
    assembler = EpisodeAssembler(GAMMA)
    found = by_name(assembler.add(one, rewards))
    assert list(found.values()) == pytest.approx([1.9, 1.0, 1.9, 1.0])
    assert assembler.waiting == 2
    two, rewards = batch([(0, 2, 2, np.ones(1), True)])
    assert len(by_name(assembler.add(two, rewards))) == 3


def test_nobody_waits_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("policy_server.algorithms.episodes.LONGEST", 4)
    assembler = EpisodeAssembler(GAMMA)
    assembler.add(*batch([(0, 0, 0, np.ones(3), False)]))
    assembler.add(*batch([(0, 0, 3, np.ones(3), False)]))
    assert (assembler.given_up, assembler.waiting) == (6, 0)


def test_returns_to_go() -> None:
    rewards = np.array([1.0, -2.0, 3.0], np.float32)
    np.testing.assert_allclose(returns_to_go(rewards, GAMMA), slow(rewards), rtol=1e-6)
    np.testing.assert_allclose(returns_to_go(rewards, 0.0), rewards)
