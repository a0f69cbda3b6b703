"""Many arenas in one process: the rules of `arena_sim.rules` on numpy arrays over all of them."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from arena_sim import rules
from arena_sim.rules import AGENT1, AGENT2


class ArenaStep(NamedTuple):
    """What one step of n arenas brought. No array in it is ever written to again."""

    obs: dict[str, np.ndarray]  # agent -> int64 [n, 2]: own cell, other's cell
    rewards: dict[str, np.ndarray]  # agent -> float32 [n]
    truncated: np.ndarray  # bool [n]: the episode ended, `obs` already begins the next one
    final_obs: dict[str, np.ndarray]  # agent -> int64 [n, 2]: before any reset
    metrics: dict[str, np.ndarray]  # "new_fields", "collisions" -> int64 [k], one per ended
    # arena, in the order of np.flatnonzero(truncated)


def _neighbours(width: int, height: int) -> np.ndarray:
    """Cell behind each action, clamped at the walls. Shape: int64 [cells, 4]."""
    rows, columns = np.divmod(np.arange(width * height), width)
    moves = np.array(rules.MOVES)
    target_rows = np.clip(rows[:, None] + moves[:, 0], 0, height - 1)
    target_columns = np.clip(columns[:, None] + moves[:, 1], 0, width - 1)
    neighbours: np.ndarray = target_rows * width + target_columns
    return neighbours


class Arenas:
    """`num` arenas that step together and reset themselves as their episodes end.

    Attributes:
        cell1, cell2: int64 [num], where the agents are.
        visited: bool [num, cells], where agent1 has been.
        steps, new_fields, collisions: int64 [num], of the running episodes.
    """

    def __init__(
        self,
        num: int,
        width: int = 10,
        height: int = 10,
        max_steps: int = 100,
        seed: int | None = None,
    ):
        """Builds and resets the arenas.

        Args:
            num: arenas.
            width, height: cells per row, rows.
            max_steps: steps of an episode.
            seed: taken because every environment takes one; the rules draw nothing.

        Raises:
            ValueError: no arena, no room for two agents, or no step.
        """
        rules.check_size(width, height, max_steps)
        if num < 1:
            raise ValueError(f"expected at least one arena, got {num}.")
        self.num, self.width, self.height, self.max_steps = num, width, height, max_steps
        self.cells = width * height
        self._neighbours = _neighbours(width, height)
        self._rows = np.arange(num)
        self.cell1, self.cell2 = np.empty(num, np.int64), np.empty(num, np.int64)
        self.visited = np.empty((num, self.cells), np.bool_)
        self.steps = np.empty(num, np.int64)
        self.new_fields = np.empty(num, np.int64)
        self.collisions = np.empty(num, np.int64)
        self.reset()

    def reset(self) -> dict[str, np.ndarray]:
        """Begins a new episode everywhere. Returns agent -> int64 [num, 2]."""
        self._restart(slice(None))
        return self.observations()

    def observations(self) -> dict[str, np.ndarray]:
        """Agent -> int64 [num, 2]: own cell, other's cell."""
        return {
            AGENT1: np.stack((self.cell1, self.cell2), axis=1),
            AGENT2: np.stack((self.cell2, self.cell1), axis=1),
        }

    def step(self, actions1: np.ndarray, actions2: np.ndarray) -> ArenaStep:
        """Steps every arena once. Shapes: integers [num] each.

        Raises:
            ValueError: actions of another shape or type, or outside 0..3.
        """
        actions1, actions2 = self._checked(actions1, AGENT1), self._checked(actions2, AGENT2)

        # A clamped move leads back to the mover's own cell, where the other agent cannot be:
        # so comparing clamped targets finds exactly the collisions of unclamped ones.
        target2 = self._neighbours[self.cell2, actions2]
        bumped2 = target2 == self.cell1
        self.cell2 = np.where(bumped2, self.cell2, target2)
        target1 = self._neighbours[self.cell1, actions1]
        bumped1 = target1 == self.cell2
        self.cell1 = np.where(bumped1, self.cell1, target1)

        collision = bumped1 | bumped2
        new_field = ~self.visited[self._rows, self.cell1]
        self.visited[self._rows, self.cell1] = True
        self.steps += 1
        self.new_fields += new_field
        self.collisions += collision

        truncated = self.steps == self.max_steps
        final_obs = self.observations()
        metrics = {
            "new_fields": self.new_fields[truncated],
            "collisions": self.collisions[truncated],
        }
        obs = final_obs
        if truncated.any():
            self._restart(truncated)
            obs = self.observations()
        return ArenaStep(obs, _rewards(collision, new_field), truncated, final_obs, metrics)

    def _restart(self, which: np.ndarray | slice) -> None:
        self.cell1[which] = 0
        self.cell2[which] = self.cells - 1
        self.visited[which] = False
        self.visited[which, 0] = True
        self.steps[which] = 0
        self.new_fields[which] = 0
        self.collisions[which] = 0

    def _checked(self, actions: np.ndarray, agent: str) -> np.ndarray:
        actions = np.asarray(actions)
        if actions.shape != (self.num,) or actions.dtype.kind not in "iu":
            raise ValueError(
                f"{agent}: expected {self.num} integer actions, one per arena, got shape "
                f"{list(actions.shape)} of {actions.dtype}."
            )
        wrong = (actions < 0) | (actions >= rules.NUM_ACTIONS)
        if wrong.any():
            arena = int(np.argmax(wrong))
            raise ValueError(
                f"{agent}: expected actions in 0..{rules.NUM_ACTIONS - 1}, got {actions[arena]} "
                f"for arena {arena}."
            )
        return actions


def _rewards(collision: np.ndarray, new_field: np.ndarray) -> dict[str, np.ndarray]:
    reward1 = np.where(new_field, rules.REWARD1_NEW_FIELD, rules.REWARD1_ELSE)
    reward1 = np.where(collision, rules.REWARD1_COLLISION, reward1)
    reward2 = np.where(collision, rules.REWARD2_COLLISION, rules.REWARD2_ELSE)
    return {AGENT1: reward1.astype(np.float32), AGENT2: reward2.astype(np.float32)}
