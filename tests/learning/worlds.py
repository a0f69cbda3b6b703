"""Tiny worlds, each of which only one feature can solve. The best return of each is 1 per step.

Gymnasium finds them by id in any process that can import this module:

    gymnasium.make("tests.learning.worlds:Hybrid-v0")

and `two_carts` is what `--env pettingzoo:tests.learning.worlds:two_carts` names.
"""

from __future__ import annotations

from typing import Any, ClassVar

import gymnasium
import numpy as np
from gymnasium.envs.classic_control.cartpole import CartPoleEnv
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete, Space, Tuple
from pettingzoo import ParallelEnv

EPISODE_STEPS = 16
"""Steps of a whole episode in the Gymnasium worlds: the best return."""


class World(gymnasium.Env[Any, Any]):
    """Shows something new before every step and pays for the answer to it."""

    metadata: ClassVar[dict[str, Any]] = {"render_modes": []}

    def __init__(self) -> None:
        self._step = 0

    def draw(self) -> Any:
        """The next thing to see."""
        raise NotImplementedError

    def pay(self, action: Any) -> float:
        """For an action on what was drawn last."""
        raise NotImplementedError

    def info(self) -> dict[str, Any]:
        return {}

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self._step = 0
        return self.draw(), self.info()

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        reward = self.pay(action)
        self._step += 1
        # A negative reward is a fall: nothing comes after it.
        ended = reward < 0 or self._step == EPISODE_STEPS
        return self.draw(), reward, ended, False, self.info()


class Hybrid(World):
    """A choice and an amount, both named by the observation. Either one alone earns at most half:
    a wrong choice earns nothing, and no constant amount suits both levels."""

    def __init__(self) -> None:
        super().__init__()
        self.observation_space: Space[Any] = MultiDiscrete([3, 2])
        self.action_space: Space[Any] = Dict(
            {"choice": Discrete(3), "amount": Box(-1.0, 1.0, (1,))}
        )

    def draw(self) -> np.ndarray:
        self._kind, self._level = int(self.np_random.integers(3)), int(self.np_random.integers(2))
        return np.array([self._kind, self._level])

    def pay(self, action: dict[str, Any]) -> float:
        distance = abs(float(action["amount"][0]) - (0.7, -0.7)[self._level])
        return max(0.0, 1.0 - distance) if action["choice"] == self._kind else 0.0


class Amounts(World):
    """Two amounts, each named by the observation; no constant ones pay more than half."""

    def __init__(self) -> None:
        super().__init__()
        self.observation_space: Space[Any] = MultiBinary(2)
        self.action_space: Space[Any] = Box(
            np.array([-1.0, 0.0], np.float32), np.array([1.0, 4.0], np.float32)
        )

    def draw(self) -> np.ndarray:
        self._levels = self.np_random.integers(0, 2, 2).astype(np.int8)
        return self._levels

    def pay(self, action: np.ndarray) -> float:
        wanted = np.where(self._levels, [0.6, 3.2], [-0.6, 0.8])
        return max(0.0, 1.0 - float((np.abs(action - wanted) / [1.0, 2.0]).sum()))


class Digits(World):
    """Three digits of different bases, counted from different starts; pays if all are repeated."""

    START = np.array([0, 2, -1])

    def __init__(self) -> None:
        super().__init__()
        self.observation_space: Space[Any] = MultiDiscrete([3, 4, 2])
        self.action_space: Space[Any] = MultiDiscrete([3, 4, 2], start=self.START)

    def draw(self) -> np.ndarray:
        self._digits = self.np_random.integers([3, 4, 2])
        return self._digits

    def pay(self, action: np.ndarray) -> float:
        return float((np.asarray(action) == self._digits + self.START).all())


class Masked(World):
    """Of 30 options 2 are allowed, others at every step, and only the mask says which. The better
    of the two pays; one that is not allowed costs 1 and ends the episode."""

    OPTIONS = 30

    def __init__(self) -> None:
        super().__init__()
        self.observation_space: Space[Any] = Box(-1.0, 1.0, (2,))
        self.action_space: Space[Any] = Discrete(self.OPTIONS)
        self._worth = np.arange(self.OPTIONS) * 7 % self.OPTIONS  # a fixed ranking, far from sorted

    def draw(self) -> np.ndarray:
        self._allowed = self.np_random.choice(self.OPTIONS, 2, replace=False)
        return self.np_random.uniform(-1, 1, 2).astype(np.float32)

    def info(self) -> dict[str, Any]:
        mask = np.zeros(self.OPTIONS, np.int8)
        mask[self._allowed] = 1
        return {"action_mask": mask}

    def pay(self, action: int) -> float:
        if action not in self._allowed:
            return -1.0
        return float(self._worth[action] == self._worth[self._allowed].max())


