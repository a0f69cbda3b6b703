"""The arena with one learner, as a Gymnasium environment: a fixed baseline plays the other agent.

Importing this module registers it, so that "arena_sim.solo:ArenaSolo-v0" works as an id
anywhere. Needs gymnasium (the extra `gym`).
"""

from __future__ import annotations

from typing import Any, ClassVar

import gymnasium
import numpy as np
from gymnasium.spaces import Discrete, MultiDiscrete

from arena_sim import baselines, render
from arena_sim.rules import AGENT1, AGENT2, AGENTS, NUM_ACTIONS, Arena

ENV_ID = "ArenaSolo-v0"


class ArenaSoloEnv(gymnasium.Env[np.ndarray, np.int64]):
    """The learner is `agent`; the named baseline `opponent` plays the other one.

    Observation, action and reward are those of `agent` in `arena_sim.rules`: (own cell, other's
    cell), 0 up, 1 right, 2 down, 3 left. Truncated after `max_steps` steps; the last info
    carries the episode's `new_fields` and `collisions`. The opponent draws from the
    environment's own generator, so `reset(seed=...)` repeats an episode exactly.

    Args:
        agent: "agent1" or "agent2".
        opponent: "random", "boustrophedon" or "chaser".

    Raises:
        ValueError: an unknown agent, opponent or render mode, or an impossible arena.
    """

    metadata: ClassVar[dict[str, Any]] = {  # type: ignore[misc]
        "render_modes": list(render.MODES),
        "render_fps": 10,
    }

    def __init__(
        self,
        agent: str = AGENT1,
        opponent: str = "random",
        width: int = 10,
        height: int = 10,
        max_steps: int = 100,
        render_mode: str | None = None,
    ):
        if agent not in AGENTS:
            raise ValueError(f"expected an agent among {', '.join(AGENTS)}, got {agent!r}.")
        render.check_mode(render_mode)
        self._arena = Arena(width, height, max_steps)
        self._agent = agent
        self._other = AGENT2 if agent == AGENT1 else AGENT1
        self._opponent = baselines.make(opponent, width)
        self.render_mode = render_mode
        cells = width * height
        self.observation_space = MultiDiscrete([cells, cells])
        self.action_space = Discrete(NUM_ACTIONS)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Begins an episode; `seed` reseeds the opponent."""
        super().reset(seed=seed)
        self._arena.reset()
        return self._observation(self._agent), {}

    def step(self, action: np.int64 | int) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """The learner's action and the opponent's own, at once."""
        seen = self._observation(self._other)[None]
        answer = self._opponent(seen, self.np_random)[0]
        actions = {self._agent: int(action), self._other: int(answer)}
        rewards, _, truncated = self._arena.step(actions[AGENT1], actions[AGENT2])
        info: dict[str, Any] = {}
        if truncated:
            info["new_fields"] = self._arena.new_fields
            info["collisions"] = self._arena.collisions
        return self._observation(self._agent), rewards[self._agent], False, truncated, info

    def render(self) -> Any:
        """Text for "ansi", uint8 [H, W, 3] for "rgb_array", None without a render mode."""
        return render.picture(self._arena, self.render_mode)

    def _observation(self, agent: str) -> np.ndarray:
        return np.array(self._arena.observations()[agent], np.int64)


def register() -> None:
    """Makes the environment known to Gymnasium as "ArenaSolo-v0"; twice is once."""
    if ENV_ID not in gymnasium.registry:
        gymnasium.register(id=ENV_ID, entry_point="arena_sim.solo:ArenaSoloEnv")


register()
