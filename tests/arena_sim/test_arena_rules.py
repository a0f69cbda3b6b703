"""Every row of the rules, on scenarios worked out by hand, for both implementations.

The expectations are literals: nothing is computed by the code under test.
"""

from __future__ import annotations

import numpy as np
import pytest

from arena_sim.arenas import Arenas
from arena_sim.rules import DOWN, LEFT, RIGHT, UP, Arena


class Plain:
    """The reference implementation behind the few questions the scenarios ask."""

    def __init__(self, width=10, height=10, max_steps=100):
        self.arena = Arena(width, height, max_steps)

    def place(self, cell1, cell2):
        rows = self.arena.width
        self.arena.positions = {"agent1": divmod(cell1, rows), "agent2": divmod(cell2, rows)}
        self.mark(cell1)

    def mark(self, cell):
        self.arena.visited.add(cell)

    def step(self, action1, action2):
        rewards, _, truncated = self.arena.step(action1, action2)
        return rewards["agent1"], rewards["agent2"], truncated

    def cells(self):
        return self.arena.cell("agent1"), self.arena.cell("agent2")

    def observations(self):
        return self.arena.observations()

    def visited(self):
        return self.arena.visited

    def counts(self):
        return self.arena.new_fields, self.arena.collisions


class Vectorised:
    """The same questions to the middle one of three arenas; its neighbours stand still."""

    def __init__(self, width=10, height=10, max_steps=100):
        self.arenas = Arenas(3, width, height, max_steps)

    def place(self, cell1, cell2):
        self.arenas.cell1[1], self.arenas.cell2[1] = cell1, cell2
        self.mark(cell1)

    def mark(self, cell):
        self.arenas.visited[1, cell] = True

    def step(self, action1, action2):
        step = self.arenas.step(np.array([UP, action1, UP]), np.array([DOWN, action2, DOWN]))
        rewards = [step.rewards[agent][1] for agent in ("agent1", "agent2")]
        return (*[round(float(r), 6) for r in rewards], bool(step.truncated[1]))

    def cells(self):
        return int(self.arenas.cell1[1]), int(self.arenas.cell2[1])

    def observations(self):
        return {a: tuple(o[1].tolist()) for a, o in self.arenas.observations().items()}

    def visited(self):
        return set(np.flatnonzero(self.arenas.visited[1]).tolist())

    def counts(self):
        return int(self.arenas.new_fields[1]), int(self.arenas.collisions[1])


@pytest.fixture(params=[Plain, Vectorised], ids=["plain", "vectorised"])
def make(request):
    return request.param


def test_the_agents_start_in_opposite_corners(make):
    assert make().cells() == (0, 99)
    assert make(8, 8).cells() == (0, 63)
    assert make(width=3, height=2).cells() == (0, 5)


def test_a_cell_is_row_times_width_plus_column(make):
    game = make(width=5, height=3)
    game.step(DOWN, UP)
    assert game.cells() == (5, 9)
    game.step(RIGHT, LEFT)
    assert game.cells() == (6, 8)


@pytest.mark.parametrize(
    ("action", "cell"),
    [(UP, 34), (RIGHT, 45), (DOWN, 54), (LEFT, 43)],
    ids=["up", "right", "down", "left"],
)
def test_each_action_of_each_agent_moves_one_cell(make, action, cell):
    game = make()
    game.place(44, 99)
    assert game.step(action, DOWN) == (1.0, -0.1, False)
    assert game.cells() == (cell, 99)
    game = make()
    game.place(0, 44)
    game.step(UP, action)
    assert game.cells() == (0, cell)


def test_the_actions_are_numbered_clockwise_from_up():
    assert (UP, RIGHT, DOWN, LEFT) == (0, 1, 2, 3)


def test_an_observation_is_the_own_cell_and_the_others(make):
    game = make()
    game.place(12, 87)
    assert game.observations() == {"agent1": (12, 87), "agent2": (87, 12)}


@pytest.mark.parametrize(
    ("corner", "actions"),
    [(0, (UP, LEFT)), (9, (UP, RIGHT)), (90, (DOWN, LEFT)), (99, (DOWN, RIGHT))],
)
def test_walls_clamp_both_agents_without_an_event(make, corner, actions):
    for action in actions:
        game = make()
        game.place(corner, 55)
        assert game.step(action, UP) == (-0.5, -0.1, False)
        assert game.cells() == (corner, 45)
        game = make()
        game.place(55, corner)
        game.step(UP, action)
        assert game.cells() == (45, corner)
        assert game.counts() == (1, 0)


def test_a_move_across_the_right_wall_does_not_reach_the_next_row(make):
    game = make()
    game.place(9, 10)  # neighbours as numbers, not as cells
    assert game.step(RIGHT, LEFT) == (-0.5, -0.1, False)
    assert game.cells() == (9, 10)
    assert game.counts() == (0, 0)