class Pairs(World):
    """A letter, a word that belongs to it, and the word's weight. Any letter will do, except that an
    action mask allows one only, another at every step, and nothing that is seen says which: word
    and weight follow from the letter, or are guessed. The best guess pays a quarter."""

    LETTERS = 4

    def __init__(self) -> None:
        super().__init__()
        self.observation_space: Space[Any] = Box(-1.0, 1.0, (2,))
        self.action_space: Space[Any] = Dict(
            {
                "letter": Discrete(self.LETTERS),
                "weight": Box(-1.0, 1.0, (1,)),
                "word": Discrete(self.LETTERS),
            }
        )

    def draw(self) -> np.ndarray:
        self._letter = int(self.np_random.integers(self.LETTERS))
        return self.np_random.uniform(-1, 1, 2).astype(np.float32)

    def info(self) -> dict[str, Any]:
        mask = np.ones(2 * self.LETTERS, np.int8)
        mask[: self.LETTERS] = 0
        mask[self._letter] = 1
        return {"action_mask": mask}

    def pay(self, action: dict[str, Any]) -> float:
        letter = int(action["letter"])
        assert letter == self._letter, "the mask allows one letter"
        if action["word"] != (3 * letter + 1) % self.LETTERS:
            return 0.0
        return max(0.0, 1.0 - abs(float(action["weight"][0]) - (0.6, -0.6)[letter % 2]))


class Switches(World):
    """Four lamps; pays if every switch is the opposite of its lamp."""

    def __init__(self) -> None:
        super().__init__()
        self.observation_space: Space[Any] = MultiBinary(4)
        self.action_space: Space[Any] = MultiBinary(4)

    def draw(self) -> np.ndarray:
        self._lamps = self.np_random.integers(0, 2, 4).astype(np.int8)
        return self._lamps

    def pay(self, action: np.ndarray) -> float:
        return float((np.asarray(action) == 1 - self._lamps).all())


class Nested(World):
    """The answer hides in one leaf of a nested observation; the others are noise."""

    def __init__(self) -> None:
        super().__init__()
        inner = Dict({"answer": Discrete(4, start=-2), "flags": MultiBinary(3)})
        self.observation_space: Space[Any] = Dict(
            {"noise": Box(-1.0, 1.0, (2, 2)), "pair": Tuple((Discrete(4), inner))}
        )
        self.action_space: Space[Any] = Discrete(4, start=5)

    def draw(self) -> dict[str, Any]:
        self._answer = int(self.np_random.integers(4))
        inner = {
            "answer": np.int64(self._answer - 2),
            "flags": self.np_random.integers(0, 2, 3).astype(np.int8),
        }
        noise = self.np_random.uniform(-1, 1, (2, 2)).astype(np.float32)
        return {"noise": noise, "pair": (np.int64(self.np_random.integers(4)), inner)}

    def pay(self, action: int) -> float:
        return float(action == self._answer + 5)


