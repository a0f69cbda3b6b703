"""Small environments whose every number says where it comes from."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from pettingzoo import AECEnv, ParallelEnv


class Counter(gymnasium.Env):
    """Observes (episode, step); pays the step's number; ends after `length` steps."""

    def __init__(self, length: int = 3, ending: str = "terminated", mask: bool = False):
        self.observation_space = spaces.Box(-1e6, 1e6, (2,), np.float32)
        self.action_space = spaces.Discrete(3)
        self.length, self.ending, self.mask = length, ending, mask
        self.episode, self.t = -1, 0
        self.seeds: list[int | None] = []
        self.actions: list[Any] = []
        self.closed = False

    def _seen(self) -> tuple[np.ndarray, dict]:
        info = {"action_mask": np.array([1, 0, self.t % 2], np.int8)} if self.mask else {}
        return np.array([self.episode, self.t], np.float32), info

    def reset(self, *, seed=None, options=None):
        self.seeds.append(seed)
        self.episode, self.t = self.episode + 1, 0
        return self._seen()

    def step(self, action):
        self.actions.append(action)
        assert self.action_space.contains(action)
        self.t += 1
        obs, info = self._seen()
        over = self.t >= self.length
        ended = over and self.ending in ("terminated", "both")
        cut = over and self.ending in ("truncated", "both")
        return obs, float(self.t), ended, cut, info

    def close(self):
        self.closed = True


def right_action(seen: np.ndarray) -> np.ndarray:
    """What `Picky` pays for. Shapes: float[n, 3] -> int[n]."""
    return (seen @ np.array([1, 5, 7])).astype(int) % 11


class Picky(gymnasium.Env):
    """Observes (own number, episode, step); pays 1 for the one right action; ends after `length`."""

    observation_space = spaces.Box(-1e6, 1e6, (3,), np.float32)
    action_space = spaces.Discrete(11)

    def __init__(self, number: int, length: int):
        self.number, self.length = number, length
        self.episode, self.t, self.taken = -1, 0, 0

    def _seen(self) -> np.ndarray:
        return np.array([self.number, self.episode, self.t], np.float32)

    def reset(self, *, seed=None, options=None):
        self.episode, self.t = self.episode + 1, 0
        return self._seen(), {}

    def step(self, action):
        paid = float(action == right_action(self._seen()[None])[0])
        self.t += 1
        self.taken += 1
        return self._seen(), paid, self.t == self.length, False, {}


class Nest(gymnasium.Env):
    """A tree of spaces, in and out."""

    observation_space = spaces.Dict(
        {"image": spaces.Box(0, 255, (2, 2), np.uint8), "rest": spaces.Tuple((spaces.Discrete(3),))}
    )
    action_space = spaces.Dict(
        {"go": spaces.Box(-1, 1, (2,), np.float32), "do": spaces.MultiDiscrete([2, 3])}
    )

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return {"image": np.full((2, 2), 7), "rest": (2,)}, {}

    def step(self, action):
        assert self.action_space.contains(action), action
        return {"image": np.full((2, 2), 8), "rest": (1,)}, 1.0, False, False, {}


class Crowd(ParallelEnv):
    """Three agents; agent k dies after k + 2 steps; pays 10**k each step."""

    metadata = {"name": "crowd"}  # noqa: RUF012
    possible_agents = ["a", "b", "c"]  # noqa: RUF012

    def __init__(self, truncate: bool = False):
        self.truncate = truncate
        self.agents = []
        self.seeds = []

    def observation_space(self, agent):
        return spaces.Box(-9, 9, (1,), np.float32)

    def action_space(self, agent):
        return spaces.Discrete(2)

    def reset(self, seed=None, options=None):
        self.seeds.append(seed)
        self.agents, self.t = list(self.possible_agents), 0
        return {a: np.zeros(1) for a in self.agents}, {a: {} for a in self.agents}

    def step(self, actions):
        assert set(actions) == set(self.agents)
        self.t += 1
        acted = self.agents
        over = {a: self.t >= self.possible_agents.index(a) + 2 for a in acted}
        none = dict.fromkeys(acted, False)
        self.agents = [a for a in acted if not over[a]]
        return (
            {a: np.full(1, self.t) for a in acted},
            {a: 10.0 ** self.possible_agents.index(a) for a in acted},
            none if self.truncate else over,
            over if self.truncate else none,
            {a: {} for a in acted},
        )


class Team(Crowd):
    """All die together after two steps; their next episode begins at once."""

    def step(self, actions):
        obs, rewards, _, _, infos = super().step(actions)
        over = self.t >= 2
        self.agents = [] if over else list(actions)
        ends = dict.fromkeys(actions, over)
        none = dict.fromkeys(actions, False)
        return (
            (obs, rewards, none, ends, infos)
            if self.truncate
            else (obs, rewards, ends, none, infos)
        )


class Turns(AECEnv):
    """Two players in turn, `turns` turns in all; each turn pays its player 1 and the other -1."""

    metadata = {"name": "turns"}  # noqa: RUF012

    def __init__(self, turns: int = 5, mask: bool = False):
        super().__init__()
        self.possible_agents = ["x", "y"]
        self.turns, self.mask = turns, mask

    def observation_space(self, agent):
        board = spaces.Box(0, 99, (1,), np.int8)
        if not self.mask:
            return board
        return spaces.Dict({"observation": board, "action_mask": spaces.Box(0, 1, (2,), np.int8)})

    def action_space(self, agent):
        return spaces.Discrete(2)

    def observe(self, agent):
        board = np.array([self.t], np.int8)
        if not self.mask:
            return board
        return {"observation": board, "action_mask": np.array([1, self.t % 2], np.int8)}

    def reset(self, seed=None, options=None):
        self.agents, self.t = ["x", "y"], 0
        self.rewards = dict.fromkeys(self.agents, 0.0)
        self._cumulative_rewards = dict.fromkeys(self.agents, 0.0)
        self.terminations = dict.fromkeys(self.agents, False)
        self.truncations = dict.fromkeys(self.agents, False)
        self.infos = {a: {} for a in self.agents}
        self.agent_selection = "x"

    def step(self, action):
        agent = self.agent_selection
        if self.terminations[agent]:
            self._was_dead_step(action)
            return
        self._cumulative_rewards[agent] = 0.0
        other = "y" if agent == "x" else "x"
        self.t += 1
        self.rewards = {agent: 1.0, other: -1.0}
        if self.t >= self.turns:
            self.terminations = {"x": True, "y": True}
        self.agent_selection = other
        self._accumulate_rewards()


def parallel_env(**kwargs):
    return Crowd(**kwargs)


def env(**kwargs):
    return Turns(**kwargs)


def broken(**kwargs):
    raise ValueError("no batteries")