def test_a_new_field_is_rewarded_once(make):
    game = make()
    assert game.step(RIGHT, DOWN) == (1.0, -0.1, False)
    assert game.step(LEFT, DOWN) == (-0.5, -0.1, False)
    assert game.step(RIGHT, DOWN) == (-0.5, -0.1, False)
    assert game.step(DOWN, DOWN) == (1.0, -0.1, False)
    assert game.visited() == {0, 1, 11}
    assert game.counts() == (2, 0)


def test_the_start_cell_counts_as_visited(make):
    game = make()
    assert game.visited() == {0}
    assert game.step(UP, DOWN) == (-0.5, -0.1, False)
    assert game.counts() == (0, 0)


def test_agent2_visits_nothing(make):
    game = make()
    game.step(UP, UP)
    assert game.visited() == {0}
    game.place(88, 89)
    assert game.step(UP, UP)[0] == 1.0
    assert game.step(RIGHT, UP)[0] == 1.0
    assert 89 not in game.visited()


def test_agent1_bumps_and_stays(make):
    game = make()
    game.place(44, 46)
    assert game.step(RIGHT, LEFT) == (-1.0, 1.0, False)  # agent2 came to 45 first
    assert game.cells() == (44, 45)
    assert game.visited() == {0, 44}
    assert game.counts() == (0, 1)


def test_agent2_bumps_and_stays(make):
    game = make()
    game.place(44, 45)
    game.mark(34)
    assert game.step(UP, LEFT) == (-1.0, 1.0, False)
    assert game.cells() == (34, 45)
    assert game.counts() == (0, 1)


def test_agent2_moves_first_out_of_the_way(make):
    game = make()
    game.place(44, 45)
    assert game.step(RIGHT, RIGHT) == (1.0, -0.1, False)
    assert game.cells() == (45, 46)


def test_agent1_cannot_move_out_of_the_way_of_agent2(make):
    game = make()
    game.place(44, 45)
    assert game.step(LEFT, LEFT)[1] == 1.0
    assert game.cells() == (43, 45)


def test_two_bumps_in_a_step_are_one_collision(make):
    game = make()
    game.place(44, 45)
    assert game.step(RIGHT, LEFT) == (-1.0, 1.0, False)
    assert game.cells() == (44, 45)
    assert game.counts() == (0, 1)


def test_corner_case_a_new_cell_after_agent2s_bump_is_marked_but_not_rewarded(make):
    game = make()
    game.place(44, 45)
    assert game.step(DOWN, LEFT) == (-1.0, 1.0, False)
    assert game.cells() == (54, 45)
    assert game.visited() == {0, 44, 54}
    assert game.counts() == (1, 1)
    game.step(UP, RIGHT)
    assert game.step(DOWN, RIGHT) == (-0.5, -0.1, False)  # marked: no reward later either


def test_truncation_comes_with_the_last_step(make):
    game = make()
    for _ in range(99):
        assert game.step(UP, DOWN) == (-0.5, -0.1, False)
    assert game.step(UP, DOWN) == (-0.5, -0.1, True)
    game = make(max_steps=1)
    assert game.step(RIGHT, LEFT) == (1.0, -0.1, True)


def test_the_events_of_the_reference_are_a_set():
    arena = Arena()
    assert arena.step(RIGHT, UP)[1] == {"new_field"}
    assert arena.step(LEFT, UP)[1] == set()
    arena.positions = {"agent1": (4, 4), "agent2": (4, 5)}
    assert arena.step(RIGHT, LEFT)[1] == {"collision", "new_field"}  # 44 itself was new
    assert arena.step(RIGHT, LEFT)[1] == {"collision"}
    assert arena.step(DOWN, LEFT)[1] == {"collision", "new_field"}


def test_reset_clears_everything():
    arena = Arena(max_steps=3)
    arena.step(RIGHT, LEFT)
    arena.step(DOWN, UP)
    assert arena.reset() == {"agent1": (0, 99), "agent2": (99, 0)}
    assert (arena.visited, arena.steps, arena.new_fields, arena.collisions) == ({0}, 0, 0, 0)
    assert arena.step(RIGHT, LEFT)[0]["agent1"] == 1.0  # new again


def test_the_reference_refuses_to_go_on_after_the_end():
    arena = Arena(max_steps=1)
    arena.step(UP, UP)
    with pytest.raises(RuntimeError, match=r"over after 1 steps: call reset"):
        arena.step(UP, UP)


@pytest.mark.parametrize("action", [-1, 4])
def test_the_reference_refuses_unknown_actions(action):
    with pytest.raises(ValueError, match=rf"expected actions in 0\.\.3, got {action}"):
        Arena().step(UP, action)
    with pytest.raises(ValueError, match=rf"expected actions in 0\.\.3, got {action}"):
        Arena().step(action, UP)


@pytest.mark.parametrize(("width", "height"), [(1, 1), (0, 5), (5, 0), (-2, -2)])
def test_a_grid_without_room_for_two_is_refused(make, width, height):
    with pytest.raises(ValueError, match="room for two agents"):
        make(width, height)


def test_an_episode_without_a_step_is_refused(make):
    with pytest.raises(ValueError, match="max_steps of at least 1, got 0"):
        make(max_steps=0)