class Picture(World):
    """Noise, and one quarter of the picture that is brighter: which?"""

    SIDE = 6
    BRIGHT = 100

    def __init__(self) -> None:
        super().__init__()
        self.observation_space: Space[Any] = Box(0, 255, (self.SIDE, self.SIDE, 1), np.uint8)
        self.action_space: Space[Any] = Discrete(4)

    def draw(self) -> np.ndarray:
        self._quarter = int(self.np_random.integers(4))
        picture = self.np_random.integers(0, 256 - self.BRIGHT, (self.SIDE, self.SIDE, 1), np.uint8)
        half = self.SIDE // 2
        top, left = half * (self._quarter // 2), half * (self._quarter % 2)
        picture[top : top + half, left : left + half] += np.uint8(self.BRIGHT)
        return picture

    def pay(self, action: Any) -> float:
        return float(action == self._quarter)


class Shade(Picture):
    """The same picture, to be answered by an amount for each quarter. A constant pays no more
    than six tenths."""

    def __init__(self) -> None:
        super().__init__()
        self.action_space = Box(-1.0, 1.0, (1,))

    def pay(self, action: Any) -> float:
        return max(0.0, 1.0 - abs(float(action[0]) - (-0.6, -0.2, 0.2, 0.6)[self._quarter]))


class Echo(World):
    """Shows one of three symbols, and pays for the one that was shown a step before; whatever is
    done at the first step is right. What is seen says nothing about the answer: without a memory
    one in three is right."""

    def __init__(self) -> None:
        super().__init__()
        self.observation_space: Space[Any] = Discrete(3)
        self.action_space: Space[Any] = Discrete(3)

    def draw(self) -> int:
        self._before = self._symbol if self._step else None
        self._symbol = int(self.np_random.integers(3))
        return self._symbol

    def pay(self, action: int) -> float:
        return float(self._before is None or action == self._before)


class Lock(gymnasium.Env[Any, Any]):
    """A dial to be turned the right way so many times in a row; a wrong turn, and it begins again.
    Nothing pays but the last turn, which opens the lock: tried at random, once in 2 * 4 ** TURNS
    steps or less."""

    metadata: ClassVar[dict[str, Any]] = {"render_modes": []}
    TURNS = 9
    PATIENCE = 40

    def __init__(self) -> None:
        self.observation_space: Space[Any] = Discrete(self.TURNS)
        self.action_space: Space[Any] = Discrete(4)
        self._right = np.random.default_rng(0).integers(4, size=self.TURNS)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self._at = self._step = 0
        return self._at, {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self._at = self._at + 1 if action == self._right[self._at] else 0
        self._step += 1
        opened = self._at == self.TURNS
        late = not opened and self._step == self.PATIENCE
        return 0 if opened else self._at, float(opened), opened, late, {}


class TwoCarts(ParallelEnv[str, np.ndarray, int]):
    """Two CartPoles that know nothing of each other. An agent whose pole fell leaves; the episode
    is over when both have left, or after 500 steps."""

    metadata: ClassVar[dict[str, Any]] = {"name": "two_carts_v0", "render_modes": []}
    STEPS = 500

    def __init__(self) -> None:
        self.possible_agents = ["cart_0", "cart_1"]
        self.agents: list[str] = []
        self.render_mode = None
        self._carts = {agent: CartPoleEnv() for agent in self.possible_agents}

    def observation_space(self, agent: str) -> Space[Any]:
        return self._carts[agent].observation_space

    def action_space(self, agent: str) -> Space[Any]:
        return self._carts[agent].action_space

    def reset(
        self, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, np.ndarray], dict[str, dict[str, Any]]]:
        self.agents = list(self.possible_agents)
        self._step = 0
        obs = {}
        for i, (agent, cart) in enumerate(self._carts.items()):
            # Seeds of neighbouring environments are neighbours too.
            obs[agent], _ = cart.reset(seed=None if seed is None else 2 * seed + i)
        return obs, {agent: {} for agent in self.agents}

    def step(self, actions: dict[str, int]) -> Any:
        self._step += 1
        playing, self.agents = self.agents, []
        obs: dict[str, np.ndarray] = {}
        rewards: dict[str, float] = {}
        fallen: dict[str, bool] = {}
        for agent in playing:
            seen, reward, fell, _, _ = self._carts[agent].step(actions[agent])
            obs[agent], rewards[agent], fallen[agent] = seen, float(reward), bool(fell)
        over = self._step == self.STEPS
        self.agents = [agent for agent in playing if not fallen[agent] and not over]
        cut = {agent: over and not fallen[agent] for agent in playing}
        return obs, rewards, fallen, cut, {agent: {} for agent in playing}

    def close(self) -> None:
        for cart in self._carts.values():
            cart.close()


def two_carts() -> TwoCarts:
    """For runners, which look for a function."""
    return TwoCarts()


for _world in (
    Hybrid,
    Amounts,
    Digits,
    Masked,
    Pairs,
    Switches,
    Nested,
    Picture,
    Shade,
    Echo,
    Lock,
):
    gymnasium.register(f"{_world.__name__}-v0", _world)
