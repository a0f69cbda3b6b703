"""The arena as a PettingZoo environment. Needs pettingzoo and gymnasium (the extra `gym`)."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from gymnasium.spaces import Discrete, MultiDiscrete
from pettingzoo import ParallelEnv

from arena_sim import render
from arena_sim.rules import AGENT1, AGENT2, AGENTS, NUM_ACTIONS, Arena


class ArenaParallelEnv(ParallelEnv[str, np.ndarray, int]):  # type: ignore[misc]
    """One arena, both agents acting at once.

    An observation is (own cell, other's cell), int64 [2]; an action is 0 up, 1 right, 2 down,
    3 left. Both agents are truncated after `max_steps` steps; their last infos carry the
    episode's `new_fields` and `collisions`. Nothing is random, so seeds change nothing.
    """

    metadata: ClassVar[dict[str, Any]] = {
        "name": "arena_v0",
        "render_modes": list(render.MODES),
        "render_fps": 10,
        "is_parallelizable": True,
    }

    def __init__(
        self,
        width: int = 10,
        height: int = 10,
        max_steps: int = 100,
        render_mode: str | None = None,
    ):
        render.check_mode(render_mode)
        self._arena = Arena(width, height, max_steps)
        self.render_mode = render_mode
        self.possible_agents = list(AGENTS)
        self.agents: list[str] = []
        cells = width * height
        self.observation_spaces = {agent: MultiDiscrete([cells, cells]) for agent in AGENTS}
        self.action_spaces = {agent: Discrete(NUM_ACTIONS) for agent in AGENTS}

    def observation_space(self, agent: str) -> MultiDiscrete:
        return self.observation_spaces[agent]

    def action_space(self, agent: str) -> Discrete:
        return self.action_spaces[agent]

    def reset(
        self, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, np.ndarray], dict[str, dict[str, Any]]]:
        """Begins an episode. `seed` and `options` change nothing."""
        self._arena.reset()
        self.agents = list(AGENTS)
        return self._observations(), {agent: {} for agent in AGENTS}

    def step(
        self, actions: dict[str, int]
    ) -> tuple[
        dict[str, np.ndarray],
        dict[str, float],
        dict[str, bool],
        dict[str, bool],
        dict[str, dict[str, Any]],
    ]:
        """One step of both agents.

        Raises:
            ValueError: an agent's action is missing or not in 0..3.
            RuntimeError: the episode is over, or `reset` was never called.
        """
        if not self.agents:
            raise RuntimeError("no episode is running: call reset().")
        if set(actions) != set(AGENTS):
            raise ValueError(f"expected actions of {', '.join(AGENTS)}, got {sorted(actions)}.")
        rewards, _, truncated = self._arena.step(int(actions[AGENT1]), int(actions[AGENT2]))
        infos: dict[str, dict[str, Any]] = {agent: {} for agent in AGENTS}
        if truncated:
            self.agents = []
            for info in infos.values():
                info["new_fields"] = self._arena.new_fields
                info["collisions"] = self._arena.collisions
        return (
            self._observations(),
            rewards,
            dict.fromkeys(AGENTS, False),
            dict.fromkeys(AGENTS, truncated),
            infos,
        )

    def render(self) -> Any:
        """Text for "ansi", uint8 [H, W, 3] for "rgb_array", None without a render mode."""
        return render.picture(self._arena, self.render_mode)

    def close(self) -> None:
        """Nothing is held open."""

    def _observations(self) -> dict[str, np.ndarray]:
        return {a: np.array(o, np.int64) for a, o in self._arena.observations().items()}
