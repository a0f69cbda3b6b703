"""What one sees is where the agents are and have been."""

from __future__ import annotations

import io

import numpy as np
import pytest

from arena_sim import render
from arena_sim.arenas import Arenas
from arena_sim.rules import DOWN, LEFT, RIGHT, Arena


def test_text_shows_agents_and_visited_cells():
    arena = Arena(width=4, height=3)
    arena.step(RIGHT, LEFT)
    arena.step(DOWN, LEFT)
    assert render.picture(arena, "ansi") == "+ + . .\n. 1 . .\n. 2 . ."


def test_rgb_array_shows_agents_and_visited_cells():
    arena = Arena(width=4, height=3)
    arena.step(RIGHT, LEFT)
    image = render.picture(arena, "rgb_array")
    assert image.shape == (72, 96, 3)
    assert image.dtype == np.uint8
    centres = image[12::24, 12::24]
    expected = np.empty((3, 4, 3), np.uint8)
    expected[:] = render.UNVISITED_COLOUR
    expected[0, 0] = render.VISITED_COLOUR
    expected[0, 1] = render.AGENT1_COLOUR
    expected[2, 2] = render.AGENT2_COLOUR
    np.testing.assert_array_equal(centres, expected)
    # The rim of agent1's cell tells that it is visited.
    assert tuple(image[2, 24 + 2]) == render.VISITED_COLOUR
    assert tuple(image[0, 0]) == render.LINE_COLOUR


def test_no_mode_is_no_picture_and_an_unknown_one_is_refused():
    assert render.picture(Arena(), None) is None
    render.check_mode(None)
    with pytest.raises(ValueError, match="among ansi, rgb_array or None, got 'human'"):
        render.check_mode("human")


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_the_screen_draws_in_place_and_not_too_often():
    stream, now = Terminal(), [0.0]
    screen = render.Screen(stream, interval_s=0.1, clock=lambda: now[0])
    arenas = Arenas(2, 3, 2, max_steps=9)
    for now[0] in (0.0, 0.05, 0.09, 0.1, 0.15):
        screen.show(arenas)
    state = "1 . .\n. . 2\nstep    0  new fields   0  collisions   0\n"
    assert stream.getvalue() == f"\x1b[2J\x1b[H{state}\x1b[H{state}"


def test_the_screen_writes_no_escapes_into_a_file():
    stream = io.StringIO()
    arenas = Arenas(2, 3, 2)
    arenas.step(np.array([DOWN, RIGHT]), np.array([DOWN, DOWN]))
    render.Screen(stream).show(arenas)
    assert stream.getvalue() == "+ . .\n1 . 2\nstep    1  new fields   1  collisions   0\n"
