"""Many arenas at once are the reference, arena by arena, and reset themselves correctly."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from arena_sim.arenas import Arenas
from arena_sim.rules import AGENTS, Arena


def chasing(obs: np.ndarray, width: int, rng: np.random.Generator) -> np.ndarray:
    """Mostly towards the other agent, so that the rare events are not rare."""
    rows, columns = np.divmod(obs, width)
    vertical = np.where(rows[:, 1] > rows[:, 0], 2, 0)
    horizontal = np.where(columns[:, 1] > columns[:, 0], 1, 3)
    towards = np.where(rng.random(len(obs)) < 0.5, vertical, horizontal)
    return np.where(rng.random(len(obs)) < 0.6, towards, rng.integers(4, size=len(obs)))


def compare(num: int, width: int, height: int, max_steps: int, ticks: int, seed: int) -> set:
    """Plays `ticks` steps in both implementations; returns the kinds of steps that occurred."""
    rng = np.random.default_rng(seed)
    arenas = Arenas(num, width, height, max_steps)
    plain = [Arena(width, height, max_steps) for _ in range(num)]
    obs, seen = arenas.reset(), set()
    for _ in range(ticks):
        actions = [chasing(obs[agent], width, rng) for agent in AGENTS]
        step = arenas.step(*actions)
        finished = []
        for i, arena in enumerate(plain):
            rewards, events, truncated = arena.step(int(actions[0][i]), int(actions[1][i]))
            seen.add(frozenset(events))
            assert bool(step.truncated[i]) == truncated
            for agent in AGENTS:
                assert step.rewards[agent][i] == np.float32(rewards[agent])
                assert tuple(step.final_obs[agent][i]) == arena.observations()[agent]
            if truncated:
                finished.append((arena.new_fields, arena.collisions))
                arena.reset()
            for agent in AGENTS:
                assert tuple(step.obs[agent][i]) == arena.observations()[agent]
            assert set(np.flatnonzero(arenas.visited[i]).tolist()) == arena.visited
            assert arenas.steps[i] == arena.steps
        metrics = zip(step.metrics["new_fields"], step.metrics["collisions"], strict=True)
        assert [(int(n), int(c)) for n, c in metrics] == finished
        obs = step.obs
    return seen


@settings(max_examples=40, deadline=None)
@given(
    width=st.integers(1, 12),
    height=st.integers(1, 12),
    max_steps=st.integers(1, 60),
    seed=st.integers(0, 2**32 - 1),
)
def test_every_step_equals_the_reference(width, height, max_steps, seed):
    if width * height < 2:
        height = 2
    compare(4, width, height, max_steps, ticks=120, seed=seed)


@pytest.mark.parametrize(("width", "height"), [(10, 10), (8, 8), (3, 5)])
def test_thousands_of_steps_with_every_event_equal_the_reference(width, height):
    seen = compare(8, width, height, max_steps=100, ticks=600, seed=7)
    new, bump = "new_field", "collision"
    assert seen == {frozenset(e) for e in [(), (new,), (bump,), (new, bump)]}


def test_shapes_and_types():
    arenas = Arenas(5)
    step = arenas.step(np.zeros(5, np.int64), np.zeros(5, np.int64))
    for agent in AGENTS:
        for obs in (arenas.reset()[agent], step.obs[agent], step.final_obs[agent]):
            assert obs.shape == (5, 2)
            assert obs.dtype == np.int64
        assert step.rewards[agent].shape == (5,)
        assert step.rewards[agent].dtype == np.float32
    assert step.truncated.shape == (5,)
    assert step.truncated.dtype == np.bool_
    assert {name: len(m) for name, m in step.metrics.items()} == {"new_fields": 0, "collisions": 0}


def test_arenas_out_of_step_reset_alone():
    arenas = Arenas(3, max_steps=10)
    arenas.steps[:] = [0, 9, 5]
    right, up = np.full(3, 1), np.zeros(3, np.int64)
    step = arenas.step(right, up)
    assert step.truncated.tolist() == [False, True, False]
    assert step.obs["agent1"].tolist() == [[1, 89], [0, 99], [1, 89]]
    assert step.final_obs["agent1"].tolist() == [[1, 89]] * 3
    assert step.metrics["new_fields"].tolist() == [1]
    assert arenas.steps.tolist() == [1, 0, 6]
    assert arenas.new_fields.tolist() == [1, 0, 1]
    assert arenas.visited.sum(axis=1).tolist() == [2, 1, 2]


def test_what_a_step_returned_does_not_change_later():
    arenas = Arenas(4, max_steps=2)
    rng = np.random.default_rng(0)
    steps, copies = [], []
    for _ in range(6):
        step = arenas.step(rng.integers(4, size=4), rng.integers(4, size=4))
        steps.append(step)
        copies.append({a: (step.obs[a].copy(), step.final_obs[a].copy()) for a in AGENTS})
    for step, copy in zip(steps, copies, strict=True):
        for agent in AGENTS:
            np.testing.assert_array_equal(step.obs[agent], copy[agent][0])
            np.testing.assert_array_equal(step.final_obs[agent], copy[agent][1])


def test_the_seed_changes_nothing():
    first, second = Arenas(2, seed=1), Arenas(2, seed=2)
    assert first.reset()["agent1"].tolist() == second.reset()["agent1"].tolist() == [[0, 99]] * 2


@pytest.mark.parametrize(
    ("actions", "message"),
    [
        ([0, 1, 4], r"agent2: expected actions in 0\.\.3, got 4 for arena 2"),
        ([0, -1, 0], r"agent2: expected actions in 0\.\.3, got -1 for arena 1"),
        ([0, 1], r"agent2: expected 3 integer actions, one per arena, got shape \[2\]"),
        ([0.0, 1.0, 2.0], r"agent2: expected 3 integer actions.*float64"),
    ],
)
def test_wrong_actions_are_refused_before_anything_moves(actions, message):
    arenas = Arenas(3)
    with pytest.raises(ValueError, match=message):
        arenas.step(np.array([1, 1, 1]), np.array(actions))
    assert arenas.observations()["agent1"].tolist() == [[0, 99]] * 3


def test_no_arena_is_refused():
    with pytest.raises(ValueError, match="at least one arena, got 0"):
        Arenas(0)
