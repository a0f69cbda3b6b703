"""The baselines do what they say and get what was measured for this game elsewhere."""

from __future__ import annotations

import numpy as np
import pytest

from arena_sim import baselines
from arena_sim.arenas import Arenas
from arena_sim.returns import Returns
from arena_sim.rules import DOWN

RNG = np.random.default_rng(0)


def observation(*cells: tuple[int, int]) -> np.ndarray:
    return np.array(cells, np.int64)


def test_the_walk_meets_every_cell_once():
    for width, height in [(10, 10), (8, 8), (5, 3), (4, 1)]:
        walk = baselines.make("boustrophedon", width)
        cell, path = 0, [0]
        for _ in range(width * height - 1):
            (action,) = walk(observation((cell, -1)), RNG)
            cell += (-width, 1, width, -1)[action]
            path.append(cell)
        assert sorted(path) == list(range(width * height))


def test_the_walk_turns_at_both_ends():
    walk = baselines.make("boustrophedon", 4)
    cells = observation((0, 15), (3, 15), (7, 15), (4, 15), (8, 15))
    assert walk(cells, RNG).tolist() == [1, 2, 3, 2, 1]


def test_the_chaser_goes_to_the_row_first_and_then_along_it():
    chase = baselines.make("chaser", 10)
    cells = observation((55, 11), (55, 99), (55, 59), (55, 50), (55, 56), (55, 45))
    assert chase(cells, RNG).tolist() == [0, 2, 1, 3, 1, 0]


def test_random_uses_all_actions_alike():
    actions = baselines.random(np.zeros((40_000, 2), np.int64), np.random.default_rng(1))
    counts = np.bincount(actions, minlength=4)
    assert len(counts) == 4
    assert abs(counts - 10_000).max() < 500  # six deviations


def test_an_unknown_name_is_refused_with_a_guess():
    with pytest.raises(ValueError, match=r"got 'chasr'\. Did you mean 'chaser'\?"):
        baselines.make("chasr", 10)
    with pytest.raises(ValueError, match="among random, boustrophedon, chaser, got 'x'"):
        baselines.make("x", 10)


@pytest.mark.parametrize(
    ("name1", "name2", "expected1", "expected2", "margin1", "margin2"),
    [
        ("random", "random", -0.2, -9.0, 1.5, 0.4),
        ("boustrophedon", "random", 95.4, -7.8, 1.0, 0.6),
        ("random", "chaser", -59.0, 48.0, 2.0, 2.0),
    ],
)
def test_returns_are_those_measured_for_this_game(
    name1, name2, expected1, expected2, margin1, margin2
):
    # Margins: rounding of the figures, their own sampling error, and over five of ours.
    means = baselines.play(
        baselines.make(name1, 10), baselines.make(name2, 10), episodes=2000, seed=11
    )
    assert means["agent1"] == pytest.approx(expected1, abs=margin1)
    assert means["agent2"] == pytest.approx(expected2, abs=margin2)


def test_an_undisturbed_walk_gains_one_per_step():
    def still(obs, rng):
        return np.full(len(obs), DOWN)  # into its wall

    walk = baselines.make("boustrophedon", 4)
    means = baselines.play(walk, still, episodes=3, width=4, height=2, max_steps=3, seed=0)
    assert means == pytest.approx({"agent1": 3.0, "agent2": -0.3})


def test_playing_is_repeatable_and_plays_exactly_what_was_asked():
    policies = baselines.random, baselines.make("chaser", 10)
    first = baselines.play(*policies, episodes=7, seed=5)
    assert baselines.play(*policies, episodes=7, seed=5) == first
    assert baselines.play(*policies, episodes=7, seed=6) != first
    assert baselines.measure(*policies, episodes=7, seed=5).episodes == 7
    with pytest.raises(ValueError, match="at least one episode, got 0"):
        baselines.play(*policies, episodes=0)


def test_the_table_has_a_row_per_pair(capsys):
    baselines.main(["--episodes", "20", "--size", "8"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "8 x 8 cells, 100 steps, 20 episodes per row"
    assert [tuple(line.split()[:2]) for line in lines[2:]] == [
        ("random", "random"),
        ("random", "chaser"),
        ("boustrophedon", "random"),
        ("boustrophedon", "chaser"),
    ]


def test_returns_agree_with_a_sum_done_by_hand():
    arenas = Arenas(3, 4, 4, max_steps=5)
    returns = Returns(3)
    rng = np.random.default_rng(2)
    rewards = []
    assert np.isnan(returns.mean("agent1"))
    for _ in range(12):  # two whole episodes and an open one
        step = arenas.step(rng.integers(4, size=3), rng.integers(4, size=3))
        returns.add(step)
        rewards.append(step.rewards["agent1"])
    episodes = np.array(rewards[:10], np.float64).reshape(2, 5, 3).sum(axis=1).reshape(-1)
    assert returns.episodes == 6
    assert returns.mean("agent1") == pytest.approx(episodes.mean())
    assert returns.deviation("agent1") == pytest.approx(episodes.std())
