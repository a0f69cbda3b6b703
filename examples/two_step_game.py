"""The two-step game of the QMIX paper (https://arxiv.org/abs/1803.11485, section 5): two agents, two
choices each, two steps.

At the first step agent 1's choice leads to state 2A or 2B, whatever agent 2 does. At the second, 2A
pays 7 for anything, and 2B pays

              agent 2: 0   1
    agent 1: 0         0   1
             1         1   8

so that the best is 8. Where all actions are tried alike, the best sum of two values, one for each
agent's part, gives (1, 1) 6.5 and prefers 2A.

    policy-server train --run QMIX --env two_step_game:TwoStep-v0 --config two_step_game.toml
"""

from __future__ import annotations

from typing import Any, ClassVar

import gymnasium
import numpy as np
from gymnasium.spaces import Discrete
from pettingzoo import ParallelEnv

from sim_clients.groups import GroupEnv

FIRST, SAME, BOTH = range(3)
PAYS = {SAME: [[7.0, 7.0], [7.0, 7.0]], BOTH: [[0.0, 1.0], [1.0, 8.0]]}


class TwoStepGame(ParallelEnv[str, np.int64, int]):
    """Both agents see the state, and share the reward."""

    metadata: ClassVar[dict[str, Any]] = {"name": "two_step_game_v0", "render_modes": []}
    render_mode = None
    state_space = Discrete(3)

    def __init__(self) -> None:
        self.possible_agents = ["agent_1", "agent_2"]
        self.agents: list[str] = []

    def observation_space(self, agent: str) -> Discrete:
        return Discrete(3)

    def action_space(self, agent: str) -> Discrete:
        return Discrete(2)

    def state(self) -> Any:
        return self._state

    def _seen(self) -> dict[str, np.int64]:
        return dict.fromkeys(self.possible_agents, np.int64(self._state))

    def reset(
        self, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, np.int64], dict[str, dict[str, Any]]]:
        self.agents, self._state = list(self.possible_agents), FIRST
        return self._seen(), {agent: {} for agent in self.agents}

    def step(self, actions: dict[str, int]) -> Any:
        one, other = (actions[agent] for agent in self.possible_agents)
        over = self._state != FIRST
        reward = PAYS[self._state][one][other] / 2 if over else 0.0
        if over:
            self.agents = []
        else:
            self._state = BOTH if one else SAME
        every = self.possible_agents
        return (
            self._seen(),
            dict.fromkeys(every, reward),
            dict.fromkeys(every, over),
            dict.fromkeys(every, False),
            {agent: {} for agent in every},
        )


gymnasium.register("TwoStep-v0", lambda: GroupEnv(TwoStepGame(), state=True))
