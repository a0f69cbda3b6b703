"""Tiny worlds for groups: two agents that one policy plays, each of which sees its own.

As in `worlds`, something new is seen before every step, and the answer is paid for. Gymnasium finds
them by id: gymnasium.make("tests.learning.group_worlds:Loud-v0").
"""

from __future__ import annotations

from typing import Any, ClassVar

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Dict, Discrete, Space

from tests.learning import worlds

EPISODE_STEPS = 16
DIGITS = 3


class Pair(gymnasium.Env[Any, Any]):
    """Two agents, each of which sees a digit."""

    metadata: ClassVar[dict[str, Any]] = {"render_modes": []}
    NAMES = ("left", "right")
    ACTION: ClassVar[Space[Any]] = Discrete(DIGITS)

    def __init__(self) -> None:
        self._step = 0
        self._paid = np.zeros(2, np.float32)
        self.observation_space: Space[Any] = Dict(self._parts())
        self.action_space: Space[Any] = Dict({name: self.ACTION for name in self.NAMES})

    def _parts(self) -> dict[str, Space[Any]]:
        return {"agents": Dict({name: Discrete(DIGITS) for name in self.NAMES})}

    def draw(self) -> Any:
        """The next thing to see."""
        self._digits = self.np_random.integers(DIGITS, size=2)
        return {"agents": {name: int(d) for name, d in zip(self.NAMES, self._digits, strict=True)}}

    def right(self, actions: list[Any]) -> np.ndarray:
        """How right each agent is, 0..1."""
        return np.array([float(a == d) for a, d in zip(actions, self._digits, strict=True)])

    def pay(self, actions: list[Any]) -> float:
        """What both get."""
        return float(self.right(actions).mean())

    def info(self) -> dict[str, Any]:
        return {}

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self._step = 0
        return self.draw(), self.info()

    def step(self, action: dict[str, Any]) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        reward = self.pay([action[name] for name in self.NAMES])
        self._step += 1
        return self.draw(), reward, self._step == EPISODE_STEPS, False, self.info()


class Loud(Pair):
    """Both are paid for repeating their digits, and get a number on top, or pay it, that the right
    agent alone sees: 0 on average over an episode, and much larger than what the left agent can earn.
    So whoever judges the left agent must know what the right one sees."""

    def __init__(self, loudness: float = 4.0) -> None:
        super().__init__()
        self._loudness = loudness

    def _parts(self) -> dict[str, Space[Any]]:
        loud = Dict({"digit": Discrete(DIGITS), "loud": Box(-1.0, 1.0, (1,))})
        return {"agents": Dict({"left": Discrete(DIGITS), "right": loud})}

    def draw(self) -> Any:
        seen = super().draw()["agents"]
        later = self._step % 2 == 1
        self._loud = -self._loud if later else float(self.np_random.uniform(-1.0, 1.0))
        loud = np.array([self._loud], np.float32)
        return {"agents": {"left": seen["left"], "right": {"digit": seen["right"], "loud": loud}}}

    def pay(self, actions: list[Any]) -> float:
        return super().pay(actions) + self._loudness * self._loud


class LoudAmounts(Loud):
    """The same with amounts, of which each digit means one."""

    ACTION = Box(-1.0, 1.0, (1,))

    def right(self, actions: list[Any]) -> np.ndarray:
        wanted = 0.7 * (self._digits - 1.0)
        amounts = np.array([float(action[0]) for action in actions])
        return np.maximum(0.0, 1.0 - np.abs(amounts - wanted))


class LoudMasked(Loud):
    """The same, but of many options two are allowed, others at every step, and only the mask says
    which. The lower one is right where the digit is 0, else the other. An option that is not allowed
    costs 1 and ends the episode."""

    OPTIONS = 12
    ACTION = Discrete(OPTIONS)

    def draw(self) -> Any:
        rng = self.np_random
        self._allowed = [np.sort(rng.choice(self.OPTIONS, 2, False)) for _ in self.NAMES]
        return super().draw()

    def info(self) -> dict[str, Any]:
        mask = np.zeros((2, self.OPTIONS), np.int8)
        for row, allowed in zip(mask, self._allowed, strict=True):
            row[allowed] = 1
        return {"action_mask": mask.reshape(-1)}

    def right(self, actions: list[Any]) -> np.ndarray:
        triples = zip(actions, self._allowed, self._digits, strict=True)
        for action, allowed, _ in triples:
            assert action in allowed, "the mask allows two options"
        triples = zip(actions, self._allowed, self._digits, strict=True)
        return np.array([float(a == allowed[min(d, 1)]) for a, allowed, d in triples])


class Opposed(Pair):
    """Each agent is paid for repeating its digit; whenever the left one does, the right one loses
    3. Both together would rather have the left one wrong: whoever adds their rewards up learns that,
    and the sum of an episode is 16; who tells them apart learns what each of them wants, and it is
    16 - 32 = -16."""

    def _parts(self) -> dict[str, Space[Any]]:
        return super()._parts() | {"rewards": Box(-np.inf, np.inf, (2,))}

    def draw(self) -> Any:
        return super().draw() | {"rewards": self._paid.copy()}

    def pay(self, actions: list[Any]) -> float:
        left, right = self.right(actions)
        self._paid[:] = left, right - 3.0 * left
        return float(self._paid.sum())


class OpposedAmounts(Opposed):
    """The same with amounts."""

    ACTION = Box(-1.0, 1.0, (1,))
    right = LoudAmounts.right


class Twice(gymnasium.Env[Any, Any]):
    """A world of `worlds` for each of two agents, who know nothing of each other; both get the mean
    of what they are paid, and the episode is over when either's is."""

    metadata: ClassVar[dict[str, Any]] = {"render_modes": []}
    NAMES = ("left", "right")

    def __init__(self, world: str) -> None:
        self._worlds = {name: getattr(worlds, world)() for name in self.NAMES}
        seen = {name: one.observation_space for name, one in self._worlds.items()}
        self.observation_space: Space[Any] = Dict({"agents": Dict(seen)})
        self.action_space: Space[Any] = Dict(
            {name: one.action_space for name, one in self._worlds.items()}
        )

    @staticmethod
    def _together(observations: list[Any], infos: list[dict[str, Any]]) -> tuple[Any, Any]:
        seen = dict(zip(Twice.NAMES, observations, strict=True))
        masks = [info["action_mask"] for info in infos if "action_mask" in info]
        return {"agents": seen}, {"action_mask": np.concatenate(masks)} if masks else {}

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        begun = [
            one.reset(seed=None if seed is None else 1000 * i + seed)
            for i, one in enumerate(self._worlds.values())
        ]
        return self._together([obs for obs, _ in begun], [info for _, info in begun])

    def step(self, action: dict[str, Any]) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        told = [one.step(action[name]) for name, one in self._worlds.items()]
        observations, paid, ended, cut, infos = (list(column) for column in zip(*told, strict=True))
        obs, info = self._together(observations, infos)
        return obs, sum(paid) / 2, any(ended), any(cut), info


for _world in (Pair, Loud, LoudAmounts, LoudMasked, Opposed, OpposedAmounts):
    gymnasium.register(f"{_world.__name__}-v0", _world)
gymnasium.register("Twice-v0", Twice)
