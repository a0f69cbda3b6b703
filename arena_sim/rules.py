"""The rules of the game, for one arena, in plain Python: what every other file is measured by.

Two agents live on a grid of `width` x `height` cells; cell = row * width + column. `agent1`
starts at the top left corner and wants to enter cells that it has not visited yet; `agent2`
starts at the bottom right corner and wants the two to collide.

In each step agent2 moves first, then agent1. A move whose target is the other agent's cell is
a *collision*, whoever bumped: the mover stays. Any other move is clamped at the walls. An
agent1 that ends up in a cell it has not visited marks it: a *new field*. The start cell counts
as visited.

    | reward | on a collision | else, on a new field | else |
    | ------ | -------------- | -------------------- | ---- |
    | agent1 | -1.0           | +1.0                 | -0.5 |
    | agent2 | +1.0           | -0.1                 | -0.1 |

Events are a set per step: two bumps are one collision. When agent2 bumps and agent1 then enters
a new cell, the cell is marked and yet agent1 gets -1.0. After `max_steps` steps the episode of
both agents is truncated.
"""

from __future__ import annotations

AGENT1, AGENT2 = AGENTS = ("agent1", "agent2")

UP, RIGHT, DOWN, LEFT = range(4)
NUM_ACTIONS = 4
MOVES = ((-1, 0), (0, 1), (1, 0), (0, -1))  # (rows, columns) of each action

COLLISION = "collision"
NEW_FIELD = "new_field"

REWARD1_COLLISION, REWARD1_NEW_FIELD, REWARD1_ELSE = -1.0, 1.0, -0.5
REWARD2_COLLISION, REWARD2_ELSE = 1.0, -0.1


def check_size(width: int, height: int, max_steps: int) -> None:
    """Refuses an arena that cannot be played.

    Raises:
        ValueError: no room for two agents, or no step.
    """
    if width < 1 or height < 1 or width * height < 2:
        raise ValueError(
            f"expected a grid with room for two agents, got width {width} and height {height}: "
            "give at least two cells."
        )
    if max_steps < 1:
        raise ValueError(f"expected max_steps of at least 1, got {max_steps}.")


class Arena:
    """One arena.

    Attributes:
        positions: agent -> (row, column).
        visited: cells that agent1 has been in.
        steps: taken in this episode.
        new_fields, collisions: events of this episode so far.
    """

    def __init__(self, width: int = 10, height: int = 10, max_steps: int = 100):
        check_size(width, height, max_steps)
        self.width, self.height, self.max_steps = width, height, max_steps
        self.reset()

    def reset(self) -> dict[str, tuple[int, int]]:
        """Starts an episode; returns the first observations."""
        self.positions = {AGENT1: (0, 0), AGENT2: (self.height - 1, self.width - 1)}
        self.visited = {self.cell(AGENT1)}
        self.steps = self.new_fields = self.collisions = 0
        return self.observations()

    def cell(self, agent: str) -> int:
        """Where `agent` is: row * width + column."""
        row, column = self.positions[agent]
        return row * self.width + column

    def observations(self) -> dict[str, tuple[int, int]]:
        """Agent -> (own cell, other's cell). Visited cells are not observed."""
        cell1, cell2 = self.cell(AGENT1), self.cell(AGENT2)
        return {AGENT1: (cell1, cell2), AGENT2: (cell2, cell1)}

    def step(self, action1: int, action2: int) -> tuple[dict[str, float], set[str], bool]:
        """Both agents move once: agent2, then agent1.

        Returns:
            (agent -> reward, events of this step, whether the episode was truncated by it).

        Raises:
            ValueError: an action is not in 0..3.
            RuntimeError: the episode is over.
        """
        for action in (action1, action2):
            if action not in range(NUM_ACTIONS):
                raise ValueError(f"expected actions in 0..{NUM_ACTIONS - 1}, got {action}.")
        if self.steps >= self.max_steps:
            raise RuntimeError(f"the episode is over after {self.steps} steps: call reset().")

        events = set()
        if self._move(AGENT2, action2, other=AGENT1):
            events.add(COLLISION)
        if self._move(AGENT1, action1, other=AGENT2):
            events.add(COLLISION)
        if self.cell(AGENT1) not in self.visited:
            self.visited.add(self.cell(AGENT1))
            events.add(NEW_FIELD)

        self.steps += 1
        self.collisions += COLLISION in events
        self.new_fields += NEW_FIELD in events
        return self._rewards(events), events, self.steps == self.max_steps

    def _move(self, agent: str, action: int, other: str) -> bool:
        """Moves `agent`; returns whether it bumped into `other` and stayed instead."""
        row, column = self.positions[agent]
        down, right = MOVES[action]
        target = row + down, column + right
        if target == self.positions[other]:
            return True
        self.positions[agent] = (
            min(max(target[0], 0), self.height - 1),
            min(max(target[1], 0), self.width - 1),
        )
        return False

    @staticmethod
    def _rewards(events: set[str]) -> dict[str, float]:
        if COLLISION in events:
            return {AGENT1: REWARD1_COLLISION, AGENT2: REWARD2_COLLISION}
        if NEW_FIELD in events:
            return {AGENT1: REWARD1_NEW_FIELD, AGENT2: REWARD2_ELSE}
        return {AGENT1: REWARD1_ELSE, AGENT2: REWARD2_ELSE}
