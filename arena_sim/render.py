"""Pictures of one arena: text for a terminal, RGB for a film."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Any, TextIO

import numpy as np

from arena_sim.arenas import Arenas
from arena_sim.rules import AGENT1, AGENT2, Arena

AGENT1_MARK, AGENT2_MARK, VISITED_MARK, UNVISITED_MARK = "1", "2", "+", "."
AGENT1_COLOUR, AGENT2_COLOUR = (38, 98, 196), (208, 62, 48)
VISITED_COLOUR, UNVISITED_COLOUR, LINE_COLOUR = (176, 206, 244), (246, 246, 246), (206, 206, 206)
PIXELS_PER_CELL = 24
MODES = ("ansi", "rgb_array")


def text(width: int, height: int, cell1: int, cell2: int, visited: Iterable[int]) -> str:
    """One line per row: `1` and `2` the agents, `+` visited by agent1, `.` not yet."""
    marks = [UNVISITED_MARK] * (width * height)
    for cell in visited:
        marks[cell] = VISITED_MARK
    marks[cell1], marks[cell2] = AGENT1_MARK, AGENT2_MARK
    return "\n".join(" ".join(marks[row * width : (row + 1) * width]) for row in range(height))


def rgb_array(
    width: int, height: int, cell1: int, cell2: int, visited: Iterable[int]
) -> np.ndarray:
    """A picture: agent1 blue, agent2 red, visited cells light blue.

    Shapes: uint8 [height * 24, width * 24, 3].
    """
    colours = np.empty((width * height, 3), np.uint8)
    colours[:] = UNVISITED_COLOUR
    colours[list(visited)] = VISITED_COLOUR
    pixels = PIXELS_PER_CELL
    image = colours.reshape(height, width, 3).repeat(pixels, axis=0).repeat(pixels, axis=1)
    margin = pixels // 6  # leaves a rim of the cell's own colour around an agent
    for cell, colour in ((cell1, AGENT1_COLOUR), (cell2, AGENT2_COLOUR)):
        top, left = (pixels * n for n in divmod(cell, width))
        image[top + margin : top + pixels - margin, left + margin : left + pixels - margin] = colour
    image[::pixels] = LINE_COLOUR
    image[:, ::pixels] = LINE_COLOUR
    return image


def check_mode(mode: str | None) -> None:
    """Refuses a render mode that there is not.

    Raises:
        ValueError: `mode` is neither in `MODES` nor None.
    """
    if mode is not None and mode not in MODES:
        raise ValueError(f"expected a render_mode among {', '.join(MODES)} or None, got {mode!r}.")


def picture(arena: Arena, mode: str | None) -> Any:
    """`arena` as text ("ansi"), as an image ("rgb_array"), or None where `mode` is None."""
    if mode is None:
        return None
    draw = text if mode == "ansi" else rgb_array
    return draw(arena.width, arena.height, arena.cell(AGENT1), arena.cell(AGENT2), arena.visited)


class Screen:
    """Shows the first of many arenas as text, in place, a few times a second at most.

    Args:
        stream: where to; on anything but a terminal the pictures follow one another.
        interval_s: seconds between two pictures.
        clock: seconds, never going back.
    """

    def __init__(
        self,
        stream: TextIO,
        interval_s: float = 0.1,
        clock: Callable[[], float] = time.monotonic,
    ):
        self._stream, self._interval_s, self._clock = stream, interval_s, clock
        self._next_s = -np.inf
        self._in_place = stream.isatty()
        self._cleared = False

    def show(self, arenas: Arenas) -> None:
        """Draws the first arena, unless the last picture is too young."""
        now = self._clock()
        if now < self._next_s:
            return
        self._next_s = now + self._interval_s
        visited = np.flatnonzero(arenas.visited[0]).tolist()
        cells = int(arenas.cell1[0]), int(arenas.cell2[0])
        picture = text(arenas.width, arenas.height, *cells, visited)
        state = (
            f"step {arenas.steps[0]:>4}  new fields {arenas.new_fields[0]:>3}  "
            f"collisions {arenas.collisions[0]:>3}"
        )
        self._stream.write(f"{self._home()}{picture}\n{state}\n")
        self._stream.flush()

    def _home(self) -> str:
        if not self._in_place:
            return ""
        # Clear once, then only go to the top left corner: clearing each time would flicker.
        home = "\x1b[H" if self._cleared else "\x1b[2J\x1b[H"
        self._cleared = True
        return home
