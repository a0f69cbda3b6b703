"""A Gymnasium environment of one's own, served three ways.

From this folder, with a server running (policy-server serve serve.toml):

    python own_gymnasium_env.py
    python -m sim_clients.gymnasium own_gymnasium_env:Landing-v0 --num-envs 8

or without one, which starts server and simulators together:

    policy-server train --env own_gymnasium_env:Landing-v0 --num-sims 2 --lanes 8
"""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Discrete


class Landing(gymnasium.Env[np.ndarray, int]):
    """A lander above the ground, whose engine is off or on: touch down, and slowly.

    Observation: height in m and speed in m/s (negative: downwards), both divided by 10.
    Reward: -1 per second, and at the end minus the speed of impact. Terminates on the ground, and
    above 40 m with -20. The time limit truncates.
    """

    observation_space = Box(-10.0, 10.0, (2,), np.float32)
    action_space = Discrete(2)
    second = 0.1  # of one step

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self.height, self.speed = self.np_random.uniform(5.0, 15.0), 0.0
        return self._see(), {}

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self.speed += self.second * (-1.6 + 3.2 * int(action))  # the moon pulls, the engine pushes
        self.height += self.second * self.speed
        reward = -self.second
        down, away = self.height <= 0.0, self.height > 40.0
        if down:
            reward -= abs(self.speed)
        if away:
            reward -= 20.0
        return self._see(), reward, down or away, False, {}

    def _see(self) -> np.ndarray:
        return np.array([self.height, self.speed], np.float32) / 10


gymnasium.register("Landing-v0", Landing, max_episode_steps=300)


if __name__ == "__main__":
    from sim_clients import run_gymnasium

    summary = run_gymnasium("Landing-v0", "tcp://127.0.0.1:5555", num_envs=8, steps=40_000)
    newest = summary.returns[-100:]
    print(f"{summary.episodes} episodes, mean return of the newest: {np.mean(newest):.1f}")
